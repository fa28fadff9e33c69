"""Studies as JSON or CSV: out, in again as a study of their own, or merged into another copy of the same study.

An export holds what a report needs: prompts, systems, hashes of the videos, names of raters, votes. It holds no token, session,
secret or video. A report of the export is the report of the study, to the byte.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from .questions import ordered_reasons
from .results import SIDES, Answer, Pair, Results, Side, Vote
from .rules import NAME_LENGTH
from .store import Study, insert, now_ms

FORMAT = "emu-video-study"
VERSION = 1
UID = re.compile(r"[A-Za-z0-9]{16,64}")
PAIR_COLUMNS = ("study", "title", "raters", "systems", "prompt", "text", "first", "second", "first_sha256", "second_sha256")
VOTE_COLUMNS = (
    "vote", "rater", "time_ms", "shown_left",
    "quality", "quality_reasons", "quality_ms", "faithfulness", "faithfulness_reasons", "faithfulness_ms",
)  # fmt: skip


def to_json(results: Results) -> str:
    return json.dumps({"format": FORMAT, "version": VERSION, **asdict(results)}, indent=1, ensure_ascii=False) + "\n"


def to_csv(results: Results) -> str:
    """One line a vote, and one for a pair that has none; reasons are joined by ";"."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*PAIR_COLUMNS, *VOTE_COLUMNS])
    for pair in results.pairs:
        start = [results.uid, results.title, results.raters, json.dumps(results.systems, ensure_ascii=False)]
        start += [pair.prompt, results.prompts[pair.prompt], pair.first, pair.second, pair.first_sha256, pair.second_sha256]
        for vote in pair.votes or (None,):
            writer.writerow([*start, *(_cells(vote) if vote else [""] * len(VOTE_COLUMNS))])
    return text.getvalue()


def _cells(vote: Vote) -> list[object]:
    cells: list[object] = [vote.uid, vote.rater, vote.time_ms, vote.shown_left]
    for answer in (vote.quality, vote.faithfulness):
        cells += [answer.choice, ";".join(answer.reasons), answer.ms]
    return cells


def write_results(results: Results, path: str | Path) -> None:
    """.json or .csv. ValueError: another extension, or it cannot be written."""
    from ..media.files import whole_file

    writers = {".json": to_json, ".csv": to_csv}
    kind = Path(path).suffix.lower()
    if kind not in writers:
        raise ValueError(f"{path}: expected .json or .csv, found {kind or 'no extension'}; change the extension.")
    with whole_file(path) as part:
        part.write_text(writers[kind](results), encoding="utf-8", newline="")


def read_results(path: str | Path) -> Results:
    """What write_results wrote. ValueError: it is not that, or something in it cannot be."""
    file = Path(path)
    try:
        text = file.read_bytes().decode("utf-8-sig")
        results = _from_json(json.loads(text)) if file.suffix.lower() == ".json" else _from_csv(text)
        _check(results)
    except OSError as problem:
        raise ValueError(f"{path}: expected an exported study, found {problem.strerror}; check the path.") from problem
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, csv.Error) as problem:
        reason = f"no {problem}" if isinstance(problem, KeyError) else str(problem)
        raise ValueError(
            f"{path}: expected an exported study (JSON or CSV), found a mistake in it ({reason}); export it anew."
        ) from problem
    return results


def _from_json(found: dict[str, Any]) -> Results:
    if found["format"] != FORMAT or found["version"] != VERSION:
        raise ValueError(f"format {found['format']} version {found['version']}, not {FORMAT} version {VERSION}")
    pairs = []
    for entry in found["pairs"]:
        votes = []
        for vote in entry["votes"]:
            answers = {
                question: Answer(**{**vote[question], "reasons": tuple(vote[question]["reasons"])})
                for question in ("quality", "faithfulness")
            }
            votes.append(Vote(**{**vote, **answers}))
        pairs.append(Pair(**{**entry, "votes": tuple(votes)}))
    return Results(found["uid"], found["title"], found["raters"], tuple(found["systems"]), dict(found["prompts"]), tuple(pairs))


def _from_csv(text: str) -> Results:
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    if not rows:
        raise ValueError("no lines")
    head = rows[0]
    prompts: dict[str, str] = {}
    pairs: dict[tuple[str, str, str], Pair] = {}
    for row in rows:
        if row["study"] != head["study"] or prompts.setdefault(row["prompt"], row["text"]) != row["text"]:
            raise ValueError("lines of different studies")
        key = (row["prompt"], row["first"], row["second"])
        pair = pairs.setdefault(key, Pair(*key, row["first_sha256"], row["second_sha256"]))
        if row["vote"]:
            pairs[key] = replace(pair, votes=(*pair.votes, _vote(row)))
    systems = tuple(json.loads(head["systems"]))
    return Results(head["study"], head["title"], int(head["raters"]), systems, prompts, tuple(pairs.values()))


def _vote(row: dict[str, str]) -> Vote:
    quality, faithfulness = (
        Answer(cast(Side, row[question]), tuple(row[f"{question}_reasons"].split(";")), int(row[f"{question}_ms"]))
        for question in ("quality", "faithfulness")
    )
    return Vote(row["vote"], row["rater"], cast(Side, row["shown_left"]), quality, faithfulness, int(row["time_ms"]))


def _check(results: Results) -> None:
    """What no study of ours could have written is refused: the file may have been edited."""
    uids = set()
    if not (isinstance(results.uid, str) and UID.fullmatch(results.uid) and isinstance(results.title, str)):
        raise ValueError("no study's uid")
    if not isinstance(results.raters, int) or not 1 <= results.raters <= 99 or results.raters % 2 == 0:
        raise ValueError("raters is not an odd number")
    if len(set(results.systems)) != len(results.systems) or not all(isinstance(name, str) and name for name in results.systems):
        raise ValueError("systems are not different names")
    for pair in results.pairs:
        if pair.prompt not in results.prompts or not {pair.first, pair.second} <= set(results.systems):
            raise ValueError(f"pair {pair.name} of an unknown prompt or system")
        if results.systems.index(pair.first) >= results.systems.index(pair.second):
            raise ValueError(f"pair {pair.name} in the wrong order")
        if len(pair.votes) > results.raters or len({vote.rater.casefold() for vote in pair.votes}) != len(pair.votes):
            raise ValueError(f"pair {pair.name} with more than {results.raters} votes or two of one rater")
        for vote in pair.votes:
            _check_vote(vote)
            if vote.uid in uids:
                raise ValueError(f"vote {vote.uid} twice")
            uids.add(vote.uid)


def _check_vote(vote: Vote) -> None:
    whole = [vote.time_ms, vote.quality.ms, vote.faithfulness.ms]
    sides = {vote.shown_left, vote.quality.choice, vote.faithfulness.choice}
    if not UID.fullmatch(vote.uid) or not sides <= set(SIDES) or not all(type(n) is int and n >= 0 for n in whole):
        raise ValueError(f"vote {vote.uid} with a value that cannot be")
    if not 1 <= len(vote.rater) <= NAME_LENGTH or not vote.rater.isprintable():
        raise ValueError(f"vote {vote.uid} of a rater without a name")
    for question in ("quality", "faithfulness"):
        if ordered_reasons(question, vote.answer(question).reasons) != vote.answer(question).reasons:
            raise ValueError(f"vote {vote.uid} with reasons in another order")


def import_new(results: Results, folder: str | Path) -> None:
    """An export as a study of its own, without videos: for reports and merging, not for raters. There whole or not at all."""
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder}: expected a new folder for the study, found something there; choose another.")
    if not folder.parent.is_dir():
        raise ValueError(f"{folder}: expected the folder {folder.parent} to write into, found none; create it.")
    part = folder.parent / f".{secrets.token_hex(8)}.part"
    try:
        with Study.create(part, results.title, results.raters, uid=results.uid) as study:
            with study.transaction() as db:
                _enter(db, results)
            merge(study, results)
        os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _enter(db: sqlite3.Connection, results: Results) -> None:
    """Systems, prompts and pairs, the videos by their hashes only."""
    systems = {name: insert(db, "systems", "name", (name,)) for name in results.systems}
    prompts = {key: insert(db, "prompts", "key, text", (key, text)) for key, text in results.prompts.items()}
    videos: dict[tuple[str, str], tuple[int, str]] = {}
    for pair in results.pairs:
        ids = []
        for system, sha256 in ((pair.first, pair.first_sha256), (pair.second, pair.second_sha256)):
            if (pair.prompt, system) not in videos:
                values = (prompts[pair.prompt], systems[system], sha256)
                videos[pair.prompt, system] = insert(db, "videos", "prompt_id, system_id, sha256", values), sha256
            number, known = videos[pair.prompt, system]
            if known != sha256:
                raise ValueError(f"pair {pair.name}: expected one video of a system for a prompt, found two; export it anew.")
            ids.append(number)
        insert(db, "pairs", "prompt_id, first_id, second_id", (prompts[pair.prompt], *ids))


def merge(study: Study, results: Results) -> tuple[int, int]:
    """Take the votes of another copy of the same study. Returns (new votes, votes that were there already).

    A rater is the same if the name is. ValueError, and nothing is taken: another study, a pair that this one does not have or
    whose videos differ, a vote that conflicts (the same id with other content, the same rater twice on a pair), a sixth vote.
    """
    if results.uid != study.uid:
        raise ValueError(f"expected votes of the study {study.uid}, found some of {results.uid}; merge copies of one study only.")
    here = {(pair.prompt, pair.first, pair.second): pair for pair in study.results().pairs}
    new = old = 0
    with study.transaction() as db:
        ids = _pair_ids(db)
        for pair in results.pairs:
            key = (pair.prompt, pair.first, pair.second)
            mine = here.get(key)
            if mine is None or (mine.first_sha256, mine.second_sha256) != (pair.first_sha256, pair.second_sha256):
                raise ValueError(
                    f"pair {pair.name}: expected one of this study with the same videos, found none; nothing was taken."
                )
            for vote in pair.votes:
                if _take(db, ids[key], pair, vote, study.raters):
                    new += 1
                else:
                    old += 1
    return new, old


def _pair_ids(db: sqlite3.Connection) -> dict[tuple[str, str, str], int]:
    rows: Iterable[sqlite3.Row] = db.execute(
        "SELECT p.id, t.key, x.name, y.name FROM pairs p JOIN prompts t ON t.id = p.prompt_id "
        "JOIN videos a ON a.id = p.first_id JOIN videos b ON b.id = p.second_id "
        "JOIN systems x ON x.id = a.system_id JOIN systems y ON y.id = b.system_id"
    )
    return {(row[1], row[2], row[3]): row[0] for row in rows}


def _take(db: sqlite3.Connection, pair_id: int, pair: Pair, vote: Vote, raters: int) -> bool:
    """Insert one vote; False if it is there. ValueError as merge."""
    values = _columns(vote)
    old = db.execute("SELECT * FROM votes WHERE uid = ?", (vote.uid,)).fetchone()
    rater = db.execute("SELECT id FROM raters WHERE name = ?", (vote.rater,)).fetchone()
    if old:
        if (
            rater
            and (old["pair_id"], old["rater_id"]) == (pair_id, rater[0])
            and all(old[name] == values[name] for name in values)
        ):
            return False
        raise ValueError(f"vote {vote.uid}: expected the same content as here, found another; nothing was taken.")
    if rater is None:
        rater = (insert(db, "raters", "name, created_ms", (vote.rater, now_ms())),)
    seats = db.execute("SELECT seat, rater_id, expires_ms FROM seats WHERE pair_id = ?", (pair_id,)).fetchall()
    voted = {row["seat"]: row["rater_id"] for row in seats if row["expires_ms"] is None}
    if rater[0] in voted.values():
        raise ValueError(f"pair {pair.name}: expected one vote of {vote.rater!r}, found another one here; nothing was taken.")
    # Leases give way: the vote that comes in has been cast, and whoever holds a lease is told when they send theirs.
    free = [seat for seat in range(1, raters + 1) if seat not in voted]
    if not free:
        raise ValueError(f"pair {pair.name}: expected at most {raters} votes together, found more; nothing was taken.")
    empty = [seat for seat in free if seat not in {row["seat"] for row in seats}]
    own = [row["seat"] for row in seats if row["rater_id"] == rater[0]]
    seat = (own or empty or free)[0]
    db.execute("DELETE FROM seats WHERE pair_id = ? AND (seat = ? OR rater_id = ?)", (pair_id, seat, rater[0]))
    insert(db, "seats", "pair_id, seat, rater_id", (pair_id, seat, rater[0]))
    row = {"uid": vote.uid, "pair_id": pair_id, "seat": seat, "rater_id": rater[0], **values}
    insert(db, "votes", ", ".join(row), list(row.values()))
    return True


def _columns(vote: Vote) -> dict[str, object]:
    values: dict[str, object] = {"shown_left": vote.shown_left, "time_ms": vote.time_ms}
    for question in ("quality", "faithfulness"):
        answer = vote.answer(question)
        values |= {question: answer.choice, f"{question}_reasons": ",".join(answer.reasons), f"{question}_ms": answer.ms}
    return values
