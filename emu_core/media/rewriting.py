"""Videos made of videos, one picture in memory: their pictures copied as they are coded, or encoded anew at their times."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
from av.bitstream import BitStreamFilterContext

from .conversion import Converter
from .decoding import USUAL_RATE, Decoder, Source, opened
from .encodings import BARE, SAME_BYTES
from .files import PathLike, Unreadable
from .writing import VideoWriter

UNTRACED = {"movflags": "+faststart", "fflags": "+bitexact"}
NOTES = "filter_units=remove_types=6"  # SEI units: x264 writes its name and settings there
FINE = Fraction(1, 90_000)


def copy_pictures(video: Decoder, target: PathLike) -> None:
    """Write a video's coded pictures into an mp4 as they are, without sound, tags or the encoder's notes; they must be H.264."""
    with av.open(str(target), "w", format="mp4", options=dict(UNTRACED)) as output:
        copied = output.add_stream_from_template(video.stream)
        copied.metadata.clear()
        strip = BitStreamFilterContext(NOTES, video.stream, copied)
        for packet in video.container.demux(video.stream):
            if packet.dts is None:
                continue
            for cleaned in strip.filter(packet):
                cleaned.stream = copied
                output.mux(cleaned)
        for cleaned in strip.filter(None):
            cleaned.stream = copied
            output.mux(cleaned)


def encode_playable(source: Path, target: Path) -> None:
    """Encode a video once more, as H.264 that every player shows, its frames at the times they have. Raises Unreadable."""
    with opened(source) as video, VideoWriter(target, video.rate or USUAL_RATE, BARE, base=FINE) as writer:
        convert = Converter(video.aspect, playable=True)
        for frame, moment in video.timed(FINE, from_zero=False):
            writer.add(convert(frame), moment)
    if not writer.count:
        raise Unreadable(f"{source}: expected a video with at least one frame, found none in it; check the file.")


def transcode(source: Source, target: BinaryIO, name: str = "") -> None:
    """Write any video as H.264 mp4 (crf 16, BT.709, 4:2:0), its frames at their times from 0 on, without sound.

    Frames come upright, with square pixels; odd sides lose a line, as 4:2:0 needs. The same input gives the same bytes.
    Raises Unreadable as `opened` does.
    """
    with (
        opened(source, name, threads="NONE") as video,
        VideoWriter(target, video.rate or USUAL_RATE, SAME_BYTES, base=video.base) as writer,
    ):
        for frame, moment in video.timed():
            pixels = video.pixels(frame)
            writer.add(pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2], moment)
