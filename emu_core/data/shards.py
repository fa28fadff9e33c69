"""Shards: WebDataset tars (`key.mp4`, `key.json`), a table beside them, and an index of 28 bytes a clip.

A *row* is the number of a clip in the table `clips.parquet` and in `index.npy`; rows never change once written, further ones
are added. Reading opens the index by memory map and touches nothing else until asked.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from .files import Segment, read_at
from .table import COLUMNS, INDEX, INDEX_TYPE, TABLE, shard_name, whole

SELECTIONS = "selections"
KEPT_OPEN = 32

logger = logging.getLogger(__name__)


class Shards:
    """Clips of a folder or address that `emu-video curate` made, all of them or a selection.

    len(): selected clips. Everything else takes a row, whatever the selection. Pickles as its address, so that each process
    opens its own files.
    """

    def __init__(self, address: str, selection: str | Path | None = None, cache: str | Path | None = None) -> None:
        self.address, self._selection, self._cache = address, selection, cache
        self._store = _Store(address, cache)
        self.index = self._load_index()
        if not len(self.index):
            raise ValueError(f"{address}: expected clips, found none in it; see left_out.jsonl there for the reasons.")
        self.selected = self._load_selection(selection) if selection is not None else None

    @classmethod
    def open(cls, address: str | Path, selection: str | Path | None = None, cache: str | Path | None = None) -> Shards:
        """address: a folder, or anything fsspec knows. selection: a name that `emu-video select` wrote, or a .npy file of rows.
        cache: folder of this machine in which remote shards are kept, whole, once they are touched.

        Raises ValueError for what is no such folder, or a selection that is not there or of other data.
        """
        return cls(os.fspath(address), selection, cache)

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards.open, (self.address, self._selection, self._cache)

    def _load_index(self) -> np.ndarray:
        try:
            index = self._store.array(INDEX)
        except (OSError, ValueError) as problem:
            raise ValueError(
                f"{self.address}: expected a folder that emu-video curate finished, found no readable {INDEX} in it "
                f"({problem}); check the address, or run curate to its end."
            ) from problem
        if index.dtype != INDEX_TYPE:
            raise ValueError(f"{self.address}/{INDEX}: expected fields {INDEX_TYPE}, found {index.dtype}; run curate again.")
        return index

    def _load_selection(self, selection: str | Path) -> np.ndarray:
        text = os.fspath(selection)
        try:
            rows = np.load(text) if text.endswith(".npy") else self._store.array(f"{SELECTIONS}/{text}.npy")
        except (OSError, ValueError) as problem:
            raise ValueError(
                f"{self.address}: expected the selection {text!r}, found none that can be read ({problem}); "
                f"make it with emu-video select."
            ) from problem
        if rows.ndim != 1 or rows.dtype.kind not in "ui" or not len(rows):
            raise ValueError(f"{text}: expected row numbers, found {rows.dtype} of shape {rows.shape}; select again.")
        if int(rows[-1]) >= len(self.index) or (np.diff(rows.astype(np.int64)) <= 0).any() or int(rows[0]) < 0:
            raise ValueError(f"{text}: expected ascending rows below {len(self.index)}, found others; select again.")
        return np.asarray(rows)

    def __len__(self) -> int:
        return len(self.index) if self.selected is None else len(self.selected)

    @property
    def rows(self) -> np.ndarray:
        """The selected row numbers, ascending."""
        return np.arange(len(self.index)) if self.selected is None else self.selected

    def counts(self, rows: np.ndarray | None = None) -> np.ndarray:
        """How many of the rows (default: the selected) are in each shard, by the shard's number."""
        shard = self.index["shard"]
        chosen = rows if rows is not None else self.selected
        last = int(shard[-1]) + 1
        return np.bincount(shard if chosen is None else shard[chosen], minlength=last)

    # -- one clip

    def read(self, row: int) -> bytes:
        """The bytes of a clip's mp4."""
        entry = self.index[row]
        return self._bytes(entry, "video")

    def facts(self, row: int) -> dict[str, Any]:
        """What the clip's .json says: key, caption, duration, motion_score ... It lies next to the video in the shard."""
        return json.loads(self._bytes(self.index[row], "json"))

    def caption(self, row: int) -> str:
        return self.facts(row)["caption"]

    def open_video(self, row: int) -> BinaryIO:
        """The mp4 as a file, so that a short clip of a long video need not be read whole."""
        entry = self.index[row]
        handle = self._store.handle(*self._shard(int(entry["shard"])))
        if handle is None:
            return io.BytesIO(self.read(row))
        return cast(BinaryIO, Segment(handle, int(entry["video"]), int(entry["video_size"])))

    def _bytes(self, entry: Any, member: str) -> bytes:
        number, offset, size = int(entry["shard"]), int(entry[member]), int(entry[f"{member}_size"])
        data = self._store.read(*self._shard(number), offset, size)
        if len(data) != size:
            raise ValueError(
                f"{self.address}/{shard_name(number)}: expected {size} bytes at {offset}, found {len(data)}; "
                f"copy the shard again."
            )
        return data

    def _shard(self, number: int) -> tuple[str, str]:
        """A shard's name, and a mark of what is in it, so that a cached copy of another data set is not taken for it."""
        if not self._store.caches:
            return shard_name(number), ""
        mark = self._marks.get(number)
        if mark is None:
            part = self.index[self._firsts[number] : self._firsts[number + 1]]
            mark = self._marks[number] = blake2b(part.tobytes(), digest_size=6).hexdigest()
        return shard_name(number), mark

    @cached_property
    def _marks(self) -> dict[int, str]:
        return {}

    @cached_property
    def _firsts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(np.bincount(self.index["shard"]))])

    # -- the table

    @cached_property
    def _table(self) -> Any:
        from pyarrow import parquet

        table = parquet.ParquetFile(self._store.file(TABLE))
        if table.metadata.num_rows != len(self.index):
            raise ValueError(
                f"{self.address}: expected as many rows in {TABLE} as in {INDEX}, found {table.metadata.num_rows} and "
                f"{len(self.index)}; run curate again, which finishes what was cut short."
            )
        return table

    @cached_property
    def _groups(self) -> np.ndarray:
        sizes = [self._table.metadata.row_group(i).num_rows for i in range(self._table.num_row_groups)]
        return np.concatenate([[0], np.cumsum(sizes)])

    def row(self, row: int) -> dict[str, Any]:
        """All columns of one row."""
        group = int(np.searchsorted(self._groups, row, side="right")) - 1
        if self._last_group[:1] != [group]:
            self._last_group[:] = [group, self._table.read_row_group(group)]
        return self._last_group[1].slice(row - int(self._groups[group]), 1).to_pylist()[0]

    @cached_property
    def _last_group(self) -> list[Any]:
        return []

    def column(self, name: str) -> np.ndarray:
        """One column over all rows; null is nan in a column of numbers."""
        if name not in COLUMNS:
            raise ValueError(f"column {name!r}: expected one of {', '.join(COLUMNS)}.")
        return self._table.read(columns=[name]).column(0).to_numpy()

    @cached_property
    def keys(self) -> Sequence[str]:
        """The keys of the selected clips, in the order of their rows. Read when first asked for."""
        import pyarrow as pa

        column = self._table.read(columns=["key"]).column(0).cast(pa.large_string()).combine_chunks()
        return _Texts(column if self.selected is None else column.take(pa.array(self.selected)))


class _Texts(Sequence[str]):
    def __init__(self, values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, place: Any) -> Any:
        return self._values[place].as_py() if isinstance(place, int) else self._values[place].to_pylist()


class _Store:
    """Files of a local folder, or of an fsspec address with an optional copy of its shards on this machine."""

    def __init__(self, address: str, cache: str | Path | None) -> None:
        self.address = address
        self._folder = None if "://" in address else Path(address)
        digest = blake2b(address.encode(), digest_size=6).hexdigest()
        self._cache = Path(cache) / digest if cache is not None and self._folder is None else None
        self.caches = self._cache is not None
        self._open: OrderedDict[str, BinaryIO] = OrderedDict()
        self._remote: tuple[int, Any, str] | None = None

    def _fs(self) -> tuple[Any, str]:
        # A file system may hold a network loop, which does not survive a fork.
        if self._remote is None or self._remote[0] != os.getpid():
            try:
                from fsspec.core import url_to_fs
            except ImportError as problem:
                raise ValueError(f"{self.address}: expected the package fsspec, found none; pip install fsspec.") from problem
            self._remote = os.getpid(), *url_to_fs(self.address)
        return self._remote[1], self._remote[2].rstrip("/")

    def file(self, name: str) -> Any:
        """A path, or an open remote file."""
        if self._folder is not None:
            return self._folder / name
        fs, root = self._fs()
        return fs.open(f"{root}/{name}", "rb")

    def array(self, name: str) -> np.ndarray:
        """A .npy file, by memory map where it is local; of a remote one the whole, since it is 28 bytes a clip."""
        if self._folder is not None:
            loaded = np.load(self._folder / name, mmap_mode="r")
            # without the subclass: each access to a np.memmap makes an object that keeps track of the file
            return loaded.view(np.ndarray)
        with self.file(name) as file:
            return np.load(io.BytesIO(file.read()))

    def handle(self, name: str, mark: str) -> BinaryIO | None:
        """The shard as an open local file; None if it is remote and there is no cache."""
        handle = self._open.get(name)
        if handle is None:
            path = self._folder / name if self._folder is not None else self._cached(name, mark)
            if path is None:
                return None
            handle = self._open[name] = open(path, "rb")  # noqa: SIM115 - kept open
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)  # closes when its last reader lets go of it
        else:
            self._open.move_to_end(name)
        return handle

    def read(self, name: str, mark: str, offset: int, size: int) -> bytes:
        handle = self.handle(name, mark)
        if handle is not None:
            return read_at(handle, offset, size)
        fs, root = self._fs()
        return fs.cat_file(f"{root}/{name}", start=offset, end=offset + size)

    def _cached(self, name: str, mark: str) -> Path | None:
        if self._cache is None:
            return None
        path = self._cache / f"{mark}-{name}"
        if not path.exists():
            self._cache.mkdir(parents=True, exist_ok=True)
            with _alone(path.with_suffix(".lock")):
                if not path.exists():  # another process may have fetched it meanwhile
                    fs, root = self._fs()
                    with whole(path) as part:
                        fs.get_file(f"{root}/{name}", str(part))
        return path


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Only one process of this machine at a time, where the system has such locks; without them a shard is fetched twice."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
