"""Studies as JSON or CSV: out, in again as a study of their own, or merged into another copy of the same study.

An export holds what a report needs: prompts, systems, hashes of the videos, names of raters, votes. It holds no token, session,
secret or video. A report of the export is the report of the study, to the byte.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..data.rows import decoded, not_text, read_table
from ..errors import UserError
from ..limits import json_of, unique_names
from .database import insert, now_ms
from .questions import KEYS, ordered_reasons
from .results import Pair, Results, Vote
from .rules import NAME_LENGTH
from .store import Study, pairs_in

MARK = {"format": "emu-video-study", "version": 1}
UID = re.compile(r"[A-Za-z0-9]{16,64}")
PAIR_COLUMNS = ("study", "title", "raters", "systems", "prompt", "text", "first", "second", "first_sha256", "second_sha256")
NOTE = "note"  # only where there is one
VOTE_COLUMNS = ("vote", "rater", "time_ms", "shown_left", *(f"{key}{part}" for key in KEYS for part in ("", "_reasons", "_ms")))


def to_json(results: Results) -> str:
    """All of it, under the names of the dataclasses' fields."""
    told = {name: value for name, value in asdict(results).items() if value or name != NOTE}
    return json.dumps(MARK | told, indent=1, ensure_ascii=False) + "\n"


def to_csv(results: Results) -> str:
    """One line a vote, and one for a pair that has none; reasons are joined by ";"."""
    text = io.StringIO(newline="")
    columns = (*PAIR_COLUMNS, *([NOTE] if results.note else []), *VOTE_COLUMNS)
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    systems = json.dumps(results.systems, ensure_ascii=False)
    for pair in results.pairs:
        row = {**vars(results), "study": results.uid, "systems": systems, **vars(pair), "text": results.prompts[pair.prompt]}
        votes = [{"vote": vote.uid, "rater": vote.rater, **vote.columns(";")} for vote in pair.votes]
        writer.writerows(row | vote for vote in votes or [{}])
    return text.getvalue()


def write_results(results: Results, path: str | Path) -> None:
    """.json or .csv. ValueError: another extension, or it cannot be written."""
    from ..media.files import whole_file  # its package takes a third of a second, which an import need not wait

    kind = Path(path).suffix.lower()
    if kind not in (".json", ".csv"):
        raise UserError(f"{path}: expected .json or .csv, found {kind or 'no extension'}; change the extension.")
    with whole_file(path) as part:
        part.write_text(to_json(results) if kind == ".json" else to_csv(results), encoding="utf-8", newline="")


def read_results(path: str | Path) -> Results:
    """What write_results wrote. ValueError: it is not that, or something in it cannot be."""
    file = Path(path)
    try:
        if file.suffix.lower() == ".json":
            found = json_of(decoded(file.read_bytes()), unique_names)
            for key, value in MARK.items():
                _expect(found[key] == value, f"{key} {found[key]}, not {value}")
            found = {field.name: found[field.name] for field in fields(Results) if field.name in found or field.name != NOTE}
            found.setdefault(NOTE, "")
        else:
            found = asdict(_from_csv(file))
        results = _typed(Results, found)
        _check(results)
    except OSError as problem:
        raise UserError(f"{path}: expected an exported study, found {problem.strerror}; check the path.") from problem
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as problem:
        mistake = f"no {problem}" if isinstance(problem, KeyError) else problem
        found = f"found a mistake in it ({mistake})"
        raise UserError(f"{path}: expected an exported study (JSON or CSV), {found}; export it anew.") from problem
    return results


def _from_csv(file: Path) -> Results:
    lines = [*read_table(file, (*PAIR_COLUMNS, NOTE, *VOTE_COLUMNS))][1:]
    for line in lines:
        _expect(not line.problem, f"{line.place}: {line.problem}")
    rows = [line.cells for line in lines]
    _expect(rows, "no lines")
    head = rows[0]
    prompts: dict[str, str] = {}
    pairs: dict[tuple[str, str, str], Pair] = {}
    for row in rows:
        same = row["study"] == head["study"] and prompts.setdefault(row["prompt"], row["text"]) == row["text"]
        _expect(same, "lines of different studies")
        key = (row["prompt"], row["first"], row["second"])
        pair = pairs.setdefault(key, Pair(*key, row["first_sha256"], row["second_sha256"]))
        if row["vote"]:
            pairs[key] = replace(pair, votes=(*pair.votes, Vote.from_columns(row["vote"], row["rater"], row, ";")))
    systems = tuple(json_of(head["systems"]))
    about = (head["study"], head["title"], int(head["raters"]), systems)
    return Results(*about, prompts, tuple(pairs.values()), head.get(NOTE, ""))


def _typed(kind: Any, value: Any) -> Any:
    """A value as JSON holds it, as what a dataclass's field is declared to be. ValueError: it is something else."""
    inner = get_args(kind)
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        _expect(set(value) == set(hints), f"{', '.join(value)} instead of {', '.join(hints)}")
        return kind(**{name: _typed(hints[name], part) for name, part in value.items()})  # type: ignore[operator]
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        return tuple(_typed(inner[0], part) for part in value)
    if get_origin(kind) is dict and isinstance(value, dict):
        return {_typed(inner[0], name): _typed(inner[1], part) for name, part in value.items()}
    fits = type(value) is kind or (get_origin(kind) is Literal and value in inner)
    _expect(not isinstance(value, str) or not not_text(value), f"{str(value)[:40]!r}, which is no text")
    _expect(fits, f"{str(value)[:40]!r} instead of {getattr(kind, '__name__', kind)}")
    return value


def _check(results: Results) -> None:
    """What no study of ours could have written is refused: the file may have been edited. Types are as declared."""
    places, uids = {name: place for place, name in enumerate(results.systems)}, set()
    _expect(UID.fullmatch(results.uid), "no study's uid")
    _expect(1 <= results.raters <= 99 and results.raters % 2, "raters is not an odd number")
    _expect(len(places) == len(results.systems) and "" not in places, "systems are not different names")
    for pair in results.pairs:
        known = pair.prompt in results.prompts and {pair.first, pair.second} <= set(places)
        _expect(known, f"pair {pair.name} of an unknown prompt or system")
        _expect(places[pair.first] < places[pair.second], f"pair {pair.name} in the wrong order")
        raters = {vote.rater.casefold() for vote in pair.votes}
        enough = f"pair {pair.name} with more than {results.raters} votes or two of one rater"
        _expect(len(raters) == len(pair.votes) <= results.raters, enough)
        for vote in pair.votes:
            name, numbers = f"vote {vote.uid}", (vote.time_ms, vote.quality.ms, vote.faithfulness.ms)
            _expect(UID.fullmatch(vote.uid) and min(numbers) >= 0 and max(numbers) < 2**53, f"{name} with a value that cannot be")
            _expect(1 <= len(vote.rater) <= NAME_LENGTH and vote.rater.isprintable(), f"{name} of a rater without a name")
            for key in KEYS:
                reasons = vote.answer(key).reasons
                _expect(ordered_reasons(key, reasons) == reasons, f"{name} with reasons in another order")
            _expect(vote.uid not in uids, f"{name} twice")
            uids.add(vote.uid)


def _expect(fine: object, otherwise: str) -> None:
    if not fine:
        raise UserError(otherwise)


def import_new(results: Results, folder: str | Path) -> None:
    """An export as a study of its own, without videos: for reports and merging, not for raters. There whole or not at all.

    ValueError: something is there already, or one system has two videos of a prompt.
    """
    from .folders import new_folder  # loads what reads videos, which takes a third of a second; reports do not wait for it

    hashes: dict[tuple[str, str], str] = {}
    for pair in results.pairs:
        for system, sha256 in ((pair.first, pair.first_sha256), (pair.second, pair.second_sha256)):
            one = hashes.setdefault((pair.prompt, system), sha256) == sha256
            _expect(one, f"pair {pair.name}: expected one video of a system for a prompt, found two; export it anew.")
    with new_folder(folder) as part, Study.begin(part, results.title, results.raters, uid=results.uid) as study:
        with study.transaction() as db:
            systems = {name: insert(db, "systems", name=name) for name in results.systems}
            prompts = {key: insert(db, "prompts", key=key, text=text) for key, text in results.prompts.items()}
            videos = {
                (prompt, system): insert(db, "videos", prompt_id=prompts[prompt], system_id=systems[system], sha256=sha256)
                for (prompt, system), sha256 in hashes.items()
            }
            for pair in results.pairs:
                first, second = (videos[pair.prompt, system] for system in (pair.first, pair.second))
                insert(db, "pairs", prompt_id=prompts[pair.prompt], first_id=first, second_id=second)
        merge(study, results)


def merge(study: Study, results: Results) -> tuple[int, int]:
    """Take the votes of another copy of the same study. Returns (new votes, votes that were there already).

    A rater is the same if the name is; a note comes along. ValueError, and nothing is taken: another study, a pair that this one
    does not have or whose videos differ, a vote that conflicts (the same id with other content, the same rater twice on a pair),
    a sixth vote.
    """
    if results.uid != study.uid:
        raise UserError(f"expected votes of the study {study.uid}, found some of {results.uid}; merge copies of one study only.")
    taken: list[bool] = []
    with study.transaction() as db:
        here = pairs_in(db)
        if results.note not in study.note:
            db.execute("UPDATE study SET note = ?", (" ".join(filter(None, (study.note, results.note))),))
        for pair in results.pairs:
            number = here.get(replace(pair, votes=()))
            if number is None:
                raise UserError(f"pair {pair.name}: expected one with the same videos here, found none; nothing was taken.")
            taken += [_take(db, number, pair, vote, study.raters) for vote in pair.votes]
    return sum(taken), len(taken) - sum(taken)


def _take(db: sqlite3.Connection, number: int, pair: Pair, vote: Vote, raters: int) -> bool:
    """Insert one vote; False if it is there. number: the pair's here. ValueError as merge."""
    old = db.execute("SELECT * FROM votes WHERE uid = ?", (vote.uid,)).fetchone()
    row = db.execute("SELECT id FROM raters WHERE name = ?", (vote.rater,)).fetchone()
    if old:
        same_place = row is not None and (old["pair_id"], old["rater_id"]) == (number, row["id"])
        if same_place and Vote.from_columns(vote.uid, vote.rater, old, ",") == vote:
            return False
        raise UserError(f"vote {vote.uid}: expected the same content as here, found another; nothing was taken.")
    rater = row["id"] if row else insert(db, "raters", name=vote.rater, created_ms=now_ms())
    seats = db.execute("SELECT seat, rater_id, expires_ms FROM seats WHERE pair_id = ?", (number,)).fetchall()
    holder = {seat["seat"]: seat["rater_id"] for seat in seats}
    voted = {seat["seat"]: seat["rater_id"] for seat in seats if seat["expires_ms"] is None}
    if rater in voted.values():
        raise UserError(f"pair {pair.name}: expected one vote of {vote.rater!r}, found another one here; nothing was taken.")
    # Leases give way: the vote that comes in has been cast, and whoever holds a lease is told when they send theirs.
    free = [seat for seat in range(1, raters + 1) if seat not in voted]
    if not free:
        raise UserError(f"pair {pair.name}: expected at most {raters} votes together, found more; nothing was taken.")
    best = min(free, key=lambda seat: (holder.get(seat) != rater, seat in holder))  # their own, or an empty one, or the first
    db.execute("DELETE FROM seats WHERE pair_id = ? AND (seat = ? OR rater_id = ?)", (number, best, rater))
    insert(db, "seats", pair_id=number, seat=best, rater_id=rater)
    insert(db, "votes", uid=vote.uid, pair_id=number, seat=best, rater_id=rater, **vote.columns(","))
    return True
