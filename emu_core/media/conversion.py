"""Frames between pixel formats: colour matrices, ranges, turns and oblong pixels are decided here and nowhere else.

Through libavfilter, since VideoFrame.reformat of older PyAV mixes up BT.601 and BT.709.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import av

SCALE_QUALITY = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
TO_BT709 = f"out_color_matrix=bt709:out_range=tv:{SCALE_QUALITY}"
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
RANGES = {1: "tv", 2: "pc"}
HD_HEIGHT = 720


def chain(frame: av.VideoFrame, steps: Sequence[tuple[str, str]]) -> av.filter.Graph:
    """A graph for frames like this one through FFmpeg's filters, each step a filter's name and its options."""
    graph = av.filter.Graph()
    base = frame.time_base or Fraction(1, 1000)
    last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
    for name, options in (*steps, ("buffersink", "")):
        step = graph.add(name, options or None)
        last.link_to(step)
        last = step
    graph.configure()
    return graph


def through(graph: av.filter.Graph, frame: av.VideoFrame) -> av.VideoFrame:
    """What a graph of `chain` makes of a frame."""
    graph.push(frame)
    made = graph.pull()
    assert isinstance(made, av.VideoFrame)
    return made


def turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns, 0 to 3, by which the file says how the camera was held."""
    return round(frame.rotation / 90) % 4


class Converter:
    """Frames of any format to upright ones with square pixels, all as large as the first; aspect: of the pixels in the file.

    They become RGB, 8 bits a colour. playable: 4:2:0 in BT.709 instead, an odd last row or column cut off.
    """

    def __init__(self, aspect: Fraction, playable: bool = False) -> None:
        self._aspect, self._playable = aspect, playable
        self._size = ""
        self._key: tuple[object, ...] = ()
        self._graph: av.filter.Graph | None = None

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame converted; its time stays."""
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, turns(frame))
        if self._graph is None or key != self._key:
            self._key, self._graph = key, chain(frame, self._steps(frame))
        return through(self._graph, frame)

    def _steps(self, frame: av.VideoFrame) -> list[tuple[str, str]]:
        self._size = self._size or f"{max(1, round(frame.width * self._aspect))}:{frame.height}"
        # Untagged films: what players assume.
        matrix = MATRICES.get(int(frame.colorspace), "bt709" if frame.height >= HD_HEIGHT else "bt601")
        given = f"{self._size}:in_color_matrix={matrix}:in_range={RANGES.get(int(frame.color_range), 'auto')}"
        turned = [("transpose", "cclock")] * turns(frame)
        if self._playable:
            cut = ("crop", "trunc(iw/2)*2:trunc(ih/2)*2:0:0")
            return [("scale", f"{given}:{TO_BT709}"), *turned, cut, ("format", "pix_fmts=yuv420p")]
        return [("scale", f"{given}:out_range=pc:{SCALE_QUALITY}"), ("format", "pix_fmts=rgb24"), *turned]
