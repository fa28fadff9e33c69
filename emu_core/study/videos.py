"""Videos as every browser plays them and as no rater can read anything in them.

mp4, H.264, 4:2:0, 8 bit, even sides, the index in front (so that playing starts before the file is complete), without sound,
tags or encoder notes: a prompt, a seed or an encoder's name in the file would tell which system made it. A file that already
has such pictures keeps them bit for bit, only its wrapping is new; any other is encoded once more at crf 12: upright, transparent
parts on white, high dynamic range and wide gamut brought to BT.709, from time 0 on.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ..media import Unreadable, VideoReader
from ..media.decoding import USUAL_RATE, Orientation, opened
from ..media.files import PathLike, check_input, whole_file
from ..media.images import check_sides
from ..media.reading import is_animation
from ..media.spacing import ending
from ..media.writing import BARE, copy_pictures, encode_playable, write_frames

FIXED_TIME = 946_684_800
"""Modification time of every file: a server sends it, and the order in which systems were copied should not show."""


@dataclass(frozen=True)
class Prepared:
    """A video in the study's folder; width and height in pixels; reencoded: its pictures are not those of the source; silenced:
    the source has sound, which raters do not hear."""

    path: Path
    sha256: str
    width: int
    height: int
    frames: int
    seconds: float
    reencoded: bool
    silenced: bool = False


def prepare_video(source: PathLike, target: Path) -> Prepared:
    """Write `source` (a file, or a folder of PNG frames) to `target`, playable everywhere. ValueError: it is no whole video."""
    source = Path(source)
    if not source.is_dir():
        check_input(source, "a video")
    silenced = False
    with whole_file(target) as part, TemporaryDirectory(dir=target.parent) as folder:
        playable = Path(folder, "encoded.mp4")
        if source.is_dir() or is_animation(source):
            video = VideoReader(source, stored=True)
            check_sides(source, video.facts.height, video.facts.width)
            write_frames(playable, enumerate(video), video.facts.fps, BARE)
        else:
            plays, silenced = _look_at(source)
            if plays:
                playable = source
            else:
                encode_playable(source, playable)
        with opened(playable, str(source)) as coded:
            copy_pictures(coded, part)
        frames, width, height, last, length = 0, 0, 0, 0.0, 0.0
        with opened(part, str(source)) as made:  # to its end: a broken file must not be found by a rater
            for shown in made.frames():
                if change := made.changed(shown):
                    raise Unreadable(f"{change}; cut it there or convert it to one size.")
                frames, width, height = frames + 1, shown.width, shown.height
                own = getattr(shown, "duration", None)  # newer PyAV only
                length = float(own * shown.time_base) if own and shown.time_base else float(1 / (made.rate or USUAL_RATE))
                last = max(last, shown.time or 0.0)
            end = ending(last, length, made.exact_length)
        if frames == 0:
            raise Unreadable(f"{source}: expected a video with at least one frame, found none in it; check the file.")
        digest = hashlib.sha256()
        with open(part, "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
        os.utime(part, (FIXED_TIME, FIXED_TIME))
        return Prepared(target, digest.hexdigest(), width, height, frames, end, playable != source, silenced)


def _look_at(source: Path) -> tuple[bool, bool]:
    """Whether browsers play a file's pictures as they are, and whether it has sound."""
    with opened(source) as video:
        context = video.stream.codec_context
        pixels = context.format.name if context.format else ""  # `pix_fmt` kills the process before PyAV 18 where it is unknown
        if video.codec != "h264" or pixels not in ("yuv420p", "yuvj420p") or "mp4" not in video.container.format.name:
            return False, video.sound
        first = next(video.frames(), None)
        upright = first is None or (video.ordinary(first) and video.orientation(first) == Orientation())
        return video.aspect == 1 and upright, video.sound
