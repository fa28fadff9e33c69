"""Videos to files: mp4, mkv, webm, gif, webp or a folder of PNG frames."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .conversion import SCALE_QUALITY, conversion
from .files import FOLDER_SETTINGS, VIDEO_ENCODERS, PathLike, check_output, means_folder, whole_file, whole_folder
from .images import exif_comment, save_picture, to_bytes
from .tags import COMMENT_KEY, Clip, check_metadata, pack, plain_tags

BT709 = 1
LIMITED_RANGE = 1
MUXERS = {".mp4": "mp4", ".mkv": "matroska", ".webm": "webm"}
ENCODER_OPTIONS = {
    "libx264": {"crf": "12", "preset": "medium"},
    "libvpx-vp9": {"crf": "16", "b:v": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"},
}
MIN_FPS, MAX_FPS = 0.1, 1000.0
GIF_COLOURS = 255
GIF_SHORTEST_DELAY = 2
PALETTE_SAMPLES = 50_000
log = logging.getLogger(__name__)


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
    tags = check_metadata(metadata)
    clip = Clip(frames.shape[0], float(fps))
    pixels = to_bytes(frames)
    if means_folder(path):
        with whole_folder(path) as folder:
            _write_folder(folder, pixels, clip, tags)
        return
    extension = Path(path).suffix.lower()
    with whole_file(path) as part:
        if extension == ".gif":
            _write_gif(part, pixels, clip, tags)
        elif extension == ".webp":
            _write_webp(part, pixels, clip, tags)
        else:
            _encode(part, extension, pixels, clip, tags)


def _check_frames(frames: Tensor, fps: float) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape or not frames.is_floating_point():
        raise ValueError(
            f"frames: expected a float tensor (frames, height, width, 3) with at least one frame, "
            f"found {tuple(frames.shape)} of {frames.dtype}; convert it."
        )
    if not bool(torch.isfinite(frames).all()):
        raise ValueError("frames: expected finite numbers in 0..1, found NaN or infinity; check the model's precision.")
    if not (math.isfinite(fps) and MIN_FPS <= fps <= MAX_FPS):
        raise ValueError(f"fps: expected {MIN_FPS} to {MAX_FPS:.0f} frames per second, found {fps}; give another rate.")


def _write_folder(folder: Path, pixels: np.ndarray, clip: Clip, tags: Mapping[str, str]) -> None:
    for index, frame in enumerate(pixels):
        save_picture(folder / f"{index:05d}.png", ".png", frame, tags)
    settings = {"fps": clip.fps, "frames": clip.frames, "metadata": dict(tags)}
    (folder / FOLDER_SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _delays(clip: Clip, unit: float, shortest: int) -> list[int]:
    """Durations of the frames in units of so many seconds, rounded so that the errors do not add up."""
    edges = [round(index / clip.fps / unit) for index in range(clip.frames + 1)]
    return [max(shortest, after - before) for before, after in pairwise(edges)]


def _write_webp(file: Path, pixels: np.ndarray, clip: Clip, tags: Mapping[str, str]) -> None:
    first, *others = (Image.fromarray(frame) for frame in pixels)
    first.save(
        file,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=_delays(clip, 1 / 1000, 1),
        loop=0,
        lossless=True,
        exif=exif_comment(pack(tags, clip)),
    )


def _write_gif(file: Path, pixels: np.ndarray, clip: Clip, tags: Mapping[str, str]) -> None:
    fastest = 100 // GIF_SHORTEST_DELAY
    if clip.fps > fastest:
        log.warning("GIF shows at most %d frames per second; the clip of %g will look slower.", fastest, clip.fps)
    first, *others = _few_colours(pixels)
    milliseconds = [10 * delay for delay in _delays(clip, 1 / 100, GIF_SHORTEST_DELAY)]
    first.save(file, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0, comment=pack(tags, clip).encode())


def _few_colours(pixels: np.ndarray) -> list[Image.Image]:
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


def _encode(file: Path, extension: str, pixels: np.ndarray, clip: Clip, tags: Mapping[str, str]) -> None:
    encoder = VIDEO_ENCODERS[extension]
    height, width = pixels.shape[1:3]
    odd_h264 = encoder == "libx264" and (height % 2 or width % 2)
    if odd_h264:
        log.warning("%d x %d has an odd side: written as H.264 4:4:4, which some players cannot show.", width, height)
    # 1001 is the denominator of the television rates (24000/1001, 30000/1001).
    rate = Fraction(clip.fps).limit_denominator(1001)
    movflags = {"movflags": "+faststart+use_metadata_tags"} if extension == ".mp4" else {}
    with av.open(str(file), "w", format=MUXERS[extension], options=movflags) as container:
        # After the plain tags: a caller's own "Comment" must not take the place of the one that read_video reads.
        for key, value in {**plain_tags(tags), COMMENT_KEY: pack(tags, clip)}.items():
            container.metadata[key] = value
        stream = container.add_stream(encoder, rate=rate, options=dict(ENCODER_OPTIONS[encoder]))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if odd_h264 else "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        for frame in _video_frames(pixels, stream.pix_fmt, rate):
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _video_frames(pixels: np.ndarray, pixel_format: str, rate: Fraction) -> Iterator[av.VideoFrame]:
    """Frames (H, W, 3) uint8 as the encoder takes them, numbered in steps of 1 / rate."""
    graph = conversion(
        pixels.shape[2], pixels.shape[1], "rgb24", f"out_color_matrix=bt709:out_range=tv:{SCALE_QUALITY}", pixel_format, 1 / rate
    )
    for index, rgb in enumerate(pixels):
        graph.push(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"))
        frame = graph.pull()
        assert isinstance(frame, av.VideoFrame)
        frame.pts, frame.time_base = index, 1 / rate
        yield frame
