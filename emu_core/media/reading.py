"""Videos from files: whatever FFmpeg decodes, animated GIF and WebP, or a folder of frames."""

from __future__ import annotations

import io
import logging
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from ..errors import UserError
from ..limits import how, json_of
from .budget import Budget, picture_of
from .decoding import LONGEST_GAP, WHOLE, Decoder, Pixels, Source, Threads, check_gap, check_whole, opened, undecodable
from .files import PathLike, Unreadable, check_input, natural, reason
from .images import check_sides, on_white, read_pixels
from .scale import Scale, reduced, scale_of
from .spacing import BROWSER_DELAY, ending, even_out, is_length_of
from .tags import COMMENT_KEY, EXIF_DESCRIPTION, FOLDER_SETTINGS, unpack

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
Pictures = NDArray[Any]
"""(H, W, 3) uint8, or float32 in 0..1 where the file has more than 8 bits."""
FRAME_EXTENSIONS = (".png", ".jpg", ".jpeg")
EXIF_ORIENTATION = 0x0112
NUMBERED = re.compile(r"\d{5,}\.png")
"""The names of the frames that `write_video` writes."""
FASTEST = 1_000_000
MAX_LOST = 0.1
"""The part of the pictures that a decoder may leave out before a video counts as broken."""


@dataclass(frozen=True, eq=False)
class Video:
    """frames (f, H, W, 3) float32 0..1; fps, frames per second; metadata, what write_video was given or the file's tags; sound,
    whether the file has any."""

    frames: Tensor
    fps: float
    metadata: dict[str, str]
    sound: bool = False


@dataclass(frozen=True)
class Facts:
    """What a video is: sides in pixels, evenly spaced frames, frames a second, what its file says of it, and whether it has
    sound, which nothing here listens to."""

    width: int
    height: int
    frames: int
    fps: float
    metadata: dict[str, str] = field(default_factory=dict)
    sound: bool = False

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.frames / self.fps


class VideoReader:
    """A video, an animated GIF or WebP, or a folder of frames: `facts`, and its frames each time it is iterated over; `scale`,
    how much larger than these they are in the file.

    Frames come upright and evenly spaced: where their durations differ (variable rate, equal frames merged into one), they are
    repeated or dropped so that every moment keeps its time. What is held does not grow with a video's length, save for a few
    numbers a picture. fps: taken instead of the rate found; needed for a folder without metadata.json. most: no more frames
    than so many; how the file ends is not looked at then, if more pictures follow. A video that was written enlarged (see
    `scale`) is given as it was before, unless it is wanted as it is `stored`.

    Raises Unreadable for what is missing, broken, or without pictures.
    """

    def __init__(
        self, source: Source, fps: float | None = None, most: int | None = None, name: str = "", stored: bool = False
    ) -> None:
        on_disk = isinstance(source, str | os.PathLike)
        self.path = Path(os.fspath(source) if isinstance(source, str | os.PathLike) else name or "the video")
        with _nothing_but_unreadable(self.path):
            if on_disk and self.path.is_dir():
                found = _folder(self.path, fps)
            else:
                if on_disk:
                    check_input(self.path, "a video")
                found = (_animation if is_animation(source) else _film)(source, str(self.path))
            metadata, timing = unpack(found.comment) or (found.tags, None)
            if found.length is not None and (most is None or len(found.durations) <= most):
                least = WHOLE * found.length
                if timing is not None and is_length_of(timing, found.length):
                    least = found.length - 0.5 / timing.fps
                check_whole(self.path, sum(found.durations), found.length, least)
            shown, rate = even_out(found.durations, found.rate, timing, found.tick)
            shown = shown[:most]
            self.budget = found.budget
            self.budget.claim(found.shape[1], found.shape[0], len(shown), sum(found.durations))
            height, width = found.shape[:2]
            scale = Scale() if stored else scale_of(metadata, height, width)
            if scale.filter == "lanczos":
                log.warning("%s is read as it is, %d x %d: what lanczos enlarged is not undone.", self.path, width, height)
                scale = Scale()
            self.scale = scale
            size = width // scale.factor, height // scale.factor
            self.facts = Facts(*size, len(shown), fps or rate, metadata, found.sound)
            self._times, self._pictures = np.bincount(shown).astype(np.int32), found.pictures

    def __iter__(self) -> Iterator[Pixels]:
        """Frames (H, W, 3) uint8. Raises Unreadable where the file breaks off or cannot be decoded."""
        for picture in self.pictures():
            yield picture if picture.dtype == np.uint8 else np.rint(picture * 255).astype(np.uint8)

    def pictures(self) -> Iterator[Pictures]:
        """As iterating, but as exact as the file. Each stored picture comes as often as it is shown, in their order."""
        coming = self._stored()
        return coming if self.scale.factor == 1 else (reduced(picture, self.scale.factor) for picture in coming)

    def _stored(self) -> Iterator[Pictures]:
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


class Stills:
    """The frames of a folder, GIF or WebP as a Decoder gives those of a film."""

    is_mp4, aspect, length, exact_length = False, Fraction(1), None, None

    def __init__(self, reader: VideoReader, codec: str) -> None:
        self.name, self.codec, self._reader = str(reader.path), codec, reader
        fps = reader.facts.fps
        self.budget = reader.budget
        self.rate = Fraction(fps).limit_denominator(1001) if fps > 1 else 1 / Fraction(1 / fps).limit_denominator(1001)
        self.base = 1 / self.rate

    def timed(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """The number of each frame, and the frame."""
        return enumerate(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24") for pixels in self._reader)

    def measurable(self, frame: av.VideoFrame) -> tuple[av.VideoFrame, Fraction]:
        """A frame as it is, and the aspect of its pixels."""
        return frame, self.aspect

    def shape(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Height and width of a frame."""
        return frame.height, frame.width

    def pixels(self, frame: av.VideoFrame) -> Pixels:
        """(H, W, 3) uint8 RGB of a frame."""
        return cast(Pixels, frame.to_ndarray())


@contextmanager
def moving(source: Source, name: str = "", threads: Threads = "AUTO") -> Iterator[Decoder | Stills]:
    """Whatever can be read as a video, frame by frame: as `opened`, but also a folder of frames, GIF and WebP."""
    folder = isinstance(source, str | os.PathLike) and os.path.isdir(source)
    if codec := "png" if folder else _animation_codec(source):
        yield Stills(VideoReader(source, name=name, stored=True), codec)
        return
    with opened(source, name, threads) as video:
        yield video


def read_video(path: PathLike, fps: float | None = None, max_frames: int | None = None) -> Video:
    """Read a whole video (mp4, mov, mkv, webm, ...), an animated GIF or WebP, or a folder of PNG or JPEG frames.

    Frames are those of VideoReader. fps: taken instead of the rate found; needed for a folder without metadata.json.
    max_frames: read no more than the first so many.
    Raises ValueError for what is missing, broken, without pictures, smaller than 8 px or larger than memory would hold.
    """
    import torch  # late: the processes that curate read videos without it

    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise UserError(f"fps: expected a rate above 0, found {fps}; give another or none.")
    if max_frames is not None and max_frames < 1:
        raise UserError(f"max_frames: expected at least 1, found {max_frames}; give more or none.")
    reader = VideoReader(path, fps, max_frames)
    height, width, count = reader.facts.height, reader.facts.width, reader.facts.frames
    check_sides(path, height, width)
    held = reader.budget.limits.bytes
    if count * height * width * 12 > held:
        most = f"{held // (height * width * 12)} frames of {width} x {height} ({held / 2**30:g} GiB of memory)"
        fewer = f"cut it or read fewer frames (max_frames), or, {how('bytes')}"
        raise Unreadable(f"{path}: expected at most {most}, found {count}; {fewer}.")
    frames = torch.from_numpy(np.stack(list(reader.pictures())))
    frames = frames.float().div_(255) if frames.dtype == torch.uint8 else frames
    return Video(frames, reader.facts.fps, reader.facts.metadata, reader.facts.sound)


@dataclass(frozen=True)
class _Stored:
    """What a file has: a way to its pictures, each with its place, their height and width, how long each place stays in seconds,
    tags, the comment among them, frames a second, how many seconds it claims to last, what its times are rounded to, whether it
    has sound, and what it may cost."""

    budget: Budget
    pictures: Callable[[], Iterator[tuple[int, Pictures]]]
    shape: tuple[int, ...]
    durations: list[float]
    tags: dict[str, str]
    comment: str = ""
    rate: float | None = None
    length: float | None = None
    tick: float = 0.0
    sound: bool = False


# -- kinds of files


def is_animation(source: Source) -> bool:
    """Whether a file is GIF or WebP. Pillow reads these: not every FFmpeg decodes animated WebP, or gives a GIF's comment."""
    return _animation_codec(source) != ""


def _animation_codec(source: Source) -> str:
    """gif, webp, or nothing for any other file."""
    try:
        if isinstance(source, str | os.PathLike):
            with open(source, "rb") as file:
                head = file.read(12)
        elif isinstance(source, bytes):
            head = source[:12]
        else:
            source.seek(0)
            head = source.read(12)
            source.seek(0)
    except OSError as problem:
        raise undecodable("the video" if isinstance(source, bytes) else str(source), problem) from problem
    return "gif" if head[:4] == b"GIF8" else "webp" if head[:4] == b"RIFF" and head[8:] == b"WEBP" else ""


def _film(source: Source, name: str) -> _Stored:
    """By the times of all packets; only the first picture is decoded."""
    starts: list[int | None] = []  # in ticks, as `end`
    end, shape, first = 0, None, None
    decoded, anew = None, False  # times that begin anew, as in films that were put behind each other, are no times
    with opened(source, name, threads="SLICE") as video:
        for packet in video.container.demux(video.stream):
            if packet.size and not packet.is_discard:
                starts.append(packet.pts)
                video.budget.claim(0, 0, len(starts))
                anew |= decoded is not None and packet.dts is not None and packet.dts < decoded - video.step(video.base)
                decoded = packet.dts if packet.dts is not None else decoded
                if packet.pts is not None and packet.duration:
                    end = max(end, packet.pts + packet.duration)
            if shape is None:
                shape, first = next(((video.shape(frame), frame.pts) for frame in video.decode(packet)), (None, None))
        tags, rate, length = video.tags, float(video.rate) if video.rate else None, video.length
        base, sound, exact, budget = video.base, video.sound, video.exact_length, video.budget
    if shape is None:
        raise Unreadable(f"{name}: expected a video with at least one frame, found none in it; check the file.")
    # A file whose head was cut off begins with packets that nothing can be made of.
    if first is not None and first in starts and not anew:
        starts = [start for start in starts if start is None or start >= first]
    ticks = sorted(start for start in starts if start is not None)  # packets come in the order of decoding
    times = [float(tick * base) for tick in ticks]
    steps = [after - before for before, after in pairwise(times)]
    step = 1 / rate if rate else BROWSER_DELAY
    if anew or len(times) < len(starts) or not all(step > 0 for step in steps):
        durations, ticks = [step] * len(starts), []  # no usable times
    else:
        check_gap(name, max(steps, default=0.0))
        usual = sorted(steps)[len(steps) // 2] if steps else step
        last = times[-1] - times[0]
        durations = [*steps, ending(last, float(end * base) - times[-1] if end > ticks[-1] else usual, exact) - last]
    places: dict[int | None, int] = {tick: place for place, tick in enumerate(ticks)}

    def pictures() -> Iterator[tuple[int, Pixels]]:
        place = -1
        # Frame threads hold many pictures, and short videos start faster without.
        with opened(source, name, threads="SLICE") as video:
            for frame in video.frames():
                place = max(place + 1, places.get(frame.pts, 0))
                yield place, video.pixels(frame)

    comment = next((value for key, value in tags.items() if key.lower() == COMMENT_KEY), "")
    return _Stored(budget, pictures, shape, durations, tags, comment, rate, length, float(base), sound)


def _animation(source: Source, name: str) -> _Stored:
    durations: list[float] = []
    file_of = partial(io.BytesIO, source) if isinstance(source, bytes) else lambda: source
    with picture_of(file_of(), name) as (file, budget):
        exif = file.getexif()
        comment, turned = file.info.get("comment") or exif.get(EXIF_DESCRIPTION, ""), exif.get(EXIF_ORIENTATION, 1)
        count, shape = getattr(file, "n_frames", 1), (file.height, file.width)
        budget.claim(file.width, file.height, count)
        for index in range(count):
            file.seek(index)
            file.load()  # WebP knows a picture's duration only then
            budget.add(file.width, file.height)
            milliseconds = file.info.get("duration", 0)
            durations.append(BROWSER_DELAY if milliseconds == 0 and count > 1 else milliseconds / 1000)

    def pictures() -> Iterator[tuple[int, Pixels]]:
        with picture_of(file_of(), name) as (file, _):
            for index in range(count):
                file.seek(index)
                yield index, np.asarray(on_white(file if turned == 1 else ImageOps.exif_transpose(file)))

    text = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)
    tags = {COMMENT_KEY: text} if text else {}
    return _Stored(budget, pictures, shape[::-1] if turned >= 5 else shape, durations, tags, text)


def _folder(path: Path, fps: float | None) -> _Stored:
    names = frame_names(path)
    if not names:
        raise Unreadable(f"{path}: expected a folder with PNG or JPEG frames, found none in it; choose another folder.")
    told, metadata = path / FOLDER_SETTINGS, dict[str, str]()
    if told.exists():
        try:
            settings = json_of(told.read_bytes())
            stated = float(settings["fps"])
            metadata = {str(key): str(value) for key, value in settings.get("metadata", {}).items()}
            if not 1 / LONGEST_GAP <= stated <= FASTEST:
                raise UserError(f"an fps of {stated}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as problem:
            expected = 'JSON as {"fps": 8.0, "metadata": {}}'
            raise Unreadable(f"{told}: expected {expected}, found others ({reason(problem)}); mend or delete it.") from problem
        fps = fps or stated
    if fps is None:
        raise Unreadable(f"{path}: expected the frame rate in {FOLDER_SETTINGS}, found none; give it (fps).")
    budget = Budget(path, sum(os.path.getsize(path / name) for name in names))
    budget.claim(0, 0, len(names), len(names) / fps)
    shape = read_pixels(path / names[0]).shape[:2]

    def pictures() -> Iterator[tuple[int, Pictures]]:
        for index, name in enumerate(names):
            picture = read_pixels(path / name)
            if picture.shape[:2] != shape:
                expected, found = (f"{width} x {height}" for height, width in (shape, picture.shape[:2]))
                raise Unreadable(f"{path / name}: expected {expected} as in {names[0]}, found {found}; make all frames alike.")
            yield index, picture

    return _Stored(budget, pictures, shape, [1 / fps] * len(names), metadata, rate=fps)


def is_frame_folder(folder: PathLike) -> bool:
    """Whether a folder is a video as `write_video` writes one: numbered PNG frames, metadata.json, nothing else to be seen."""
    try:
        names = [name for name in os.listdir(folder) if name[0] != "."] if os.path.isfile(Path(folder, FOLDER_SETTINGS)) else []
    except OSError:
        return False
    numbered = [name for name in names if NUMBERED.fullmatch(name)]
    return FOLDER_SETTINGS in names and 1 <= len(numbered) == len(names) - 1


def frame_names(folder: Path) -> list[str]:
    """The names of the pictures in a folder of frames, in natural order."""
    shown = (name for name in os.listdir(folder) if not name.startswith("."))
    return sorted((name for name in shown if name.lower().endswith(FRAME_EXTENSIONS)), key=natural)
