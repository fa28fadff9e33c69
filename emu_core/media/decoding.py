"""A video being decoded: which stream, from where, in which colours, when each frame begins, how long it claims to be.

A local file, an open file or bytes, and nothing else: a playlist that is called .mp4 must not send the reader anywhere.
Nothing here imports torch, so that the processes of `curate` start fast.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any, BinaryIO, Literal, TypeAlias, cast

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from .conversion import Converter, turns
from .files import Unreadable, check_input, reason

Pixels: TypeAlias = NDArray[np.uint8]
Source: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO"
Threads: TypeAlias = Literal["AUTO", "SLICE", "NONE"]

NO_PROTOCOL = {"protocol_whitelist": "none"}
NOT_VIDEO = ("image2", "tty", "hls", "concat", "dash", "ffmetadata")
USUAL_RATE = Fraction(25)
WHOLE = 0.9
"""The part of the length a file claims that must be there."""


class Decoder:
    """The pictures of an open video. name: for messages; codec: FFmpeg's name; base: seconds a tick of the frames' times; aspect:
    of its pixels; start: where it says it begins, in ticks."""

    def __init__(self, name: str, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self.name, self.container, self.stream = name, container, stream
        self.codec: str = stream.codec_context.name
        self.base: Fraction = stream.time_base or Fraction(1, 90_000)
        self.aspect: Fraction = stream.sample_aspect_ratio or Fraction(1)
        self.start: int = stream.start_time or 0
        self._convert = Converter(self.aspect)

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

    def timed(self, base: Fraction | None = None, from_zero: bool = True) -> Iterator[tuple[av.VideoFrame, int]]:
        """Each frame and when it begins, in ticks of `base` seconds (None: the video's own), the first at 0 with `from_zero`.

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
            yield frame, last

    def step(self, base: Fraction) -> int:
        """From one frame to the next in ticks of `base` seconds, as far as the file says."""
        return max(1, round(1 / (self.rate or USUAL_RATE) / base))

    def seek(self, moment: int) -> None:
        """To the key frame at or before a time in ticks."""
        self.container.seek(moment, stream=self.stream, backward=True)

    def pixels(self, frame: av.VideoFrame) -> Pixels:
        """(H, W, 3) uint8 RGB of a frame, upright and with square pixels."""
        return cast(Pixels, self._convert(frame).to_ndarray())

    def shape(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Height and width of what `pixels` makes of a frame."""
        shape = frame.height, max(1, round(frame.width * self.aspect))
        return shape[::-1] if turns(frame) % 2 else shape


@contextmanager
def opened(source: Source, name: str = "", threads: Threads = "AUTO") -> Iterator[Decoder]:
    """Open a video for decoding. name: for messages, if not the path. threads: SLICE holds few pictures, NONE is one thread.

    Raises Unreadable where there is no video in it; every error of FFmpeg inside the `with` becomes one too.
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
            container = closed.enter_context(av.open(file, options=NO_PROTOCOL, metadata_errors="replace"))
            yield Decoder(name, container, _picture_stream(container, name, threads))
    except wrong as problem:
        raise undecodable(name, problem) from problem


def undecodable(name: str | os.PathLike[str], problem: Exception) -> Unreadable:
    """The sentence for a video that a decoder stumbled over."""
    return Unreadable(
        f"{os.fspath(name)}: expected a video that can be decoded, found a broken file or none "
        f"({getattr(problem, 'strerror', None) or reason(problem)}); check the file or convert it to mp4."
    )


def check_whole(name: str | os.PathLike[str], seconds: float, claimed: float, least: float) -> None:
    """Refuse a file that breaks off: FFmpeg reads a cut mkv without an error, it just ends early. least: seconds it must have."""
    if seconds < least:
        raise Unreadable(
            f"{os.fspath(name)}: expected {claimed:.2f} s of video, found a file that breaks off after {seconds:.2f} s; "
            f"copy or download it again."
        )


def _picture_stream(container: av.container.InputContainer, name: str, threads: Threads) -> av.VideoStream:
    form = container.format.name
    if any(part in NOT_VIDEO for part in form.split(",")) or form.endswith("_pipe"):
        raise Unreadable(
            f"{name}: expected a video, found a file of another kind ({form}); read a picture as a picture or give a video."
        )
    for stream in container.streams.video:
        # The cover picture of a song is a video stream too.
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            stream.thread_type = threads
            if threads == "NONE":
                stream.codec_context.thread_count = 1
            return stream
    kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise Unreadable(f"{name}: expected a video stream, found only {kinds}; give a file with pictures.")
