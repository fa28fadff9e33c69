"""Pixel formats and colour matrices, through libavfilter: VideoFrame.reformat of older PyAV mixes up BT.601 and BT.709."""

from fractions import Fraction
from itertools import pairwise

import av

SCALE_QUALITY = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


def conversion(width: int, height: int, source: str, scale: str, wanted: str, time_base: Fraction) -> av.filter.Graph:
    """A filter graph from one pixel format (and size) to another; scale holds the options of FFmpeg's scale filter."""
    graph = av.filter.Graph()
    entry = graph.add_buffer(width=width, height=height, format=av.VideoFormat(source), time_base=time_base)
    steps = [entry, graph.add("scale", scale), graph.add("format", f"pix_fmts={wanted}"), graph.add("buffersink")]
    for before, after in pairwise(steps):
        before.link_to(after)
    graph.configure()
    return graph
