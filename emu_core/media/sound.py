"""The sound of one video, put beside the pictures of another that lasts as long: copied where the container takes it as it is,
else encoded once more. That it cannot be kept is a warning, never an error."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any

import av

from ..errors import UserError
from ..limits import how, limits
from .decoding import FULL, container_of, picture_stream
from .files import PathLike, reason

COPIED = {"mp4": ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"), "webm": ("opus", "vorbis")}
"""What players of these containers play; Matroska takes nearly anything."""
ENCODERS = {"mp4": "aac", "matroska": "aac", "webm": "libopus"}
RATES = (32_000, 44_100, 48_000)
GAP = 0.1
"""Seconds without sound that are more than rounding."""
log = logging.getLogger(__name__)


@contextmanager
def sound_of(path: PathLike | None, late: float = 0.0) -> Iterator[Sound | None]:
    """The sound of a video while it is open; None where there is none, or, with a warning, where it cannot be read. late: how
    many seconds after the beginning of the other pictures this video's first one comes."""
    with ExitStack() as closed:
        sound = None
        try:
            if path is not None and os.path.isfile(path):
                file = closed.enter_context(open(path, "rb"))
                container = closed.enter_context(container_of(file, str(path)))
                if container.streams.audio:
                    sound = Sound(path, container, late)
        except (av.FFmpegError, OSError, ValueError) as problem:
            log.warning("%s: its sound is not kept (%s).", path, reason(problem))
        yield sound


class Sound:
    """The first sound of an open video, from `late` seconds before its first picture on. Raises Unreadable where there are no
    pictures."""

    def __init__(self, path: PathLike, container: av.container.InputContainer, late: float) -> None:
        self.path, self._container = path, container
        self._stream: Any = container.streams.audio[0]
        pictures = picture_stream(container, str(path), "NONE")
        self._begin = (pictures.start_time or 0) * Fraction(pictures.time_base or 0) - Fraction(late)
        self._output: Any = None
        self._next: Any = None

    def join(self, output: Any, form: str) -> None:
        """Give a container that nothing has been written to a stream for the sound. form: FFmpeg's name of the container."""
        try:
            if self._stream.codec_context is None:
                raise UserError("this FFmpeg cannot decode it")
            name = self._stream.codec_context.codec.canonical_name
            if name in COPIED.get(form, (name,)) and _takes(form, self._stream):
                self._packets = self._copied(output.add_stream_from_template(self._stream))
            else:
                rate = self._stream.rate if self._stream.rate in RATES and form != "webm" else RATES[-1]
                made = output.add_stream(ENCODERS[form], rate=rate)
                made.codec_context.layout = "mono" if self._stream.codec_context.layout.nb_channels == 1 else "stereo"
                self._packets = self._encoded(made)
            self._output = output
        except (av.FFmpegError, ValueError) as problem:
            log.warning("%s: its sound is not kept (%s).", self.path, reason(problem))

    def write(self, until: Fraction | None) -> None:
        """Put what begins before a time, in seconds, into the container; None: all that is left."""
        try:
            while self._output is not None:
                self._next = self._next or next(self._packets, None)
                if self._next is None or (until is not None and self._next.pts * self._next.time_base >= until):
                    return
                self._output.mux(self._next)
                self._next = None
        except (av.FFmpegError, EOFError, UserError) as problem:
            if getattr(problem, "errno", None) in FULL:
                raise
            log.warning("%s: the rest of its sound is not kept (%s).", self.path, reason(problem))
            self._output = None

    def _copied(self, made: Any) -> Iterator[Any]:
        shift = round(self._begin / self._stream.time_base)
        for packet in self._container.demux(self._stream):
            if packet.pts is None or packet.pts < shift:
                continue
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.pts - shift, made
            self._check(packet.pts * packet.time_base, 1)
            yield packet

    def _encoded(self, made: Any) -> Iterator[Any]:
        context = made.codec_context
        resampler = av.AudioResampler(format=context.format or "fltp", layout=context.layout, rate=context.rate)
        fifo: Any = av.AudioFifo()
        moment: Any = None

        def taken(samples: int) -> Iterator[Any]:
            nonlocal moment
            while whole := fifo.read(samples):
                whole.pts, whole.time_base = moment, Fraction(1, context.rate)
                moment += whole.samples
                yield from made.encode(whole)

        for frame in self._container.decode(self._stream):
            if frame.pts is None or frame.pts * frame.time_base < self._begin:
                continue
            begins = round((frame.pts * frame.time_base - self._begin) * context.rate)
            self._check(begins, context.rate)
            moment = begins if moment is None else moment
            lacking = begins - moment - fifo.samples
            if lacking > GAP * context.rate:  # what comes behind a gap is not to come early
                self._fill(fifo, resampler.resample(None))
                resampler = av.AudioResampler(format=context.format or "fltp", layout=context.layout, rate=context.rate)
                for samples in _pieces(begins - moment - fifo.samples, context.rate):
                    self._fill(fifo, [_silence(context, samples)])
                    yield from taken(context.frame_size or 1024)
            self._fill(fifo, resampler.resample(frame))
            yield from taken(context.frame_size or 1024)
        if moment is not None:
            self._fill(fifo, resampler.resample(None))
            yield from taken(0)
        yield from made.encode(None)

    @staticmethod
    def _check(begin: Any, rate: int) -> None:
        if begin > (most := limits().seconds) * rate:
            raise UserError(f"expected at most {most:,} s, found {float(begin / rate):,.0f} s; {how('seconds')}")

    @staticmethod
    def _fill(fifo: av.AudioFifo, pieces: list[Any]) -> None:
        for piece in pieces:
            piece.pts = None  # they follow each other
            fifo.write(piece)


def _pieces(samples: int, most: int) -> Iterator[int]:
    while samples > 0:
        yield min(samples, most)
        samples -= most


def _silence(context: Any, samples: int) -> Any:
    """A frame of it, as an encoder takes it."""
    frame = av.AudioFrame(format=context.format.name, layout=context.layout.name, samples=samples)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.rate = context.rate
    return frame


def _takes(form: str, stream: Any) -> bool:
    """Whether FFmpeg puts sound of this kind into the container."""
    try:
        with av.open(io.BytesIO(), "w", format=form) as scratch:
            scratch.add_stream_from_template(stream)
            scratch.start_encoding()
        return True
    except (av.FFmpegError, ValueError):
        return False
