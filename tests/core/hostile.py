"""Small files that unfold to huge ones, or lie about it, for the tests of limits; nothing of them is kept as a file."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image


def gif(width: int, height: int, frames: int, delay: int = 4) -> bytes:
    """A GIF whose frames are one pixel each on a large screen: 23 bytes a frame. delay: of all but the last, in 1/100 s."""
    start = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(3) + b"\xff\xff\xff"
    picture = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return start + (b"!\xf9\x04\x00" + struct.pack("<H", delay) + b"\x00\x00" + picture) * frames + b";"


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zeros(size: int) -> bytes:
    """So many zeros, deflated, without ever holding them."""
    packer, piece = zlib.compressobj(9), bytes(1 << 20)
    parts = [packer.compress(piece[: min(len(piece), size - at)]) for at in range(0, size, len(piece))]
    return b"".join([*parts, packer.flush()])


def png(width: int, height: int, depth: int = 1, kind: int = 0, before: bytes = b"", frames: int = 0) -> bytes:
    """A black PNG. kind: 0 grey, 2 RGB, 6 RGBA; before: chunks in front of the picture; frames: of an APNG, each but the first of
    one pixel."""
    row = 1 + (width * depth * {0: 1, 2: 3, 6: 4}[kind] + 7) // 8
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)), before]
    if frames:
        parts.append(chunk(b"acTL", struct.pack(">II", frames, 0)))
        parts.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 25, 0, 0)))
    parts.append(chunk(b"IDAT", zeros(row * height)))
    pixel = zlib.compress(bytes(1 + (depth * {0: 1, 2: 3, 6: 4}[kind] + 7) // 8))
    for number in range(1, frames):
        parts.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * number - 1, 1, 1, 0, 0, 1, 25, 0, 0)))
        parts.append(chunk(b"fdAT", struct.pack(">I", 2 * number) + pixel))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def webp(width: int, height: int, frames: int) -> bytes:
    """An animated WebP whose frames are one pixel each, lossless, on a large canvas."""
    still = io.BytesIO()
    Image.new("RGB", (1, 1)).save(still, "WEBP", lossless=True)
    pixel = still.getvalue()[12:]
    inside = b"\0\0\0" * 2 + b"\0\0\0" * 2 + struct.pack("<I", 40)[:3] + b"\0" + pixel
    frame = b"ANMF" + struct.pack("<I", len(inside)) + inside
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = (
        b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sides + b"ANIM" + struct.pack("<I", 6) + bytes(6) + frame * frames
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp(width: int, height: int) -> bytes:
    """A run-length encoded BMP of one run."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 2, 0)
    data = b"\x05\x00\x00\x01"
    return b"BM" + struct.pack("<IHHI", 62 + len(data), 0, 0, 62) + head + bytes(4) + b"\xff\xff\xff\0" + data


def tiff(width: int, height: int) -> bytes:
    """A grey TIFF, deflated."""
    data = zeros(width * height)
    tags = ((256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, height))
    tags += ((279, 4, len(data)),)
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + table + bytes(4)


def y4m(width: int, height: int) -> bytes:
    """A raw film that is hardly there."""
    return f"YUV4MPEG2 W{width} H{height} F25:1 C420\nFRAME\n".encode() + bytes(1000)


def jpeg_scans(data: bytes, count: int) -> bytes:
    """A progressive JPEG whose last scan comes `count` times more."""
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def deadly(name: str, work: Sequence[str], function: Callable[[Any], Any], item: Any) -> Any:
    """What takes its process along where one of these functions works on something of that name."""
    if getattr(function, "func", function).__name__ in work and name in repr(item):
        os._exit(9)
    return function(item)
