"""Rows of parquet lists. What is broken, or far larger than any text of a list is, costs the rows that it is in."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import Any

from ..errors import UserError
from ..limits import how, limits
from .arrow import pa, parquet, pc
from .rows import MAX_ROW, Row

TOGETHER = 1024
"""Rows that are read at a time."""
MOST_TEXTS = 1000
"""Captions in one row."""
BYTES_A_VALUE = 64
"""In memory, however little of a file a value needs."""
BROKEN = (pa.ArrowException, OSError, ValueError, OverflowError, TypeError)


class _Bad(str):
    """Why a cell is none."""


def parquet_rows(path: str | os.PathLike[str], known: Collection[str]) -> Iterator[Row]:
    """The columns of these names, in small letters; as `read_table`, the heading first, then each row. ValueError for a file that
    is no parquet, or has such a column twice."""
    try:
        schema = parquet.read_schema(path)
        columns = {name: name.strip().lower() for name in schema.names}
        # A text that stands in many rows is in the file, and then in memory, once.
        file = parquet.ParquetFile(path, read_dictionary=[name for name in schema.names if _is_text(schema.field(name).type)])
    except BROKEN as problem:
        raise UserError(f"{path}: expected a parquet file, found one that cannot be read ({problem}).") from problem
    with file:
        yield Row("", dict.fromkeys(columns.values(), ""))
        wanted = {name: plain for name, plain in columns.items() if plain in known}
        if len({*wanted.values()}) < len(wanted):
            raise UserError(f"{path}: expected every column once, found {', '.join(wanted)}; rename one.")
        begin = 0
        for group in range(file.num_row_groups):
            told, at = file.metadata.row_group(group), begin
            try:
                _check_size(told, wanted)
                for cells in _groups_cells(file, group, list(wanted)):
                    at += 1
                    wrong = next((str(cell) for cell in cells if isinstance(cell, _Bad)), "")
                    yield Row(f"row {at}", dict(zip(wanted.values(), cells, strict=True)) if not wrong else {}, wrong)
            except BROKEN as problem:
                why = " ".join(str(problem).split())
                yield Row(f"rows {at + 1} to {begin + told.num_rows}", problem=f"they cannot be read ({why})")
            begin += told.num_rows


def _check_size(told: Any, wanted: Collection[str]) -> None:
    """ValueError for a row group that would take more memory than the limit."""
    parts = (told.column(number) for number in range(told.num_columns))
    mine = [part for part in parts if part.path_in_schema.partition(".")[0] in wanted]
    size = sum(max(part.total_uncompressed_size, BYTES_A_VALUE * part.num_values) for part in mine)
    if size > limits().bytes:
        raise UserError(f"a group of rows of {size:,} bytes where {limits().bytes:,} are the most; {how('bytes')}")


def _groups_cells(file: Any, group: int, names: list[str]) -> Iterator[tuple[Any, ...]]:
    for batch in file.iter_batches(TOGETHER, row_groups=[group], columns=names):
        yield from zip(*(_cells(batch.column(name)) for name in names), strict=True)


def _cells(column: Any) -> list[Any]:
    """Values of a column, bytes as text, and for what is none a _Bad."""
    if not _too_large(column):
        try:
            return [_text(value) for value in column.to_pylist()]
        except BROKEN:  # pyarrow does not say in which row
            pass
    return [_cell(column.slice(place, 1)) for place in range(len(column))]


def _cell(one: Any) -> Any:
    """The value of a column of one row."""
    if pa.types.is_dictionary(one.type):
        one = one.dictionary_decode()
    if wrong := _too_large(one):
        return _Bad(wrong)
    try:
        return _text(_raw(one[0]))
    except BROKEN as problem:
        return _Bad(f"a value that cannot be read ({problem})")


def _too_large(column: Any) -> str:
    """Why a column holds a value that no list has, or ""."""
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        if (pc.max(pc.list_value_length(column)).as_py() or 0) > MOST_TEXTS:
            return f"more than {MOST_TEXTS} texts in a row"
        column = column.flatten()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary
    if _is_text(column.type) and (pc.max(pc.binary_length(column)).as_py() or 0) > MAX_ROW:
        return f"a text of more than {MAX_ROW} bytes"
    return ""


def _is_text(kind: Any) -> bool:
    kinds = pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary
    return any(one(kind) for one in kinds)


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(each) for each in value]
    return value.decode("utf-8", "emu_video.marked") if isinstance(value, bytes) else value


def _raw(value: Any) -> Any:
    """A value of pyarrow's, its texts as bytes, whatever they are."""
    if hasattr(value, "as_buffer"):
        return value.as_buffer().to_pybytes() if value.is_valid else None
    return [_raw(each) for each in value.values or ()] if hasattr(value, "values") else value.as_py()
