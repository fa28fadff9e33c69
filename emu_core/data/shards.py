"""Reading of curated clips: WebDataset tars (`key.mp4`, `key.json`) with a table and an index beside them.

Opening maps the index into memory and touches nothing else until asked. What a *row* is: `table`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from fsspec.core import url_to_fs

from ..errors import UserError
from ..limits import json_of
from ..media.files import whole_file
from .arrow import parquet, pc
from .files import Segment, locked, mapped, read_at
from .table import CAPTIONS, COLUMNS, INDEX, INDEX_TYPE, TABLE, shard_name

SELECTIONS = "selections"
KEPT_OPEN = 32
"""Shards that stay open."""


def captions_of(facts: dict[str, Any]) -> list[str]:
    """The captions of a clip whose .json this is, the one in `caption` first."""
    return facts.get(CAPTIONS) or [facts["caption"]]


class Shards:
    """Clips of a folder or address that `emu-video curate` made, all of them or a selection.

    len(): selected clips. Everything else takes a row, whatever the selection. Pickles as its address, so that each process
    opens its own files.
    """

    def __init__(self, address: str, selection: str | Path | None = None, cache: str | Path | None = None) -> None:
        self.address, self._selection, self._cache = address, selection, cache
        self._folder = None if "://" in address else Path(address)
        self._remote: tuple[int, Any, str] | None = None
        self._shard = lru_cache(KEPT_OPEN)(self._open_shard)
        self.index = self._load_index()
        self.selected = self._load_selection(os.fspath(selection)) if selection is not None else None

    @classmethod
    def open(cls, address: str | Path, selection: str | Path | None = None, cache: str | Path | None = None) -> Shards:
        """address: a folder, or anything fsspec knows. selection: a name that `emu-video select` wrote, or a .npy file of rows.
        cache: folder of this machine in which remote shards are kept, whole, once they are touched.

        Raises ValueError for what is no such folder, or a selection that is not there or of other data.
        """
        return cls(os.fspath(address), selection, cache)

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards, (self.address, self._selection, self._cache)

    def _load_index(self) -> np.ndarray:
        try:
            index = self._array(INDEX)
        except (OSError, ValueError) as problem:
            why = f"expected a folder that emu-video curate finished, found no readable {INDEX} in it ({problem})"
            raise UserError(f"{self.address}: {why}; check the address, or run curate to its end.") from problem
        if index.dtype != INDEX_TYPE:
            raise UserError(f"{self.address}/{INDEX}: expected fields {INDEX_TYPE}, found {index.dtype}; run curate again.")
        if not len(index):
            raise UserError(f"{self.address}: expected clips, found none in it; see left_out.jsonl there for the reasons.")
        return index

    def _load_selection(self, name: str) -> np.ndarray:
        try:
            rows = mapped(name) if name.endswith(".npy") else self._array(f"{SELECTIONS}/{name}.npy")
        except (OSError, ValueError) as problem:
            why = f"expected the selection {name!r}, found none that can be read ({problem})"
            raise UserError(f"{self.address}: {why}; make it with emu-video select.") from problem
        if rows.ndim != 1 or rows.dtype.kind not in "ui" or not len(rows):
            raise UserError(f"{name}: expected row numbers, found {rows.dtype} of shape {rows.shape}; select again.")
        if int(rows[-1]) >= len(self.index) or (np.diff(rows.astype(np.int64)) <= 0).any() or int(rows[0]) < 0:
            raise UserError(f"{name}: expected ascending rows below {len(self.index)}, found others; select again.")
        return np.asarray(rows)

    def __len__(self) -> int:
        return len(self.index) if self.selected is None else len(self.selected)

    @property
    def rows(self) -> np.ndarray:
        """The selected row numbers, ascending."""
        return np.arange(len(self.index)) if self.selected is None else self.selected

    def counts(self, rows: np.ndarray | None = None) -> np.ndarray:
        """How many of the rows (default: the selected) are in each shard, by the shard's number."""
        shard, chosen = self.index["shard"], rows if rows is not None else self.selected
        return np.bincount(shard if chosen is None else shard[chosen], minlength=int(shard[-1]) + 1)

    def column(self, name: str) -> np.ndarray:
        """One column of the table over all rows; null is nan in a column of numbers."""
        if name not in COLUMNS:
            raise UserError(f"column {name!r}: expected one of {', '.join(COLUMNS)}.")
        return self._table.read(columns=[name]).column(0).to_numpy()

    def captions(self) -> Iterator[list[str]]:
        """All captions of all rows, in their order, those of a few thousand rows at a time."""
        names = [name for name in ("caption", CAPTIONS) if name in self._table.schema_arrow.names]
        for batch in self._table.iter_batches(4096, columns=names):
            yield [caption for row in batch.to_pylist() for caption in row.get(CAPTIONS) or [row["caption"] or ""]]

    @cached_property
    def _table(self) -> Any:
        try:
            table = parquet.ParquetFile(self._file(TABLE))
        except (OSError, ValueError) as problem:
            found = f"expected a folder that emu-video curate made, found no readable {TABLE} in it ({problem})"
            raise UserError(f"{self.address}: {found}; check the address.") from problem
        if table.metadata.num_rows != len(self.index):
            found = f"expected as many rows in {TABLE} as in {INDEX}, found {table.metadata.num_rows} and {len(self.index)}"
            raise UserError(f"{self.address}: {found}; run curate again, which finishes what was cut short.")
        return table

    def read(self, row: int) -> bytes:
        """The bytes of a clip's mp4."""
        return self._member(row, "video")

    def facts(self, row: int) -> dict[str, Any]:
        """What the clip's .json says: key, caption, duration, motion_score ... It lies next to the video in the shard."""
        facts = json_of(self._member(row, "json"))
        if not isinstance(facts, dict) or not isinstance(facts.get("caption"), str):
            raise UserError(f"{self.address}: expected what the .json of row {row} tells, found others; copy the shard again.")
        return facts

    def caption(self, row: int) -> str:
        """The clip's caption, the first where it has several."""
        return self.facts(row)["caption"]

    def all_captions(self, row: int) -> list[str]:
        """The clip's captions, one or more."""
        return captions_of(self.facts(row))

    def caption_counts(self) -> np.ndarray:
        """How many captions each clip has, (rows,) int64."""
        if CAPTIONS not in self._table.schema_arrow.names:
            return np.ones(len(self.index), np.int64)
        counts = pc.list_value_length(self._table.read(columns=[CAPTIONS]).column(0))
        return pc.fill_null(counts, 1).to_numpy().astype(np.int64)

    def open_video(self, row: int) -> BinaryIO:
        """The mp4 as a file, so that a short clip of a long video need not be read whole."""
        entry = self.index[row]
        handle = self._shard(int(entry["shard"]))
        if handle is None:
            return io.BytesIO(self.read(row))
        return cast(BinaryIO, Segment(handle, int(entry["video"]), int(entry["video_size"])))

    def _member(self, row: int, kind: str) -> bytes:
        number, offset, size = (int(self.index[row][name]) for name in ("shard", kind, f"{kind}_size"))
        if handle := self._shard(number):
            data = read_at(handle, offset, size)
        else:
            fs, root = self._fs()
            data = fs.cat_file(f"{root}/{shard_name(number)}", start=offset, end=offset + size)
        if len(data) != size:
            where = f"{self.address}/{shard_name(number)}"
            raise UserError(f"{where}: expected {size} bytes at {offset}, found {len(data)}; copy the shard again.")
        return data

    # -- files of a local folder, or of an fsspec address with an optional copy of its shards on this machine

    def _fs(self) -> tuple[Any, str]:
        # A file system may hold a network loop, which does not survive a fork.
        if self._remote is None or self._remote[0] != os.getpid():
            self._remote = os.getpid(), *url_to_fs(self.address)
        return self._remote[1], self._remote[2].rstrip("/")

    def _file(self, name: str) -> Any:
        """A path, or an open remote file."""
        if self._folder is not None:
            return self._folder / name
        fs, root = self._fs()
        return fs.open(f"{root}/{name}", "rb")

    def _array(self, name: str) -> np.ndarray:
        """A .npy file, by memory map where it is local; of a remote one the whole, since it is 28 bytes a clip."""
        if self._folder is not None:
            # without the subclass: each access to a np.memmap makes an object that keeps track of the file
            return mapped(self._folder / name).view(np.ndarray)
        with self._file(name) as file:
            return np.load(io.BytesIO(file.read()))

    def _open_shard(self, number: int) -> BinaryIO | None:
        """A shard as an open file of this machine, which closes when its last reader lets go of it; None if it is remote and
        there is no cache."""
        name = shard_name(number)
        if self._folder is not None:
            return open(self._folder / name, "rb")
        if self._cache is None:
            return None
        # of what is in it as well, so that a cached copy of another data set is not taken for it
        contents = (self.address.encode(), self.index[self.index["shard"] == number].tobytes())
        place, mark = (blake2b(content, digest_size=6).hexdigest() for content in contents)
        path = Path(self._cache, place, f"{mark}-{name}")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock")):  # without locks a shard is fetched twice
                if not path.exists():  # another process may have fetched it meanwhile
                    self._fetch(name, path)
        return open(path, "rb")

    def _fetch(self, name: str, path: Path) -> None:
        fs, root = self._fs()
        with whole_file(path) as part:
            try:
                fs.get_file(f"{root}/{name}", str(part))
            except OSError as problem:
                raise UserError(f"{self.address}/{name}: expected to copy it here, found {problem}.") from problem
