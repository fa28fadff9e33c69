"""One server a study: a lock of the operating system on a file beside the store.

It goes with the process, however that ends. It keeps a second *server* away; adding pairs, importing and reading need no lock of
their own: each is one transaction, and SQLite lets one writer in at a time.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..errors import UserError
from ..limits import json_of

LOCK_NAME = "study.lock"
MAKING_NAME = "making.lock"
"""Held by whoever makes the study; a whole one has no such file."""
FAR = 1 << 30
"""Windows locks bytes and then nobody else can read them: this one lies behind the text."""

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        file.seek(FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)
else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class ServerLock:
    """Held from `take` to `release`."""

    def __init__(self, folder: Path, name: str = LOCK_NAME) -> None:
        self.path = folder / name
        self._file: IO[str] | None = None

    @property
    def held(self) -> bool:
        """Whether this one holds it."""
        return self._file is not None

    def take(self, address: str) -> None:
        """ValueError, naming the owner, if another server holds it. address: where this one is reached, for that sentence."""
        if self._file is not None:
            return
        file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - it stays open as long as the lock is held
        try:
            _lock(file)
        except OSError as problem:
            owner = "another process"
            with file, suppress(OSError, ValueError, KeyError, TypeError):
                file.seek(0)
                owner = "process {process} on {computer} at {address}".format(**json_of(file.read(1 << 16)))
            expected = f"{self.path.parent}: expected a study that no other server has open, found it served by {owner}"
            raise UserError(f"{expected}; stop that one first, or use its page.") from problem
        file.truncate(0)
        json.dump({"process": os.getpid(), "computer": socket.gethostname(), "address": address}, file)
        file.flush()
        self._file = file

    def release(self) -> None:
        """Let another server have it; nothing happens if this one does not."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None
