"""Where files come from and go to: checks before long work starts, and files that are either whole or not there."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import av

from .encodings import ENCODINGS

PathLike: TypeAlias = "str | os.PathLike[str]"

VIDEO_EXTENSIONS = (*ENCODINGS, ".gif", ".webp")
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
MIN_FREE_BYTES = 16 * 1024 * 1024
FOLDER_SETTINGS = "metadata.json"
FRAME_NAME = re.compile(r"\d{5,}\.png")


def natural(name: str) -> list[tuple[int, str]]:
    """The order of names in which frame2 stands before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name.lower())]


class Unreadable(ValueError):
    """A file that cannot be read as what it should be; the message names it and says why."""


def reason(problem: Exception) -> str:
    """What an exception says, on one line."""
    return " ".join(str(problem).split()) or type(problem).__name__


def check_input(path: PathLike, expected: str) -> None:
    """Raises Unreadable unless the path is a file that is not empty. expected: "a picture" or "a video"."""
    if os.path.isdir(path):
        raise Unreadable(f"{path}: expected {expected}, found a folder; give a file in it.")
    if not os.path.isfile(path):
        raise Unreadable(f"{path}: expected {expected}, found no file of that name; check the path.")
    if os.path.getsize(path) == 0:
        raise Unreadable(f"{path}: expected {expected}, found an empty file; check where it came from.")


def means_folder(path: PathLike) -> bool:
    """Whether a video path stands for a folder of PNG frames: it ends in a separator or has no extension."""
    text = os.fspath(path)
    return text.endswith(("/", os.sep)) or not Path(text).suffix


def real_target(path: PathLike) -> Path:
    """The absolute path that is written; a link is followed, so that it stays a link."""
    return Path(os.path.realpath(path))


def check_output(path: PathLike, kind: Literal["video", "image"] = "video") -> None:
    """Refuse, before any long work, an output path that could not be written afterwards.

    path: a file with a known extension, or for a video also a folder (no extension, or a "/" at the end).
    Raises ValueError: unknown extension, missing encoder, missing or unwritable parent folder, a folder where a file is
    expected or the reverse, a folder that holds other things than our frames, less than 16 MB free.
    """
    if kind not in ("video", "image"):
        raise ValueError(f"kind: expected 'video' or 'image', found {kind!r}; pass one of the two.")
    _check_name(path, kind)
    target = real_target(path)
    try:
        target.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or problem
        raise ValueError(
            f"{path}: expected a path that can be written, found one that cannot be ({why}); choose another path."
        ) from problem
    _check_parent(path, target.parent)
    _check_existing(path, target, kind == "video" and means_folder(path))


def _check_name(path: PathLike, kind: str) -> None:
    text, thing = os.fspath(path), "an image" if kind == "image" else "a video"
    if not text.strip():
        raise ValueError(f"path: expected the name of {thing} file, found an empty one; give a name.")
    if "\0" in text:
        raise ValueError(f"{text!r}: expected the name of {thing} file, found a NUL character in it; remove it.")
    known = VIDEO_EXTENSIONS if kind == "video" else IMAGE_EXTENSIONS
    if kind == "video" and means_folder(path):
        if Path(text).name in known:
            raise ValueError(f"{path}: expected a name before the extension, found none; use for example clip{Path(text).name}.")
        return
    extension = "" if means_folder(path) else Path(text).suffix
    if extension.lower() not in known:
        folder = ", or without one (or with / at the end) a folder of PNG frames" if kind == "video" else ""
        raise ValueError(
            f"{path}: expected {thing} file with one of the extensions {', '.join(known)}{folder}, "
            f"found {extension or 'no extension'}; change the extension."
        )
    encoding = ENCODINGS.get(extension.lower()) if kind == "video" else None
    if encoding and not _can_encode(encoding.encoder):
        raise ValueError(
            f"{path}: expected a PyAV that can encode with {encoding.encoder}, found one built without it; "
            f"install the av wheel from PyPI or write .gif, .webp or a folder."
        )


def _can_encode(encoder: str) -> bool:
    try:
        av.codec.Codec(encoder, "w")
    except ValueError:
        return False
    return True


def _check_parent(path: PathLike, parent: Path) -> None:
    if not parent.is_dir():
        found = "a file in its place" if parent.exists() else "that it does not exist"
        raise ValueError(f"{path}: expected the folder {parent} to write into, found {found}; create it or choose another path.")
    probe = parent / _part_name()
    try:
        # A real file is the only sure test: permission bits say nothing about read-only mounts or a superuser.
        probe.touch(exist_ok=False)
        probe.unlink()
        free = shutil.disk_usage(parent).free
    except OSError as problem:
        raise ValueError(
            f"{path}: expected to be able to write into {parent}, found {problem.strerror}; "
            f"choose another folder or change its permissions."
        ) from problem
    if free < MIN_FREE_BYTES:
        raise ValueError(
            f"{path}: expected at least {MIN_FREE_BYTES >> 20} MB free in {parent}, found {free / 2**20:.1f} MB; "
            f"free some space or choose another folder."
        )


def _check_existing(path: PathLike, target: Path, folder: bool) -> None:
    if not folder:
        if target.is_dir():
            raise ValueError(f"{path}: expected a file, found a folder of that name; add a file name or choose another.")
        return
    if target.exists() and not target.is_dir():
        raise ValueError(
            f"{path}: expected a folder for the frames (the path has no extension), found a file; "
            f"choose another name or add an extension."
        )
    foreign = sorted(name for name in os.listdir(target) if not _is_ours(name)) if target.is_dir() else []
    if foreign:
        raise ValueError(
            f"{path}: expected a new folder, an empty one or one of earlier frames, found {foreign[0]} in it; "
            f"choose another folder, since this one would be replaced."
        )


def _is_ours(name: str) -> bool:
    return name == FOLDER_SETTINGS or FRAME_NAME.fullmatch(name) is not None


def _part_name() -> str:
    return f".{uuid.uuid4().hex}.part"


@contextmanager
def whole_file(path: PathLike) -> Iterator[Path]:
    """Gives a temporary path beside the target and moves it there at the end.

    On any exception (KeyboardInterrupt too) the temporary file goes and what was at the target stays. An error of the
    file system or of the encoder becomes a ValueError.
    """
    target = real_target(path)
    part = target.parent / _part_name()
    try:
        with readable_errors(path):
            yield part
            with open(part, "rb+") as file:
                os.fsync(file.fileno())  # or the name could outlive a crash of the machine, and the contents not
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: PathLike) -> Iterator[Path]:
    """As whole_file, for a folder: an earlier one is moved aside, and put back if the new one cannot take its place."""
    target = real_target(path)
    part, old = target.parent / _part_name(), target.parent / _part_name()
    try:
        with readable_errors(path):
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


@contextmanager
def readable_errors(path: PathLike) -> Iterator[None]:
    """Turn errors of the file system and of the encoder into one sentence."""
    try:
        yield
    except (OSError, av.FFmpegError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        raise ValueError(
            f"{path}: expected to write the whole file, found the error {reason!r} on the way "
            f"and kept nothing of it; free some space or choose another path."
        ) from problem
