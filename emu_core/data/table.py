"""The table `clips.parquet` beside the shards, its parts while `curate` runs, and its index of 28 bytes a clip."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

INDEX_TYPE = np.dtype([("shard", "<u4"), ("video", "<u8"), ("video_size", "<u4"), ("json", "<u8"), ("json_size", "<u4")])
INDEX_COLUMNS = {
    "shard": "shard",
    "video_offset": "video",
    "video_size": "video_size",
    "json_offset": "json",
    "json_size": "json_size",
}
"""Column of the table -> field of the index."""
TABLE, INDEX, PARTS = "clips.parquet", "index.npy", "parts"
GROUP_ROWS = 4096
"""Rows of a row group: what is read where a single row is asked for."""
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


def shard_name(number: int) -> str:
    return f"clips-{number:06d}.tar"


@lru_cache(maxsize=1)
def schema() -> Any:
    import pyarrow as pa

    kinds = {"list": pa.list_(pa.float64()), "string": pa.string(), "bool": pa.bool_()}
    return pa.schema([(n, kinds[k] if k in kinds else pa.type_for_alias(k)) for n, k in COLUMNS.items()])


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
