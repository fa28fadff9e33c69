"""Shards: WebDataset tars (`key.mp4`, `key.json`), a table beside them, and an index of 28 bytes a clip.

A *row* is the number of a clip in the table `clips.parquet` and in `index.npy`; rows never change once written, further ones
are added. Reading opens the index by memory map and touches nothing else until asked.
"""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from .sources import Segment, read_at

INDEX_TYPE = np.dtype([("shard", "<u4"), ("video", "<u8"), ("video_size", "<u4"), ("json", "<u8"), ("json_size", "<u4")])
INDEX_COLUMNS = {
    "shard": "shard",
    "video_offset": "video",
    "video_size": "video_size",
    "json_offset": "json",
    "json_size": "json_size",
}
"""Column of the table -> field of the index."""
TABLE, INDEX, PARTS, SELECTIONS = "clips.parquet", "index.npy", "parts", "selections"
BLOCK, RECORD = 512, 10_240
GROUP_ROWS = 4096
"""Rows of a row group: what is read where a single row is asked for."""
MAX_MEMBER = 2**32 - 1
KEPT_OPEN = 32
COLUMNS: dict[str, str] = {
    "key": "string",
    "shard": "uint32",
    "caption": "string",
    "duration": "float64",
    "fps": "float64",
    "frames": "int64",
    "width": "int32",
    "height": "int32",
    "codec": "string",
    "transcoded": "bool",
    "motion_score": "float64",
    "motion_min": "float64",
    "scene_cuts": "int32",
    "cut_times": "list",
    "clip_score": "float64",
    "aesthetic": "float64",
    "source": "string",
    "source_size": "uint64",
    "identity": "uint64",
    "video_offset": "uint64",
    "video_size": "uint32",
    "json_offset": "uint64",
    "json_size": "uint32",
}
LOCATION = ("shard", "identity", "video_offset", "video_size", "json_offset", "json_size")
"""Columns that say where a clip lies; the rest also stands in its .json."""

logger = logging.getLogger(__name__)


def shard_name(number: int) -> str:
    return f"clips-{number:06d}.tar"


@lru_cache(maxsize=1)
def schema() -> Any:
    import pyarrow as pa

    kinds = {"list": pa.list_(pa.float64()), "string": pa.string(), "bool": pa.bool_()}
    return pa.schema([(n, kinds[k] if k in kinds else pa.type_for_alias(k)) for n, k in COLUMNS.items()])


# -- writing


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes it at the end; whatever happens, the file is whole or not there."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


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


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A parquet file of these rows, whole or not there."""
    import pyarrow as pa
    from pyarrow import parquet

    with whole(path) as part:
        parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema()), part, compression="zstd")


def part_numbers(folder: Path) -> list[int]:
    """Numbers of the whole shards that are not in the table yet."""
    parts = folder / PARTS
    return sorted(int(p.stem[-6:]) for p in parts.glob("clips-*.parquet")) if parts.is_dir() else []


def part_path(folder: Path, number: int) -> Path:
    return folder / PARTS / f"clips-{number:06d}.parquet"


def merge(folder: Path) -> int:
    """Put the tables of new shards behind the old one and write the index anew; returns the number of rows.

    Row groups are copied one at a time. The parts go last, so that a merge that was cut short is simply done again.
    """
    from pyarrow import parquet

    table, numbers = folder / TABLE, part_numbers(folder)
    sources = ([table] if table.exists() else []) + [part_path(folder, number) for number in numbers]
    if numbers or not table.exists():
        with whole(table) as part, parquet.ParquetWriter(part, schema(), compression="zstd") as writer:
            _copy(sources, writer)
    rows = int(parquet.read_metadata(table).num_rows)
    _write_index(table, folder / INDEX, rows)
    for number in numbers:
        part_path(folder, number).unlink()
    return rows


def _copy(sources: Sequence[Path], writer: Any) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    waiting: list[Any] = []
    for source in sources:
        with parquet.ParquetFile(source) as file:
            for group in range(file.num_row_groups):
                waiting.append(file.read_row_group(group))
                while sum(map(len, waiting)) >= GROUP_ROWS:
                    joined = pa.concat_tables(waiting)
                    writer.write_table(joined.slice(0, GROUP_ROWS))
                    waiting = [joined.slice(GROUP_ROWS)]
    if sum(map(len, waiting)):
        writer.write_table(pa.concat_tables(waiting))


def _write_index(table: Path, target: Path, rows: int) -> None:
    from pyarrow import parquet

    with whole(target) as part, open(part, "wb") as out, parquet.ParquetFile(table) as file:
        header = {"descr": np.lib.format.dtype_to_descr(INDEX_TYPE), "fortran_order": False, "shape": (rows,)}
        np.lib.format.write_array_header_1_0(out, header)
        for batch in file.iter_batches(GROUP_ROWS, columns=list(INDEX_COLUMNS)):
            block = np.empty(len(batch), INDEX_TYPE)
            for column, name in INDEX_COLUMNS.items():
                block[name] = batch.column(column).to_numpy()
            out.write(block.tobytes())


# -- what is there already


@dataclass
class KeyTable:
    """Keys seen so far, as 64-bit hashes with a number each: 16 bytes a key, for lists of many millions."""

    hashes: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    numbers: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    recent: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def hash(key: str) -> int:
        return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")

    def add(self, key: str, number: int = 0) -> None:
        self.recent[self.hash(key)] = number
        if len(self.recent) >= 1 << 18:
            hashes = np.concatenate([self.hashes, np.fromiter(self.recent.keys(), np.uint64)])
            order = np.argsort(hashes, kind="stable")
            numbers = np.concatenate([self.numbers, np.fromiter(self.recent.values(), np.uint64)])
            self.hashes, self.numbers, self.recent = hashes[order], numbers[order], {}

    def get(self, key: str) -> int | None:
        wanted = self.hash(key)
        if wanted in self.recent:
            return self.recent[wanted]
        place = int(np.searchsorted(self.hashes, np.uint64(wanted)))
        return int(self.numbers[place]) if place < len(self.hashes) and int(self.hashes[place]) == wanted else None


def known_keys(folder: Path) -> tuple[KeyTable, int]:
    """Keys and identities of all clips in whole shards, and the last shard of the table (-1: none)."""
    from pyarrow import parquet

    known = KeyTable()
    tables = [folder / TABLE] if (folder / TABLE).exists() else []
    for path in tables + [part_path(folder, number) for number in part_numbers(folder)]:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["key", "identity"]):
                for key, number in zip(batch.column("key").to_pylist(), batch.column("identity").to_pylist(), strict=True):
                    known.add(key, number)
    return known, last_shard(folder)


def last_shard(folder: Path) -> int:
    from pyarrow import parquet

    if not (folder / TABLE).exists():
        return -1
    with parquet.ParquetFile(folder / TABLE) as file:
        if not file.metadata.num_rows:
            return -1
        return int(file.read_row_group(file.num_row_groups - 1, columns=["shard"]).column(0)[-1].as_py())


def rows_in(folder: Path) -> int:
    from pyarrow import parquet

    return int(parquet.read_metadata(folder / TABLE).num_rows)


def is_merged(folder: Path) -> bool:
    """Whether table and index are there and of the same length; a merge that was cut short is done again."""
    if not (folder / TABLE).exists() or not (folder / INDEX).exists():
        return False
    with open(folder / INDEX, "rb") as file:
        np.lib.format.read_magic(file)
        shape = np.lib.format.read_array_header_1_0(file)[0]
    return shape == (rows_in(folder),)


# -- reading


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
