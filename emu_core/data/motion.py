"""What can be measured on a video in one pass: motion by an H.264 encoder, scene cuts, length, the first frame.

Motion [Emu Video, HQ subset]: the mean length of the codec's motion vectors. The streams of the wild cannot be compared (B-frames
and several references count a motion twice or more, VP9 has no vectors), so every video is encoded anew, in memory: H.264
without B-frames, one reference, no key frames but the first, at a fixed rate and height. Intra blocks have no vector and count
as missing. Nothing here imports torch, so that the processes of `curate` start fast.
"""

from __future__ import annotations

import io
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.stream import Disposition

HQ_WINDOW = 6
"""Frames of the window whose motion must not be too small [Emu Video]."""
CUT_THRESHOLD = 10
"""Of FFmpeg's scdet, 0..100: its own default."""
MIN_MATCHED = 0.25
MIN_SIDE = 8
WHOLE = 0.9
"""The part of the length a file claims that must be there."""
NO_PROTOCOL = {"protocol_whitelist": "none"}
"""The data is all there is: a playlist that is called .mp4 must not send the reader anywhere."""
NOT_VIDEO = ("image2", "tty", "hls", "concat", "dash", "ffmetadata")
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
RANGES = {1: "tv", 2: "pc"}
HD_HEIGHT = 720
SCALE_QUALITY = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
ENCODER = {
    "preset": "veryfast",
    "qp": "20",
    "bf": "0",
    "refs": "1",
    "g": str(1 << 30),
    "sc_threshold": "0",
    # The two kinds of intra blocks: without them, new content at a border gets a vector that means nothing.
    "x264-params": "keyint=infinite:scenecut=0:weightp=0:mbtree=0:rc-lookahead=0:sync-lookahead=0:psy=0:"
    "me=umh:merange=64:subme=5:partitions=i4x4,i8x8",
}
TRANSCODE = {"crf": "16", "preset": "medium", "g": "48"}

logger = logging.getLogger(__name__)


@dataclass
class Seen:
    """What one pass over a video found. Sizes in pixels as a viewer sees them (upright, square pixels), times in seconds from
    the first frame; `scores` pixels a frame at the rate and height of the measurement, nan where no block moved measurably."""

    width: int = 0
    height: int = 0
    frames: int = 0
    fps: float = 0.0
    duration: float = 0.0
    codec: str = ""
    is_mp4: bool = False
    scores: list[float] = field(default_factory=list)
    cuts: list[float] = field(default_factory=list)
    first: np.ndarray | None = None
    """(height, width, 3) uint8."""


# -- opening


@contextmanager
def opened(source: str | Path | bytes | BinaryIO, name: str = "") -> Iterator[tuple[Any, Any]]:
    """A video's PyAV container and picture stream; one thread, so that many processes do not fight for the cores.

    Raises ValueError where there is no video in it; every error of FFmpeg inside the `with` becomes one too.
    """
    name = name or (os.fspath(source) if isinstance(source, str | Path) else "the video")
    file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    if isinstance(file, str | Path):
        file = open(file, "rb")  # noqa: SIM115 - closed below
    try:
        with av.open(file, options=NO_PROTOCOL, metadata_errors="replace") as container:
            yield container, _picture_stream(container, name)
    except (av.FFmpegError, EOFError) as problem:
        text = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        raise ValueError(f"{name}: expected a video that can be decoded, found a broken file or none ({text}).") from problem
    finally:
        if isinstance(source, str | Path):
            file.close()


def _picture_stream(container: Any, name: str) -> Any:
    if any(part in NOT_VIDEO for part in container.format.name.split(",")) or container.format.name.endswith("_pipe"):
        raise ValueError(f"{name}: expected a video, found a file of another kind ({container.format.name}).")
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            return stream
    kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
    raise ValueError(f"{name}: expected a video stream, found only {' and '.join(kinds)}.")


def is_mp4(container: Any) -> bool:
    """Whether the file is an mp4 one; QuickTime's .mov is read by the same part of FFmpeg but is not."""
    return "mp4" in container.format.name.split(",") and container.metadata.get("major_brand", "").strip() != "qt"


class Rgb:
    """Frames of any pixel format to upright (H, W, 3) uint8 with square pixels, all as large as the first."""

    def __init__(self, pixel_aspect: Fraction | None) -> None:
        self._aspect = pixel_aspect or Fraction(1)
        self._key: tuple[object, ...] = ()
        self._graph: Any = None
        self._size = ""

    def __call__(self, frame: Any) -> np.ndarray:
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if self._graph is None or key != self._key:
            self._size = self._size or f"{max(1, round(frame.width * self._aspect))}:{frame.height}"
            # Untagged films: what players assume.
            matrix = MATRICES.get(int(frame.colorspace), "bt709" if frame.height >= HD_HEIGHT else "bt601")
            scale = f"{self._size}:in_color_matrix={matrix}:in_range={RANGES.get(int(frame.color_range), 'auto')}:out_range=pc"
            steps = [("scale", f"{scale}:{SCALE_QUALITY}"), ("format", "pix_fmts=rgb24")]
            self._key, self._graph = key, _chain(frame, frame.time_base, steps)
        self._graph.push(frame)
        # Counter-clockwise turns, by which the file says how the camera was held.
        return np.rot90(self._graph.pull().to_ndarray(), round(frame.rotation / 90))


def _chain(frame: Any, time_base: Fraction | None, steps: Sequence[tuple[str, str]]) -> Any:
    graph = av.filter.Graph()
    last = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=time_base or Fraction(1, 90_000)
    )
    for name, options in (*steps, ("buffersink", "")):
        step = graph.add(name, options) if options else graph.add(name)
        last.link_to(step)
        last = step
    graph.configure()
    return graph


# -- measuring


class _Vectors:
    """Encodes small frames in memory and reads the motion vectors of what came out."""

    def __init__(self, width: int, height: int, time_base: Fraction) -> None:
        self.scores: list[float] = []
        self._encoder: Any = av.CodecContext.create("libx264", "w")
        self._encoder.width, self._encoder.height, self._encoder.pix_fmt = width, height, "yuv420p"
        self._encoder.time_base, self._encoder.framerate = time_base, Fraction(25)
        self._encoder.options, self._encoder.thread_count = dict(ENCODER), 1
        self._decoder: Any = av.CodecContext.create("h264", "r")
        self._decoder.options, self._decoder.thread_count = {"flags2": "+export_mvs"}, 1
        self._count = 0

    def add(self, frame: Any) -> None:
        # Renumbered: the encoder must neither drop nor repeat, and old key frames must not become new ones.
        frame.pts, frame.time_base = self._count, self._encoder.time_base
        frame.pict_type = 0
        self._count += 1
        for packet in self._encoder.encode(frame):
            self._read(packet)

    def finish(self) -> list[float]:
        if not self._count:
            return []
        for packet in self._encoder.encode(None):
            self._read(packet)
        self._read(None)
        return self.scores[1:]  # the first frame has no other before it

    def _read(self, packet: Any) -> None:
        for frame in self._decoder.decode(packet):
            self.scores.append(mean_length(frame))


def mean_length(frame: Any) -> float:
    """Mean length in pixels of a decoded frame's motion vectors, each counted with its block's area.

    nan where less than a quarter of the frame has any, as at a cut: what little was matched there is chance (our choice).
    """
    data = next((item for item in frame.side_data if item.type.name == "MOTION_VECTORS"), None)
    if data is None:
        return math.nan
    vectors = data.to_ndarray()
    area = vectors["w"].astype(np.int64) * vectors["h"]
    if area.sum() < MIN_MATCHED * frame.width * frame.height:
        return math.nan
    length = np.hypot(vectors["motion_x"].astype(np.float64), vectors["motion_y"]) / vectors["motion_scale"]
    return float((length * area).sum() / area.sum())


class _Measure:
    """Frames at the fixed height go to the cut detector, and at the fixed rate to the encoder. Memory does not grow."""

    def __init__(self, frame: Any, time_base: Fraction, aspect: Fraction, fps: float | None, height: int | None) -> None:
        graph = av.filter.Graph()
        entry = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
        size = graph.add(*_resize(frame, aspect, height))
        pixels, split = graph.add("format", "pix_fmts=yuv420p"), graph.add("split", "2")
        cuts = graph.add("scdet", f"threshold={CUT_THRESHOLD}:sc_pass=1")
        rate = graph.add("fps", f"fps={Fraction(fps).limit_denominator(1001)}") if fps else graph.add("null")
        self._cut_sink, self._rate_sink = graph.add("buffersink"), graph.add("buffersink")
        for before, after in ((entry, size), (size, pixels), (pixels, split), (cuts, self._cut_sink), (rate, self._rate_sink)):
            before.link_to(after)
        split.link_to(cuts, 0, 0)
        split.link_to(rate, 1, 0)
        graph.configure()
        self._graph, self._entry = graph, entry
        self._vectors: _Vectors | None = None
        self.cuts: list[float] = []

    def add(self, frame: Any) -> None:
        self._entry.push(frame)
        self._drain()

    def finish(self) -> list[float]:
        self._entry.push(None)
        self._drain()
        return self._vectors.finish() if self._vectors else []

    def _drain(self) -> None:
        for frame in _pulled(self._cut_sink):
            self.cuts.append(float(frame.time))
        for frame in _pulled(self._rate_sink):
            if self._vectors is None:
                self._vectors = _Vectors(frame.width, frame.height, Fraction(1, 25))
            self._vectors.add(frame)


def _resize(frame: Any, aspect: Fraction, height: int | None) -> tuple[str, str]:
    """The filter that brings a frame to the height of the measurement, or only to even sides."""
    if height is None:
        return "crop", f"{frame.width // 2 * 2}:{frame.height // 2 * 2}:0:0"
    width, tall = frame.width * float(aspect), float(frame.height)
    if round(frame.rotation / 90) % 2:  # lies on its side in the file
        across = max(16, 2 * round(height * tall / width / 2))
        return "scale", f"{height}:{across}:flags=area"
    return "scale", f"{max(16, 2 * round(height * width / tall / 2))}:{height}:flags=area"


def _pulled(sink: Any) -> Iterator[Any]:
    while True:
        try:
            yield sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def look(
    source: str | Path | bytes | BinaryIO,
    fps: float | None = None,
    height: int | None = None,
    name: str = "",
    first: bool = False,
) -> Seen:
    """One pass over a whole video. fps, height: of the motion measurement (None: as in the file); first: keep the first frame.

    Raises ValueError, one sentence, for what cannot be decoded, breaks off, has fewer than 2 frames or sides below 8 px.
    """
    name = name or (os.fspath(source) if isinstance(source, str | Path) else "the video")
    if (fps is not None and not 0 < fps <= 1000) or (height is not None and (height < 16 or height % 2)):
        raise ValueError(f"motion: expected a rate of 0 to 1000 and an even height of 16 or more, found {fps} and {height}.")
    seen, measure, start, step, last = Seen(), None, 0, 1, -1
    with opened(source, name) as (container, stream):
        seen.codec, seen.is_mp4 = stream.codec_context.name, is_mp4(container)
        base = stream.time_base or Fraction(1, 90_000)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        step = max(1, round(1 / rate / base))
        aspect = stream.sample_aspect_ratio or Fraction(1)
        for frame in container.decode(stream):
            if measure is None:
                start = frame.pts if frame.pts is not None else 0
                _set_size(seen, frame, aspect, name)
                measure = _Measure(frame, base, aspect, fps, height)
                seen.first = Rgb(aspect)(frame) if first else None
            moment = frame.pts - start if frame.pts is not None else last + step
            moment = last + 1 if moment <= last else moment  # stray timestamps do not stop anything
            last, length = moment, getattr(frame, "duration", 0) or step  # older PyAV lacks it
            frame.pts, frame.time_base = moment, base
            measure.add(frame)
            seen.frames += 1
        if measure is not None:
            seen.scores, seen.cuts = measure.finish(), measure.cuts
            seen.duration = float((last + length) * base)
        _check_length(seen, container, stream, name)
    seen.fps = float(rate) if abs(seen.frames / seen.duration / rate - 1) < 0.02 else seen.frames / seen.duration
    return seen


def _set_size(seen: Seen, frame: Any, aspect: Fraction, name: str) -> None:
    sides = max(1, round(frame.width * aspect)), frame.height
    seen.width, seen.height = sides[::-1] if round(frame.rotation / 90) % 2 else sides
    if min(sides) < MIN_SIDE:
        raise ValueError(f"{name}: expected sides of at least {MIN_SIDE} px, found {seen.width} x {seen.height}.")


def _check_length(seen: Seen, container: Any, stream: Any, name: str) -> None:
    if seen.frames < 2:
        raise ValueError(f"{name}: expected a video of at least 2 frames, found {seen.frames}.")
    claimed = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
    if claimed is None and container.duration and len(container.streams) == 1:
        claimed = container.duration / av.time_base
    if claimed and seen.duration < WHOLE * claimed:
        raise ValueError(f"{name}: expected {claimed:.2f} s of video, found a file that breaks off after {seen.duration:.2f} s.")


def motion_scores(source: str | Path | bytes, fps: float | None, height: int | None) -> list[float]:
    """Motion of each pair of neighbouring frames: pixels a frame, area-weighted over the blocks that have a vector.

    fps, height: what the video is brought to first (None: as it is). nan for a pair without any vector, as at a cut.
    Raises ValueError as `look` does.
    """
    return look(source, fps, height).scores


def motion_summary(scores: Sequence[float]) -> tuple[float | None, float | None]:
    """(`motion_score`, `motion_min`): the mean over the clip, and the smallest mean of 6 frames in a row.

    The paper takes the minimum over windows of 6 frames; whether of a sum or a mean it does not say, the mean is our choice.
    A frame's score is its motion since the frame before. A clip shorter than a window is one window. None without any score.
    """
    known = np.asarray(scores, dtype=np.float64)
    valid = ~np.isnan(known)
    if not valid.any():
        return None, None
    size = min(HQ_WINDOW, len(known))
    sums = np.convolve(np.where(valid, known, 0.0), np.ones(size), "valid")
    counts = np.convolve(valid.astype(np.float64), np.ones(size), "valid")
    means = sums[counts > 0] / counts[counts > 0]
    return float(known[valid].mean()), float(max(0.0, means.min()))


# -- rewriting


def transcode(source: str | Path | bytes | BinaryIO, target: BinaryIO, name: str = "") -> None:
    """Write any video as H.264 mp4 (crf 16, BT.709, 4:2:0), its frames at their times from 0 on, without sound.

    Frames come upright, with square pixels; odd sides lose a line, as 4:2:0 needs. The same input gives the same bytes.
    Raises ValueError as `opened` does.
    """
    with opened(source, name) as (container, stream):
        base, rate = stream.time_base or Fraction(1, 90_000), stream.average_rate or stream.guessed_rate or Fraction(25)
        step = max(1, round(1 / rate / base))
        rgb, writer, start, last = Rgb(stream.sample_aspect_ratio), None, 0, -1
        try:
            for frame in container.decode(stream):
                pixels = rgb(frame)
                pixels = np.ascontiguousarray(pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2])
                if writer is None:
                    writer, start = Mp4Writer(target, pixels.shape[0], pixels.shape[1], rate, base), frame.pts or 0
                moment = frame.pts - start if frame.pts is not None else last + step
                last = max(moment, last + 1)
                writer.add(pixels, last)
        finally:
            if writer is not None:
                writer.close()


class Mp4Writer:
    """Frames (H, W, 3) uint8, even sides, to an H.264 mp4 file; their times count in `base` seconds."""

    def __init__(self, target: BinaryIO, height: int, width: int, rate: Fraction, base: Fraction) -> None:
        self._container: Any = av.open(target, "w", format="mp4", options={"fflags": "+bitexact"})
        stream: Any = self._container.add_stream("libx264", rate=rate, options=dict(TRANSCODE))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range, context.time_base, context.thread_count = 1, base, 1
        self._stream, self._base = stream, base
        self._graph: Any = None

    def add(self, pixels: np.ndarray, moment: int) -> None:
        frame: Any = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        if self._graph is None:
            scale = f"out_color_matrix=bt709:out_range=tv:{SCALE_QUALITY}"
            self._graph = _chain(frame, self._base, [("scale", scale), ("format", "pix_fmts=yuv420p")])
        self._graph.push(frame)
        frame = self._graph.pull()
        frame.pts, frame.time_base, frame.pict_type = moment, self._base, 0
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()
