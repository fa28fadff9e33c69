"""The budget of a file that is decoded: what its header claims, and each picture that comes out, against `limits`."""

from __future__ import annotations

import errno
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn

from PIL import Image

from ..limits import UNFOLDED, how, limits
from .files import Unreadable

FAR_OVER = 2
PNG = b"\x89PNG\r\n\x1a\n"
PACKED = (b"zTXt", b"iTXt", b"iCCP")
"""Chunks of a PNG which FFmpeg unpacks however large they become: a thousand times as large."""
MOST_PACKED = 256 << 10
PROGRAMS = ("EPS", "WMF", "EMF")
"""Kinds of pictures for which Pillow would start another program."""


class Budget:
    """name: for messages; size: of the file in bytes."""

    def __init__(self, name: str | os.PathLike[str], size: int) -> None:
        self.name, self.size, self.limits = name, size, limits()
        self.most = max(self.limits.bytes, UNFOLDED * size)
        """Bytes of pictures, 3 a pixel, to which the file may unfold."""
        self._bytes = self._frames = 0

    def claim(self, width: int, height: int, frames: int = 1, seconds: float = 0.0) -> None:
        """Refuse what the header says, or what is going to be shown, where it is over a limit."""
        if width * height > self.limits.pixels:
            found = f"{width} x {height} ({width * height:,})"
            self.refuse("pixels", f"pictures of at most {self.limits.pixels:,} pixels", found)
        if frames > self.limits.frames:
            self.refuse("frames", f"at most {self.limits.frames:,} frames", f"{frames:,}")
        if seconds > self.limits.seconds:
            length = f"{seconds:,.0f} s" if math.isfinite(seconds) else "no end"
            self.refuse("seconds", f"at most {self.limits.seconds:,} s", length)
        if (unfolded := 3 * width * height * frames) > self.most:
            self._refuse_bytes(f"{frames:,} frames of {width} x {height}, {unfolded:,} bytes")

    def add(self, width: int, height: int) -> None:
        """Count a picture that was decoded, and refuse it where it is one too many, or too large."""
        self._frames += 1
        self._bytes += 3 * width * height
        if self._bytes > self.most or self._frames > self.limits.frames or width * height > self.limits.pixels:
            self.claim(width, height)
            if self._frames > self.limits.frames:
                self.refuse("frames", f"at most {self.limits.frames:,} frames", "more")
            self._refuse_bytes("more")

    def until(self, seconds: float) -> None:
        """Refuse a picture that comes so late."""
        if seconds > self.limits.seconds:
            self.claim(0, 0, 0, seconds)

    def _refuse_bytes(self, found: str) -> None:
        self.refuse("bytes", f"a file of {self.size:,} bytes to unfold to at most {self.most:,}", found)

    def refuse(self, limit: str, expected: str, found: str) -> NoReturn:
        """Raise Unreadable."""
        raise Unreadable(f"{self.name}: expected {expected}, found {found}; make it smaller or, {how(limit)}.")


def size_of(source: Any) -> int:
    """Bytes of a path, bytes, or an open file, whose place stays."""
    if isinstance(source, str | os.PathLike):
        return os.path.getsize(source)
    if isinstance(source, bytes):
        return len(source)
    place = source.seek(0, io.SEEK_CUR)
    size = source.seek(0, io.SEEK_END)
    source.seek(place)
    return int(size)


def for_ffmpeg() -> dict[str, str]:
    """Options of a decoder: it refuses much larger pictures before it takes memory for them. It does not say why, so that those
    which are a little over the limit are let through, and refused with a sentence as soon as they are there."""
    return {"max_pixels": str(min(FAR_OVER * limits().pixels, 2**31 - 1))}


@contextmanager
def picture_of(file: Any, name: str | os.PathLike[str]) -> Iterator[tuple[Image.Image, Budget]]:
    """An open picture whose header fits its budget, by Pillow, from a path or an open file. Raises Unreadable where it does not,
    or for a kind that is read by starting other programs."""
    # What Pillow refuses itself is raised only where the limit is; below it, other programs in this process keep their own.
    if Image.MAX_IMAGE_PIXELS is not None and limits().pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limits().pixels
    budget = Budget(name, size_of(file))
    try:
        with Image.open(file) as picture:
            if picture.format in PROGRAMS:
                found = f"{picture.format}, which another program would have to draw"
                raise Unreadable(f"{name}: expected a picture (PNG, JPEG, WebP, TIFF, ...), found {found}; convert it to PNG.")
            budget.claim(picture.width, picture.height)
            yield picture, budget
    except Image.DecompressionBombError as problem:
        budget.refuse(
            "pixels", f"pictures of at most {budget.limits.pixels:,} pixels", " ".join(str(problem).split()).rstrip(".")
        )


def too_large_perhaps(problem: Exception) -> str:
    """For the sentence of a decoder that refused: it does not say that `max_pixels` was why."""
    if getattr(problem, "errno", None) != errno.EINVAL:
        return ""
    return f", as are pictures of more than {limits().pixels:,} pixels: {how('pixels')}"


def check_chunks(file: BinaryIO, name: str | os.PathLike[str]) -> None:
    """Refuse an (animated) PNG with more packed text than anybody writes. The place in the file is its beginning again."""
    packed, file_is_png = 0, file.read(len(PNG)) == PNG
    while file_is_png and len(head := file.read(8)) == 8:
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        packed += size * (kind in PACKED)
        if packed > MOST_PACKED:
            found = f"{packed:,}; write it without them"
            raise Unreadable(f"{name}: expected at most {MOST_PACKED:,} bytes of packed text and profiles, found {found}.")
        file.seek(size + 4, io.SEEK_CUR)
    file.seek(0)
