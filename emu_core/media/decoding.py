"""A video being decoded: which stream, from where, in which colours, when each frame begins, how long it claims to be.

A local file, an open file or bytes, and nothing else: a playlist that is called .mp4 must not send the reader anywhere. Colour
matrices, ranges, turns and oblong pixels are decided here and, but for the motion score's own measurement, nowhere else, through
libavfilter, since VideoFrame.reformat of older PyAV mixes up BT.601 and BT.709. Nothing here imports torch, so that the processes
of `curate` start fast.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any, BinaryIO, Literal, TypeAlias, cast

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from .files import Unreadable, check_input, reason

Pixels: TypeAlias = NDArray[np.uint8]
Source: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO"
Threads: TypeAlias = Literal["AUTO", "SLICE", "NONE"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What is said where no more can be written: the fault of a target, never of a source."""
NOT_VIDEO = ("image2", "tty", "hls", "concat", "dash", "ffmetadata")
USUAL_RATE = Fraction(25)
WHOLE = 0.9
"""The part of the length a file claims that must be there."""
SCALE_QUALITY = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
TO_BT709 = f"out_color_matrix=bt709:out_range=tv:{SCALE_QUALITY}"
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
RANGES = {1: "tv", 2: "pc"}


def filter_chain(frame: av.VideoFrame, *steps: tuple[str, str]) -> Callable[[av.VideoFrame], av.VideoFrame]:
    """A way through FFmpeg's filters for frames like this one; each step is a filter's name and its options."""
    graph = av.filter.Graph()
    base = frame.time_base or Fraction(1, 1000)
    last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
    for name, options in (*steps, ("buffersink", "")):
        step = graph.add(name, options or None)
        last.link_to(step)
        last = step
    graph.configure()

    def through(given: av.VideoFrame) -> av.VideoFrame:
        graph.push(given)
        return cast(av.VideoFrame, graph.pull())

    return through


def turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns, 0 to 3, by which the file says how the camera was held."""
    return round(frame.rotation / 90) % 4


class Decoder:
    """The pictures of an open video. name: for messages; codec: FFmpeg's name; base: seconds a tick of the frames' times; aspect:
    of its pixels; start: where it says it begins, in ticks."""

    def __init__(self, name: str, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self.name, self.container, self.stream = name, container, stream
        self.codec: str = stream.codec_context.name
        self.base: Fraction = stream.time_base or Fraction(1, 90_000)
        self.aspect: Fraction = stream.sample_aspect_ratio or Fraction(1)
        self.start: int = stream.start_time or 0
        self._size = ""
        self._filters: dict[tuple[object, ...], Callable[[av.VideoFrame], av.VideoFrame]] = {}

    @property
    def is_mp4(self) -> bool:
        """Whether the file is an mp4 one; QuickTime's .mov is read by the same part of FFmpeg but is not."""
        return "mp4" in self.container.format.name.split(",") and self.container.metadata.get("major_brand", "").strip() != "qt"

    @property
    def rate(self) -> Fraction | None:
        """Frames a second, as far as the file says."""
        return self.stream.average_rate or self.stream.guessed_rate

    @property
    def length(self) -> float | None:
        """Seconds of video that the file claims, None if it claims nothing about its pictures."""
        lengths = []
        if self.stream.duration and self.stream.time_base:
            lengths.append(float(self.stream.duration * self.stream.time_base))
        if self.container.duration and (lengths or len(self.container.streams) == 1):
            lengths.append(self.container.duration / av.time_base)
        return min(lengths, default=None)

    def frames(self) -> Iterator[av.VideoFrame]:
        """The frames as they are decoded, in the order in which they are seen."""
        return self.container.decode(self.stream)

    def timed(self, base: Fraction | None = None, from_zero: bool = True) -> Iterator[tuple[int, av.VideoFrame]]:
        """When each frame begins, and the frame. In ticks of `base` seconds (None: the video's), the first at 0 with `from_zero`.

        Stray times do not stop anything: they come a tick after the one before.
        """
        base, start, last = base or self.base, None, -1
        for frame in self.frames():
            start = (frame.pts or 0) * from_zero if start is None else start
            if frame.pts is None:
                moment = last + self.step(base)
            else:
                moment = round(float((frame.pts - start) * self.base) * (1 / base)) if base != self.base else frame.pts - start
            last = max(moment, last + 1)
            yield last, frame

    def step(self, base: Fraction) -> int:
        """From one frame to the next in ticks of `base` seconds, as far as the file says."""
        return max(1, round(1 / (self.rate or USUAL_RATE) / base))

    def seek(self, moment: int) -> None:
        """To the key frame at or before a time in ticks."""
        self.container.seek(moment, stream=self.stream, backward=True)

    def converted(self, frame: av.VideoFrame, playable: bool = False) -> av.VideoFrame:
        """A frame as RGB, 8 bits a colour, upright, with square pixels, as large as the first, its time kept. playable: as 4:2:0
        in BT.709 instead, an odd last row or column cut off."""
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, turns(frame), playable)
        if key not in self._filters:
            self._size = self._size or f"{max(1, round(frame.width * self.aspect))}:{frame.height}"
            # Untagged films: what players assume, HD or not.
            matrix = MATRICES.get(int(frame.colorspace), "bt709" if frame.height >= 720 else "bt601")
            given = f"{self._size}:in_color_matrix={matrix}:in_range={RANGES.get(int(frame.color_range), 'auto')}"
            turned = [("transpose", "cclock")] * turns(frame)
            if playable:
                cut = ("crop", "trunc(iw/2)*2:trunc(ih/2)*2:0:0")
                steps = [("scale", f"{given}:{TO_BT709}"), *turned, cut, ("format", "pix_fmts=yuv420p")]
            else:
                steps = [("scale", f"{given}:out_range=pc:{SCALE_QUALITY}"), ("format", "pix_fmts=rgb24"), *turned]
            self._filters = {key: filter_chain(frame, *steps)}
        return self._filters[key](frame)

    def pixels(self, frame: av.VideoFrame) -> Pixels:
        """(H, W, 3) uint8 RGB of a frame, upright and with square pixels."""
        return cast(Pixels, self.converted(frame).to_ndarray())

    def shape(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Height and width of what `pixels` makes of a frame."""
        shape = frame.height, max(1, round(frame.width * self.aspect))
        return shape[::-1] if turns(frame) % 2 else shape


@contextmanager
def opened(source: Source, name: str = "", threads: Threads = "AUTO") -> Iterator[Decoder]:
    """Open a video for decoding. name: for messages, if not the path. threads: SLICE holds few pictures, NONE is one thread.

    Raises Unreadable where there is no video in it; every error of FFmpeg inside the `with` becomes one too, but for an
    OSError of FULL.
    """
    path = source if isinstance(source, str | os.PathLike) else None
    name = name or ("the video" if path is None else os.fspath(path))
    file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    wrong = (av.FFmpegError, EOFError) if path is None else (av.FFmpegError, EOFError, OSError)
    try:
        with ExitStack() as closed:
            if path is not None:
                check_input(path, "a video")
                file = closed.enter_context(open(path, "rb"))
            container = closed.enter_context(av.open(file, options={"protocol_whitelist": "none"}, metadata_errors="replace"))
            yield Decoder(name, container, _picture_stream(container, name, threads))
    except wrong as problem:
        code = getattr(problem, "errno", None)
        if code in FULL:
            raise OSError(code, os.strerror(code)) from problem
        raise undecodable(name, problem) from problem


def undecodable(name: str | os.PathLike[str], problem: Exception) -> Unreadable:
    """The sentence for a video that a decoder stumbled over."""
    found = f"a broken file or none ({reason(problem)})"
    return Unreadable(f"{name}: expected a video that can be decoded, found {found}; check the file or convert it to mp4.")


def check_whole(name: str | os.PathLike[str], seconds: float, claimed: float, least: float) -> None:
    """Refuse a file that breaks off: FFmpeg reads a cut mkv without an error, it just ends early. least: seconds it must have."""
    if seconds < least:
        found = f"a file that breaks off after {seconds:.2f} s"
        raise Unreadable(f"{name}: expected {claimed:.2f} s of video, found {found}; copy or download it again.")


def _picture_stream(container: av.container.InputContainer, name: str, threads: Threads) -> av.VideoStream:
    form = container.format.name
    if any(part in NOT_VIDEO for part in form.split(",")) or form.endswith("_pipe"):
        raise Unreadable(f"{name}: expected a video, found another kind of file ({form}); read pictures as pictures.")
    for stream in container.streams.video:
        # The cover picture of a song is a video stream too.
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            stream.thread_type = threads
            if threads == "NONE":
                stream.codec_context.thread_count = 1
            return stream
    kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise Unreadable(f"{name}: expected a video stream, found only {kinds}; give a file with pictures.")
