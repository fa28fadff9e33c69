"""A study's folder: `study.sqlite` and `videos/`. All rules about who may vote for what are kept here and in the schema.

Every method that writes is one SQLite transaction (BEGIN IMMEDIATE), so several processes may use one store: the server, a
program that adds pairs, an import. Nothing is remembered outside the file, so a killed process loses nothing acknowledged.
Times are Unix milliseconds; a side is "first" or "second" inside, "left" or "right" for the rater.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .lock import ServerLock
from .results import SIDES, Answer, Pair, Results, Side, Vote
from .rules import TOKEN_LETTERS, Refused, check_key, clean_name, new_token, read_answer, token_hash
from .schema import APPLICATION_ID, SCHEMA, VERSION

if TYPE_CHECKING:
    from .videos import PathLike, Prepared

STORE_NAME = "study.sqlite"
VIDEOS = "videos"
MAX_EVENTS = 10_000
MOST_RANKS = 500_000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rater:
    id: int
    name: str


@dataclass(frozen=True)
class Task:
    """A pair as its rater may see it: nothing tells which system is which, and no two raters get the same names."""

    key: str
    prompt: str
    left: str
    right: str
    draft: dict[str, Any] | None


@dataclass(frozen=True)
class Progress:
    """voted: pairs that the rater has judged; left: pairs still open to them, those that others hold just now included."""

    voted: int
    left: int


def now_ms() -> int:
    return int(time.time() * 1000)


class Study:
    """One study. Safe to use from several threads; several processes may have it open."""

    def __init__(self, folder: str | Path, clock: Callable[[], int] = now_ms) -> None:
        """Open. ValueError: no study there, or one of another version. clock: milliseconds, for tests."""
        self.folder = Path(folder).resolve()
        self.clock = clock
        self.lock = ServerLock(self.folder)
        self._guard = threading.RLock()
        self._ranks: dict[tuple[int, int], int] = {}
        file = self.folder / STORE_NAME
        if not file.is_file():
            raise ValueError(f"{folder}: expected a study's folder with {STORE_NAME}, found none; make one with `study create`.")
        try:
            self._db = _connect(file)
            found = tuple(self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        except sqlite3.Error as problem:
            raise ValueError(f"{file}: expected a study's store, found {problem}; take the file from a copy.") from problem
        if found != (APPLICATION_ID, VERSION):
            self._db.close()
            raise ValueError(
                f"{file}: expected a study of version {VERSION}, found version {found[1]}; use the program that made it."
            )
        row = self._one("SELECT * FROM study")
        self.uid, self.title, self.raters = str(row["uid"]), str(row["title"]), int(row["raters"])
        self.lease_ms, self._secret = int(row["lease_ms"]), bytes.fromhex(row["secret"])

    @classmethod
    def create(
        cls,
        folder: str | Path,
        title: str = "Which video is better?",
        raters: int = 5,
        lease_seconds: float = 900,
        seed: int | None = None,
        uid: str | None = None,
    ) -> Study:
        """A new, empty study. raters: votes a pair, odd, so that there always is a majority.

        seed: makes the sides and orders repeatable; who knows it can work out the sides, so leave it out for a real study.
        """
        if not 1 <= raters <= 99 or raters % 2 == 0:
            raise ValueError(
                f"raters: expected an odd number from 1 to 99, so that a majority decides, found {raters}; change it."
            )
        if not 0.05 <= lease_seconds <= 7 * 24 * 3600:
            raise ValueError(f"lease: expected seconds up to a week, found {lease_seconds:g}; change it.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / STORE_NAME
        if file.exists():
            raise ValueError(f"{folder}: expected a folder without a study, found one in it; choose another folder.")
        secret = secrets.token_bytes(32) if seed is None else hashlib.sha256(f"emu-video study {seed}".encode()).digest()
        db = _connect(file)
        try:
            db.executescript(
                f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; BEGIN; {SCHEMA} COMMIT;"
            )
            db.execute(
                "INSERT INTO study VALUES (1, ?, ?, ?, ?, 0, ?, ?)",
                (uid or secrets.token_hex(8), title, raters, int(lease_seconds * 1000), secret.hex(), now_ms()),
            )
        finally:
            db.close()
        (folder / VIDEOS).mkdir(exist_ok=True)
        return cls(folder)

    def close(self) -> None:
        """The last one to close leaves everything in the one file, which can then be copied; the server's lock goes."""
        with self._guard:
            self._db.close()
        self.lock.release()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; other writers wait. ValueError: the disk is full or read-only, or another writer takes very long."""
        with self._guard:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as problem:
                raise ValueError(
                    f"{self.folder / STORE_NAME}: expected to write into it, found {problem}; nothing was stored; "
                    f"check the disk and other programs that use the study."
                ) from problem
            finally:
                if self._db.in_transaction:  # a full disk may have ended it already
                    self._db.execute("ROLLBACK")

    def _one(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Row:
        with self._guard:
            return self._db.execute(sql, values).fetchone()

    def _all(self, sql: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
        with self._guard:
            return self._db.execute(sql, values).fetchall()

    # -- pairs

    def add_pair(self, prompt: str, videos: Mapping[str, PathLike], key: str | None = None) -> int:
        """Add one prompt with the video of each system (at least two); every two of them become a pair. Returns their number.

        The videos are copied into the study first, re-encoded only where a browser could not play them. Safe while a server
        has the study open; raters get the new pairs at once. key: the prompt's name in reports, else a new one.
        ValueError: fewer than two systems, a file that is no video, a key that is taken.
        """
        from .videos import prepare_video

        if len(videos) < 2:
            raise ValueError(f"add_pair: expected the videos of at least two systems, found {len(videos)}; give another.")
        folder = self.folder / VIDEOS
        folder.mkdir(exist_ok=True)
        prepared: dict[str, Prepared] = {}
        try:
            for system, path in videos.items():
                prepared[system] = prepare_video(path, folder / f"{secrets.token_hex(8)}.mp4")
            return self.insert_prompt(key or f"added-{secrets.token_hex(4)}", prompt, prepared)
        except BaseException:
            for made in prepared.values():
                made.path.unlink(missing_ok=True)
            raise

    def insert_prompt(self, key: str, text: str, videos: Mapping[str, Prepared], against: str | None = None) -> int:
        """Enter videos that already lie in the study's folder; against: only pairs with this system. Returns the pairs made."""
        with self.transaction() as db:
            prompt = _new_prompt(db, key, text)
            ids: dict[int, int] = {}
            for system, video in videos.items():
                system_id = _system_id(db, system)
                values = (
                    prompt,
                    system_id,
                    video.path.name,
                    video.sha256,
                    video.width,
                    video.height,
                    round(video.seconds * 1000),
                )
                ids[system_id] = insert(db, "videos", "prompt_id, system_id, file, sha256, width, height, length_ms", values)
            needed = None if against is None else _system_id(db, against)
            ordered = sorted(ids)  # the same system comes first in every pair, so that reports can add pairs up
            made = [(a, b) for n, a in enumerate(ordered) for b in ordered[n + 1 :] if needed is None or needed in (a, b)]
            for a, b in made:
                insert(db, "pairs", "prompt_id, first_id, second_id", (prompt, ids[a], ids[b]))
        return len(made)

    def counts(self) -> dict[str, int]:
        """systems, prompts, pairs, done (pairs with all votes), votes, raters, playable (pairs whose videos are here)."""
        row = self._one(
            "SELECT (SELECT count(*) FROM systems) systems, (SELECT count(*) FROM prompts) prompts, "
            "(SELECT count(*) FROM pairs) pairs, (SELECT count(*) FROM pairs WHERE done) done, "
            "(SELECT count(*) FROM votes) votes, (SELECT count(*) FROM raters) raters, "
            "(SELECT count(*) FROM pairs p JOIN videos v ON v.id = p.first_id WHERE v.file IS NOT NULL) playable"
        )
        return dict(row)

    # -- raters

    @property
    def tokens_required(self) -> bool:
        return bool(self._one("SELECT tokens_required FROM study")[0])

    def require_tokens(self, number: int) -> list[tuple[str, str]]:
        """From now on only raters with a token may vote; makes `number` raters. Returns (name, token); only hashes are kept."""
        made = []
        with self.transaction() as db:
            db.execute("UPDATE study SET tokens_required = 1")
            start = db.execute("SELECT count(*) FROM raters").fetchone()[0] + 1
            for n in range(start, start + number):
                # Letters: two copies of a study, served apart and merged later, must not both have a rater-01.
                token, letters = new_token(), "".join(secrets.choice(TOKEN_LETTERS) for _ in range(3)).lower()
                made.append((f"rater-{n:02d}-{letters}", token))
                insert(db, "raters", "name, token_hash, created_ms", (made[-1][0], token_hash(token), self.clock()))
        return made

    def join(self, name: str = "", token: str = "") -> tuple[Rater, str, str]:
        """Sign a rater in, by a new name or by a token (theirs, or the code that they were given to come back).

        Returns the rater, the session's secret, and for a new rater that code. Refused: 401 a wrong or missing token,
        409 a name that is taken, 422 a name that is none.
        """
        code = ""
        with self.transaction() as db:
            if token:
                rater = _rater_of_token(db, token)
            elif self.tokens_required:
                raise Refused(401, "This study needs a token: open the link that you were given, or ask for one.")
            else:
                name, code = clean_name(name), new_token()
                if db.execute("SELECT 1 FROM raters WHERE name = ?", (name,)).fetchone():
                    raise Refused(409, "This name is taken. Choose another, or enter the code that you were given to come back.")
                identity = insert(db, "raters", "name, token_hash, created_ms", (name, token_hash(code), self.clock()))
                rater = Rater(identity, name)
            secret = secrets.token_urlsafe(32)
            values = (rater.id, hashlib.sha256(secret.encode()).hexdigest(), self.clock())
            session = insert(db, "sessions", "rater_id, secret_hash, created_ms", values)
        return rater, f"{session}.{secret}", code

    def rater_of(self, session: str) -> Rater:
        """The rater of a session's secret; Refused 401 if it is not one."""
        number, _, secret = session.partition(".")
        row = None
        if number.isascii() and number.isdigit() and len(number) < 16:
            row = self._one(
                "SELECT r.id, r.name, s.secret_hash FROM sessions s JOIN raters r ON r.id = s.rater_id WHERE s.id = ?",
                (int(number),),
            )
        given = hashlib.sha256(secret.encode()).hexdigest()
        if not hmac.compare_digest(given, row["secret_hash"] if row else "0" * len(given)) or row is None:
            raise Refused(401, "You are not signed in: open the study's page and enter your name or token.")
        return Rater(row["id"], row["name"])

    def leave(self, session: str) -> None:
        """Forget a session; the rater's pair stays theirs until its lease ends."""
        self.rater_of(session)
        with self.transaction() as db:
            db.execute("DELETE FROM sessions WHERE id = ?", (int(session.partition(".")[0]),))

    # -- what a rater sees

    def _mac(self, *parts: object) -> str:
        return hmac.digest(self._secret, "|".join(map(str, parts)).encode(), "sha256").hex()

    def left_side(self, rater: int, pair: int) -> Side:
        """Which of the pair's systems this rater sees left."""
        return SIDES[int(self._mac("side", rater, pair)[-1], 16) % 2]

    def _key(self, rater: int, pair: int) -> str:
        return self._mac("pair", rater, pair)[:24]

    def _video_key(self, rater: int, pair: int, side: Side) -> str:
        return self._mac("video", rater, pair, side)[:24]

    def _task(self, rater: int, pair: int, draft: str | None) -> Task:
        text = self._one("SELECT p.text FROM pairs JOIN prompts p ON p.id = pairs.prompt_id WHERE pairs.id = ?", (pair,))[0]
        left = self.left_side(rater, pair)
        right = SIDES[1 - SIDES.index(left)]
        names = [self._video_key(rater, pair, side) for side in (left, right)]
        return Task(self._key(rater, pair), text, names[0], names[1], json.loads(draft) if draft else None)

    def video_file(self, rater: Rater, key: str) -> Path:
        """The file behind a video's name on the page; only those of the rater's pair of the moment. Refused 404 for any other."""
        row = self._one(
            "SELECT s.pair_id, a.file first, b.file second FROM seats s JOIN pairs p ON p.id = s.pair_id "
            "JOIN videos a ON a.id = p.first_id JOIN videos b ON b.id = p.second_id "
            "WHERE s.rater_id = ? AND s.expires_ms IS NOT NULL",
            (rater.id,),
        )
        for side in SIDES if row and key.isascii() else ():
            if hmac.compare_digest(self._video_key(rater.id, row["pair_id"], side).encode(), key.encode()) and row[side]:
                return self.folder / VIDEOS / row[side]
        raise Refused(404, "There is no such video in the pair that you are judging.")

    # -- seats and votes

    def next_task(self, rater: Rater) -> Task | None:
        """The rater's pair of the moment, else a new one in their own random order, with a seat on lease; None: none is free."""
        now = self.clock()
        with self.transaction() as db:
            held = _lease(db, rater.id)
            if held:
                values = (now + self.lease_ms, held["pair_id"], rater.id)
                db.execute("UPDATE seats SET expires_ms = ? WHERE pair_id = ? AND rater_id = ?", values)
                return self._task(rater.id, held["pair_id"], held["draft"])
            free = self._free_pairs(db, rater.id, now)
            if not free:
                return None
            pair = min(free, key=lambda pair: self._rank(rater.id, pair))
            self._take_seat(db, rater.id, pair, now)
            return self._task(rater.id, pair, None)

    def _free_pairs(self, db: sqlite3.Connection, rater: int, now: int) -> list[int]:
        """Pairs with a seat for this rater: not all voted on or on lease, not theirs before. Three passes over indices."""
        pairs = db.execute(
            "SELECT p.id FROM pairs p JOIN videos a ON a.id = p.first_id JOIN videos b ON b.id = p.second_id "
            "WHERE p.done = 0 AND a.file IS NOT NULL AND b.file IS NOT NULL"
        )
        taken = db.execute(
            "SELECT s.pair_id FROM seats s JOIN pairs p ON p.id = s.pair_id WHERE p.done = 0 "
            "AND (s.expires_ms IS NULL OR s.expires_ms > ?) GROUP BY s.pair_id HAVING count(*) >= ?",
            (now, self.raters),
        )
        mine = db.execute("SELECT pair_id FROM seats WHERE rater_id = ?", (rater,))
        closed = {row[0] for rows in (taken, mine) for row in rows}
        return [row[0] for row in pairs if row[0] not in closed]

    def _rank(self, rater: int, pair: int) -> int:
        """Where a pair stands in the rater's own random order; remembered, since each choice compares all free pairs."""
        if len(self._ranks) > MOST_RANKS:
            self._ranks.clear()
        if (rater, pair) not in self._ranks:
            self._ranks[rater, pair] = int(self._mac("order", rater, pair)[:15], 16)
        return self._ranks[rater, pair]

    def _take_seat(self, db: sqlite3.Connection, rater: int, pair: int, now: int) -> None:
        """A free seat, or else the one whose lease ended longest ago: a rater who is late but not replaced may still vote."""
        taken = {row[0] for row in db.execute("SELECT seat FROM seats WHERE pair_id = ?", (pair,))}
        seat = next((number for number in range(1, self.raters + 1) if number not in taken), None)
        if seat is None:
            seat = db.execute(
                "SELECT seat FROM seats WHERE pair_id = ? AND expires_ms <= ? ORDER BY expires_ms LIMIT 1", (pair, now)
            ).fetchone()[0]
            db.execute("DELETE FROM seats WHERE pair_id = ? AND seat = ?", (pair, seat))
        insert(db, "seats", "pair_id, seat, rater_id, expires_ms", (pair, seat, rater, now + self.lease_ms))

    def keep(self, rater: Rater, key: str) -> None:
        """Renew the lease on the rater's pair while its page is open. Refused as `vote`."""
        with self.transaction() as db:
            seat = self._seat(db, rater, key)
            db.execute("UPDATE seats SET expires_ms = ? WHERE pair_id = ? AND seat = ?", (self.clock() + self.lease_ms, *seat))

    def save_draft(self, rater: Rater, key: str, answer: object) -> None:
        """Keep the first answer until the second comes; it goes with the lease and is no vote. Refused as `vote`."""
        side, reasons, ms = read_answer("quality", answer)
        with self.transaction() as db:
            seat = self._seat(db, rater, key)
            text = json.dumps({"choice": side, "reasons": list(reasons), "ms": ms})
            values = (text, self.clock() + self.lease_ms, *seat)
            db.execute("UPDATE seats SET draft = ?, expires_ms = ? WHERE pair_id = ? AND seat = ?", values)

    def vote(self, rater: Rater, uid: str, key: str, quality: object, faithfulness: object) -> bool:
        """Store a vote: both answers, {"choice": "left" or "right", "reasons": [...], "ms": milliseconds}. True: a repetition.

        uid: made by the page, the same when it tries again; such a repetition is acknowledged and not stored again.
        Refused: 404 a pair that is not this rater's, 409 one that they have judged, whose seat went to somebody else, or a uid
        that stands for another vote, 422 a choice or reason that does not exist.
        """
        if not (isinstance(uid, str) and 16 <= len(uid) <= 64 and uid.isascii() and uid.isalnum()):
            raise Refused(422, "A vote needs an id of 16 to 64 letters and digits.")
        check_key(key)
        answers = read_answer("quality", quality), read_answer("faithfulness", faithfulness)
        with self.transaction() as db:
            old = db.execute("SELECT * FROM votes WHERE uid = ?", (uid,)).fetchone()
            if old:
                if old["rater_id"] == rater.id and self._content(rater.id, old["pair_id"], key, answers) == _content_of(old):
                    return True
                raise Refused(409, "This vote's id already stands for another vote; nothing was stored.")
            pair, seat = self._seat(db, rater, key)
            content = self._content(rater.id, pair, key, answers)
            columns = "uid, pair_id, seat, rater_id, time_ms, shown_left, " + ", ".join(CONTENT)
            insert(db, "votes", columns, (uid, pair, seat, rater.id, self.clock(), self.left_side(rater.id, pair), *content))
        return False

    def _content(self, rater: int, pair: int, key: str, answers: Sequence[tuple[str, Sequence[str], int]]) -> tuple[object, ...]:
        """A vote's columns in the order of CONTENT; the screen's sides become the pair's."""
        if not hmac.compare_digest(self._key(rater, pair).encode(), key.encode()):
            return ()
        left = self.left_side(rater, pair)
        right = SIDES[1 - SIDES.index(left)]
        return tuple(
            value for side, reasons, ms in answers for value in (left if side == "left" else right, ",".join(reasons), ms)
        )

    def _seat(self, db: sqlite3.Connection, rater: Rater, key: str) -> tuple[int, int]:
        """(pair, seat) that the rater holds under this name."""
        check_key(key)
        held = _lease(db, rater.id)
        if held and hmac.compare_digest(self._key(rater.id, held["pair_id"]).encode(), key.encode()):
            return held["pair_id"], held["seat"]
        for row in db.execute("SELECT pair_id FROM votes WHERE rater_id = ?", (rater.id,)):
            if self._key(rater.id, row[0]) == key:
                raise Refused(409, "You have judged this pair already; each pair counts once a rater. Nothing was stored.")
        for row in db.execute("SELECT id FROM pairs"):
            if self._key(rater.id, row[0]) == key:
                raise Refused(409, "This pair went to somebody else while you were away; nothing was stored.")
        raise Refused(404, "There is no such pair for you; nothing was stored.")

    def progress(self, rater: Rater) -> Progress:
        row = self._one(
            "SELECT (SELECT count(*) FROM votes WHERE rater_id = ?) voted, (SELECT count(*) FROM pairs p WHERE done = 0 "
            "AND NOT EXISTS (SELECT 1 FROM votes v WHERE v.pair_id = p.id AND v.rater_id = ?)) open",
            (rater.id, rater.id),
        )
        return Progress(row["voted"], row["open"])

    # -- events and results

    def record(self, status: int, request: str, sentence: str, rater: str | None = None) -> None:
        """Remember a refused request, the last 10,000 of them."""
        with self.transaction() as db:
            texts = [text.encode("utf-8", "replace").decode()[:500] for text in (request, sentence)]
            values = (self.clock(), status, rater, *texts)
            number = insert(db, "events", "time_ms, status, rater, request, sentence", values)
            db.execute("DELETE FROM events WHERE id <= ?", (number - MAX_EVENTS,))

    def events(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self._all("SELECT * FROM events ORDER BY id")]

    def results(self) -> Results:
        """Everything that a report needs, as it stands at one moment."""
        with self._guard:
            self._db.execute("BEGIN")  # one moment, though pairs and votes are read one after the other
            try:
                votes: dict[int, list[Vote]] = {}
                for row in self._db.execute("SELECT v.*, r.name FROM votes v JOIN raters r ON r.id = v.rater_id ORDER BY v.uid"):
                    votes.setdefault(row["pair_id"], []).append(_vote_of(row))
                pairs = self._db.execute(
                    "SELECT p.id, t.key, t.text, x.name first, y.name second, a.sha256 first_sha, b.sha256 second_sha "
                    "FROM pairs p "
                    "JOIN prompts t ON t.id = p.prompt_id JOIN videos a ON a.id = p.first_id JOIN videos b ON b.id = p.second_id "
                    "JOIN systems x ON x.id = a.system_id JOIN systems y ON y.id = b.system_id ORDER BY p.id"
                ).fetchall()
                systems = tuple(row[0] for row in self._db.execute("SELECT name FROM systems ORDER BY id"))
            finally:
                self._db.execute("COMMIT")
        return Results(
            self.uid,
            self.title,
            self.raters,
            systems,
            {row["key"]: row["text"] for row in pairs},
            tuple(
                Pair(
                    row["key"], row["first"], row["second"], row["first_sha"], row["second_sha"], tuple(votes.get(row["id"], ()))
                )
                for row in pairs
            ),
        )


CONTENT = ("quality", "quality_reasons", "quality_ms", "faithfulness", "faithfulness_reasons", "faithfulness_ms")


def _connect(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file, timeout=30, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    # FULL: a vote that was acknowledged survives a power cut too, not only the death of the process.
    for setting in ("journal_mode = WAL", "foreign_keys = ON", "synchronous = FULL", "trusted_schema = OFF"):
        db.execute(f"PRAGMA {setting}")
    return db


def insert(db: sqlite3.Connection, table: str, columns: str, values: Sequence[object]) -> int:
    """The new row's number. Table and columns are this program's own words, never a user's."""
    marks = ", ".join("?" * len(values))
    number = db.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", values).lastrowid
    assert number is not None
    return number


def _new_prompt(db: sqlite3.Connection, key: str, text: str) -> int:
    if not key or not text.strip():
        raise ValueError(f"prompt {key!r}: expected a key and a text, found an empty one; fill it in.")
    if db.execute("SELECT 1 FROM prompts WHERE key = ?", (key,)).fetchone():
        raise ValueError(f"prompt {key!r}: expected a key that is new in this study, found one that is taken; choose another.")
    return insert(db, "prompts", "key, text", (key, text))


def _system_id(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT id FROM systems WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row else insert(db, "systems", "name", (name,))


def _rater_of_token(db: sqlite3.Connection, token: str) -> Rater:
    """All hashes are compared, each in constant time: the time taken tells nothing about how near a guess was."""
    given, found = token_hash(token.encode("ascii", "replace").decode()), None
    for row in db.execute("SELECT id, name, token_hash FROM raters WHERE token_hash IS NOT NULL"):
        if hmac.compare_digest(given, row["token_hash"]):
            found = Rater(row["id"], row["name"])
    if found is None:
        raise Refused(401, "This token is not one of this study's. Check it letter by letter, or ask for a new one.")
    return found


def _lease(db: sqlite3.Connection, rater: int) -> sqlite3.Row | None:
    return db.execute("SELECT * FROM seats WHERE rater_id = ? AND expires_ms IS NOT NULL", (rater,)).fetchone()


def _content_of(row: sqlite3.Row) -> tuple[object, ...]:
    return tuple(row[column] for column in CONTENT)


def _vote_of(row: sqlite3.Row) -> Vote:
    quality, faithfulness = (
        Answer(row[question], tuple(row[f"{question}_reasons"].split(",")), row[f"{question}_ms"])
        for question in ("quality", "faithfulness")
    )
    return Vote(row["uid"], row["name"], row["shown_left"], quality, faithfulness, row["time_ms"])
