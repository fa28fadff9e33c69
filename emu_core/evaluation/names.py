"""Files that are written for prompts: each has a name of its own on every file system, and none takes another's place."""

from __future__ import annotations

import json
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

from ..errors import UserError
from ..limits import json_of
from ..media.files import write_text

logger = logging.getLogger(__name__)

OWN = ".emu-video-files.json"
"""In a folder of results: the files that this program wrote there."""
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


def entries(report: Path) -> dict[str, str]:
    """Files that a report says this program wrote, with their prompts or "": `videos`, each with its `file`, or an object path ->
    prompt of paths in the folder of its own name. Empty for any other JSON, which is not ours."""
    try:
        content = json_of(report.read_bytes())
        if isinstance(content.get("videos"), list):
            return {str(each["file"]): "" for each in content["videos"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    ours = all(file.startswith(f"{report.stem}/") and isinstance(prompt, str) for file, prompt in content.items())
    return content if ours else {}


def _own(out: Path, reports: Iterable[str]) -> set[str]:
    """What earlier runs wrote into OUT: by the list that they keep there, and by the reports of those that kept none."""
    found = {*entries(out / OWN)}
    for report in reports:
        files = entries(out / report)
        found |= {report, *files} if files else set()
    return found


def check_free(out: Path, files: Sequence[str], reports: Sequence[str]) -> None:
    """ValueError for a file that is there already and that no earlier run wrote, or two that would be one on some file system.
    reports: those of the files that say what was written."""
    places: dict[str, tuple[str, bool]] = {}
    own = _own(out, reports)
    if twice := [file for file, times in Counter([*files, *reports]).items() if times > 1]:
        raise UserError(f"{out}: expected a name for each file and folder, found {twice[0]!r} twice; rename a set")
    for file in (*files, *reports):
        for place in (file, *(str(parent) for parent in Path(file).parents)):
            other, is_file = places.setdefault(same(place), (place, place == file))
            if other != place or is_file != (place == file):
                raise UserError(f"{out}: expected a name for each file and folder, found {other!r} and {place!r}; rename a set")
        if (taken := out / file).is_dir() or (os.path.lexists(taken) and file not in own):
            why = "expected no such file, since nothing is overwritten that this did not write, found one"
            raise UserError(f"{taken}: {why}; choose another folder, or move it away")
    for place, is_file in places.values():
        if not is_file and os.path.lexists(out / place) and not (out / place).is_dir():
            raise UserError(
                f"{out / place}: expected a folder for the videos, found a file; choose another name, or move it away"
            )


def claim(out: Path, files: Sequence[str], reports: Sequence[str]) -> None:
    """Say before the first is written which files are going to be, so that this program knows them as its own from then on, also
    where a run was cut short or a later one writes others. Warns of videos of earlier runs that stay beside the new ones."""
    own, folders = _own(out, reports), {str(Path(file).parent) for file in files}
    both = sorted({*files, *reports, *own})
    write_text(out / OWN, json.dumps({"format": 1, "videos": [{"file": file} for file in both]}, indent=1))
    old = own - {*files, *reports}
    old = {file for file in old if str(Path(file).parent) in folders and not file.endswith(".json") and (out / file).is_file()}
    if old:
        logger.warning("%s: %d files of an earlier run stay beside the new ones, such as %s", out, len(old), min(old))


def check_written(out: Path, files: Sequence[str]) -> None:
    """ValueError that names what is not there in the end."""
    missing = [file for file in files if not (out / file).is_file()]
    if missing or len({*files}) < len(files):
        what = ", ".join(missing[:5]) + (" and more" if len(missing) > 5 else "")
        found = f"found {len({*files}) - len(missing)} (missing: {what or 'names were used twice'})"
        raise UserError(f"{out}: expected to write {len(files)} files, {found}; run it again")
