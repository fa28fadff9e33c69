"""One server a study: a lock on a file beside the store.

It keeps a second *server* away; adding pairs, importing and reading need no lock of their own: each is one transaction, and
SQLite lets one writer in at a time.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..locks import OwnerLock, Taken

LOCK_NAME = "study.lock"
MAKING_NAME = "making.lock"
"""Held by whoever makes the study; a whole one has no such file."""


class ServerLock:
    """Held from `take` to `release`."""

    def __init__(self, folder: Path, name: str = LOCK_NAME) -> None:
        self.path = folder / name
        self._lock = OwnerLock(self.path, needed=True)  # a lock decides what may be swept away

    @property
    def held(self) -> bool:
        """Whether this one holds it."""
        return self._lock.held

    def take(self, address: str) -> None:
        """ValueError, naming the owner, if another server holds it. address: where this one is reached, for that sentence."""
        try:
            self._lock.take(at=address)
        except Taken as owner:
            expected = f"{self.path.parent}: expected a study that no other server has open, found it served by {owner}"
            raise UserError(f"{expected}; stop that one first, or use its page.") from owner

    def release(self) -> None:
        """Let another server have it; nothing happens if this one does not."""
        self._lock.release()
