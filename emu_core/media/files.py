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
    text = os.fspath(path)
    wrong = _wrong_name(text, kind) or _wrong_place(path) or _wrong_target(path, kind == "video" and means_folder(path))
    if wrong:
        raise ValueError(f"{text.strip() or 'path'}: {wrong}.")


def _wrong_name(text: str, kind: str) -> str | None:
    thing, known = ("an image", IMAGE_EXTENSIONS) if kind == "image" else ("a video", VIDEO_EXTENSIONS)
    if not text.strip():
        return f"expected the name of {thing} file, found an empty one; give a name"
    if "\0" in text:
        return f"expected the name of {thing} file, found a NUL character in it; remove it"
    if kind == "video" and means_folder(text):
        if Path(text).name in known:
            return f"expected a name before the extension, found none; use for example clip{Path(text).name}"
        return None
    extension = "" if means_folder(text) else Path(text).suffix
    if extension.lower() not in known:
        folder = ", or without one (or with / at the end) a folder of PNG frames" if kind == "video" else ""
        found = extension or "no extension"
        return f"expected {thing} file with one of the extensions {', '.join(known)}{folder}, found {found}; change the extension"
    encoder = ENCODINGS[extension.lower()].encoder if kind == "video" and extension.lower() in ENCODINGS else None
    if encoder and not _can_encode(encoder):
        return f"expected a PyAV that can encode with {encoder}, found one built without; install PyPI's av or write .gif"
    return None


def _can_encode(encoder: str) -> bool:
    try:
        av.codec.Codec(encoder, "w")
    except ValueError:
        return False
    return True


def _wrong_place(path: PathLike) -> str | None:
    target = real_target(path)
    parent = target.parent
    try:
        target.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or problem
        return f"expected a path that can be written, found one that cannot be ({why}); choose another path"
    if not parent.is_dir():
        found = "a file in its place" if parent.exists() else "that it does not exist"
        return f"expected the folder {parent} to write into, found {found}; create it or choose another path"
    probe = parent / _part_name()
    try:
        # A real file is the only sure test: permission bits say nothing about read-only mounts or a superuser.
        probe.touch(exist_ok=False)
        probe.unlink()
        free = shutil.disk_usage(parent).free
    except OSError as problem:
        return f"expected to be able to write into {parent}, found {problem.strerror}; choose another or change its permissions"
    if free < MIN_FREE_BYTES:
        least = MIN_FREE_BYTES >> 20
        return f"expected at least {least} MB free in {parent}, found {free / 2**20:.1f} MB; free some or choose another folder"
    return None


def _wrong_target(path: PathLike, folder: bool) -> str | None:
    target = real_target(path)
    if not folder:
        named = "expected the name of a file, found a folder of that name; add a file name or choose another"
        return named if target.is_dir() else None
    if target.exists() and not target.is_dir():
        return "expected a folder for the frames (no extension), found a file; choose another name or add an extension"
    foreign = sorted(name for name in os.listdir(target) if not _is_ours(name)) if target.is_dir() else []
    if foreign:
        return f"expected a new folder, an empty one or one of earlier frames, found {foreign[0]} in it; choose another"
    return None


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


def write_text(path: PathLike, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


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
        why = getattr(problem, "strerror", None) or reason(problem)
        raise ValueError(
            f"{path}: expected to write the whole file, found the error {why!r} on the way "
            f"and kept nothing of it; free some space or choose another path."
        ) from problem
