"""Files: names in their order, files that cannot be read, and files that are either whole or not there."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import av

from ..errors import UserError

MOST_SAID = 300
PART = re.compile(r"\.([0-9a-f]{32}|[0-9a-f]{12}-(?P<computer>[0-9a-f]{6})-(?P<process>\d+)-[0-9a-f]{8})\.part")
"""The names of `whole_file` and `whole_folder` while they are written, of today (`_part_of`) and of earlier versions."""
PathLike: TypeAlias = "str | os.PathLike[str]"


def natural(name: str) -> list[tuple[int, str]]:
    """The order of names in which frame2 stands before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name.lower())]


class Unreadable(UserError):
    """A file that cannot be read as what it should be; the message names it and says why."""


def reason(problem: Exception) -> str:
    """What an exception says, on one line, which a file that it quotes does not make a long one."""
    said = getattr(problem, "strerror", None) or " ".join(str(problem).split()) or type(problem).__name__
    return said if len(said) <= MOST_SAID else f"{said[:MOST_SAID]} ..."


def check_input(path: PathLike, expected: str) -> None:
    """Raises Unreadable unless the path is a file that is not empty. expected: "a picture" or "a video"."""
    if os.path.isdir(path):
        raise Unreadable(f"{path}: expected {expected}, found a folder; give a file in it.")
    if not os.path.isfile(path):
        raise Unreadable(f"{path}: expected {expected}, found no file of that name; check the path.")
    if os.path.getsize(path) == 0:
        raise Unreadable(f"{path}: expected {expected}, found an empty file; check where it came from.")


def real_target(path: PathLike) -> Path:
    """The absolute path that is written; a link is followed, so that it stays a link."""
    return Path(os.path.realpath(path))


@contextmanager
def whole_file(path: PathLike) -> Iterator[Path]:
    """Gives a temporary path beside the target and moves it there at the end.

    On any exception (KeyboardInterrupt too) the temporary file goes and what was at the target stays. An error of the
    file system or of the encoder becomes a ValueError.
    """
    target = real_target(path)
    part = _part_of(target)
    try:
        with _errors_in_words(path):
            _tidy(target)
            yield part
            with open(part, "rb+") as file:
                os.fsync(file.fileno())  # or the name could outlive a crash of the machine, and the contents not
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: PathLike, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(path: PathLike) -> Iterator[Path]:
    """As whole_file, for a folder: an earlier one is moved aside, and put back if the new one cannot take its place."""
    target = real_target(path)
    part, old = _part_of(target), _part_of(target, "old")
    try:
        with _errors_in_words(path):
            _tidy(target)
            part.mkdir()
            yield part
            if target.exists():
                os.rename(target, old)
            os.rename(part, target)
    finally:
        if old.exists() and not target.exists():
            os.rename(old, target)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(part, ignore_errors=True)


def _part_of(target: Path, kind: str = "part") -> Path:
    """A hidden name beside the target that tells target, computer and process, so that whoever writes the same target next finds
    what a killed process left there."""
    return target.parent / f"{_mark(target)}{os.getpid()}-{uuid.uuid4().hex[:8]}.{kind}"


def _mark(target: Path) -> str:
    name, here = (hashlib.sha256(os.fsencode(text)).hexdigest() for text in (target.name, socket.gethostname()))
    return f".{name[:12]}-{here[:6]}-"


def _tidy(target: Path) -> None:
    """Removes what killed processes of this computer left of the target; an earlier folder that was moved aside and never
    replaced goes back. On Windows, where no process can be asked for without more, nothing is touched."""
    for left in target.parent.glob(f"{_mark(target)}*.[op][la]*"):
        if _is_running(int(left.name.split("-")[2])):
            continue
        if left.suffix == ".old" and not target.exists():
            os.rename(left, target)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def left_behind(part: Path) -> bool:
    """Whether a temporary name of `whole_file` or `whole_folder` is that of a process of this computer which is gone."""
    found = PART.fullmatch(part.name)
    here = found is not None and found["computer"] == _mark(part).split("-")[1]
    return here and found is not None and not _is_running(int(found["process"]))


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True
    with suppress(PermissionError):  # it is somebody else's
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True


@contextmanager
def _errors_in_words(path: PathLike) -> Iterator[None]:
    try:
        yield
    except (OSError, av.FFmpegError) as problem:
        raise UserError(
            f"{path}: expected to write the whole file, found the error {reason(problem)!r} on the way and kept nothing of it; "
            "free some space or choose another path."
        ) from problem
