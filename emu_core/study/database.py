"""The file `study.sqlite`: how it is laid out, opened and told from a half-made one."""

from __future__ import annotations

import re
import secrets
import sqlite3
import time
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .lock import LOCK_NAME, MAKING_NAME

if TYPE_CHECKING:
    from ..media.files import PathLike

STORE_NAME = "study.sqlite"
VIDEOS = "videos"
SCHEMA = Path(__file__).with_name("schema.sql")
APPLICATION_ID = 0x454D5653  # "EMVS"
VERSION = 1
STUDY_COLUMNS = "only, uid, title, raters, lease_ms, secret, created_ms"
LATER_COLUMNS = {
    "study": {"signup_open": "INTEGER NOT NULL DEFAULT 1", "note": "TEXT NOT NULL DEFAULT ''"},
    "seats": {"watched": "INTEGER NOT NULL DEFAULT 0"},
}
"""What version 1 did not have at first; an older program reads and writes such a store all the same."""
OWN_NAMES = re.compile(rf"{re.escape(STORE_NAME)}(-wal|-shm|-journal)?|{LOCK_NAME}|{MAKING_NAME}|{VIDEOS}|\..*\.part")
OWN_VIDEOS = re.compile(r"[0-9a-f]{16}\.mp4|\..*\.part|tmp.*")


class HalfMade(UserError):
    """A study's folder whose creation was ended on the way."""

    def __init__(self, folder: PathLike) -> None:
        found = "found a half-made one, whose creation was ended on the way"
        super().__init__(f"{folder}: expected a whole study, {found}; delete this folder and make the study anew.")


def looks_half_made(folder: Path) -> bool:
    """Whether a folder has parts of a study, and nothing else, but no store or an empty one; or is one in the making."""
    store = folder / STORE_NAME
    if store.is_file():
        in_the_making = (folder / MAKING_NAME).exists() or (folder.name.startswith(".") and folder.name.endswith(".part"))
        return in_the_making or store.stat().st_size == 0
    if not folder.is_dir():
        return False
    names = [file.name for file in folder.iterdir()]
    videos = [file.name for file in (folder / VIDEOS).iterdir()] if (folder / VIDEOS).is_dir() else []
    # A user's own folder may have a `videos` too: nobody must be told to delete that.
    ours = all(OWN_NAMES.fullmatch(name) for name in names) and all(OWN_VIDEOS.fullmatch(name) for name in videos)
    return bool(names) and ours


def now_ms() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)


def connect(file: Path) -> sqlite3.Connection:
    """Open a store's file, or begin one."""
    db = sqlite3.connect(file, timeout=30, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    # FULL: a vote that was acknowledged survives a power cut too, not only the death of the process.
    for setting in ("journal_mode = WAL", "foreign_keys = ON", "synchronous = FULL", "trusted_schema = OFF"):
        db.execute(f"PRAGMA {setting}")
    return db


def lay_out(file: Path, title: str, raters: int, lease_seconds: float, seed: int | None, uid: str) -> None:
    """A new store without pairs. ValueError: numbers that cannot be."""
    if not 1 <= raters <= 99 or raters % 2 == 0:
        raise UserError(f"raters: expected an odd number from 1 to 99, for a majority, found {raters}; change it.")
    if not 0.05 <= lease_seconds <= 7 * 24 * 3600:
        raise UserError(f"lease: expected seconds up to a week, found {lease_seconds:g}; change it.")
    secret = secrets.token_bytes(32) if seed is None else sha256(f"emu-video study {seed}".encode()).digest()
    with closing(connect(file)) as db:
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
        db.executescript(f"{marks} BEGIN; {SCHEMA.read_text(encoding='utf-8')} COMMIT;")
        values = (uid or secrets.token_hex(8), title, raters, int(lease_seconds * 1000), secret.hex(), now_ms())
        db.execute(f"INSERT INTO study ({STUDY_COLUMNS}) VALUES (1, ?, ?, ?, ?, ?, ?)", values)


def open_store(folder: PathLike, file: Path) -> tuple[sqlite3.Connection, sqlite3.Row]:
    """The connection, and the study's own row. folder: as the user wrote it. ValueError: half-made, another version, no store."""
    try:
        db = connect(file)
        found = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
        rows = db.execute("SELECT * FROM study").fetchall() if "study" in tables else []
    except sqlite3.Error as problem:
        raise UserError(f"{file}: expected a study's store, found {problem}; take the file from a copy.") from problem
    if not rows and found[0] in (0, APPLICATION_ID) and (not tables or "study" in tables):
        db.close()
        raise HalfMade(folder)
    if found != [APPLICATION_ID, VERSION]:
        db.close()
        raise UserError(f"{file}: expected a study of version {VERSION}, found {found[1]}; use the program that made it.")
    for table, columns in LATER_COLUMNS.items():
        there = {row["name"] for row in db.execute(f"PRAGMA table_info({table})")}
        for name in sorted(columns.keys() - there):
            with suppress(sqlite3.OperationalError):  # another process was faster, or the disk is read-only: reports need none
                db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {columns[name]}")
    return db, rows[0]


def insert(db: sqlite3.Connection, table: str, **row: object) -> int:
    """Add a row; returns its number. Table and columns are this program's own words, never a user's."""
    sql = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
    number = db.execute(sql, tuple(row.values())).lastrowid
    assert number is not None
    return number
