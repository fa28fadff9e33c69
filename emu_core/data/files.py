"""Bytes in files: a part of a file, the members of a tar."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

BLOCK, RECORD = 512, 10_240


class Segment(io.RawIOBase):
    """A part of an open file, as a file of its own. Position reads only, so that several can share a handle."""

    def __init__(self, handle: BinaryIO, offset: int, size: int, close: bool = False) -> None:
        self._handle, self._offset, self._size, self._position, self._close = handle, offset, size, 0, close

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._position))
        data = read_at(self._handle, self._offset + self._position, wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if self._close and not self.closed:
            self._handle.close()
        super().close()


def read_at(handle: BinaryIO, offset: int, size: int) -> bytes:
    """Bytes of an open file, without moving its position where the system allows."""
    if hasattr(os, "pread"):
        parts = []
        while size > 0 and (part := os.pread(handle.fileno(), min(size, 1 << 30), offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)
    handle.seek(offset)
    return handle.read(size)


@dataclass(frozen=True)
class Place:
    """Where bytes lie: a file, or `size` bytes at `offset` of one."""

    path: str
    offset: int = 0
    size: int | None = None

    def open(self) -> BinaryIO:
        handle = open(self.path, "rb")  # noqa: SIM115 - the caller's
        return handle if self.size is None else cast(BinaryIO, Segment(handle, self.offset, self.size, close=True))

    def state(self) -> tuple[int, int, int]:
        """Bytes here, and size and time of the file: changed if any of the bytes did."""
        found = os.stat(self.path)
        return found.st_size if self.size is None else self.size, found.st_size, found.st_mtime_ns


class TarWriter:
    """Writes members one after the other and says where their bytes lie. Nothing of the clock or the user goes in."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, name: str, source: BinaryIO, size: int) -> int:
        """Copy `size` bytes; returns their offset. ValueError, and the tar as it was before, if the source has fewer."""
        assert len(name) < 100, name
        before = self._file.tell()
        member = tarfile.TarInfo(name)
        member.size = size
        self._file.write(member.tobuf(tarfile.USTAR_FORMAT))
        offset, left = self._file.tell(), size
        while left and (part := source.read(min(left, 1 << 20))):
            self._file.write(part)
            left -= len(part)
        if left:
            self.back_to(before)
            raise ValueError(f"{left} of {size} bytes are missing")
        self._file.write(bytes(-size % BLOCK))
        return offset

    def back_to(self, position: int) -> None:
        """Forget what was written from `position` on."""
        self._file.seek(position)
        self._file.truncate()

    @property
    def position(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.write(bytes(2 * BLOCK))
        self._file.write(bytes(-self._file.tell() % RECORD))
