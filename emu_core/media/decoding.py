"""A video being decoded: which stream, from where, in which colours, when each frame begins, how long it claims to be.

A local file, an open file or bytes, and nothing else: a playlist that is called .mp4 must not send the reader anywhere. Colour
matrices, ranges, transparency, turns, mirrors and oblong pixels are decided here and, but for the motion score's own measurement,
nowhere else, through libavfilter, since VideoFrame.reformat of older PyAV mixes up BT.601 and BT.709. Nothing here imports torch,
so that the processes of `curate` start fast.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO, Literal, TypeAlias, cast

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image

from .budget import Budget, check_chunks, for_ffmpeg, size_of, too_large_perhaps
from .colours import BT2020, to_bt709
from .files import Unreadable, check_input, reason
from .images import on_white

Pixels: TypeAlias = NDArray[np.uint8]
Source: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO"
Threads: TypeAlias = Literal["AUTO", "SLICE", "NONE"]
Filter = Callable[[av.VideoFrame], av.VideoFrame]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What is said where no more can be written: the fault of a target, never of a source."""
NOTHING_ELSE = {"protocol_whitelist": "none"}
PROBED = tuple(map(int, re.findall(r"\d+", av.__version__)[:2])) >= (17, 1)
"""PyAV before 17.1 crashes where streams are found late (FLV, MPEG-PS) and have options."""
LENIENT_TAGS: dict[str, Any] = {"metadata_errors": "replace"} if hasattr(av.container.InputContainer, "metadata_errors") else {}
"""Bytes in tags that are no UTF-8 stop nothing: PyAV before 19 must be told so, since then it knows no such argument."""
NOT_VIDEO = ("image2", "tty", "hls", "concat", "dash", "ffmetadata")
USUAL_RATE = Fraction(25)
WHOLE = 0.9
"""The part of the length a file claims that must be there."""
SCALE_QUALITY = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
TO_BT709 = f"out_color_matrix=bt709:out_range=tv:{SCALE_QUALITY}"
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
STRANGE_MATRICES = {
    **{8: "YCgCo", 10: "BT.2020 of constant luminance", 11: "Y'D'zD'x", 12: "a matrix by its primaries", 14: "ICtCp"},
    **{13: "a matrix by its primaries, of constant luminance", 15: "Dolby Vision's IPT", 16: "YCgCo-R", 17: "YCgCo-R"},
}
"""That swscale has not."""
RANGES = {1: "tv", 2: "pc"}
TRANSPOSES = {(False, False): "cclock_flip", (True, False): "clock", (False, True): "cclock", (True, True): "clock_flip"}
"""FFmpeg's names of a transposition that is mirrored left to right, upside down, or both, afterwards."""
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these leave out the transparency."""
FROM_ZERO = ("matroska", "asf", "flv", "nut", "mov")
"""Containers whose length counts from time 0 (of mp4 the fragmented ones), not from where the pictures begin."""
DELAY = 0.25
"""Seconds for which pictures with B-frames at most are held back before the first is shown."""
ANEW = 2
"""Frames that a time must lie back for it to be a new beginning."""
RAW = Fraction(1, 1_200_000)
"""The ticks that FFmpeg gives streams without times of their own."""
LONGEST_GAP = 3600.0
"""Seconds between two pictures; more are no film's, but times that went wrong."""
SAME_SHAPE = 0.02
"""By how much a shape may differ from the first and still be scaled to it."""
log = logging.getLogger(__name__)


def filter_graph() -> av.filter.Graph:
    """An empty one, without threads of its own where PyAV lets one choose: from 19 on a graph is freed only by the garbage
    collector, so that threads would pile up, and a forked process that frees it would wait for them forever."""
    graph: Any = av.filter.Graph()
    if hasattr(graph, "threads"):
        graph.threads = 1
    return cast(av.filter.Graph, graph)


def filter_chain(frame: av.VideoFrame, *steps: tuple[str, str]) -> Filter:
    """A way through FFmpeg's filters for frames like this one; each step is a filter's name and its options."""
    graph = filter_graph()
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


@dataclass(frozen=True)
class Orientation:
    """How a stored frame becomes upright: rows and columns change places (over the first diagonal), then left and right, then
    above and below. Of all eight ways."""

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    def steps(self) -> list[tuple[str, str]]:
        """As FFmpeg's filters."""
        if self.transposed:
            return [("transpose", TRANSPOSES[self.mirrored, self.flipped])]
        return [("hflip", "")] * self.mirrored + [("vflip", "")] * self.flipped


def orientation(frame: av.VideoFrame) -> Orientation:
    """How the file says that the frame is to be shown: its display matrix, the nearest of the eight."""
    try:
        # Not frame.side_data: that keeps the frame in a circle of references, until the garbage collector comes.
        matrix: Any = cast(Any, SideDataContainer)(frame).get("DISPLAYMATRIX")
    except ValueError:  # side data newer than PyAV stands in the way
        matrix = None
    if matrix is None:
        quarter = round(frame.rotation / 90) % 4  # counter-clockwise
        return Orientation(quarter % 2 == 1, quarter in (2, 3), quarter in (1, 2))
    # Of 16.16 fixed point numbers: x' = a x + c y, y' = b x + d y
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


class Decoder:
    """The pictures of an open video. name: for messages; codec: its usual name; base: seconds a tick of the frames' times;
    aspect: of its pixels; start: where it says it begins, in ticks; sound: whether the file has any; budget: what it may cost.
    Raises Unreadable where its header is over a limit."""

    def __init__(
        self, name: str, container: av.container.InputContainer, stream: av.VideoStream, threads: Threads, budget: Budget
    ) -> None:
        self.name, self.container, self.stream, self.budget = name, container, stream, budget
        self.codec: str = stream.codec_context.codec.canonical_name
        # PyAV 19 has rational numbers of its own, 0/1 where others have None, that are rounded to 32 bits when multiplied.
        self.base = Fraction(stream.time_base or Fraction(1, 90_000))
        self.aspect = Fraction(stream.sample_aspect_ratio or 1)
        self.start: int = stream.start_time or 0
        self.sound = bool(container.streams.audio)
        # AVI knows only when a picture is decoded: the first that is shown has the time of the first that is decoded, and so on.
        self._by_order, self._times = container.format.name == "avi", deque[int | None]()
        self._count = 0
        self._first: tuple[int, int] | None = None  # upright height and width
        self._told: set[tuple[int, int]] = set()
        self._plain: tuple[tuple[object, ...], Filter] | None = None
        self._shown: tuple[tuple[object, ...], Filter] | None = None
        self._alpha: dict[str, bool] = {}
        self._own = _alpha_decoder(name, stream, self.codec, threads)
        self._own_orientation: Orientation | None = None
        budget.claim(stream.width, stream.height, max(1, stream.frames), self.length or 0.0)

    @property
    def is_mp4(self) -> bool:
        """Whether the file is an mp4 one; QuickTime's .mov is read by the same part of FFmpeg but is not."""
        return "mp4" in self.container.format.name.split(",") and self.container.metadata.get("major_brand", "").strip() != "qt"

    @property
    def rate(self) -> Fraction | None:
        """Frames a second, as far as the file says. Where it has no times, the coded pictures may."""
        if self.base == RAW and self.stream.codec_context.framerate:
            return Fraction(self.stream.codec_context.framerate)
        told = self.stream.average_rate or self.stream.guessed_rate
        return Fraction(told) if told else None

    @property
    def tags(self) -> dict[str, str]:
        """Of the file as a whole; bytes that are no UTF-8 are U+FFFD."""
        # Which PyAV 19 gives as lone surrogates, that cannot be printed or written.
        return {_readable(key): _readable(value) for key, value in self.container.metadata.items()}

    @property
    def length(self) -> float | None:
        """Seconds from the first picture to the end of the last that the file claims, None if it claims nothing about them."""
        form, lengths = self.container.format.name.split(","), list[float]()
        from_zero = any(part in FROM_ZERO for part in form)
        if self.stream.duration and self.stream.time_base and "asf" not in form:  # of which it is the whole file's
            lengths.append(float(self.stream.duration * self.stream.time_base))
        told = [value for key, value in self.stream.metadata.items() if key.upper().startswith("DURATION")]
        lengths += [seconds for seconds in map(_seconds, told) if seconds]
        if self.container.duration and (lengths or len(self.container.streams) == 1):
            lengths.append(self.container.duration / av.time_base)
        if not from_zero or self.start <= 0:
            return min(lengths, default=None)
        begin = float(self.start * self.base)
        # One that ends before it begins counts from there after all, or, in FLV, from when the first picture is decoded.
        return min((length - begin if length > begin else max(0.0, length - DELAY) for length in lengths), default=None)

    @property
    def exact_length(self) -> float | None:
        """As `length`, where it also holds the last picture's time: an mp4 or mov has it, by the picture that is decoded last."""
        exact = "mov" in self.container.format.name.split(",") and self.stream.duration
        return float(self.stream.duration * self.base) if exact and self.stream.duration else None

    def decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        """The frames that come out when a packet of the stream goes in. Raises Unreadable where they are over a limit."""
        if self._own is not None and self._own_orientation is None:
            # which comes from the container, by way of the stream's own decoder
            self._own_orientation = next((orientation(frame) for frame in packet.decode()), None)
        frames: Any = packet.decode() if self._own is None else self._own.decode(packet)
        for frame in frames:
            self.budget.add(frame.width, frame.height)
        return cast("list[av.VideoFrame]", frames)

    def frames(self) -> Iterator[av.VideoFrame]:
        """The frames as they are decoded, in the order in which they are seen."""
        for packet in self.container.demux(self.stream):
            if self._by_order and packet.size:
                self._times.append(packet.pts if packet.dts is None else packet.dts)
            for frame in self.decode(packet):
                if self._times:
                    frame.pts = self._times.popleft()
                self._count += 1
                yield frame

    def timed(self, base: Fraction | None = None) -> Iterator[tuple[int, av.VideoFrame]]:
        """When each frame begins, in ticks of `base` seconds (None: the video's), the first at 0, and the frame.

        Stray times do not stop anything: they come a tick after the one before. Where times begin anew, as in films that were
        put behind each other, they go on instead.
        """
        base, start, last = base or self.base, None, -1
        for frame in self.frames():
            if frame.pts is None:
                moment = 0 if last < 0 else last + self.step(base)
            else:
                start = frame.pts if start is None else start
                moment = round(float((frame.pts - start) * self.base) * (1 / base)) if base != self.base else frame.pts - start
                if moment < last - ANEW * self.step(base):
                    start -= round(float((last + self.step(base) - moment) * base) * (1 / self.base))
                    moment = last + self.step(base)
            check_gap(self.name, float((moment - max(last, 0)) * base))
            last = max(moment, last + 1)
            self.budget.until(float(last * base))
            yield last, frame

    def step(self, base: Fraction) -> int:
        """From one frame to the next in ticks of `base` seconds, as far as the file says."""
        return max(1, round(1 / (self.rate or USUAL_RATE) / base))

    def seek(self, moment: int) -> None:
        """To the key frame at or before a time in ticks."""
        self.container.seek(moment, stream=self.stream, backward=True)
        self._times.clear()
        if self._own is not None:
            self._own.flush_buffers()

    # -- as they are shown

    def orientation(self, frame: av.VideoFrame) -> Orientation:
        """How a frame becomes upright."""
        return orientation(frame) if self._own_orientation is None else self._own_orientation

    def transparent(self, frame: av.VideoFrame) -> bool:
        """Whether a frame can have transparent parts."""
        form = frame.format
        if form.name not in self._alpha:
            self._alpha[form.name] = form.has_palette or any(component.is_alpha for component in form.components)
        return self._alpha[form.name]

    def ordinary(self, frame: av.VideoFrame) -> bool:
        """Whether a frame is opaque, and of BT.709's (or the older television's) colours."""
        return not self.transparent(frame) and to_bt709(*self._colours(frame)) is None

    def _colours(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Transfer and primaries, by their numbers."""
        teller: Any = frame if hasattr(frame, "color_trc") else self.stream.codec_context  # frames of older PyAV do not tell
        return int(teller.color_trc), int(teller.color_primaries)

    def _given(self, frame: av.VideoFrame) -> str:
        """How a frame codes its colours, as options of the filter `scale`."""
        number, primaries = int(frame.colorspace), self._colours(frame)[1]
        if number in STRANGE_MATRICES and not frame.format.is_rgb:
            found = f"{STRANGE_MATRICES[number]}; convert it to BT.709"
            raise Unreadable(f"{self.name}: expected colours in Y'CbCr of BT.601, BT.709 or BT.2020, or in RGB, found {found}.")
        # Untagged films: what players assume, HD or not.
        untagged = "bt2020" if primaries == BT2020 else "bt709" if frame.height >= 720 else "bt601"
        return f"in_color_matrix={MATRICES.get(number, untagged)}:in_range={RANGES.get(int(frame.color_range), 'auto')}"

    def _opaque(self, frame: av.VideoFrame) -> av.VideoFrame:
        """A frame that is not ordinary as one that is: tone-mapped, its transparent parts on white, in 8 bits of RGB."""
        convert = to_bt709(*self._colours(frame))
        alpha = self.transparent(frame)
        form = ("rgba64le" if alpha else "rgb48le") if convert else "rgba"
        key = frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, form
        if self._plain is None or self._plain[0] != key:
            steps = ("scale", f"{self._given(frame)}:out_range=pc:{SCALE_QUALITY}"), ("format", f"pix_fmts={form}")
            self._plain = key, filter_chain(frame, *steps)
        pixels: NDArray[Any] = self._plain[1](frame).to_ndarray()
        if convert:
            opacity = (pixels[..., 3:] / np.float32(257) + np.float32(0.5)).astype(np.uint8)
            pixels = np.concatenate([convert(pixels[..., :3]), opacity], axis=-1)
        if alpha:
            pixels = np.asarray(on_white(Image.fromarray(pixels)))
        made = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        made.pts, made.time_base = frame.pts, frame.time_base
        return made

    def converted(self, frame: av.VideoFrame, playable: bool = False) -> av.VideoFrame:
        """A frame as RGB of BT.709, 8 bits a colour, upright, with square pixels, opaque, as large as the first, its time kept.

        playable: as 4:2:0 in BT.709 instead, an odd last row or column cut off. Raises Unreadable for a frame of another shape
        than the first.
        """
        upright = self.orientation(frame)
        self._check_shape(frame)
        assert self._first is not None
        if not self.ordinary(frame):
            frame = self._opaque(frame)
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, upright, playable)
        if self._shown is None or self._shown[0] != key:
            height, width = self._first[::-1] if upright.transposed else self._first
            given = f"{width}:{height}:{self._given(frame)}"
            if playable:
                cut = ("crop", "trunc(iw/2)*2:trunc(ih/2)*2:0:0")
                steps = [("scale", f"{given}:{TO_BT709}"), *upright.steps(), cut, ("format", "pix_fmts=yuv420p")]
            else:
                scale = ("scale", f"{given}:out_range=pc:{SCALE_QUALITY}")
                steps = [scale, ("format", "pix_fmts=rgb24"), *upright.steps()]
            self._shown = key, filter_chain(frame, *steps)
        return self._shown[1](frame)

    def pixels(self, frame: av.VideoFrame) -> Pixels:
        """(H, W, 3) uint8 RGB of a frame, upright, opaque and with square pixels."""
        return cast(Pixels, self.converted(frame).to_ndarray())

    def shape(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Height and width of a frame, upright and with square pixels."""
        shape = frame.height, max(1, round(frame.width * self.aspect))
        self.budget.claim(*shape[::-1])
        return shape[::-1] if self.orientation(frame).transposed else shape

    def measurable(self, frame: av.VideoFrame) -> tuple[av.VideoFrame, Fraction]:
        """A frame whose motion can be measured, and the aspect of its pixels: as it is coded, but for transparent parts. Raises
        Unreadable where it is not as large as the first."""
        if change := self.changed(frame):
            raise Unreadable(f"{change}; cut it there or convert it to one size.")
        self._given(frame)  # refuses colours that cannot be read
        return (self.converted(frame), Fraction(1)) if self.transparent(frame) else (frame, self.aspect)

    def changed(self, frame: av.VideoFrame) -> str:
        """A sentence if a frame is not as large as the first that was asked about, else nothing."""
        shape = self.shape(frame)
        self._first = self._first or shape
        if shape == self._first:
            return ""
        (height, width), (new_height, new_width) = self._first, shape
        found = f"{width} x {height} at first and {new_width} x {new_height} from frame {self._count} on"
        return f"{self.name}: expected pictures of one size, found {found}"

    def _check_shape(self, frame: av.VideoFrame) -> None:
        change = self.changed(frame)
        if change and self._first:
            (height, width), (new_height, new_width) = self._first, self.shape(frame)
            if abs(new_width * height / (new_height * width) - 1) > SAME_SHAPE:
                raise Unreadable(f"{change}; cut it there.")
            if (new_height, new_width) not in self._told:
                log.warning("%s; all are shown in the first one.", change)
                self._told.add((new_height, new_width))


def _alpha_decoder(name: str, stream: av.VideoStream, codec: str, threads: Threads) -> Any:
    """A decoder that keeps the transparency of which the container tells; None where the stream's own does, or there is none."""
    told = {key.lower(): value for key, value in stream.metadata.items()}
    if codec not in WITH_ALPHA or told.get("alpha_mode", "0") == "0":
        return None
    if WITH_ALPHA[codec] not in av.codecs_available:
        expected = f"expected an FFmpeg with {WITH_ALPHA[codec]}, for the transparent parts of {codec}"
        raise Unreadable(f"{name}: {expected}, found one without; install PyPI's av.")
    own: Any = av.CodecContext.create(WITH_ALPHA[codec], "r")
    for part in ("colorspace", "color_range", "color_primaries", "color_trc"):
        setattr(own, part, getattr(stream.codec_context, part))
    own.options, own.thread_count = for_ffmpeg(), 1 if threads == "NONE" else 0
    stream.thread_type = "SLICE"  # it decodes the first picture, for its orientation, and must not wait for others
    return own


def _readable(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _seconds(text: str) -> float | None:
    """Of a time as 00:00:01.150000000, as Matroska's tags have it."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d*)?)\s*", text)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


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
            budget = Budget(name, size_of(file))
            container = closed.enter_context(container_of(file, name))
            yield Decoder(name, container, picture_stream(container, name, threads), threads, budget)
    except wrong as problem:
        code = getattr(problem, "errno", None)
        if code in FULL:
            raise OSError(code, os.strerror(code)) from problem
        raise undecodable(name, problem) from problem


def container_of(file: BinaryIO, name: str) -> av.container.InputContainer:
    """An open file as FFmpeg's container; while it is probed, too, no picture is decoded that is far over the limit."""
    check_chunks(file, name)
    probing = for_ffmpeg() if PROBED else None
    return av.open(file, "r", options=probing, container_options=NOTHING_ELSE, **LENIENT_TAGS)


def undecodable(name: str | os.PathLike[str], problem: Exception) -> Unreadable:
    """The sentence for a video that a decoder stumbled over."""
    found = f"a broken file or none ({reason(problem)}{too_large_perhaps(problem)})"
    return Unreadable(f"{name}: expected a video that can be decoded, found {found}; check the file or convert it to mp4.")


def check_gap(name: str | os.PathLike[str], seconds: float) -> None:
    """Refuse times that went wrong, which would fill hours with one picture."""
    if seconds > LONGEST_GAP:
        found = f"two that are {seconds:.0f} s apart; write the file anew"
        raise Unreadable(f"{name}: expected pictures at most {LONGEST_GAP:.0f} s apart, found {found}.")


def check_whole(name: str | os.PathLike[str], seconds: float, claimed: float, least: float) -> None:
    """Refuse a file that breaks off: FFmpeg reads a cut mkv without an error, it just ends early. least: seconds it must have."""
    if seconds < least:
        found = f"a file that breaks off after {seconds:.2f} s"
        raise Unreadable(f"{name}: expected {claimed:.2f} s of video, found {found}; copy or download it again.")


def picture_stream(container: av.container.InputContainer, name: str, threads: Threads) -> av.VideoStream:
    """The stream of moving pictures. Raises Unreadable where there is none, and says what there is."""
    form = container.format.name
    if any(part in NOT_VIDEO for part in form.split(",")) or form.endswith("_pipe"):
        raise Unreadable(f"{name}: expected a video, found another kind of file ({form}); read pictures as pictures.")
    found: list[av.VideoStream] = []
    kinds: set[str] = {stream.type for stream in container.streams if stream.type != "video"}
    for stream in container.streams.video:
        if stream.disposition & Disposition.attached_pic:  # the cover of a song, or a film's poster
            kinds.add("a cover picture")
        elif stream.codec_context is None:
            kinds.add("video that this FFmpeg cannot decode")
        else:
            found.append(stream)
    if not found:
        there = " and ".join(sorted(kinds)) or "nothing"
        raise Unreadable(f"{name}: expected a video stream, found only {there}; give a file with moving pictures.")
    # As FFmpeg chooses: what is marked as the main one, then the largest; a preview may come first.
    stream = max(found, key=lambda each: (bool(each.disposition & Disposition.default), each.width * each.height))
    stream.thread_type = threads
    stream.codec_context.options = for_ffmpeg()
    if threads == "NONE":
        stream.codec_context.thread_count = 1
    return stream
