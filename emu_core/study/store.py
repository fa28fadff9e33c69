"""A study's folder: `study.sqlite` and `videos/`. All rules about who may vote for what are kept here and in the schema.

Every method that writes is one SQLite transaction (BEGIN IMMEDIATE), so several processes may use one store: the server, a
program that adds pairs, an import. Nothing is remembered outside the file, so a killed process loses nothing acknowledged.
Times are Unix milliseconds; a side is "first" or "second" inside, "left" or "right" for the rater.
"""

from __future__ import annotations

import hmac
import json
import secrets
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from hashlib import sha256
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .database import STORE_NAME, VIDEOS, HalfMade, insert, lay_out, looks_half_made, now_ms, open_store
from .lock import ServerLock
from .results import SIDES, Answer, Pair, Results, Side, Vote
from .rules import TOKEN_LETTERS, Refused, check_key, clean_name, new_token, read_answer, token_hash

if TYPE_CHECKING:
    from ..media.files import PathLike
    from .videos import Prepared

TITLE = "Which video is better?"
MAX_EVENTS = 10_000
MOST_RANKS = 500_000
UNWATCHED_MS = 60_000
"""How long a seat is kept of which nobody has asked for a video yet; what a lease of at most this long is kept anyway."""
PAIRS = """
SELECT p.id, t.key prompt, t.text, x.name first, y.name second, a.sha256 first_sha256, b.sha256 second_sha256,
    a.file first_file, b.file second_file
FROM pairs p JOIN prompts t ON t.id = p.prompt_id JOIN videos a ON a.id = p.first_id JOIN videos b ON b.id = p.second_id
JOIN systems x ON x.id = a.system_id JOIN systems y ON y.id = b.system_id
"""
LEASE = "SELECT * FROM seats WHERE rater_id = ? AND expires_ms IS NOT NULL"
FREE_PAIRS = """
SELECT p.id FROM pairs p JOIN videos a ON a.id = p.first_id JOIN videos b ON b.id = p.second_id
WHERE p.done = 0 AND a.file IS NOT NULL AND b.file IS NOT NULL
AND p.id NOT IN (SELECT pair_id FROM seats WHERE rater_id = ?)
AND p.id NOT IN (SELECT s.pair_id FROM seats s JOIN pairs o ON o.id = s.pair_id WHERE o.done = 0
    AND (s.expires_ms IS NULL OR s.expires_ms > ?) GROUP BY s.pair_id HAVING count(*) >= ?)
"""
"""Pairs with a seat for a rater: not all voted on or on lease, not theirs before. Three passes over indices."""


@dataclass(frozen=True)
class Rater:
    """id: the row's number; name: as the rater typed it, or the one that came with a token."""

    id: int
    name: str


@dataclass(frozen=True)
class Showing:
    """A pair as its rater may see it: nothing tells which system is which, and no two raters get the same names."""

    key: str
    prompt: str
    left: str
    right: str
    draft: dict[str, Any] | None


class Study(AbstractContextManager["Study"]):
    """One study. Safe to use from several threads; several processes may have it open."""

    def __init__(self, folder: PathLike, clock: Callable[[], int] = now_ms, being_made: bool = False) -> None:
        """Open. ValueError: no study there, a half-made one, or one of another version. clock: milliseconds, for tests;
        being_made: by this program."""
        self.folder = Path(folder).resolve()
        self.clock = clock
        self.lock = ServerLock(self.folder)
        self._guard = threading.RLock()
        # Where a pair stands in a rater's own random order; remembered, since each choice compares all free pairs.
        self._rank = lru_cache(MOST_RANKS)(lambda rater, pair: int(self._mac("order", rater, pair)[:15], 16))
        if not being_made and looks_half_made(self.folder):
            raise HalfMade(folder)
        if not (self.folder / STORE_NAME).is_file():
            raise UserError(f"{folder}: expected a study's folder with {STORE_NAME}, found none; make one with `study create`.")
        self._db, row = open_store(folder, self.folder / STORE_NAME)
        self.uid, self.title, self.raters = str(row["uid"]), str(row["title"]), int(row["raters"])
        self.lease_ms, self._secret = int(row["lease_ms"]), bytes.fromhex(row["secret"])
        self.unwatched_ms = min(self.lease_ms, UNWATCHED_MS)
        self.owner_token = self._mac("owner", self.uid)[:40]
        """Opens the owner's page; as secret as the study's file."""

    @staticmethod
    def create(
        folder: PathLike, title: str = TITLE, raters: int = 5, lease_seconds: float = 900, seed: int | None = None, uid: str = ""
    ) -> Study:
        """A new, empty study. raters: votes a pair, odd, so that there always is a majority.

        seed: makes the sides and orders repeatable; who knows it can work out the sides, so leave it out for a real study.
        ValueError: numbers that cannot be, or a folder with a study in it.
        """
        from .folders import new_folder  # its libraries take a third of a second, for which a server or a report need not wait

        Path(folder).parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder) as part:
            Study.begin(part, title, raters, lease_seconds, seed, uid).close()
        return Study(folder)

    @staticmethod
    def begin(
        part: PathLike, title: str = TITLE, raters: int = 5, lease_seconds: float = 900, seed: int | None = None, uid: str = ""
    ) -> Study:
        """An empty study in a folder of `new_folder`, which is not whole before that ends; otherwise as `create`."""
        (Path(part) / VIDEOS).mkdir()
        lay_out(Path(part) / STORE_NAME, title, raters, lease_seconds, seed, uid)
        return Study(part, being_made=True)

    def close(self) -> None:
        """The last one to close leaves everything in the one file, which can then be copied; the server's lock goes."""
        with self._guard:
            self._db.close()
        self.lock.release()

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def transaction(self, kind: str = "IMMEDIATE", lasting: bool = True) -> Iterator[sqlite3.Connection]:
        """All or nothing; other writers wait. ValueError: the disk is full or read-only, or another writer takes very long.

        kind: "DEFERRED" sees one moment of the store and keeps nobody from writing. lasting: not even a power cut undoes it;
        the disk takes some milliseconds for that, which leases are not worth.
        """
        with self._guard:
            try:
                self._db.execute(f"PRAGMA synchronous = {'FULL' if lasting else 'NORMAL'}")
                self._db.execute(f"BEGIN {kind}")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as problem:
                found = f"{self.folder / STORE_NAME}: expected to write into it, found {problem}; nothing was stored"
                raise UserError(f"{found}; check the disk and other programs that use the study.") from problem
            finally:
                if self._db.in_transaction:  # a full disk may have ended it already
                    self._db.execute("ROLLBACK")

    def _all(self, sql: str, *values: object) -> list[sqlite3.Row]:
        with self._guard:
            return self._db.execute(sql, values).fetchall()

    # -- pairs

    def add_pair(self, prompt: str, videos: Mapping[str, PathLike], key: str | None = None) -> int:
        """Add one prompt with the video of each system (at least two); every two of them become a pair. Returns their number.

        The videos are copied into the study first, re-encoded only where a browser could not play them. Safe while a server
        has the study open; raters get the new pairs at once. key: the prompt's name in reports, else a new one.
        ValueError: fewer than two systems, a file that is no video, a key that is taken.
        """
        from .videos import prepare_video  # its libraries take a third of a second, for which a server or a report need not wait

        if len(videos) < 2:
            raise UserError(f"add_pair: expected the videos of at least two systems, found {len(videos)}; give another.")
        prepared: dict[str, Prepared] = {}
        (self.folder / VIDEOS).mkdir(exist_ok=True)  # a study may have been copied as its one file
        try:
            for system, path in videos.items():
                prepared[system] = prepare_video(path, self.folder / VIDEOS / f"{secrets.token_hex(8)}.mp4")
            return self.insert_prompt(key or f"added-{secrets.token_hex(4)}", prompt, prepared)
        except BaseException:
            for made in prepared.values():
                made.path.unlink(missing_ok=True)
            raise

    def insert_prompt(self, key: str, text: str, videos: Mapping[str, Prepared], against: str | None = None) -> int:
        """Enter videos that already lie in the study's folder; against: only pairs with this system. Returns the pairs made.

        ValueError: an empty key or text, or a key that is taken.
        """
        if not key or not text.strip():
            raise UserError(f"prompt {key!r}: expected a key and a text, found an empty one; fill it in.")
        with self.transaction() as db:
            if db.execute("SELECT 1 FROM prompts WHERE key = ?", (key,)).fetchone():
                raise UserError(f"prompt {key!r}: expected a key that is new here, found one that is taken; choose another.")
            db.executemany("INSERT INTO systems (name) VALUES (?) ON CONFLICT (name) DO NOTHING", [(name,) for name in videos])
            systems = dict(db.execute("SELECT name, id FROM systems").fetchall())
            prompt = insert(db, "prompts", key=key, text=text)
            ids: dict[int, int] = {}
            for name, video in videos.items():
                facts = {"file": video.path.name, "sha256": video.sha256, "width": video.width, "height": video.height}
                place = {"prompt_id": prompt, "system_id": systems[name]}
                ids[systems[name]] = insert(db, "videos", **place, **facts, length_ms=round(video.seconds * 1000))
            # The same system comes first in every pair, so that reports can add pairs up.
            made = [pair for pair in combinations(sorted(ids), 2) if against is None or systems[against] in pair]
            for first, second in made:
                insert(db, "pairs", prompt_id=prompt, first_id=ids[first], second_id=ids[second])
        return len(made)

    def counts(self) -> dict[str, int]:
        """systems, prompts, pairs, done (pairs with all votes), votes, raters, playable (pairs whose videos are here)."""
        rows = {table: table for table in ("systems", "prompts", "pairs", "votes", "raters")}
        rows |= {"done": "pairs WHERE done", "playable": "pairs p JOIN videos v ON v.id = p.first_id WHERE v.file IS NOT NULL"}
        return dict(self._all("SELECT " + ", ".join(f"(SELECT count(*) FROM {what}) {name}" for name, what in rows.items()))[0])

    # -- raters

    @property
    def tokens_required(self) -> bool:
        """Whether only raters with a token may vote."""
        return bool(self._all("SELECT tokens_required FROM study")[0][0])

    @property
    def signup_open(self) -> bool:
        """Whether new raters may sign up by a name."""
        return bool(self._all("SELECT signup_open FROM study")[0][0])

    @property
    def note(self) -> str:
        """What the page and the report say first, such as that the raters are simulated; empty: nothing."""
        return str(dict(self._all("SELECT * FROM study")[0]).get("note", ""))  # an older store on a read-only disk has no note

    def set_signup(self, wanted: bool) -> None:
        """Let new raters sign up, or no more of them; who has a session, a code or a token goes on."""
        with self.transaction() as db:
            db.execute("UPDATE study SET signup_open = ?", (int(wanted),))

    def overview(self) -> dict[str, Any]:
        """What the owner wants to know: the settings, `counts`, and `needed` (votes in all), `held` (seats on lease), `unwatched`
        (those of them whose rater has asked for no video), and of the last hour `new` (raters), `refused` (requests) and
        `crowded` (those of them that were one too many from an address)."""
        now = self.clock()
        sql = "SELECT count(*) held, coalesce(sum(watched = 0), 0) unwatched FROM seats WHERE expires_ms > ?"
        raters, events = "SELECT count(*) FROM raters WHERE created_ms > ?", "SELECT count(*) FROM events WHERE time_ms > ?"
        new = f"SELECT ({raters}) new, ({events}) refused, ({events} AND status = 429) crowded"
        counts, hour = self.counts(), now - 3_600_000
        settings: dict[str, Any] = {"title": self.title, "note": self.note}
        settings |= {"signup_open": self.signup_open, "tokens_required": self.tokens_required}
        found = dict(self._all(sql, now)[0]) | dict(self._all(new, hour, hour, hour)[0])
        return {**settings, **counts, "needed": counts["pairs"] * self.raters, **found}

    def require_tokens(self, number: int) -> list[tuple[str, str]]:
        """From now on only raters with a token may vote; makes `number` raters. Returns (name, token); only hashes are kept."""
        with self.transaction() as db:
            db.execute("UPDATE study SET tokens_required = 1")
            start = db.execute("SELECT count(*) FROM raters").fetchone()[0] + 1
            # Letters: two copies of a study, served apart and merged later, must not both have a rater-01.
            letters = ["".join(secrets.choice(TOKEN_LETTERS) for _ in range(3)).lower() for _ in range(number)]
            made = [(f"rater-{n:02d}-{some}", new_token()) for n, some in enumerate(letters, start)]
            for name, token in made:
                insert(db, "raters", name=name, token_hash=token_hash(token), created_ms=self.clock())
        return made

    def join(self, name: str = "", token: str = "") -> tuple[Rater, str, str]:
        """Sign a rater in, by a new name or by a token (theirs, or the code that they were given to come back).

        Returns the rater, the session's secret, and for a new rater that code. Refused: 401 a wrong or missing token,
        409 a name that is taken, 422 a name that is none.
        """
        code, secret = "", secrets.token_urlsafe(32)
        with self.transaction() as db:
            if token:
                # Each hash is compared in constant time: the time taken tells nothing about how near a guess was.
                given = token_hash(token.encode("ascii", "replace").decode())
                rows = db.execute("SELECT id, name, token_hash FROM raters WHERE token_hash IS NOT NULL")
                found = [Rater(row["id"], row["name"]) for row in rows if hmac.compare_digest(given, row["token_hash"])]
                if not found:
                    raise Refused(401, "This token is not one of this study's. Check it letter by letter, or ask for a new one.")
                rater = found[0]
            elif self.tokens_required:
                raise Refused(401, "This study needs a token: open the link that you were given, or ask for one.")
            else:
                if not self.signup_open:
                    raise Refused(403, "Sign-up is closed. If you were given a code or a personal link, come back with that.")
                name, code = clean_name(name), new_token()
                if db.execute("SELECT 1 FROM raters WHERE name = ?", (name,)).fetchone():
                    raise Refused(409, "This name is taken. Choose another, or enter the code that you were given to come back.")
                rater = Rater(insert(db, "raters", name=name, token_hash=token_hash(code), created_ms=self.clock()), name)
            session = insert(
                db, "sessions", rater_id=rater.id, secret_hash=sha256(secret.encode()).hexdigest(), created_ms=self.clock()
            )
        return rater, f"{session}.{secret}", code

    def rater_of(self, session: str) -> Rater:
        """The rater of a session's secret; Refused 401 if it is not one."""
        number, _, secret = session.encode("ascii", "replace").decode().partition(".")
        known = int(number) if number.isascii() and number.isdigit() and len(number) < 16 else 0
        sql = "SELECT r.id, r.name, s.secret_hash FROM sessions s JOIN raters r ON r.id = s.rater_id WHERE s.id = ?"
        row = next(iter(self._all(sql, known)), None)
        stored = row["secret_hash"] if row else "0" * 64
        if not hmac.compare_digest(sha256(secret.encode()).hexdigest(), stored) or row is None:
            raise Refused(401, "You are not signed in: open the study's page and enter your name or token.")
        return Rater(row["id"], row["name"])

    def leave(self, session: str) -> None:
        """Forget a session; the rater's pair stays theirs until its lease ends. Refused 401 as `rater_of`."""
        self.rater_of(session)
        with self.transaction() as db:
            db.execute("DELETE FROM sessions WHERE id = ?", (int(session.partition(".")[0]),))

    # -- what a rater sees

    def _mac(self, *parts: object) -> str:
        return hmac.digest(self._secret, "|".join(map(str, parts)).encode(), "sha256").hex()

    def sides(self, rater: int, pair: int) -> dict[str, Side]:
        """Which of the pair's systems this rater sees "left" and which "right"."""
        turned = int(self._mac("side", rater, pair)[-1], 16) % 2
        return {"left": SIDES[turned], "right": SIDES[1 - turned]}

    def _name(self, *what: object) -> str:
        """What this rater's page calls a pair ("pair", rater, pair) or a video ("video", rater, pair, side)."""
        return self._mac(*what)[:24]

    def _is(self, key: str, *what: object) -> bool:
        return hmac.compare_digest(self._name(*what).encode(), key.encode())

    def video_file(self, rater: Rater, key: str) -> Path:
        """The file behind a video's name on the page; only those of the rater's pair of the moment. Refused 404 for any other.

        The first one makes the seat a watched one, which is kept for the whole lease."""
        pairs = PAIRS.replace("SELECT", "SELECT s.watched,", 1)
        held = self._all(f"{pairs} JOIN seats s ON s.pair_id = p.id WHERE s.rater_id = ? AND s.expires_ms IS NOT NULL", rater.id)
        for row, side in product(held, SIDES):
            if row[f"{side}_file"] and key.isascii() and self._is(key, "video", rater.id, row["id"], side):
                if not row["watched"]:
                    with self.transaction(lasting=False) as db:
                        values = (self.clock() + self.lease_ms, rater.id, row["id"])
                        watched = "UPDATE seats SET watched = 1, expires_ms = ? WHERE rater_id = ? AND pair_id = ?"
                        db.execute(f"{watched} AND expires_ms NOTNULL", values)
                return self.folder / VIDEOS / row[f"{side}_file"]
        raise Refused(404, "There is no such video in the pair that you are judging.")

    # -- seats and votes

    def next_pair(self, rater: Rater) -> Showing | None:
        """The rater's pair of the moment, else a new one in their own random order, with a seat on lease; None: none is free."""
        with self.transaction(lasting=False) as db:
            held, now = db.execute(LEASE, (rater.id,)).fetchone(), self.clock()
            if held:
                self._renew(db, rater, None)
                pair, draft = held["pair_id"], held["draft"]
            else:
                free = [row[0] for row in db.execute(FREE_PAIRS, (rater.id, now, self.raters))]
                if not free:
                    return None
                pair, draft = min(free, key=lambda pair: self._rank(rater.id, pair)), None
                # A free seat, else the one whose lease ended longest ago: who is late but not replaced may still vote.
                ends = dict(db.execute("SELECT seat, expires_ms FROM seats WHERE pair_id = ?", (pair,)).fetchall())
                empty = [seat for seat in range(1, self.raters + 1) if seat not in ends]
                ended = [seat for seat, end in ends.items() if end is not None and end <= now]
                seat = empty[0] if empty else min(ended, key=lambda seat: ends[seat])
                db.execute("DELETE FROM seats WHERE pair_id = ? AND seat = ?", (pair, seat))
                insert(db, "seats", pair_id=pair, seat=seat, rater_id=rater.id, expires_ms=now + self.unwatched_ms)
            text = db.execute("SELECT t.text FROM pairs p JOIN prompts t ON t.id = p.prompt_id WHERE p.id = ?", (pair,))
            names = {place: self._name("video", rater.id, pair, side) for place, side in self.sides(rater.id, pair).items()}
            key = self._name("pair", rater.id, pair)
            return Showing(key, text.fetchone()[0], **names, draft=json.loads(draft) if draft else None)

    def _renew(self, db: sqlite3.Connection, rater: Rater, draft: str | None) -> None:
        now = self.clock()  # a seat of which nothing was watched is kept no longer, unless nobody wanted it until now
        ended = "WHEN expires_ms <= :now THEN :now + :short"
        kept = f"CASE WHEN watched OR :short = :long THEN :now + :long {ended} ELSE expires_ms END"
        values = {"now": now, "long": self.lease_ms, "short": self.unwatched_ms, "draft": draft, "rater": rater.id}
        where = "rater_id = :rater AND expires_ms NOTNULL"
        db.execute(f"UPDATE seats SET expires_ms = {kept}, draft = coalesce(:draft, draft) WHERE {where}", values)

    def keep(self, rater: Rater, key: str, draft: str | None = None) -> None:
        """Renew the lease on the rater's pair while its page is open. Refused as `vote`."""
        with self.transaction(lasting=False) as db:
            self._seat(db, rater, key)
            self._renew(db, rater, draft)

    def save_draft(self, rater: Rater, key: str, answer: object) -> None:
        """Keep the first answer until the second comes; it goes with the lease and is no vote. Refused as `vote`."""
        self.keep(rater, key, json.dumps(read_answer("quality", answer)))

    def vote(self, rater: Rater, uid: str, key: str, quality: object, faithfulness: object) -> bool:
        """Store a vote: both answers, {"choice": "left" or "right", "reasons": [...], "ms": milliseconds}. True: a repetition.

        uid: made by the page, the same when it tries again; such a repetition is acknowledged and not stored again.
        Refused: 404 a pair that is not this rater's, 409 one that they have judged, whose seat went to somebody else, or a uid
        that stands for another vote, 422 a choice or reason that does not exist.
        """
        if not (isinstance(uid, str) and 16 <= len(uid) <= 64 and uid.isascii() and uid.isalnum()):
            raise Refused(422, "A vote needs an id of 16 to 64 letters and digits.")
        check_key(key)
        answers = [read_answer("quality", quality), read_answer("faithfulness", faithfulness)]
        with self.transaction() as db:
            old = db.execute("SELECT * FROM votes WHERE uid = ?", (uid,)).fetchone()
            pair, seat = (old["pair_id"], old["seat"]) if old else self._seat(db, rater, key)
            sides = self.sides(rater.id, pair)
            first, second = (Answer(**{**answer, "choice": sides[answer["choice"]]}) for answer in answers)
            vote = Vote(uid, rater.name, sides["left"], first, second, old["time_ms"] if old else self.clock())
            if old is None:
                insert(db, "votes", uid=uid, pair_id=pair, seat=seat, rater_id=rater.id, **vote.columns(","))
                return False
            theirs = old["rater_id"] == rater.id and self._is(key, "pair", rater.id, pair)
            if not theirs or Vote.from_columns(uid, rater.name, old, ",") != vote:
                raise Refused(409, "This vote's id already stands for another vote; nothing was stored.")
            return True

    def _seat(self, db: sqlite3.Connection, rater: Rater, key: str) -> tuple[int, int]:
        """(pair, seat) that the rater holds under this name."""
        check_key(key)
        held = db.execute(LEASE, (rater.id,)).fetchone()
        if held and self._is(key, "pair", rater.id, held["pair_id"]):
            return held["pair_id"], held["seat"]
        voted, pairs = db.execute("SELECT pair_id FROM votes WHERE rater_id = ?", (rater.id,)), db.execute("SELECT id FROM pairs")
        if any(self._is(key, "pair", rater.id, row[0]) for row in voted):
            raise Refused(409, "You have judged this pair already; each pair counts once a rater. Nothing was stored.")
        if any(self._is(key, "pair", rater.id, row[0]) for row in pairs):
            raise Refused(409, "This pair went to somebody else while you were away; nothing was stored.")
        raise Refused(404, "There is no such pair for you; nothing was stored.")

    def progress(self, rater: Rater) -> dict[str, int]:
        """voted: pairs that the rater has judged; left: pairs still open to them, those that others hold just now included."""
        open_pairs = "pairs p WHERE done = 0 AND NOT EXISTS (SELECT 1 FROM votes v WHERE v.pair_id = p.id AND v.rater_id = ?)"
        sql = f"SELECT (SELECT count(*) FROM votes WHERE rater_id = ?) voted, (SELECT count(*) FROM {open_pairs}) AS 'left'"
        return dict(self._all(sql, rater.id, rater.id)[0])

    # -- events and results

    def record(self, status: int, request: str, sentence: str, rater: str | None = None) -> None:
        """Remember a refused request, the last 10,000 of them."""
        request, sentence = (text.encode("utf-8", "replace").decode()[:500] for text in (request, sentence))
        with self.transaction(lasting=False) as db:
            row = {"time_ms": self.clock(), "status": status, "rater": rater, "request": request, "sentence": sentence}
            db.execute("DELETE FROM events WHERE id <= ?", (insert(db, "events", **row) - MAX_EVENTS,))

    def events(self) -> list[dict[str, Any]]:
        """The refused requests that are remembered, the oldest first."""
        return [dict(row) for row in self._all("SELECT * FROM events ORDER BY id")]

    def results(self) -> Results:
        """Everything that a report needs, as it stands at one moment."""
        votes: dict[int, list[Vote]] = defaultdict(list)
        with self.transaction("DEFERRED") as db:
            for row in db.execute("SELECT v.*, r.name FROM votes v JOIN raters r ON r.id = v.rater_id ORDER BY v.uid"):
                votes[row["pair_id"]].append(Vote.from_columns(row["uid"], row["name"], row, ","))
            pairs = tuple(replace(pair, votes=tuple(votes[number])) for pair, number in pairs_in(db).items())
            systems = tuple(row[0] for row in db.execute("SELECT name FROM systems ORDER BY id"))
            texts = dict(db.execute("SELECT key, text FROM prompts").fetchall())
            note = self.note
        prompts = {pair.prompt: texts[pair.prompt] for pair in pairs}
        return Results(self.uid, self.title, self.raters, systems, prompts, pairs, note)


def pairs_in(db: sqlite3.Connection) -> dict[Pair, int]:
    """All pairs in their order, without their votes, and the numbers of their rows."""
    names = [field.name for field in fields(Pair) if field.name != "votes"]
    return {Pair(*(row[name] for name in names)): row["id"] for row in db.execute(f"{PAIRS} ORDER BY p.id")}
