"""Sets of videos, a folder a system: which video belongs to which prompt."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, of_one_item
from ..limits import json_of
from ..media import VIDEO_EXTENSIONS, VideoReader
from ..media.files import natural
from ..media.reading import frame_names
from .names import LONGEST, distinct, plain
from .prompts import Prompt, file_stems, places, slug

EXTENSIONS = (*VIDEO_EXTENSIONS, ".mov", ".m4v", ".avi", ".mpg", ".mpeg", ".ts")
_SHORTEST_SLUG = 4  # characters; anything shorter says too little about a prompt


@dataclass(frozen=True)
class VideoSet:
    """The videos of one system."""

    name: str
    folder: Path
    files: tuple[Path, ...]


def open_sets(arguments: Sequence[str]) -> list[VideoSet]:
    """FOLDER or NAME=FOLDER each; a set is called NAME, or as its folder. Raises ValueError for an empty one or equal names."""
    sets: list[VideoSet] = []
    for text in arguments:
        name, sign, place = text.partition("=")
        if not sign or os.path.isdir(text):
            name, place = "", text
        if name in (".", "..") or "/" in name or os.sep in name or not name.isprintable():
            raise UserError(f"{text}: expected a plain name before the =, found {name!r}; results lie in folders of that name")
        sets.append(open_set(name, place))
        if sets[-1].name in [each.name for each in sets[:-1]]:
            twice = sets[-1].name
            raise UserError(f"expected a name for each set, found two called {twice!r}; name one of them, as other={twice}")
    return sets


def open_set(name: str, place: str | os.PathLike[str]) -> VideoSet:
    """The videos and folders of frames in a folder; `name` empty: as the folder. Raises ValueError where there are none."""
    folder = Path(os.path.expanduser(place))
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise UserError(f"{place}: expected a folder of videos, found {found}; check the path")
    visible = sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda e: natural(e.name))
    files = tuple(entry for entry in visible if _may_be_video(entry))
    if not files:
        raise UserError(f"{folder}: expected videos ({', '.join(EXTENSIONS)}) or folders of frames, found none; check the path")
    return VideoSet(name or folder.resolve().name, folder, files)


def _may_be_video(entry: Path) -> bool:
    """By its name; a folder by the names in it, or where these cannot be read, which is said once it is."""
    try:
        return bool(frame_names(entry)) if entry.is_dir() else entry.suffix.lower() in EXTENSIONS
    except OSError:
        return True


@dataclass(frozen=True)
class Matching:
    """found: (prompt, its videos) in the order of the prompts; missing: prompts without one; extra: (video, why) without a
    prompt; notes: what had to be assumed; prompts: all of them."""

    found: list[tuple[Prompt, list[Path]]]
    missing: list[Prompt]
    extra: list[tuple[Path, str]]
    notes: list[str]
    prompts: Sequence[Prompt] = ()


def match(videos: VideoSet, prompts: Sequence[Prompt]) -> Matching:
    """Find each video's prompt; several videos of one prompt are samples of it.

    By the file's name without its extension, in this order: the prompt's id; NNN-slug as this program writes it; the prompt
    itself or its slug, with a number in front or behind if there is one; a number in front (0 is the first prompt; if no file
    has 0 and one has the number of prompts, 1 is). Else by the prompt in the file's own metadata.
    """
    names = _Names(prompts)
    named: list[tuple[Path, Prompt | None]] = []
    numbered: list[tuple[Path, int]] = []
    for path in videos.files:
        stem = path.name if path.is_dir() else path.stem
        number, prompt = re.match(r"(\d+)(?:\D.*)?$", stem), names.by_name(stem)
        if prompt is None and number is not None:
            numbered.append((path, int(number[1])))
        else:
            named.append((path, prompt))
    numbers = {number for _, number in numbered}
    from_one = names.counted and 0 not in numbers and max(names.numbers) + 1 in numbers
    found: dict[str, list[Path]] = {prompt.id: [] for prompt in prompts}
    extra: list[tuple[Path, str]] = []
    for path, prompt in named + [(path, names.numbers.get(number - from_one)) for path, number in numbered]:
        try:
            prompt = prompt or names.by_metadata(path)
        except Exception as problem:
            extra.append((path, of_one_item(problem)))
            continue
        if prompt is None:
            extra.append((path, "neither its name nor its metadata has one of the prompts"))
        else:
            found[prompt.id].append(path)
    note = f"{len(numbered)} videos were matched by number, the first prompt being {int(from_one)}"
    pairs = [(prompt, found[prompt.id]) for prompt in prompts if found[prompt.id]]
    missing = [prompt for prompt in prompts if not found[prompt.id]]
    return Matching(pairs, missing, extra, [note] if numbers and names.counted else [], prompts)


class _Names:
    """Ways from a name to a prompt; what two prompts share leads to neither."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.stems = dict(zip(file_stems(prompts), prompts, strict=True))
        self.ids = self.stems | {prompt.id: prompt for prompt in prompts}
        self.exact = _unique([(_spaced(prompt.text), prompt) for prompt in prompts]) | _exported(prompts)
        self.slugs = _unique([(slug(prompt.text), prompt) for prompt in prompts])
        self.texts = _unique([(_plain(prompt.text), prompt) for prompt in prompts])
        numeric = all(prompt.id.isdecimal() and len(prompt.id) < LONGEST for prompt in prompts)
        numbers = places(prompts)
        self.numbers = {int(p.id) if numeric else number: p for number, p in zip(numbers, prompts, strict=True)}
        self.counted = list(self.numbers) == numbers

    def by_name(self, stem: str) -> Prompt | None:
        if stem in self.ids:
            return self.ids[stem]
        shorter = re.sub(r"^\d+[-_. ]+", "", stem), re.sub(r"[-_. ]+\d+$", "", stem)
        if shorter[1] in self.stems and not shorter[1].isdigit():  # a sample, whatever else begins as it goes on
            return self.stems[shorter[1]]
        for name in (stem, *shorter, re.sub(r"[-_. ]+\d+$", "", shorter[0])):
            prompt = self.ids.get(name) or self.exact.get(_spaced(name)) or self.texts.get(_plain(name))
            if prompt is None and len(slug(name)) >= _SHORTEST_SLUG:
                prompt = self.slugs.get(slug(name))
            if prompt is not None and not name.isdigit():
                return prompt
        return None

    def by_metadata(self, path: Path) -> Prompt | None:
        """By the prompt that the file was made with, or any text of a ComfyUI graph in its place."""
        told = VideoReader(path).facts.metadata.get("prompt", "")
        try:
            texts = [value for node in json_of(told).values() for value in node["inputs"].values() if isinstance(value, str)]
        except (ValueError, AttributeError, KeyError, TypeError):
            texts = [told]
        found = (self.exact.get(_spaced(text)) or self.texts.get(_plain(text)) for text in texts)
        return next(filter(None, found), None)


def _exported(prompts: Sequence[Prompt]) -> dict[str, Prompt]:
    """By the names that an export gives to prompts which cannot be names as they are. How much of a long one is kept depends on
    what stands behind it, from `-0.ts` to `-999.mpeg`."""
    by_text = _unique([(prompt.text, prompt) for prompt in prompts])
    texts = [*dict.fromkeys(prompt.text for prompt in prompts)]
    found: dict[str, Prompt] = {}
    for end in range(len("-0.ts"), len("-999.mpeg") + 1):
        names = distinct([*map(plain, texts)], texts, LONGEST - end)
        found |= {
            _spaced(name): by_text[text] for name, text in zip(names, texts, strict=True) if text in by_text and name != text
        }
    return found


def _unique(pairs: Sequence[tuple[str, Prompt]]) -> dict[str, Prompt]:
    counts = Counter(name for name, _ in pairs)
    return {name: prompt for name, prompt in pairs if name and counts[name] == 1}


def _spaced(text: str) -> str:
    """White space made single, the letters composed, whichever the disk has."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def _plain(text: str) -> str:
    return _spaced(text).lower()
