"""What travels inside a file beside the pictures: prompt, seed and settings, as one JSON comment.

The JSON holds the caller's strings and, under TIMING_KEY, the number of frames and the frame rate: GIF rounds delays to
1/100 s and WebP merges equal frames, so that neither can be trusted to give them back.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..errors import UserError
from ..limits import json_of, limits

TIMING_KEY = "_clip"
COMMENT_KEY = "comment"
EXIF_DESCRIPTION = 0x010E
FOLDER_SETTINGS = "metadata.json"


@dataclass(frozen=True)
class Timing:
    """The number of frames and the frame rate (frames per second) that a file was written with."""

    frames: int
    fps: float


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """A copy of the caller's metadata; ValueError unless it maps non-empty strings to strings."""
    checked = dict(metadata or {})
    for key, value in checked.items():
        if not isinstance(key, str) or not isinstance(value, str) or not key or key == TIMING_KEY:
            expected = f"metadata: expected names and values that are strings (no name empty or {TIMING_KEY!r})"
            raise UserError(f"{expected}, found {key!r}: {value!r}; convert it with str() or json.dumps().")
    return checked


def pack(metadata: Mapping[str, str], timing: Timing | None = None) -> str:
    """One line of JSON, ASCII only: the one form that every container keeps unchanged."""
    return json.dumps({**metadata, **({} if timing is None else {TIMING_KEY: asdict(timing)})})


def unpack(comment: str) -> tuple[dict[str, str], Timing] | None:
    """The metadata and timing of a comment that pack wrote; None for anything else."""
    try:
        content = json_of(comment)
        timing = Timing(int(content[TIMING_KEY]["frames"]), float(content[TIMING_KEY]["fps"]))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    if not 1 <= timing.frames <= limits().frames or not 0 < timing.fps < float("inf"):
        return None
    return {key: value for key, value in content.items() if isinstance(value, str)}, timing


def plain_tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """The entries that can also stand as tags of their own, for other programs: short ASCII names, no NUL in the value."""
    plain = {key: value for key, value in metadata.items() if key.isascii() and key.isprintable() and "\0" not in value}
    return {key: value for key, value in plain.items() if key == key.strip() and len(key) < 80 and key.lower() != COMMENT_KEY}


def video_tags(metadata: Mapping[str, str], timing: Timing) -> dict[str, str]:
    """The tags of a video file. The comment comes last: a caller's own "Comment" must not take its place."""
    return {**plain_tags(metadata), COMMENT_KEY: pack(metadata, timing)}
