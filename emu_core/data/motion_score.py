"""What can be measured on a video in one pass: motion by an H.264 encoder, scene cuts, length, the first frame.

Motion [Emu Video, HQ subset]: the mean length of the codec's motion vectors. The streams of the wild cannot be compared (B-frames
and several references count a motion twice or more, VP9 has no vectors), so every video is encoded anew, in memory: H.264
without B-frames, one reference, no key frames but the first, at a fixed rate and height. Intra blocks have no vector and count
as missing. What can be seen through is measured on white, high dynamic range as it is coded. Nothing here imports torch, so that
the processes of `curate` start fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, pairwise
from typing import Any

import av
import numpy as np

from ..errors import UserError
from ..media import Unreadable
from ..media.decoding import USUAL_RATE, WHOLE, Pixels, Source, check_whole, filter_graph, orientation
from ..media.images import check_sides
from ..media.reading import moving
from ..media.spacing import ending, even_rate

HQ_WINDOW = 6
"""Frames of the window whose motion must not be too small [Emu Video]."""
CUT_THRESHOLD = 10
"""Of FFmpeg's scdet, 0..100: its own default."""
MIN_MATCHED = 0.25
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


@dataclass
class Seen:
    """What one pass over a video found. Sizes in pixels as a viewer sees them (upright, square pixels), times in seconds from
    the first frame; `scores` pixels a frame at the rate and height of the measurement, area-weighted over the blocks that have a
    vector, for each frame but the first; nan where no block moved measurably, as at a cut."""

    width: int = 0
    height: int = 0
    frames: int = 0
    fps: float = 0.0
    duration: float = 0.0
    codec: str = ""
    is_mp4: bool = False
    scores: list[float] = field(default_factory=list)
    cuts: list[float] = field(default_factory=list)
    first: Pixels | None = None
    """(height, width, 3) uint8."""


def mean_length(frame: Any) -> float:
    """Mean length in pixels of a decoded frame's motion vectors, each counted with its block's area.

    nan where less than a quarter of the frame has any, as at a cut: what little was matched there is chance (our choice).
    """
    data = frame.side_data.get("MOTION_VECTORS")  # iterating gives the data before PyAV 19, and their kinds from then on
    if data is None:
        return math.nan
    vectors = data.to_ndarray()
    area = vectors["w"].astype(np.int64) * vectors["h"]
    if area.sum() < MIN_MATCHED * frame.width * frame.height:
        return math.nan
    length = np.hypot(vectors["motion_x"].astype(np.float64), vectors["motion_y"]) / vectors["motion_scale"]
    return float((length * area).sum() / area.sum())


def measured_size(frame: av.VideoFrame, aspect: Fraction, height: int | None) -> tuple[int, int]:
    """Width and height, as it lies in the file, to which a frame is brought for the measurement."""
    if height is None:
        return frame.width // 2 * 2, frame.height // 2 * 2
    sides = frame.width * float(aspect), float(frame.height)
    if orientation(frame).transposed:  # lies on its side in the file
        return height, max(16, 2 * round(height * sides[1] / sides[0] / 2))
    return max(16, 2 * round(height * sides[0] / sides[1] / 2)), height


class _Measure:
    """Frames at the fixed height go to the cut detector, and at the fixed rate to an encoder in memory and a decoder that tells
    the motion vectors of what came out. Memory does not grow."""

    def __init__(
        self, frame: av.VideoFrame, base: Fraction, aspect: Fraction, fps: float | None = None, height: int | None = None
    ) -> None:
        width, high = measured_size(frame, aspect, height)
        name, size = ("crop", f"{width}:{high}:0:0") if height is None else ("scale", f"{width}:{high}:flags=area")
        self._graph = graph = filter_graph()
        self._entry = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
        resized, pixels, split = graph.add(name, size), graph.add("format", "pix_fmts=yuv420p"), graph.add("split", "2")
        cuts = graph.add("scdet", f"threshold={CUT_THRESHOLD}:sc_pass=1")
        rate = graph.add("fps", f"fps={Fraction(fps).limit_denominator(1001)}") if fps else graph.add("null")
        self._sinks = graph.add("buffersink"), graph.add("buffersink")
        steps = (self._entry, resized, pixels, split), (cuts, self._sinks[0]), (rate, self._sinks[1])
        for before, after in chain.from_iterable(map(pairwise, steps)):
            before.link_to(after)
        split.link_to(cuts, 0, 0)
        split.link_to(rate, 1, 0)
        graph.configure()
        self._encoder: Any = None
        self._decoder: Any = av.CodecContext.create("h264", "r")
        self._decoder.options, self._decoder.thread_count = {"flags2": "+export_mvs"}, 1
        self._count, self.cuts, self.scores = 0, list[float](), list[float]()

    def add(self, frame: av.VideoFrame | None) -> None:
        """The next frame; None: there are no more."""
        self._entry.push(frame)
        self.cuts += [float(cut.time) for cut in _pulled(self._sinks[0])]
        for seen in _pulled(self._sinks[1]):
            if self._encoder is None:
                self._encoder = av.CodecContext.create("libx264", "w")
                self._encoder.width, self._encoder.height, self._encoder.pix_fmt = seen.width, seen.height, "yuv420p"
                self._encoder.time_base, self._encoder.framerate = Fraction(1, 25), Fraction(25)
                self._encoder.options, self._encoder.thread_count = dict(ENCODER), 1
            # Renumbered: the encoder must neither drop nor repeat, and old key frames must not become new ones.
            seen.pts, seen.time_base, seen.pict_type = self._count, self._encoder.time_base, 0
            self._count += 1
            self._read(self._encoder.encode(seen))
        if frame is None and self._encoder is not None:
            self._read([*self._encoder.encode(None), None])
            self.scores = self.scores[1:]  # the first frame has no other before it

    def _read(self, packets: list[Any]) -> None:
        self.scores += [mean_length(coded) for packet in packets for coded in self._decoder.decode(packet)]


def _pulled(sink: Any) -> Iterator[Any]:
    while True:
        try:
            yield sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def look(source: Source, fps: float | None = None, height: int | None = None, name: str = "", first: bool = False) -> Seen:
    """One pass over a whole video. fps, height: of the motion measurement (None: as in the file); first: keep the first frame.

    Raises ValueError, one sentence, for what cannot be decoded, breaks off, has fewer than 2 frames or sides below 8 px.
    """
    if (fps is not None and not 0 < fps <= 1000) or (height is not None and (height < 16 or height % 2)):
        raise UserError(f"motion: expected a rate of 0 to 1000 and an even height of 16 or more, found {fps} and {height}.")
    seen, measure, moments, length = Seen(), None, list[int](), 0
    with moving(source, name, threads="NONE") as video:
        seen.codec, seen.is_mp4 = video.codec, video.is_mp4
        rate = video.rate or USUAL_RATE
        for moment, frame in video.timed():
            if measure is None:
                seen.height, seen.width = video.shape(frame)
                check_sides(video.name, seen.height, seen.width)
                seen.first = video.pixels(frame) if first else None
            length = getattr(frame, "duration", round(1 / rate / video.base))  # PyAV 14 lacks it; this is FFmpeg's own guess
            frame, aspect = video.measurable(frame)
            if measure is None:
                video.budget.claim(*measured_size(frame, aspect, height))
                measure = _Measure(frame, video.base, aspect, fps, height)
            frame.pts, frame.time_base = moment, video.base
            measure.add(frame)
            moments.append(moment)
        seen.frames = len(moments)
        if measure is None or seen.frames < 2:
            raise Unreadable(f"{video.name}: expected a video of at least 2 frames, found {seen.frames}.")
        measure.add(None)
        seen.scores, seen.cuts = measure.scores, measure.cuts
        tick, last = float(video.base), moments[-1] - moments[-2]
        begins = [moment * tick for moment in moments]
        seen.duration = ending(begins[-1], (length or last) * tick, video.exact_length)
        if video.length:
            check_whole(video.name, seen.duration, video.length, WHOLE * video.length)
    durations = [after - before for before, after in pairwise([*begins, seen.duration])]
    counted = seen.frames / seen.duration
    seen.fps = even_rate(durations, float(rate), tick) or (float(rate) if abs(counted / rate - 1) < 0.02 else counted)
    return seen


def frame_scores(frames: Iterable[Pixels]) -> list[float]:
    """The scores of frames (H, W, 3) uint8 in memory at their own size; what a lossless file of them would give.

    Raises ValueError for sides below 8 px, or where the encoder is missing.
    """
    measure, base = None, Fraction(1, 25)
    try:
        for number, pixels in enumerate(frames):
            check_sides("motion", pixels.shape[0], pixels.shape[1])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, base
            measure = measure or _Measure(frame, base, Fraction(1))
            measure.add(frame)
        if measure is None:
            return []
        measure.add(None)
        return measure.scores
    except av.FFmpegError as problem:
        raise UserError(f"motion: expected frames that can be encoded, found {problem}.") from problem


def motion_summary(scores: Sequence[float]) -> tuple[float | None, float | None]:
    """(`motion_score`, `motion_min`): the mean over the clip, and the smallest mean of 6 frames in a row.

    The paper takes the minimum over windows of 6 frames; whether of a sum or a mean it does not say, the mean is our choice.
    A frame's score is its motion since the frame before. A clip shorter than a window is one window. None without any score.
    """
    known = np.asarray(scores, dtype=np.float64)
    valid = ~np.isnan(known)
    if not valid.any():
        return None, None
    window = np.ones(min(HQ_WINDOW, len(known)))
    sums, counts = np.convolve(np.where(valid, known, 0.0), window, "valid"), np.convolve(valid, window, "valid")
    means = sums[counts > 0] / counts[counts > 0]
    return float(known[valid].mean()), float(max(0.0, means.min()))
