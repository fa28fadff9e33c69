"""Sets of videos, a folder a system: which video belongs to which prompt, and their frames one after the other.

Frames come as (H, W, 3) uint8 RGB, upright and evenly spaced like those of `media.read_video`, but one at a time: what is held
does not grow with a video's length, save for a few numbers a frame about its time.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..media import VIDEO_EXTENSIONS, read_image, reading
from ..media.files import natural
from ..media.images import EXIF_DESCRIPTION, check_input, on_white, reason
from ..media.tags import unpack
from .prompts import Prompt, file_stem, slug

Pixels = NDArray[np.uint8]
EXTENSIONS = (*VIDEO_EXTENSIONS, ".mov", ".m4v", ".avi", ".mpg", ".mpeg", ".ts")
_SHORTEST_SLUG = 4  # characters; anything shorter says too little about a prompt
_LOST = 0.1  # share of pictures that a decoder may leave out before a video counts as broken


class BrokenVideo(ValueError):
    """A video that cannot be read; the message names it and says why."""


@dataclass(frozen=True)
class Facts:
    """What a video is: sides in pixels, evenly spaced frames, frames a second, and what its file says of it."""

    width: int
    height: int
    frames: int
    fps: float
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.frames / self.fps


class VideoFile:
    """One video: `facts`, and its frames each time it is iterated over."""

    def __init__(self, path: Path, facts: Facts, shown: Sequence[int], pictures: Callable[[], Iterator[Pixels]]) -> None:
        self.path, self.facts = path, facts
        self._shown, self._pictures = np.asarray(shown, dtype=np.int32), pictures

    def __iter__(self) -> Iterator[Pixels]:
        """Frames (H, W, 3) uint8. Raises BrokenVideo where the file breaks off or cannot be decoded."""
        try:
            yield from self._frames()
        except Exception as problem:  # decoders of broken files raise nearly anything
            raise _broken(self.path, problem) from problem

    def _frames(self) -> Iterator[Pixels]:
        """Each stored picture as often as it is shown; the places never go back."""
        place, last = 0, None
        for number, picture in enumerate(self._pictures()):
            if place >= len(self._shown):
                return
            last = picture
            while place < len(self._shown) and self._shown[place] == number:
                yield picture
                place += 1
        lost = len(self._shown) - place
        if last is None or lost > max(1, _LOST * len(self._shown)):
            raise ValueError(f"{self.path}: expected {len(self._shown)} frames, found {place}; copy or make it again")
        for _ in range(lost):  # a picture that a decoder merged into the one before it
            yield last


def open_video(path: str | os.PathLike[str]) -> VideoFile:
    """Look at a video, an animated GIF or WebP, or a folder of frames; its pictures are decoded when it is iterated over.

    Raises BrokenVideo for what is missing, broken, or without pictures.
    """
    file = Path(path)
    try:
        if file.is_dir():
            return _open_folder(file)
        check_input(file, "a video")
        if reading._is_animated_picture(file):
            return _open_with_pillow(file)
        return _open_with_av(file)
    except Exception as problem:  # decoders of broken files raise nearly anything
        raise _broken(file, problem) from problem


def _broken(path: Path, problem: Exception) -> BrokenVideo:
    if isinstance(problem, BrokenVideo):
        return problem
    if isinstance(problem, ValueError) and not isinstance(problem, av.FFmpegError):
        return BrokenVideo(reason(problem))
    return BrokenVideo(f"{path}: expected a video that can be decoded, found a broken file ({reason(problem)}); check the file")


def _opened(path: Path, stored: reading._Stored, shape: tuple[int, ...], pictures: Callable[[], Iterator[Pixels]]) -> VideoFile:
    known = unpack(stored.comment)
    metadata, clip = known if known else (stored.tags, None)
    reading._check_whole(path, stored, clip)
    shown, fps = reading._even_out(stored, clip)
    return VideoFile(path, Facts(shape[1], shape[0], len(shown), fps, metadata), shown, pictures)


_DOT = np.zeros((1, 1, 3), dtype=np.uint8)  # stands for pictures that are not held


def _open_with_av(path: Path) -> VideoFile:
    """Reads the times of all packets and decodes the first picture only."""
    starts: list[float | None] = []
    end, first = 0.0, None
    with _container(path) as container:
        stream = reading._video_stream(path, container)
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                starts.append(float(packet.pts * packet.time_base) if packet.pts is not None and packet.time_base else None)
                if packet.pts is not None and packet.duration and packet.time_base:
                    end = max(end, float((packet.pts + packet.duration) * packet.time_base))
            if first is None:
                for frame in packet.decode():
                    assert isinstance(frame, av.VideoFrame)
                    first = first or _upright_shape(frame, float(stream.sample_aspect_ratio or 1))
        tags, average = dict(container.metadata), stream.average_rate or stream.guessed_rate
        length = reading._length(container, stream)
    if first is None:
        raise ValueError(f"{path}: expected a video with at least one frame, found none in it; check the file")
    times = [start for start in starts if start is not None]
    starts = [*sorted(times)] if len(times) == len(starts) else starts  # packets come in the order of decoding
    last = end - times[-1] if times and (times := sorted(times)) and end > times[-1] else None
    rate = float(average) if average else None
    comment = next((value for key, value in tags.items() if key.lower() == reading.COMMENT_KEY), "")
    stored = reading._Stored([_DOT], reading._durations(starts, last, rate), tags, comment, rate, length)
    return _opened(path, stored, first, lambda: _decode(path))


def _upright_shape(frame: av.VideoFrame, pixel_aspect: float) -> tuple[int, int]:
    """Height and width of what `reading._Converter` makes of a frame, turned as the file says."""
    shape = frame.height, max(1, round(frame.width * pixel_aspect))
    return shape[::-1] if round(frame.rotation / 90) % 2 else shape


def _container(path: Path) -> av.container.InputContainer:
    # Only local files: a playlist could otherwise send the reader to any address. Absolute: "a:b.mp4" is no protocol.
    return av.open(str(path.absolute()), options={"protocol_whitelist": "file"}, metadata_errors="replace")


def _decode(path: Path) -> Iterator[Pixels]:
    with _container(path) as container:
        stream = reading._video_stream(path, container)
        stream.thread_type = "SLICE"  # frame threads hold many pictures, and short videos start faster without
        convert = reading._Converter(stream.sample_aspect_ratio)
        for frame in container.decode(stream):
            yield np.rot90(convert(frame), round(frame.rotation / 90))


def _open_with_pillow(path: Path) -> VideoFile:
    durations: list[float] = []
    with Image.open(path) as file:
        comment = file.info.get("comment") or file.getexif().get(EXIF_DESCRIPTION, "")
        count, shape = getattr(file, "n_frames", 1), (file.height, file.width)
        for index in range(count):
            file.seek(index)
            file.load()  # WebP knows a picture's duration only then
            milliseconds = file.info.get("duration", 0)
            durations.append(reading.BROWSER_DELAY if milliseconds == 0 and count > 1 else milliseconds / 1000)
    text = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)
    tags = {reading.COMMENT_KEY: text} if text else {}
    return _opened(path, reading._Stored([_DOT], durations, tags, text), shape, lambda: _seek(path, count))


def _seek(path: Path, count: int) -> Iterator[Pixels]:
    with Image.open(path) as file:
        for index in range(count):
            file.seek(index)
            yield np.asarray(on_white(file))


def _open_folder(folder: Path) -> VideoFile:
    names = _frame_names(folder)
    if not names:
        raise ValueError(f"{folder}: expected a folder with PNG or JPEG frames, found none in it; choose another folder")
    fps, metadata = reading._folder_settings(folder / reading.FOLDER_SETTINGS)
    if fps is None:
        raise ValueError(f"{folder}: expected the frame rate in {reading.FOLDER_SETTINGS}, found none; write it there")
    first = read_image(folder / names[0])
    facts = Facts(first.shape[1], first.shape[0], len(names), fps, metadata)
    return VideoFile(folder, facts, range(len(names)), lambda: _pictures(folder, names, tuple(first.shape)))


def _frame_names(folder: Path) -> list[str]:
    names = (entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    return sorted((name for name in names if name.lower().endswith(reading.FRAME_EXTENSIONS)), key=natural)


def _pictures(folder: Path, names: Sequence[str], shape: tuple[int, ...]) -> Iterator[Pixels]:
    for name in names:
        picture = (read_image(folder / name) * 255).round().byte().numpy()
        if picture.shape != shape:
            raise ValueError(f"{folder / name}: expected {shape[1]} x {shape[0]} as the first frame, found another size; mend it")
        yield picture


# -- sets


@dataclass(frozen=True)
class VideoSet:
    """The videos of one system."""

    name: str
    folder: Path
    files: tuple[Path, ...]


def open_sets(arguments: Sequence[str]) -> list[VideoSet]:
    """FOLDER or NAME=FOLDER each; a set is called NAME, or as its folder. Raises ValueError for an empty one or equal names."""
    sets = [open_set(*_name_and_place(text)) for text in arguments]
    names = [each.name for each in sets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"expected a name for each set, found two called {twice!r}; name one of them, as other={twice}")
    return sets


def _name_and_place(text: str) -> tuple[str, str]:
    name, sign, place = text.partition("=")
    if not sign or os.path.isdir(text):
        name, place = "", text
    if name in (".", "..") or "/" in name or os.sep in name or not name.isprintable():
        raise ValueError(f"{text}: expected a plain name before the =, found {name!r}; results are kept in folders of that name")
    return name, place


def open_set(name: str, place: str | os.PathLike[str]) -> VideoSet:
    """The videos and folders of frames in a folder; `name` empty: as the folder. Raises ValueError where there are none."""
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"{place}: expected a folder of videos, found {'a file' if folder.exists() else 'nothing'}; check the path"
        )
    visible = sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda e: natural(e.name))
    files = tuple(entry for entry in visible if _is_video(entry))
    if not files:
        raise ValueError(f"{folder}: expected videos ({', '.join(EXTENSIONS)}) or folders of frames, found none; check the path")
    return VideoSet(name or folder.resolve().name, folder, files)


def _is_video(entry: Path) -> bool:
    if entry.is_dir():
        return bool(_frame_names(entry))
    return entry.suffix.lower() in EXTENSIONS


@dataclass(frozen=True)
class Matching:
    """found: (prompt, its videos) in the order of the prompts; missing: prompts without one; extra: (video, why) without a
    prompt; notes: what had to be assumed."""

    found: list[tuple[Prompt, list[Path]]]
    missing: list[Prompt]
    extra: list[tuple[Path, str]]
    notes: list[str]


def match(videos: VideoSet, prompts: Sequence[Prompt]) -> Matching:
    """Find each video's prompt; several videos of one prompt are samples of it.

    By the file's name without its extension, in this order: the prompt's id; NNN-slug as this program writes it; the prompt
    itself or its slug, with a number in front or behind if there is one; a number in front (0 is the first prompt; if no file
    has 0 and one has the number of prompts, 1 is). Else by the prompt in the file's own metadata.
    """
    names = _Names(prompts)
    stems = [(path, path.name if path.is_dir() else path.stem) for path in videos.files]
    found: dict[str, list[Path]] = {prompt.id: [] for prompt in prompts}
    extra: list[tuple[Path, str]] = []
    numbered: list[tuple[Path, int]] = []
    for path, stem in stems:
        number = re.match(r"(\d+)(?:\D.*)?$", stem)
        prompt = names.by_name(stem)
        if prompt is not None:
            found[prompt.id].append(path)
        elif number is not None:
            numbered.append((path, int(number[1])))
        else:
            _by_metadata(path, names, found, extra)
    notes = _by_number(numbered, names, found, extra)
    pairs = [(prompt, found[prompt.id]) for prompt in prompts if found[prompt.id]]
    return Matching(pairs, [prompt for prompt in prompts if not found[prompt.id]], extra, notes)


class _Names:
    """Ways from a name to a prompt; what two prompts share leads to neither."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = prompts
        self.ids = {prompt.id: prompt for prompt in prompts} | {
            file_stem(number, prompt.text): prompt for number, prompt in enumerate(prompts)
        }
        self.slugs = _unique([(slug(prompt.text), prompt) for prompt in prompts])
        self.texts = _unique([(_plain(prompt.text), prompt) for prompt in prompts])
        numeric = all(prompt.id.isdigit() for prompt in prompts)
        self.numbers = {int(prompt.id) if numeric else number: prompt for number, prompt in enumerate(prompts)}
        self.counted = list(self.numbers) == list(range(len(prompts)))

    def by_name(self, stem: str) -> Prompt | None:
        if stem in self.ids:
            return self.ids[stem]
        shorter = re.sub(r"^\d+[-_. ]+", "", stem), re.sub(r"[-_. ]+\d+$", "", stem)
        for name in (stem, *shorter, re.sub(r"[-_. ]+\d+$", "", shorter[0])):
            prompt = self.ids.get(name) or self.texts.get(_plain(name))
            if prompt is None and len(slug(name)) >= _SHORTEST_SLUG:
                prompt = self.slugs.get(slug(name))
            if prompt is not None and not name.isdigit():
                return prompt
        return None


def _unique(pairs: Sequence[tuple[str, Prompt]]) -> dict[str, Prompt]:
    counts = Counter(name for name, _ in pairs)
    return {name: prompt for name, prompt in pairs if name and counts[name] == 1}


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _by_number(
    numbered: Sequence[tuple[Path, int]], names: _Names, found: dict[str, list[Path]], extra: list[tuple[Path, str]]
) -> list[str]:
    numbers = {number for _, number in numbered}
    from_one = names.counted and 0 not in numbers and len(names.prompts) in numbers
    for path, number in numbered:
        prompt = names.numbers.get(number - from_one)
        if prompt is None:
            _by_metadata(path, names, found, extra)
        else:
            found[prompt.id].append(path)
    if not numbers or not names.counted:
        return []
    return [f"{len(numbered)} videos were matched by number, the first prompt being {int(from_one)}"]


def _by_metadata(path: Path, names: _Names, found: dict[str, list[Path]], extra: list[tuple[Path, str]]) -> None:
    try:
        told = open_video(path).facts.metadata.get("prompt", "")
    except BrokenVideo as problem:
        extra.append((path, str(problem)))
        return
    prompt = next((names.texts[key] for key in map(_plain, texts_in(told)) if key in names.texts), None)
    if prompt is None:
        extra.append((path, "neither its name nor its metadata has one of the prompts"))
    else:
        found[prompt.id].append(path)


def texts_in(prompt: str) -> Iterator[str]:
    """The prompt itself, or every text in a ComfyUI graph."""
    try:
        nodes = [node["inputs"].values() for node in json.loads(prompt).values()]
    except (ValueError, AttributeError, KeyError, TypeError):
        yield prompt
        return
    yield from (value for value in chain.from_iterable(nodes) if isinstance(value, str))
