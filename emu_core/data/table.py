"""The table of curated clips, its parts while `curate` runs, and an index of 28 bytes a clip.

A *row* is the number of a clip in `clips.parquet` and in `index.npy`; rows never change once written, further ones are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ..media.files import whole_file
from .arrow import pa, parquet

TABLE, INDEX, PARTS = "clips.parquet", "index.npy", "parts"
INDEX_TYPE = np.dtype([("shard", "<u4"), ("video", "<u8"), ("video_size", "<u4"), ("json", "<u8"), ("json_size", "<u4")])
LOCATION = ("shard", "identity", "video_offset", "video_size", "json_offset", "json_size")
"""Columns that say where a clip lies; the rest also stands in its .json."""
GROUP_ROWS = 4096
COLUMNS = {
    **{"key": "string", "shard": "uint32", "caption": "string", "duration": "float64", "fps": "float64", "frames": "int64"},
    **{"width": "int32", "height": "int32", "codec": "string", "transcoded": "bool", "motion_score": "float64"},
    **{"motion_min": "float64", "scene_cuts": "int32", "cut_times": "list", "clip_score": "float64", "aesthetic": "float64"},
    **{"source": "string", "source_size": "uint64", "identity": "uint64"},
    **{"video_offset": "uint64", "video_size": "uint32", "json_offset": "uint64", "json_size": "uint32"},
}
CAPTIONS = "captions"
"""A column that a table has where a clip has several captions: all of them, the one in `caption` first; null for the others."""
SCHEMA = pa.schema([(n, pa.list_(pa.float64()) if k == "list" else pa.type_for_alias(k)) for n, k in COLUMNS.items()])
SEVERAL = SCHEMA.append(pa.field(CAPTIONS, pa.list_(pa.string())))


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"clips-{number:06d}.tar"


def part_path(folder: Path, number: int) -> Path:
    """The table of one shard, before it is put into the table of all: it is there once the shard is whole."""
    return folder / PARTS / f"clips-{number:06d}.parquet"


def part_numbers(folder: Path) -> list[int]:
    """Numbers of the whole shards that are not in the table yet."""
    return sorted(int(path.stem[-6:]) for path in (folder / PARTS).glob("clips-*.parquet"))


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A parquet file of these rows, whole or not there."""
    schema = SEVERAL if any(CAPTIONS in row for row in rows) else SCHEMA
    with whole_file(path) as part:
        parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), part, compression="zstd")


def _tables(folder: Path) -> list[Path]:
    """The table of all, if it is there, and the parts that are not in it."""
    return [*folder.glob(TABLE), *(part_path(folder, number) for number in part_numbers(folder))]


def merge(folder: Path) -> int:
    """Put the tables of new shards behind the old one and write the index anew; returns the number of rows.

    Row groups are copied one at a time. The parts go last, so that a merge that was cut short is simply done again.
    """
    table, index, numbers = folder / TABLE, folder / INDEX, part_numbers(folder)
    if numbers or not table.exists():
        several = any(CAPTIONS in parquet.read_schema(source).names for source in _tables(folder))
        schema = SEVERAL if several else SCHEMA
        waiting = schema.empty_table()
        with whole_file(table) as part, parquet.ParquetWriter(part, schema, compression="zstd") as writer:
            for source in _tables(folder):
                with parquet.ParquetFile(source) as file:
                    for group in range(file.num_row_groups):
                        waiting = pa.concat_tables([waiting, with_captions(file.read_row_group(group), several)])
                        while len(waiting) >= GROUP_ROWS:
                            writer.write_table(waiting.slice(0, GROUP_ROWS))
                            waiting = waiting.slice(GROUP_ROWS)
            if len(waiting):
                writer.write_table(waiting)
    if numbers or not index.exists() or len(np.load(index, mmap_mode="r")) != rows_in(folder):
        with whole_file(index) as part, open(part, "wb") as out, parquet.ParquetFile(table) as file:
            header = {"descr": np.lib.format.dtype_to_descr(INDEX_TYPE), "fortran_order": False}
            np.lib.format.write_array_header_1_0(out, {**header, "shape": (file.metadata.num_rows,)})
            for batch in file.iter_batches(GROUP_ROWS, columns=["shard", *LOCATION[2:]]):
                out.write(np.rec.fromarrays([column.to_numpy() for column in batch.columns], dtype=INDEX_TYPE).tobytes())
    for number in numbers:
        part_path(folder, number).unlink()
    return rows_in(folder)


def with_captions(rows: Any, several: bool = True) -> Any:
    """Rows of a table with the column of captions, where they lack it; `several` False: as they are."""
    if not several or CAPTIONS in rows.column_names:
        return rows
    return rows.append_column(SEVERAL.field(CAPTIONS), pa.nulls(len(rows), pa.list_(pa.string())))


def hashed(text: str) -> int:
    """64 bits of a text."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


class KeyTable:
    """Keys seen so far, as 64-bit hashes with a number each: 16 bytes a key, for lists of many millions."""

    def __init__(self) -> None:
        self.hashes = self.numbers = np.empty(0, np.uint64)
        self.recent: dict[int, int] = {}

    def add(self, key: str, number: int = 0) -> None:
        """Keep a number of 64 bits for a new key."""
        self.recent[hashed(key)] = number
        if len(self.recent) >= 1 << 18:
            hashes = np.concatenate([self.hashes, np.fromiter(self.recent, np.uint64)])
            numbers = np.concatenate([self.numbers, np.fromiter(self.recent.values(), np.uint64)])
            order = np.argsort(hashes, kind="stable")
            self.hashes, self.numbers, self.recent = hashes[order], numbers[order], {}

    def get(self, key: str) -> int | None:
        """The number of a key, None if there was no such key."""
        wanted = hashed(key)
        if wanted in self.recent:
            return self.recent[wanted]
        place = int(np.searchsorted(self.hashes, np.uint64(wanted)))
        return int(self.numbers[place]) if place < len(self.hashes) and int(self.hashes[place]) == wanted else None


def known_keys(folder: Path) -> KeyTable:
    """Keys and identities of all clips in whole shards."""
    known = KeyTable()
    for path in _tables(folder):
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["key", "identity"]):
                for key, identity in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    known.add(key, identity)
    return known


def last_shard(folder: Path) -> int:
    """The number of the last shard in the table, -1 if there is none."""
    if not (folder / TABLE).exists() or not rows_in(folder):
        return -1
    with parquet.ParquetFile(folder / TABLE) as file:
        return int(file.read_row_group(file.num_row_groups - 1, columns=["shard"]).column(0)[-1].as_py())


def rows_in(folder: Path) -> int:
    """How many rows the table has."""
    return int(parquet.read_metadata(folder / TABLE).num_rows)
