"""One process a folder: a lock of the operating system on a file in it. It goes with the process, however that ends."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from .limits import json_of

logger = logging.getLogger(__name__)

FAR = 1 << 30
"""Windows locks bytes and then nobody else can read them: this one lies behind the text."""
HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}
"""What systems say of a lock that another process has; anything else means that there are no locks here."""

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[Any]) -> None:
        file.seek(FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)
else:
    import fcntl

    def _lock(file: IO[Any]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Taken(Exception):
    """Another process has the lock; the message says which, such as "process 12 on tower"."""


def wait_for(file: IO[Any]) -> None:
    """Take the lock of an open file once no other process has it; closing the file gives it back. Where a file system has no
    locks, nobody waits."""
    while True:
        try:
            return _lock(file)
        except OSError as problem:
            if problem.errno not in HELD:
                return
            time.sleep(0.01)


class OwnerLock:
    """Held from `take` to `release`. needed: whether a file system without locks (some of NFS) counts as taken; else nothing
    keeps others away there, and a warning says so."""

    def __init__(self, path: Path, needed: bool = False) -> None:
        self.path, self.needed = path, needed
        self._file: IO[str] | None = None

    @property
    def held(self) -> bool:
        """Whether this one holds it."""
        return self._file is not None

    def take(self, **told: str) -> None:
        """Taken if another process holds it. `told`: what else its sentence is to say of this one, such as at="http://..."."""
        if self._file is not None:
            return
        file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - it stays open as long as the lock is held
        try:
            _lock(file)
        except OSError as problem:
            if problem.errno not in HELD and not self.needed:
                logger.warning(
                    "%s cannot be locked (%s): see to it that one process at a time uses it", self.path, problem.strerror
                )
            else:
                with file:
                    raise Taken(_owner(file)) from problem
        file.truncate(0)
        json.dump({"process": os.getpid(), "computer": socket.gethostname(), **told}, file)
        file.flush()
        self._file = file
        _held.add(self)

    def release(self) -> None:
        """Let another process have it; nothing happens if this one does not."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None

    def _leave_to_parent(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _owner(file: IO[str]) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        file.seek(0)
        told = json_of(file.read(1 << 16))
        further = "".join(f" {word} {value}" for word, value in told.items() if word not in ("process", "computer"))
        return f"process {told['process']} on {told['computer']}{further}"
    return "another process"


_held: weakref.WeakSet[OwnerLock] = weakref.WeakSet()


def _leave_all() -> None:
    """In a process that was forked, such as one that decodes videos: it may outlive its parent, and the lock must not."""
    for lock in list(_held):
        lock._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)
