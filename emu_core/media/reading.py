"""Videos from files: whatever FFmpeg decodes, animated GIF and WebP, or a folder of frames."""

import json
import math
import os
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import torch
from av.stream import Disposition
from PIL import Image
from torch import Tensor

from .conversion import SCALE_QUALITY, conversion
from .files import FOLDER_SETTINGS, PathLike, natural
from .images import EXIF_DESCRIPTION, check_input, check_sides, on_white, read_image, reason
from .tags import COMMENT_KEY, Clip, unpack

FRAME_EXTENSIONS = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 2**30
BROWSER_DELAY = 0.1
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
RANGES = {1: "tv", 2: "pc"}
NOT_VIDEO = ("image2", "tty")
HD_HEIGHT = 720


@dataclass(frozen=True, eq=False)
class Video:
    """frames (f, H, W, 3) float32 0..1; fps, frames per second; metadata, what write_video was given or the file's tags."""

    frames: Tensor
    fps: float
    metadata: dict[str, str]


@dataclass(frozen=True)
class _Stored:
    """Pictures (H, W, 3) uint8 as they lie in the file, each with its duration in seconds, and what the file says.

    rate: frames per second; length: seconds; partial: reading stopped before the end.
    """

    pictures: list[np.ndarray]
    durations: list[float]
    tags: dict[str, str]
    comment: str
    rate: float | None = None
    length: float | None = None
    partial: bool = False


def read_video(path: PathLike, fps: float | None = None, max_frames: int | None = None) -> Video:
    """Read a video (mp4, mov, mkv, webm, ...), an animated GIF or WebP, or a folder of PNG or JPEG frames.

    Frames come upright and evenly spaced: where their durations differ (variable rate, equal frames merged into one), they
    are repeated or dropped so that every moment keeps its time. fps: taken instead of the rate found; needed for a folder
    without metadata.json. max_frames: read no more than the first so many.
    Raises ValueError for what is missing, broken, without pictures, smaller than 8 px or larger than memory would hold.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps: expected a rate above 0, found {fps}; give another or none.")
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames: expected at least 1, found {max_frames}; give more or none.")
    if os.path.isdir(path):
        return _read_folder(Path(path), fps, max_frames)
    check_input(path, "a video")
    stored = _read_with_pillow(path, max_frames) if _is_animated_picture(path) else _read_with_av(path, max_frames)
    known = unpack(stored.comment)
    metadata, clip = known if known else (stored.tags, None)
    height, width = stored.pictures[0].shape[:2]
    check_sides(path, height, width)
    _check_whole(path, stored, clip)
    indices, rate = _even_out(stored, clip)
    indices = indices[:max_frames]
    _check_amount(path, len(indices), height, width)
    frames = torch.from_numpy(np.stack([stored.pictures[index] for index in indices])).float().div_(255)
    return Video(frames, fps or rate, metadata)


def _is_animated_picture(path: PathLike) -> bool:
    """GIF and WebP go through Pillow: not every FFmpeg decodes animated WebP, and it does not give a GIF's comment."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head[:4] == b"GIF8" or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def _unreadable(path: PathLike, found: str) -> ValueError:
    return ValueError(
        f"{path}: expected a video that can be decoded, found a broken file or none ({found}); "
        f"check the file or convert it to mp4."
    )


def _check_amount(path: PathLike, count: int, height: int, width: int) -> None:
    if count * height * width > MAX_PIXELS:
        raise ValueError(
            f"{path}: expected at most {MAX_PIXELS // (height * width)} frames of {width} x {height} (they fill "
            f"{MAX_PIXELS * 12 / 2**30:.0f} GiB of memory), found more; cut it or read fewer frames (max_frames)."
        )


def _check_whole(path: PathLike, stored: _Stored, clip: Clip | None) -> None:
    """Refuse a file that breaks off: FFmpeg reads a cut mkv without an error, it just ends early."""
    if stored.length is None or stored.partial:
        return
    read, expected = sum(stored.durations), 0.9 * stored.length
    if clip is not None and _is_length_of(clip, stored.length):
        expected = stored.length - 0.5 / clip.fps
    if read < expected:
        raise ValueError(
            f"{path}: expected {stored.length:.2f} s of video, found a file that breaks off after {read:.2f} s; "
            f"copy or download it again."
        )


def _is_length_of(clip: Clip, seconds: float) -> bool:
    """Whether a file of this length still is the clip as it was written, and nobody has cut or retimed it since."""
    return abs(seconds - clip.frames / clip.fps) <= 0.5 / clip.fps + 0.02


def _even_out(stored: _Stored, clip: Clip | None) -> tuple[list[int], float]:
    """Which stored picture each evenly spaced frame shows (at most one more than memory should hold), and the frame rate."""
    durations, count = stored.durations, len(stored.durations)
    limit = MAX_PIXELS // (stored.pictures[0].size // 3) + 1
    total = sum(durations)
    # A clip of equal frames is one still WebP picture without any duration.
    if clip is not None and (stored.partial or total == 0 or _is_length_of(clip, total)):
        wanted = min(clip.frames, max(1, round(total * clip.fps))) if stored.partial else clip.frames
        shown = list(range(count)) if count == wanted else _shown_at(durations, min(wanted, limit), 1 / clip.fps)
        return shown, clip.fps
    if total == 0:
        return list(range(count)), 1 / BROWSER_DELAY
    if max(durations) <= 1.5 * min(durations):
        measured = count / total
        return list(range(count)), stored.rate if stored.rate and abs(stored.rate / measured - 1) < 0.02 else measured
    # Not the very shortest: one stray timestamp must not multiply the frames.
    shortest = sorted(durations)[count // 10]
    # The last duration is a guess in many files.
    usual = [duration for duration in durations[:-1] if 0.5 * shortest < duration < 1.5 * shortest] or [shortest]
    step = sum(usual) / len(usual)
    return _shown_at(durations, min(max(1, round(total / step)), limit), step), 1 / step


def _shown_at(durations: list[float], count: int, step: float) -> list[int]:
    """The picture in view in the middle of each of count steps."""
    moments = (np.arange(count) + 0.5) * step
    shown = np.searchsorted(np.cumsum(durations), moments, side="right")
    return [int(index) for index in np.minimum(shown, len(durations) - 1)]


def _read_with_pillow(path: PathLike, max_frames: int | None) -> _Stored:
    pictures: list[np.ndarray] = []
    durations: list[float] = []
    try:
        with Image.open(path) as file:
            comment = file.info.get("comment") or file.getexif().get(EXIF_DESCRIPTION, "")
            count = getattr(file, "n_frames", 1)
            # One frame more than memory should hold, so that the check below sees it.
            limit = MAX_PIXELS // (file.height * file.width) + 1
            for index in range(min(count, limit, max_frames or limit)):
                file.seek(index)
                pictures.append(np.asarray(on_white(file)))
                milliseconds = file.info.get("duration", 0)
                durations.append(BROWSER_DELAY if milliseconds == 0 and count > 1 else milliseconds / 1000)
    except Exception as problem:  # decoders of broken files raise nearly anything, from SyntaxError to IndexError
        raise _unreadable(path, reason(problem)) from problem
    _check_amount(path, len(pictures), *pictures[0].shape[:2])
    text = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)
    return _Stored(pictures, durations, {COMMENT_KEY: text} if text else {}, text, partial=len(pictures) < count)


def _read_with_av(path: PathLike, max_frames: int | None) -> _Stored:
    try:
        # Only local files: a playlist could otherwise send the reader to any address. Absolute: "a:b.mp4" is no protocol.
        with av.open(str(Path(path).absolute()), options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
            stream = _video_stream(path, container)
            pictures, starts, last, partial = _decode(path, container, stream, max_frames)
            tags, rate = dict(container.metadata), stream.average_rate or stream.guessed_rate
            length = _length(container, stream)
    except av.FFmpegError as problem:
        raise _unreadable(path, problem.strerror or reason(problem)) from problem
    if not pictures:
        raise ValueError(f"{path}: expected a video with at least one frame, found none in it; check the file.")
    durations = _durations(starts, last, float(rate) if rate else None)
    comment = next((value for key, value in tags.items() if key.lower() == COMMENT_KEY), "")
    return _Stored(pictures, durations, tags, comment, float(rate) if rate else None, length, partial)


def _video_stream(path: PathLike, container: av.container.InputContainer) -> av.VideoStream:
    if container.format.name in NOT_VIDEO or container.format.name.endswith("_pipe"):
        raise ValueError(
            f"{path}: expected a video, found a file of another kind ({container.format.name}); "
            f"read a picture as a picture or give a video."
        )
    for stream in container.streams.video:
        # The cover picture of a song is a video stream too.
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            stream.thread_type = "AUTO"
            return stream
    kinds: list[str] = sorted({stream.type for stream in container.streams}) or ["nothing"]
    raise ValueError(f"{path}: expected a video stream, found only {' and '.join(kinds)}; give a file with pictures.")


def _length(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Seconds of video that the file claims, None if it claims nothing about its pictures."""
    lengths = []
    if stream.duration and stream.time_base:
        lengths.append(float(stream.duration * stream.time_base))
    if container.duration and (lengths or len(container.streams) == 1):
        lengths.append(container.duration / av.time_base)
    return min(lengths, default=None)


def _decode(
    path: PathLike, container: av.container.InputContainer, stream: av.VideoStream, max_frames: int | None
) -> tuple[list[np.ndarray], list[float | None], float | None, bool]:
    """Upright pictures, their start times in seconds, how long the last one stays, whether more would have followed."""
    pictures: list[np.ndarray] = []
    starts: list[float | None] = []
    end = 0.0
    convert = _Converter(stream.sample_aspect_ratio)
    for packet in container.demux(stream):
        if packet.pts is not None and packet.duration and packet.time_base and not packet.is_discard:
            end = max(end, float((packet.pts + packet.duration) * packet.time_base))
        for frame in packet.decode():
            assert isinstance(frame, av.VideoFrame)
            if max_frames is not None and len(pictures) == max_frames:
                return pictures, starts, None, True
            # Counter-clockwise turns, by which the file says how the camera was held.
            picture = np.rot90(convert(frame), round(frame.rotation / 90))
            pictures.append(picture)
            _check_amount(path, len(pictures), *picture.shape[:2])
            starts.append(frame.time)
    last_start = starts[-1] if starts else None
    return pictures, starts, end - last_start if last_start is not None and end > last_start else None, False


class _Converter:
    """Frames of any format to (H, W, 3) uint8 RGB with square pixels, all as large as the first."""

    def __init__(self, pixel_aspect: Fraction | None) -> None:
        self._pixel_aspect = pixel_aspect or Fraction(1)
        self._key: tuple[object, ...] = ()
        self._graph: av.filter.Graph | None = None
        self._size = ""

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if self._graph is None or key != self._key:
            self._key, self._graph = key, self._build(frame)
        self._graph.push(frame)
        converted = self._graph.pull()
        assert isinstance(converted, av.VideoFrame)
        return converted.to_ndarray()

    def _build(self, frame: av.VideoFrame) -> av.filter.Graph:
        self._size = self._size or f"{max(1, round(frame.width * self._pixel_aspect))}:{frame.height}"
        # Untagged films: what players assume.
        matrix = MATRICES.get(int(frame.colorspace), "bt709" if frame.height >= HD_HEIGHT else "bt601")
        source_range = RANGES.get(int(frame.color_range), "auto")
        scale = f"{self._size}:in_color_matrix={matrix}:in_range={source_range}:out_range=pc:{SCALE_QUALITY}"
        return conversion(frame.width, frame.height, frame.format.name, scale, "rgb24", frame.time_base or Fraction(1, 1000))


def _durations(starts: list[float | None], last: float | None, rate: float | None) -> list[float]:
    """Seconds that each picture stays, from the times at which they start; even where the file has no usable times."""
    times = [start for start in starts if start is not None]
    steps = [after - before for before, after in pairwise(times)]
    if len(times) < len(starts) or not all(step > 0 for step in steps):
        return [1 / rate if rate else BROWSER_DELAY] * len(starts)
    usual = sorted(steps)[len(steps) // 2] if steps else 1 / rate if rate else BROWSER_DELAY
    return [*steps, last or usual]


def _read_folder(folder: Path, fps: float | None, max_frames: int | None) -> Video:
    shown = [name for name in os.listdir(folder) if not name.startswith(".")]
    names = sorted((name for name in shown if name.lower().endswith(FRAME_EXTENSIONS)), key=natural)
    if not names:
        raise ValueError(f"{folder}: expected a folder with PNG or JPEG frames, found none in it; choose another folder.")
    stated, metadata = _folder_settings(folder / FOLDER_SETTINGS)
    rate = fps or stated
    if rate is None:
        raise ValueError(f"{folder}: expected the frame rate in {FOLDER_SETTINGS}, found none; give it (fps).")
    frames: list[Tensor] = []
    for name in names[:max_frames]:
        frame = read_image(folder / name)
        if frames and frame.shape != frames[0].shape:
            raise ValueError(
                f"{folder / name}: expected {frames[0].shape[1]} x {frames[0].shape[0]} (width x height) "
                f"as in {names[0]}, found {frame.shape[1]} x {frame.shape[0]}; make all frames alike."
            )
        frames.append(frame)
        _check_amount(folder, len(frames), frame.shape[0], frame.shape[1])
    return Video(torch.stack(frames), rate, metadata)


def _folder_settings(file: Path) -> tuple[float | None, dict[str, str]]:
    """Frame rate and metadata as write_video puts them beside the frames; none if there is no such file."""
    if not file.exists():
        return None, {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        fps = float(settings["fps"])
        metadata = {str(key): str(value) for key, value in settings.get("metadata", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(
            f'{file}: expected JSON as {{"fps": 8.0, "metadata": {{}}}}, found something else ({reason(problem)}); '
            f"mend or delete it."
        ) from problem
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"{file}: expected an fps above 0, found {fps}; mend it.")
    return fps, metadata
