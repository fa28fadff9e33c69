"""In which order clips are seen: a pure function of a global position, so that to resume is to know one number.

Positions 0, 1, 2, ... run over all epochs. Ranks and workers take slices of a batch of positions, so their number may change
at any time without a clip being seen twice or missed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import UserError

KEPT_WINDOWS = 4
_SHARD, _ROW = 0x5348415244, 0x524F57


def mix(values: np.ndarray, *salts: int) -> np.ndarray:
    """64 evenly mixed bits of each value (n,) and the salts: splitmix64's finaliser (Steele et al. 2014), the same in every
    version of numpy and on every machine."""
    mixed = values.astype(np.uint64)
    for salt in (*salts, 0):
        with np.errstate(over="ignore"):
            mixed = mixed + np.uint64((salt * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) & (2**64 - 1))
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def fraction(value: int, *salts: int) -> float:
    """A number in [0, 1) that looks random and is a function of its arguments."""
    return int(mix(np.array([value & (2**64 - 1)], np.uint64), *salts)[0] >> np.uint64(11)) / 2**53


class ClipOrder:
    """position -> row. In each epoch the shards come in another order, and clips are shuffled inside windows of `window`
    shards, so that a reader touches only so many shards at a time.

    counts: clips in each shard, in the order of their rows. rows: the row numbers, ascending, where they are not 0, 1, 2, ...
    (a selection); counts then count those. Memory: the counts and the rows, and a few windows.
    """

    def __init__(self, counts: Sequence[int] | np.ndarray, seed: int, window: int = 8, rows: np.ndarray | None = None) -> None:
        self.counts, self.seed, self.window, self._rows = np.asarray(counts, dtype=np.int64), seed, window, rows
        if self.counts.ndim != 1 or (self.counts < 0).any() or window < 1:
            raise UserError(f"order: expected counts of 0 or more and a window of at least 1, found window {window}.")
        self._firsts = np.concatenate([[0], np.cumsum(self.counts)])
        self._size = int(self._firsts[-1])
        if self._size == 0:
            raise UserError("order: expected at least one clip, found none; choose another selection or data set.")
        if rows is not None and len(rows) != self._size:
            raise UserError(f"order: expected {self._size} rows as the counts say, found {len(rows)}; count again.")
        if rows is not None and (np.diff(np.asarray(rows, np.int64)) <= 0).any():
            raise UserError("order: expected rows in ascending order, found others; sort them.")
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None
        self._windows: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        """Clips in an epoch."""
        return self._size

    def __getitem__(self, position: int) -> int:
        """The row at a position of 0 or more, whatever the epoch."""
        return int(self._rest_of_window(position)[0])

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The rows at positions start .. stop - 1, int64: as one by one, only faster."""
        parts = [np.empty(0, np.int64)]
        while start < stop:
            parts.append(self._rest_of_window(start)[: stop - start])
            start += len(parts[-1])
        return np.concatenate(parts)

    def keep(self, rows: np.ndarray) -> ClipOrder:
        """The same order over only those of its rows that are in `rows` (any order)."""
        mine = self._rows if self._rows is not None else np.arange(self._size, dtype=np.int64)
        kept = np.isin(mine, rows)
        if kept.all():
            return self
        shard = np.repeat(np.arange(len(self.counts)), self.counts)
        return ClipOrder(np.bincount(shard[kept], minlength=len(self.counts)), self.seed, self.window, np.asarray(mine)[kept])

    def _rest_of_window(self, position: int) -> np.ndarray:
        """The rows from a position to the end of its window."""
        if position < 0:
            raise UserError(f"order: expected a position of 0 or more, found {position}.")
        epoch, place = divmod(int(position), self._size)
        if self._epoch is None or self._epoch[0] != epoch:
            shards = np.argsort(mix(np.arange(len(self.counts)), self.seed, epoch, _SHARD), kind="stable")
            shards = shards[self.counts[shards] > 0]
            self._epoch = epoch, shards, np.concatenate([[0], np.cumsum(self.counts[shards])])[: -1 : self.window]
        _, shards, starts = self._epoch  # in this epoch's order, and the place at which each window starts
        window = int(np.searchsorted(starts, place, side="right")) - 1
        if (epoch, window) not in self._windows:
            if len(self._windows) == KEPT_WINDOWS:
                del self._windows[next(iter(self._windows))]
            inside = shards[window * self.window : (window + 1) * self.window]
            rows = np.concatenate([np.arange(self._firsts[shard], self._firsts[shard + 1]) for shard in inside])
            rows = rows if self._rows is None else np.asarray(self._rows[rows], dtype=np.int64)
            self._windows[epoch, window] = rows[np.argsort(mix(rows, self.seed, epoch, _ROW), kind="stable")]
        return self._windows[epoch, window][place - int(starts[window]) :]
