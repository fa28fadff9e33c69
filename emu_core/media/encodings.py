"""How pictures are encoded, by file extension and for the uses of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Encoding:
    """FFmpeg's encoder and its options; the pixel format in the file; the container, its options; threads (0: as it likes)."""

    encoder: str
    options: Mapping[str, str]
    pixels: str = "yuv420p"
    container: str = "mp4"
    container_options: Mapping[str, str] = field(default_factory=dict)
    threads: int = 0


_X264 = {"crf": "12", "preset": "medium"}
_VP9 = {"crf": "16", "b:v": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"}
_TAGGED = {"movflags": "+faststart+use_metadata_tags"}  # the index in front: playing starts before the file is complete

PLAYABLE = Encoding("libx264", _X264, container_options=_TAGGED)
"""What every player shows; sides must be even."""
LOSSLESS = Encoding("libx264rgb", {"qp": "0", "preset": "veryfast"}, "rgb24", container_options=_TAGGED)
BARE = Encoding("libx264", _X264)
"""As PLAYABLE, but to be copied once more: no index in front, no tags."""
SAME_BYTES = Encoding(
    "libx264", {"crf": "16", "preset": "medium", "g": "48"}, container_options={"fflags": "+bitexact"}, threads=1
)
"""The same pictures make the same file, whatever the machine's number of cores; a key frame every 48."""
ENCODINGS = {
    ".mp4": PLAYABLE,
    ".mkv": Encoding("libx264", _X264, container="matroska"),
    ".webm": Encoding("libvpx-vp9", _VP9, container="webm"),
}
