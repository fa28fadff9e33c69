"""Files that are written for prompts: each has a name of its own on every file system, and none takes another's place."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

from ..media.files import write_text

LONGEST = 255
"""Bytes of a name that file systems take."""
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
"""What Windows takes for a device, also with something behind a dot."""


def plain(text: str) -> str:
    """A text as the beginning of a name on every file system: what none takes becomes a space."""
    kept = "".join(" " if letter in '/\\\0:*?"<>|' or ord(letter) < 32 else letter for letter in text)
    kept = kept.encode(errors="replace").decode().strip()
    return f"_{kept}" if unicodedata.normalize("NFKC", kept).partition(".")[0].strip().lower() in RESERVED else kept


def cut(text: str, size: int) -> str:
    """The beginning of a text that has at most so many bytes, whole letters, no space at its ends."""
    return text.encode(errors="ignore")[: max(size, 0)].decode(errors="ignore").strip()


def same(name: str) -> str:
    """What is equal for names that some file system takes for one: without capitals, letters composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def distinct(names: Sequence[str], texts: Sequence[str], room: int) -> list[str]:
    """The names within `room` bytes, each its own. One that is too long, empty or taken gets 8 hexadecimal digits of a hash of
    its text behind it, so that it does not depend on the others where it need not."""
    taken: set[str] = set()
    found = [*names]
    for place in sorted(range(len(names)), key=lambda place: names[place] != texts[place]):  # those that stay as they are first
        name, text = names[place], texts[place]
        fits = name and len(name.encode()) <= room
        number = 0
        while not fits or same(name) in taken:
            mark = blake2b(f"{text}\0{number or ''}".encode(errors="replace"), digest_size=4).hexdigest()
            name, fits, number = f"{cut(name, room - len(mark) - 1)} {mark}".strip(), True, number + 1
        taken.add(same(name))
        found[place] = name
    return found


def listed(index: Path) -> set[str]:
    """Files that an earlier run wrote, by the JSON that it left: an object of paths, or `videos`, each with its `file`."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        return {each["file"] for each in content["videos"]} if "videos" in content else {*content.keys()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def check_free(out: Path, files: Iterable[str], own: Collection[str]) -> None:
    """ValueError for a file that is there already and is not one's own, or two that would be one on some file system."""
    places: dict[str, tuple[str, bool]] = {}
    for file in files:
        for place in (file, *(str(parent) for parent in Path(file).parents)):
            other, is_file = places.setdefault(same(place), (place, place == file))
            if other != place or is_file != (place == file):
                raise ValueError(f"{out}: expected a name for each file and folder, found {other!r} and {place!r}; rename a set")
        if file not in own and (out / file).exists():
            why = "expected no such file, since nothing is overwritten that this did not write, found one"
            raise ValueError(f"{out / file}: {why}; choose another folder, or move it away")


def claim(index: Path, files: Sequence[str]) -> None:
    """Say before the first is written which files are going to be, so that a run that was cut short can be done again."""
    both = sorted({*files, *listed(index)})
    write_text(index, json.dumps({"format": 1, "unfinished": True, "videos": [{"file": file} for file in both]}, indent=1))


def check_written(out: Path, files: Sequence[str]) -> None:
    """ValueError that names what is not there in the end."""
    missing = [file for file in files if not (out / file).is_file()]
    if missing or len({*files}) < len(files):
        what = ", ".join(missing[:5]) + (" and more" if len(missing) > 5 else "")
        found = f"found {len({*files}) - len(missing)} (missing: {what or 'names were used twice'})"
        raise ValueError(f"{out}: expected to write {len(files)} files, {found}; run it again")
