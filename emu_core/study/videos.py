"""Videos as every browser plays them and as no rater can read anything in them.

mp4, H.264, 4:2:0, 8 bit, even sides, the index in front (so that playing starts before the file is complete), without sound,
tags or encoder notes: a prompt, a seed or an encoder's name in the file would tell which system made it. A file that already
has such pictures keeps them bit for bit, only its wrapping is new; any other is encoded once more at crf 12.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
from av.bitstream import BitStreamFilterContext

PathLike: TypeAlias = "str | os.PathLike[str]"

STILL_FORMATS = (".gif", ".webp")
"""Read by emu_core.media: not every FFmpeg decodes animated WebP, and GIF has its own rules about time."""
ENCODER = {"crf": "12", "preset": "medium"}
NOTES = "filter_units=remove_types=6"  # SEI units: x264 writes its name and settings there
OUTPUT = {"movflags": "+faststart", "fflags": "+bitexact"}
FIXED_TIME = 946_684_800
"""Modification time of every file: a server sends it, and the order in which systems were copied should not show."""


@dataclass(frozen=True)
class Prepared:
    """A video in the study's folder; width and height in pixels; reencoded: its pictures are not those of the source."""

    path: Path
    sha256: str
    width: int
    height: int
    frames: int
    seconds: float
    reencoded: bool


def prepare_video(source: PathLike, target: Path) -> Prepared:
    """Write `source` (a file, or a folder of PNG frames) to `target`, playable everywhere. ValueError: it is no whole video."""
    source = Path(source)
    part = target.with_name(f".{target.name}.part")
    try:
        if source.is_dir() or source.suffix.lower() in STILL_FORMATS:
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                moving = Path(folder) / "frames.mp4"
                _from_frames(source, moving)
                _write(moving, part)
            reencoded = True
        else:
            reencoded = _write(source, part)
        width, height, frames, seconds = _decode(source, part)
        os.utime(part, (FIXED_TIME, FIXED_TIME))
        digest = _sha256(part)
        os.replace(part, target)
    except (av.FFmpegError, OSError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        raise ValueError(
            f"{source}: expected a video that can be read to its end, found {reason!r}; check or convert it."
        ) from problem
    finally:
        part.unlink(missing_ok=True)
    return Prepared(target, digest, width, height, frames, seconds, reencoded)


def _from_frames(source: Path, target: Path) -> None:
    """Write frames with emu_core.media, an odd last row or column cut off: players show 4:2:0 only."""
    from ..media import read_video, write_video

    video = read_video(source)
    height, width = video.frames.shape[1:3]
    write_video(target, video.frames[:, : height - height % 2, : width - width % 2], video.fps)


def _open(source: Path) -> av.container.InputContainer:
    # Only local files: a playlist could otherwise send the reader to any address.
    return av.open(str(source.absolute()), options={"protocol_whitelist": "file"}, metadata_errors="replace")


def _stream(source: Path, container: av.container.InputContainer) -> av.VideoStream:
    pictures = container.format.name in ("image2", "tty") or container.format.name.endswith("_pipe")
    if pictures or not container.streams.video:
        raise ValueError(f"{source}: expected a video, found a file without one ({container.format.name}); give a video.")
    return container.streams.video[0]


def _write(source: Path, target: Path) -> bool:
    """Copy the pictures where browsers play them as they are, else encode them. Returns whether they were encoded."""
    with _open(source) as container:
        stream = _stream(source, container)
        context = stream.codec_context
        pixels = context.format.name if context.format else ""  # `pix_fmt` kills the process before PyAV 18 where it is unknown
        playable = context.name == "h264" and pixels in ("yuv420p", "yuvj420p") and "mp4" in container.format.name
        square = (stream.sample_aspect_ratio or Fraction(1)) == 1
        turned = False
        if playable and square:
            first = next(iter(container.decode(stream)), None)
            turned = first is not None and first.rotation != 0
            container.seek(0)
        if playable and square and not turned:
            _copy(container, stream, target)
            return False
    with _open(source) as container:
        _encode(source, container, _stream(source, container), target)
    return True


def _copy(container: av.container.InputContainer, stream: av.VideoStream, target: Path) -> None:
    with av.open(str(target), "w", format="mp4", options=OUTPUT) as output:
        copied = output.add_stream_from_template(stream)
        copied.metadata.clear()
        strip = BitStreamFilterContext(NOTES, stream, copied)
        for packet in container.demux(stream):
            if packet.dts is None:
                continue
            for cleaned in strip.filter(packet):
                cleaned.stream = copied
                output.mux(cleaned)
        for cleaned in strip.filter(None):
            cleaned.stream = copied
            output.mux(cleaned)


def _encode(source: Path, container: av.container.InputContainer, stream: av.VideoStream, target: Path) -> None:
    """One frame in memory at a time; times stay as they are."""
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    graph, turns, encoded, last = None, 0, None, -1
    stream.thread_type = "AUTO"
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        rough = Path(folder) / "encoded.mp4"
        with av.open(str(rough), "w", format="mp4") as output:
            for frame in container.decode(stream):
                if graph is None:
                    turns = round(frame.rotation / 90) % 4
                    graph = _graph(frame, stream, turns)
                graph.push(frame)
                picture = graph.pull()
                assert isinstance(picture, av.VideoFrame)
                if encoded is None:
                    encoded = output.add_stream("libx264", rate=rate, options=dict(ENCODER))
                    encoded.width, encoded.height, encoded.pix_fmt = picture.width, picture.height, "yuv420p"
                    context = encoded.codec_context
                    context.time_base = Fraction(1, 90_000)
                    context.colorspace = context.color_primaries = context.color_trc = 1
                    context.color_range = 1
                time = frame.time if frame.time is not None else (last + 1) / 90_000 + float(1 / rate)
                last = max(last + 1, round(time * 90_000))  # encoders need times that grow
                picture.pts, picture.time_base = last, Fraction(1, 90_000)
                output.mux(encoded.encode(picture))
            if encoded is None:
                raise ValueError(f"{source}: expected a video with at least one frame, found none in it; check the file.")
            output.mux(encoded.encode())
        with _open(rough) as made:
            _copy(made, made.streams.video[0], target)


def _graph(frame: av.VideoFrame, stream: av.VideoStream, turns: int) -> av.filter.Graph:
    """Square pixels, upright, even sides, BT.709."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width = max(2, round(frame.width * aspect))
    graph = av.filter.Graph()
    matrix = "auto" if int(frame.colorspace) != 2 else ("bt709" if frame.height >= 720 else "bt601")  # untagged: as players do
    steps = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
        ),
        graph.add("scale", f"{width}:{frame.height}:in_color_matrix={matrix}:out_color_matrix=bt709:out_range=tv:"
                  "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"),
        *(graph.add("transpose", "cclock") for _ in range(turns)),
        graph.add("crop", "trunc(iw/2)*2:trunc(ih/2)*2:0:0"),
        graph.add("format", "pix_fmts=yuv420p"),
        graph.add("buffersink"),
    ]  # fmt: skip
    for before, after in zip(steps, steps[1:], strict=False):
        before.link_to(after)
    graph.configure()
    return graph


def _decode(source: Path, file: Path) -> tuple[int, int, int, float]:
    """Width, height, frames and seconds, by decoding everything: a broken file must not be found by a rater."""
    with _open(file) as container:
        stream = _stream(source, container)
        usual = float(1 / (stream.average_rate or stream.guessed_rate or 25))
        frames, width, height, end = 0, 0, 0, 0.0
        for frame in container.decode(stream):
            frames, width, height = frames + 1, frame.width, frame.height
            own = getattr(frame, "duration", None)  # newer PyAV only
            length = float(own * frame.time_base) if own and frame.time_base else usual
            end = max(end, (frame.time or 0.0) + length)
    if frames == 0:
        raise ValueError(f"{source}: expected a video with at least one frame, found none in it; check the file.")
    return width, height, frames, end


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
