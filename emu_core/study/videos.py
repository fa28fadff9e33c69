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
from pathlib import Path

from ..media import VideoReader, VideoWriter
from ..media.conversion import turns
from ..media.decoding import USUAL_RATE, Decoder, opened
from ..media.encodings import BARE
from ..media.files import PathLike, Unreadable, check_input, whole_file
from ..media.reading import is_animation
from ..media.rewriting import copy_pictures, encode_playable

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
    frames = source.is_dir()
    if not frames:
        check_input(source, "a video")
        frames = is_animation(source)
    with whole_file(target) as part:
        reencoded = frames or not _copied(source, part)
        if reencoded:
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                encoded = Path(folder, "encoded.mp4")
                (_from_frames if frames else encode_playable)(source, encoded)
                with opened(encoded, str(source)) as video:
                    copy_pictures(video, part)
        prepared = _checked(source, part, target, reencoded)
        os.utime(part, (FIXED_TIME, FIXED_TIME))
    return prepared


def _copied(source: Path, target: Path) -> bool:
    """Copy the pictures to `target` where browsers play them as they are. Returns whether they do."""
    with opened(source) as video:
        if not _plays_everywhere(video):
            return False
        copy_pictures(video, target)
        return True


def _plays_everywhere(video: Decoder) -> bool:
    context = video.stream.codec_context
    pixels = context.format.name if context.format else ""  # `pix_fmt` kills the process before PyAV 18 where it is unknown
    if video.codec != "h264" or pixels not in ("yuv420p", "yuvj420p") or "mp4" not in video.container.format.name:
        return False
    first = next(video.frames(), None)
    video.container.seek(0)
    return video.aspect == 1 and (first is None or not turns(first))


def _from_frames(source: Path, target: Path) -> None:
    """Write an animation or a folder of frames, an odd last row or column cut off: players show 4:2:0 only."""
    video = VideoReader(source)
    height, width = video.facts.height // 2 * 2, video.facts.width // 2 * 2
    with VideoWriter(target, video.facts.fps, BARE) as writer:
        for frame in video:
            writer.add(frame[:height, :width])


def _checked(source: Path, file: Path, target: Path, reencoded: bool) -> Prepared:
    """What was made, by decoding everything: a broken file must not be found by a rater."""
    with opened(file, str(source)) as video:
        usual = float(1 / (video.rate or USUAL_RATE))
        frames, width, height, end = 0, 0, 0, 0.0
        for frame in video.frames():
            frames, width, height = frames + 1, frame.width, frame.height
            own = getattr(frame, "duration", None)  # newer PyAV only
            length = float(own * frame.time_base) if own and frame.time_base else usual
            end = max(end, (frame.time or 0.0) + length)
    if frames == 0:
        raise Unreadable(f"{source}: expected a video with at least one frame, found none in it; check the file.")
    return Prepared(target, _sha256(file), width, height, frames, end, reencoded)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
