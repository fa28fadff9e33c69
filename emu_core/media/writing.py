"""Videos to files: mp4, mkv, webm, gif, webp or a folder of PNG frames."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .conversion import TO_BT709, chain, through
from .encodings import ENCODINGS, PLAYABLE, Encoding
from .files import FOLDER_SETTINGS, PathLike, check_output, means_folder, whole_file, whole_folder
from .images import exif_comment, save_picture, to_bytes
from .tags import Timing, check_metadata, pack, video_tags

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]
BT709 = 1
LIMITED_RANGE = 1
MOST_DENOMINATOR = 1001
"""That of the television rates (24000/1001, 30000/1001)."""
MIN_FPS, MAX_FPS = 0.1, 1000.0
GIF_COLOURS = 255
GIF_SHORTEST_DELAY = 2
PALETTE_SAMPLES = 50_000
log = logging.getLogger(__name__)


class VideoWriter:
    """Writes frames to a video of one stream, one after the other, inside a `with`; the first frame's size is that of all.

    target: a path or an open file. rate: frames a second. tags: of the file. base: seconds a tick, where frames come with times
    of their own; else they lie 1 / rate apart. Pictures in YUV are written as BT.709 in limited range. count: frames written.
    """

    def __init__(
        self,
        target: PathLike | BinaryIO,
        rate: float | Fraction,
        encoding: Encoding = PLAYABLE,
        tags: Mapping[str, str] | None = None,
        base: Fraction | None = None,
    ) -> None:
        self._rate = rate if isinstance(rate, Fraction) else Fraction(rate).limit_denominator(MOST_DENOMINATOR)
        self._encoding, self._base, self.count = encoding, base, 0
        self._stream: Any = None
        self._graph: av.filter.Graph | None = None
        file: Any = os.fspath(target) if isinstance(target, str | os.PathLike) else target
        self._container = av.open(file, "w", format=encoding.container, options=dict(encoding.container_options))
        for key, value in (tags or {}).items():
            self._container.metadata[key] = value

    def __enter__(self) -> VideoWriter:
        return self

    def add(self, picture: Pixels | av.VideoFrame, moment: int | None = None) -> None:
        """Write (H, W, 3) uint8 RGB, or a frame that is already in the encoding's pixel format; moment: its time in ticks."""
        frame: Any = picture
        if isinstance(picture, np.ndarray):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        if self._stream is None:
            self._start(frame)
        if self._graph is not None:
            frame = through(self._graph, frame)
        frame.pts, frame.time_base = self.count if moment is None else moment, self._base or 1 / self._rate
        self.count += 1
        self._container.mux(self._stream.encode(frame))

    def _start(self, frame: av.VideoFrame) -> None:
        encoding = self._encoding
        self._stream = self._container.add_stream(encoding.encoder, rate=self._rate, options=dict(encoding.options))
        self._stream.width, self._stream.height, self._stream.pix_fmt = frame.width, frame.height, encoding.pixels
        context = self._stream.codec_context
        if encoding.pixels != "rgb24":
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED_RANGE
        if self._base is not None:
            context.time_base = self._base
        if encoding.threads:
            context.thread_count = encoding.threads
        if frame.format.name != encoding.pixels:
            self._graph = chain(frame, [("scale", TO_BT709), ("format", f"pix_fmts={encoding.pixels}")])

    def __exit__(self, kind: object, *others: object) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


def write_video(path: PathLike, frames: Tensor, fps: float, metadata: Mapping[str, str] | None = None) -> None:
    """Write frames (f, H, W, 3), float 0..1, at fps frames per second; the path is whole or untouched afterwards.

    By extension: .mp4 and .mkv (H.264, crf 12), .webm (VP9), .gif, .webp (lossless); without an extension, or with a "/"
    at the end, a folder of PNG frames with metadata.json. Videos are BT.709, 4:2:0; H.264 with an odd side is written as
    4:4:4 instead, which keeps every pixel, though some players (Safari, phones) show only 4:2:0.
    metadata: strings that read_video gives back; in mp4, mkv and webm also as tags of their own.
    Raises ValueError as check_output does, and for a wrong shape or rate, or a failure on the way (disk full).
    """
    check_output(path, "video")
    _check_frames(frames, fps)
    tags, timing, pixels = check_metadata(metadata), Timing(frames.shape[0], float(fps)), to_bytes(frames)
    if means_folder(path):
        with whole_folder(path) as folder:
            _write_folder(folder, pixels, timing, tags)
        return
    extension = Path(path).suffix.lower()
    with whole_file(path) as part:
        if extension == ".gif":
            _write_gif(part, pixels, timing, tags)
        elif extension == ".webp":
            _write_webp(part, pixels, timing, tags)
        else:
            with VideoWriter(part, timing.fps, _encoding(extension, pixels), video_tags(tags, timing)) as writer:
                for frame in pixels:
                    writer.add(frame)


def _check_frames(frames: Tensor, fps: float) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape or not frames.is_floating_point():
        raise ValueError(
            f"frames: expected a float tensor (frames, height, width, 3) with at least one frame, "
            f"found {tuple(frames.shape)} of {frames.dtype}; convert it."
        )
    if not bool(frames.isfinite().all()):
        raise ValueError("frames: expected finite numbers in 0..1, found NaN or infinity; check the model's precision.")
    if not (math.isfinite(fps) and MIN_FPS <= fps <= MAX_FPS):
        raise ValueError(f"fps: expected {MIN_FPS} to {MAX_FPS:.0f} frames per second, found {fps}; give another rate.")


def _encoding(extension: str, pixels: Pixels) -> Encoding:
    encoding, (height, width) = ENCODINGS[extension], pixels.shape[1:3]
    if encoding.encoder == "libx264" and (height % 2 or width % 2):
        log.warning("%d x %d has an odd side: written as H.264 4:4:4, which some players cannot show.", width, height)
        return replace(encoding, pixels="yuv444p")
    return encoding


def _write_folder(folder: Path, pixels: Pixels, timing: Timing, tags: Mapping[str, str]) -> None:
    for index, frame in enumerate(pixels):
        save_picture(folder / f"{index:05d}.png", ".png", frame, tags)
    settings = {"fps": timing.fps, "frames": timing.frames, "metadata": dict(tags)}
    (folder / FOLDER_SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _delays(timing: Timing, unit: float, shortest: int) -> list[int]:
    """Durations of the frames in units of so many seconds, rounded so that the errors do not add up."""
    edges = [round(index / timing.fps / unit) for index in range(timing.frames + 1)]
    return [max(shortest, after - before) for before, after in pairwise(edges)]


def _write_webp(file: Path, pixels: Pixels, timing: Timing, tags: Mapping[str, str]) -> None:
    first, *others = (Image.fromarray(frame) for frame in pixels)
    moving: dict[str, Any] = {"save_all": True, "append_images": others, "duration": _delays(timing, 1 / 1000, 1), "loop": 0}
    first.save(file, "WEBP", lossless=True, exif=exif_comment(pack(tags, timing)), **moving)


def _write_gif(file: Path, pixels: Pixels, timing: Timing, tags: Mapping[str, str]) -> None:
    fastest = 100 // GIF_SHORTEST_DELAY
    if timing.fps > fastest:
        log.warning("GIF shows at most %d frames per second; the clip of %g will look slower.", fastest, timing.fps)
    first, *others = _few_colours(pixels)
    delays = [10 * delay for delay in _delays(timing, 1 / 100, GIF_SHORTEST_DELAY)]
    moving: dict[str, Any] = {"save_all": True, "append_images": others, "duration": delays, "loop": 0}
    first.save(file, "GIF", comment=pack(tags, timing).encode(), **moving)


def _few_colours(pixels: Pixels) -> list[Image.Image]:
    """Palette pictures with one palette for all frames: with one each, still parts would flicker."""
    codes = (pixels.astype(np.uint32) << np.array([16, 8, 0], dtype=np.uint32)).sum(axis=-1, dtype=np.uint32)
    used = np.zeros(1 << 24, dtype=bool)
    used[codes.ravel()] = True
    colours = np.flatnonzero(used)
    if len(colours) <= GIF_COLOURS:
        index_of = np.zeros(1 << 24, dtype=np.uint8)
        index_of[colours] = np.arange(len(colours))
        palette = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1).astype(np.uint8)
        pictures = [Image.fromarray(index_of[frame]) for frame in codes]
        for picture in pictures:
            picture.putpalette(palette.tobytes())
        return pictures
    # Drawn at random: with a fixed step, whole columns would never be seen.
    drawn = np.random.default_rng(0).integers(0, codes.size, min(codes.size, PALETTE_SAMPLES))
    sample = Image.fromarray(pixels.reshape(-1, 3)[None, drawn])
    shared = sample.quantize(GIF_COLOURS, Image.Quantize.MAXCOVERAGE)
    return [Image.fromarray(frame).quantize(palette=shared, dither=Image.Dither.FLOYDSTEINBERG) for frame in pixels]
