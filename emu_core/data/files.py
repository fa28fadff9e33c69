"""Bytes in files: where they lie, a part of a file as a file, the members of a tar, a lock."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from ..errors import UserError

EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
"""Kinds of headers that are read into memory."""
MOST_NAME, MOST_SIZE = 1 << 20, 1 << 62


@dataclass(frozen=True)
class Place:
    """Where bytes lie: a file, `size` bytes at `offset` of one, or the files in a folder of frames."""

    path: str
    offset: int = 0
    size: int | None = None

    def open(self) -> BinaryIO:
        """The bytes as a file, which the caller closes."""
        handle = open(self.path, "rb")  # noqa: SIM115 - the caller's
        return handle if self.size is None else cast(BinaryIO, Segment(handle, self.offset, self.size, close=True))

    def source(self) -> AbstractContextManager[str | BinaryIO]:
        """What a reader of videos is given: the bytes as a file, or the folder's path."""
        return nullcontext(self.path) if os.path.isdir(self.path) else self.open()

    def state(self) -> tuple[int, int, int]:
        """Bytes here, size of the file (of a folder: number of files), and its time: changed if any of the bytes did."""
        if os.path.isdir(self.path):
            inside = [entry.stat() for entry in os.scandir(self.path) if not entry.name.startswith(".")]
            return sum(one.st_size for one in inside), len(inside), max((one.st_mtime_ns for one in inside), default=0)
        found = os.stat(self.path)
        return found.st_size if self.size is None else self.size, found.st_size, found.st_mtime_ns


class Segment(io.RawIOBase):
    """`size` bytes at `offset` of an open file, as a file of its own; several can share a handle. close: the handle too."""

    def __init__(self, handle: BinaryIO, offset: int, size: int, close: bool = False) -> None:
        self._handle, self._offset, self._size, self._position, self._close = handle, offset, size, 0, close

    def readable(self) -> bool:
        """Always; it can be sought in as well."""
        return True

    seekable = readable

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of any file; `tell` is `seek(0, 1)`."""
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        """As of any file."""
        data = read_at(self._handle, self._offset + self._position, max(0, min(len(buffer), self._size - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """As of any file."""
        if self._close and not self.closed:
            self._handle.close()
        super().close()


def read_at(handle: BinaryIO, offset: int, size: int) -> bytes:
    """`size` bytes of an open file, or those there are; its position stays where the system allows."""
    if not hasattr(os, "pread"):
        handle.seek(offset)
        return handle.read(size)
    data = b""
    while len(data) < size and (part := os.pread(handle.fileno(), min(size - len(data), 1 << 30), offset + len(data))):
        data += part
    return data


def mapped(path: str | os.PathLike[str]) -> np.ndarray:
    """A .npy file by memory map, so that one that claims more than it has takes no memory. ValueError, a short reason, for what
    is none."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (ValueError, TypeError, EOFError, OverflowError, SyntaxError, AttributeError) as problem:
        raise UserError(f"no array: {problem}") from problem


class _Header(tarfile.TarInfo):
    """A header of a tar that claims nothing which cannot be."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """As of TarInfo."""
        found = super().frombuf(buf, encoding, errors)
        most = MOST_NAME if found.type in EXTENSIONS else MOST_SIZE
        if not 0 <= found.size <= most:
            raise tarfile.InvalidHeaderError(f"a header of {found.size} bytes")  # type: ignore[attr-defined]
        return found


def members_of(path: str | os.PathLike[str], wrong: list[str]) -> Iterator[tarfile.TarInfo]:
    """The members of an uncompressed tar, none of which is kept. wrong: gets the reason why it cannot be read to its end."""
    try:
        with tarfile.open(path, "r:", tarinfo=_Header) as tar:
            last = -1
            while (member := tar.next()) is not None:
                if member.offset <= last or member.size < 0:
                    raise tarfile.ReadError("a member that ends before it begins")
                last, tar.members = member.offset, []  # type: ignore[attr-defined]  # or millions would stay in memory
                yield member
            end: int = tar.offset  # type: ignore[attr-defined]
    except Exception as problem:  # tarfile lets through whatever a field is not: ValueError, RecursionError, OverflowError, ...
        wrong.append(f"the tar cannot be read to its end ({problem})")
        return
    with open(path, "rb") as file:  # tarfile ends in silence at a header that it cannot read, and at an empty block
        file.seek(end)
        if any(rest.strip(b"\0") for rest in iter(lambda: file.read(1 << 20), b"")):
            rest = "a damaged member, or another tar"
            wrong.append(f"the tar ends at byte {end}, but more lies behind it ({rest})")


class TarWriter:
    """Writes members to an open file and says where their bytes lie. Nothing of the clock or the user goes in."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, name: str, source: BinaryIO, size: int) -> int:
        """Copy `size` bytes; returns their offset. ValueError, and the tar as before, if the source does not give them."""
        assert len(name) < 100, name
        member, left = tarfile.TarInfo(name), size
        member.size = size
        with self.all_or_nothing():
            self._file.write(member.tobuf(tarfile.USTAR_FORMAT))
            offset = self._file.tell()
            while left and (part := self._part(source, min(left, 1 << 20))):
                self._file.write(part)
                left -= len(part)
            if left:
                raise UserError(f"{left} of {size} bytes are missing")
            self._file.write(bytes(-size % tarfile.BLOCKSIZE))
        return offset

    @staticmethod
    def _part(source: BinaryIO, size: int) -> bytes:
        try:
            return source.read(size)
        except OSError as problem:
            raise UserError(f"cannot be read any more ({problem.strerror or problem})") from problem

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """What was added in a block that fails is taken out again."""
        before = self._file.tell()
        try:
            yield
        except BaseException:
            self._file.seek(before)
            self._file.truncate()
            raise

    def close(self) -> None:
        """Write the end of the tar."""
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))
        self._file.write(bytes(-self._file.tell() % tarfile.RECORDSIZE))


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[None]:
    """Hold a lock on the file `path`, which the system lets go of when a process dies; on Windows there is none.

    Where another holds it: ValueError with the sentence `busy`; without one, wait.
    """
    try:
        import fcntl  # not on Windows
    except ImportError:
        yield
        return
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except OSError as problem:
            raise UserError(busy) from problem
        yield
