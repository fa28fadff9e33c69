"""Videos from files: whatever FFmpeg decodes, animated GIF and WebP, or a folder of frames."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .decoding import WHOLE, Pixels, check_whole, opened, undecodable
from .files import PathLike, Unreadable, check_input, natural, reason
from .images import check_sides, on_white, read_pixels
from .tags import COMMENT_KEY, EXIF_DESCRIPTION, FOLDER_SETTINGS, MOST_FRAMES, Timing, unpack

if TYPE_CHECKING:
    from torch import Tensor

Pictures = NDArray[Any]
"""(H, W, 3) uint8, or float32 in 0..1 where the file has more than 8 bits."""
FRAME_EXTENSIONS = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 2**30
BROWSER_DELAY = 0.1
MAX_LOST = 0.1
"""The part of the pictures that a decoder may leave out before a video counts as broken."""


@dataclass(frozen=True, eq=False)
class Video:
    """frames (f, H, W, 3) float32 0..1; fps, frames per second; metadata, what write_video was given or the file's tags."""

    frames: Tensor
    fps: float
    metadata: dict[str, str]


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
        """How long it lasts."""
        return self.frames / self.fps


class VideoReader:
    """A video, an animated GIF or WebP, or a folder of frames: `facts`, and its frames each time it is iterated over.

    Frames come upright and evenly spaced: where their durations differ (variable rate, equal frames merged into one), they are
    repeated or dropped so that every moment keeps its time. What is held does not grow with a video's length, save for a few
    numbers a picture. fps: taken instead of the rate found; needed for a folder without metadata.json. most: no more frames
    than so many; how the file ends is not looked at then, if more pictures follow.

    Raises Unreadable for what is missing, broken, or without pictures.
    """

    def __init__(self, path: PathLike, fps: float | None = None, most: int | None = None) -> None:
        self.path = Path(path)
        with _nothing_but_unreadable(self.path):
            if self.path.is_dir():
                stored = _folder(self.path, fps)
            else:
                check_input(path, "a video")
                stored = _animation(self.path) if is_animation(path) else _film(self.path)
            metadata, timing = unpack(stored.comment) or (stored.tags, None)
            if stored.length is not None and (most is None or len(stored.durations) <= most):
                least = WHOLE * stored.length
                if timing is not None and _is_length_of(timing, stored.length):
                    least = stored.length - 0.5 / timing.fps
                check_whole(path, sum(stored.durations), stored.length, least)
            shown, rate = _even_out(stored, timing)
            shown = shown[:most]
            self.facts = Facts(stored.shape[1], stored.shape[0], len(shown), fps or rate, metadata)
            self._times, self._pictures = np.bincount(shown).astype(np.int32), stored.pictures

    def __iter__(self) -> Iterator[Pixels]:
        """Frames (H, W, 3) uint8. Raises Unreadable where the file breaks off or cannot be decoded."""
        for picture in self.pictures():
            yield picture if picture.dtype == np.uint8 else np.rint(picture * 255).astype(np.uint8)

    def pictures(self) -> Iterator[Pictures]:
        """As iterating, but as exact as the file. Each stored picture comes as often as it is shown, in their order."""
        times, end, count, last = self._times, 0, 0, None
        with _nothing_but_unreadable(self.path):
            for place, picture in self._pictures():
                # A picture that was lost, or that a decoder merged into the one before it: the others keep their time.
                yield from repeat(picture if last is None else last, times[end:place].sum())
                yield from repeat(picture, times[place : place + 1].sum())
                end, count, last = place + 1, count + times[place : place + 1].sum(), picture
                if end >= len(times):
                    break
            if last is None or self.facts.frames - count > max(1, MAX_LOST * self.facts.frames):
                raise Unreadable(f"{self.path}: expected {self.facts.frames} frames, found {count}; copy or make it again.")
            yield from repeat(last, times[end:].sum())


@contextmanager
def _nothing_but_unreadable(path: Path) -> Iterator[None]:
    """Decoders of broken files raise nearly anything, from SyntaxError to IndexError; one odd file must not end work on many."""
    try:
        yield
    except Unreadable:
        raise
    except Exception as problem:
        raise undecodable(path, problem) from problem


def read_video(path: PathLike, fps: float | None = None, max_frames: int | None = None) -> Video:
    """Read a whole video (mp4, mov, mkv, webm, ...), an animated GIF or WebP, or a folder of PNG or JPEG frames.

    Frames are those of VideoReader. fps: taken instead of the rate found; needed for a folder without metadata.json.
    max_frames: read no more than the first so many.
    Raises ValueError for what is missing, broken, without pictures, smaller than 8 px or larger than memory would hold.
    """
    import torch  # late: the processes that curate read videos without it

    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps: expected a rate above 0, found {fps}; give another or none.")
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames: expected at least 1, found {max_frames}; give more or none.")
    reader = VideoReader(path, fps, max_frames)
    height, width, count = reader.facts.height, reader.facts.width, reader.facts.frames
    check_sides(path, height, width)
    if count * height * width > MAX_PIXELS:
        most = f"{MAX_PIXELS // (height * width)} frames of {width} x {height} ({MAX_PIXELS * 12 / 2**30:.0f} GiB of memory)"
        raise Unreadable(f"{path}: expected at most {most}, found more; cut it or read fewer frames (max_frames).")
    frames = torch.from_numpy(np.stack(list(reader.pictures())))
    frames = frames.float().div_(255) if frames.dtype == torch.uint8 else frames
    return Video(frames, reader.facts.fps, reader.facts.metadata)


# -- even spacing


@dataclass(frozen=True)
class _Stored:
    """What a file has: a way to its pictures, each with its place, their height and width, how long each place stays in seconds,
    tags, the comment among them, frames a second, and how many seconds it claims to last."""

    pictures: Callable[[], Iterator[tuple[int, Pictures]]]
    shape: tuple[int, ...]
    durations: list[float]
    tags: dict[str, str]
    comment: str = ""
    rate: float | None = None
    length: float | None = None


def _is_length_of(timing: Timing, seconds: float) -> bool:
    """Whether a file of this length still is the video as it was written, and nobody has cut or retimed it since."""
    return abs(seconds - timing.frames / timing.fps) <= 0.5 / timing.fps + 0.02


def _even_out(stored: _Stored, timing: Timing | None) -> tuple[Sequence[int], float]:
    """Which stored picture each evenly spaced frame shows, and the frame rate."""
    durations, count = stored.durations, len(stored.durations)
    total = sum(durations)
    # A video of equal frames is one still WebP picture without any duration.
    if timing is not None and (total == 0 or _is_length_of(timing, total)):
        return range(count) if count == timing.frames else _shown_at(durations, timing.frames, 1 / timing.fps), timing.fps
    if total == 0:
        return range(count), 1 / BROWSER_DELAY
    if max(durations) <= 1.5 * min(durations):
        measured = count / total
        return range(count), stored.rate if stored.rate and abs(stored.rate / measured - 1) < 0.02 else measured
    # Not the very shortest: one stray timestamp must not multiply the frames.
    shortest = sorted(durations)[count // 10]
    # The last duration is a guess in many files.
    usual = [duration for duration in durations[:-1] if 0.5 * shortest < duration < 1.5 * shortest] or [shortest]
    step = sum(usual) / len(usual)
    return _shown_at(durations, min(max(1, round(total / step)), MOST_FRAMES), step), 1 / step


def _shown_at(durations: list[float], count: int, step: float) -> Sequence[int]:
    """The picture in view in the middle of each of count steps."""
    shown = np.searchsorted(np.cumsum(durations), (np.arange(count) + 0.5) * step, side="right")
    return np.minimum(shown, len(durations) - 1).tolist()


# -- kinds of files


def is_animation(path: PathLike) -> bool:
    """Whether a file is GIF or WebP. Pillow reads these: not every FFmpeg decodes animated WebP, or gives a GIF's comment."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError as problem:
        raise undecodable(path, problem) from problem
    return head[:4] == b"GIF8" or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def _film(path: Path) -> _Stored:
    """By the times of all packets; only the first picture is decoded."""
    starts: list[int | None] = []  # in ticks, as `end`
    end, shape, first = 0, None, None
    with opened(path, threads="SLICE") as video:
        for packet in video.container.demux(video.stream):
            if packet.size and not packet.is_discard:
                starts.append(packet.pts)
                if packet.pts is not None and packet.duration:
                    end = max(end, packet.pts + packet.duration)
            if shape is None:
                shape, first = next(((video.shape(frame), frame.pts) for frame in packet.decode()), (None, None))
        tags, rate, length = dict(video.container.metadata), float(video.rate) if video.rate else None, video.length
        base = video.base
    if shape is None:
        raise Unreadable(f"{path}: expected a video with at least one frame, found none in it; check the file.")
    if first is not None and first in starts:  # a file whose head was cut off begins with packets that nothing can be made of
        starts = [start for start in starts if start is None or start >= first]
    ticks = sorted(start for start in starts if start is not None)  # packets come in the order of decoding
    times = [float(tick * base) for tick in ticks]
    steps = [after - before for before, after in pairwise(times)]
    step = 1 / rate if rate else BROWSER_DELAY
    if len(times) < len(starts) or not all(step > 0 for step in steps):
        durations, ticks = [step] * len(starts), []  # no usable times
    else:
        usual = sorted(steps)[len(steps) // 2] if steps else step
        durations = [*steps, float(end * base) - times[-1] if end > ticks[-1] else usual]
    places: dict[int | None, int] = {tick: place for place, tick in enumerate(ticks)}

    def pictures() -> Iterator[tuple[int, Pixels]]:
        place = -1
        # Frame threads hold many pictures, and short videos start faster without.
        with opened(path, threads="SLICE") as video:
            for frame in video.frames():
                place = max(place + 1, places.get(frame.pts, 0))
                yield place, video.pixels(frame)

    comment = next((value for key, value in tags.items() if key.lower() == COMMENT_KEY), "")
    return _Stored(pictures, shape, durations, tags, comment, rate, length)


def _animation(path: Path) -> _Stored:
    durations: list[float] = []
    with Image.open(path) as file:
        comment = file.info.get("comment") or file.getexif().get(EXIF_DESCRIPTION, "")
        count, shape = getattr(file, "n_frames", 1), (file.height, file.width)
        for index in range(count):
            file.seek(index)
            file.load()  # WebP knows a picture's duration only then
            milliseconds = file.info.get("duration", 0)
            durations.append(BROWSER_DELAY if milliseconds == 0 and count > 1 else milliseconds / 1000)

    def pictures() -> Iterator[tuple[int, Pixels]]:
        with Image.open(path) as file:
            for index in range(count):
                file.seek(index)
                yield index, np.asarray(on_white(file))

    text = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)
    return _Stored(pictures, shape, durations, {COMMENT_KEY: text} if text else {}, text)


def _folder(path: Path, fps: float | None) -> _Stored:
    names = frame_names(path)
    if not names:
        raise Unreadable(f"{path}: expected a folder with PNG or JPEG frames, found none in it; choose another folder.")
    told, metadata = path / FOLDER_SETTINGS, dict[str, str]()
    if told.exists():
        try:
            settings = json.loads(told.read_text(encoding="utf-8"))
            stated = float(settings["fps"])
            metadata = {str(key): str(value) for key, value in settings.get("metadata", {}).items()}
            if not (math.isfinite(stated) and stated > 0):
                raise ValueError(f"an fps of {stated}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as problem:
            expected = 'JSON as {"fps": 8.0, "metadata": {}}'
            raise Unreadable(f"{told}: expected {expected}, found others ({reason(problem)}); mend or delete it.") from problem
        fps = fps or stated
    if fps is None:
        raise Unreadable(f"{path}: expected the frame rate in {FOLDER_SETTINGS}, found none; give it (fps).")
    shape = read_pixels(path / names[0]).shape[:2]

    def pictures() -> Iterator[tuple[int, Pictures]]:
        for index, name in enumerate(names):
            picture = read_pixels(path / name)
            if picture.shape[:2] != shape:
                expected, found = (f"{width} x {height}" for height, width in (shape, picture.shape[:2]))
                raise Unreadable(f"{path / name}: expected {expected} as in {names[0]}, found {found}; make all frames alike.")
            yield index, picture

    return _Stored(pictures, shape, [1 / fps] * len(names), metadata, rate=fps)


def frame_names(folder: Path) -> list[str]:
    """The names of the pictures in a folder of frames, in natural order."""
    shown = (name for name in os.listdir(folder) if not name.startswith("."))
    return sorted((name for name in shown if name.lower().endswith(FRAME_EXTENSIONS)), key=natural)
