"""A study's folder from outside: a new one that is there whole or not at all, and half-made ones told from whole ones.

A folder is made under a temporary name beside its place, with the server's lock held in it. A killed program lets go of that
lock, so the next creation knows whose leftovers it may sweep away.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import UserError
from ..media.files import PART, PathLike, left_behind, real_target, whole_folder
from .database import STORE_NAME, HalfMade, looks_half_made
from .lock import MAKING_NAME, ServerLock

log = logging.getLogger(__name__)


@contextmanager
def new_folder(path: PathLike) -> Iterator[Path]:
    """A folder under a temporary name that is at `path` in the end. ValueError: something is there, or it cannot be written."""
    target = real_target(path)
    if not target.parent.is_dir():
        raise UserError(f"{path}: expected the folder {target.parent} to write into, found none; create it.")
    _check_new(path)
    sweep(target.parent)
    lock = None
    try:
        with whole_folder(path) as part:
            lock = ServerLock(part, MAKING_NAME)
            lock.take("no address: it is being made")
            yield part
            _check_new(path)  # somebody else may have been faster
            if sys.platform == "win32":
                lock.release()  # an open file cannot be deleted there, nor its folder renamed
            (part / MAKING_NAME).unlink()
    finally:
        if lock is not None:
            lock.release()


def _check_new(path: PathLike) -> None:
    target = real_target(path)
    if looks_half_made(target):
        raise HalfMade(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{path}: expected a new or empty folder for the study, found something there; choose another.")


def sweep(folder: Path) -> None:
    """Remove what killed creations left in a folder; leftovers of a program that held no lock meanwhile are named only.

    The lock tells on every system, in containers too, where a process's number says little; the number tells of the moments in
    which there is no lock: before it is taken, after it is given back, and when a sweep was killed."""
    for part in sorted(folder.iterdir()):
        if PART.fullmatch(part.name) and not part.is_symlink() and part.is_dir():
            with suppress(OSError):  # another creation sweeps too, or it is another user's
                _sweep_one(part)


def _sweep_one(part: Path) -> None:
    if (part / MAKING_NAME).is_file():
        lock = ServerLock(part, MAKING_NAME)
        try:
            lock.take("no address: it is being removed")
        except ValueError:  # alive
            return
        if sys.platform == "win32":
            lock.release()
        shutil.rmtree(part, ignore_errors=True)
        lock.release()
    elif left_behind(part) and _has_nothing_but_a_study(part):
        shutil.rmtree(part, ignore_errors=True)
    elif (part / STORE_NAME).exists():
        log.warning("%s: a half-made study, whose creation was ended on the way: delete it if none is being made.", part)


def _has_nothing_but_a_study(part: Path) -> bool:
    return looks_half_made(part) or not any(part.iterdir())
