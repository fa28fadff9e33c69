"""Subsets of a curated folder by an expression over its columns: row numbers in a file, the shards stay as they are.

Expressions look like Python's but are translated, not run: comparisons, `and`, `or`, `not`, `+ - * /`, `in`, `is None` and
`contains(column, "text")` over the columns of the table.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..media.files import whole_file, write_text
from .arrow import pa, parquet, pc
from .shards import SELECTIONS
from .table import CAPTIONS, COLUMNS, TABLE, with_captions

HQ = "clip_score > 0.25 and aesthetic > 5.7 and motion_min > 0.5"
"""The paper's rule for its high-quality subset (1.6 K of 34 M clips)."""
FILLED_BY = {
    "clip_score": "curate into a new folder with --clip FOLDER",
    "aesthetic": "curate into a new folder with --clip FOLDER --aesthetic HEAD.safetensors",
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
EXAMPLE = 'for example: width >= 512 and motion_min > 0.5 and not contains(caption, "logo")'
WHOLE_NUMBERS = [name for name, kind in COLUMNS.items() if kind in ("int32", "int64", "uint32", "uint64")]
KNOWN = [*COLUMNS, CAPTIONS]
NUMBERS = [name for name, kind in COLUMNS.items() if kind == "float64" or name in WHOLE_NUMBERS]
OPERATORS: dict[type, Callable[..., Any]] = {
    **{ast.Not: operator.invert, ast.USub: pc.negate},
    **{ast.And: operator.and_, ast.Or: operator.or_, ast.Add: pc.add, ast.Sub: pc.subtract, ast.Mult: pc.multiply},
    # of whole numbers too: 1 / 2 is a half, as in Python
    ast.Div: lambda a, b: pc.divide(a.cast("float64"), b.cast("float64")),
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne},
}


def parse(text: str) -> tuple[Any, set[str]]:
    """A pyarrow expression, and the columns in it. Raises ValueError that names what is not understood."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        raise UserError(f"expression {text!r}: expected a condition, found what cannot be read; {EXAMPLE}.") from problem
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - {"contains"}
    try:
        return _expression(tree.body), names
    except _Refused as refused:
        (node,) = refused.args
        why = f"expected one of the columns {', '.join(KNOWN)}, found {getattr(node, 'id', '')!r}; put text in quotes."
        if not isinstance(node, ast.Name):
            part = ast.get_source_segment(text.strip(), node) if hasattr(node, "lineno") else None
            known = 'comparisons, and, or, not, + - * /, in, is None and contains(column, "text")'
            why = f"expected {known}, found {part or type(node).__name__!r}; {EXAMPLE}."
        raise UserError(f"expression {text!r}: {why}") from refused


class _Refused(Exception):
    """Of a part of a syntax tree."""


def _expression(node: ast.AST) -> Any:
    match node:
        case ast.Name(id=name) if name in WHOLE_NUMBERS:
            # they would be compared and multiplied in as few bits as hold the smaller side, and overflow
            return pc.field(name).cast("float64", safe=False)
        case ast.Name(id=name) if name in KNOWN:
            return pc.field(name)
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return pc.scalar(float(value) if type(value) is int else value)  # as columns are
        case ast.BoolOp(op=how, values=values):
            return reduce(OPERATORS[type(how)], map(_expression, values))
        case ast.UnaryOp(op=how, operand=inner) if type(how) in OPERATORS:
            return OPERATORS[type(how)](_expression(inner))
        case ast.BinOp(left=left, op=how, right=right) if type(how) in OPERATORS:
            return OPERATORS[type(how)](_expression(left), _expression(right))
        case ast.Compare(left=left, ops=ops, comparators=others):
            return reduce(operator.and_, map(_comparison, [left, *others], ops, others))
        case ast.Call(func=ast.Name(id="contains"), args=[column, ast.Constant(value=str() as part)], keywords=[]):
            return pc.match_substring(_expression(column), part, ignore_case=True)
    raise _Refused(node)


def _comparison(left: ast.expr, how: ast.cmpop, right: ast.expr) -> Any:
    match left, how, right:
        case _, ast.Is() | ast.IsNot(), ast.Constant(value=None):
            found = _expression(left).is_null()
        case _, ast.In() | ast.NotIn(), ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            values = [part.value for part in parts if isinstance(part, ast.Constant)]
            if len(values) < len(parts):
                raise _Refused(right)
            found = _expression(left).isin([float(value) if type(value) is int else value for value in values])
        case ast.Constant(value=str() as part), ast.In() | ast.NotIn(), _:
            found = pc.match_substring(_expression(right), part)
        case _ if type(how) in OPERATORS:
            return OPERATORS[type(how)](_expression(left), _expression(right))
        case _:
            raise _Refused(right)
    return ~found if isinstance(how, ast.IsNot | ast.NotIn) else found


@dataclass(frozen=True)
class Selection:
    """What was chosen: the file of row numbers, how many of how many, and how many had no value to compare."""

    path: Path
    count: int
    of: int
    without_value: int


def select(folder: str | Path, name: str, where: str, top: int | None = None, by: str | None = None) -> Selection:
    """Write the rows for which `where` holds as selections/NAME.npy (ascending, uint32 or uint64) and what was asked as .json.

    top, by: keep only so many with the largest value in the column `by`; of equals the first. Raises ValueError for what is
    no curated folder, an expression that cannot be used, a column that was never filled, or nothing found.
    """
    folder = Path(folder)
    if not NAME.fullmatch(name):
        raise UserError(f"NAME: expected letters, digits, - and _, found {name!r}; choose another name.")
    if (top is None) != (by is None) or (top is not None and top < 1):
        raise UserError(f"--top and --by: expected a number of at least 1 and a column, or neither, found {top} and {by}.")
    condition, used = parse(where)
    if by is not None and by not in NUMBERS:
        raise UserError(f"--by: expected one of {', '.join(NUMBERS)}, found {by!r}.")
    if not (folder / TABLE).is_file():
        raise UserError(f"{folder}: expected a folder that emu-video curate made, found no {TABLE} in it; check the path.")
    try:
        rows, values, total, empty = _scan(folder, condition, used, by)
    except (pa.ArrowException, TypeError) as problem:
        why = f"expected a condition that fits its columns, found {problem}; {EXAMPLE}."
        raise UserError(f"expression {where!r}: {why}") from problem
    if top is not None and len(rows) > top:
        rows = np.sort(rows[np.argsort(-values, kind="stable")[:top]])
    if not len(rows):
        raise UserError(f"{folder}: expected clips for which {where!r} holds, found none of {total}; loosen it.")
    path = folder / SELECTIONS / f"{name}.npy"
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as part, open(part, "wb") as file:
        np.save(file, rows.astype(np.uint32 if total < 2**32 else np.uint64))
    about = {"expression": where, "top": top, "by": by, "count": len(rows), "of": total}
    write_text(path.with_suffix(".json"), json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    return Selection(path, len(rows), total, empty)


def _read_columns(file: Any, group: int, used: set[str]) -> Any:
    """Columns of a row group; `captions` as text, one a line, also of clips that have one."""
    names = [*used] or ["key"]
    if CAPTIONS not in used:
        return file.read_row_group(group, columns=names)
    table = with_captions(file.read_row_group(group, columns=[*names, "caption"]))
    joined = pc.coalesce(pc.binary_join(table.column(CAPTIONS), "\n"), table.column("caption"))
    return table.drop_columns([CAPTIONS]).append_column(CAPTIONS, joined)


def _scan(folder: Path, condition: Any, used: set[str], by: str | None) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Matching rows, their values of `by`, all rows, and those without a value in a used column; one row group at a time."""
    if by:
        condition, used = condition & pc.field(by).is_valid(), used | {by}
    nulls, rows, values, total, empty = dict.fromkeys(used, 0), [np.empty(0, np.int64)], [np.empty(0)], 0, 0
    with parquet.ParquetFile(folder / TABLE) as file:
        for group in range(file.num_row_groups):
            table = _read_columns(file, group, used)
            for name in used:
                nulls[name] += table.column(name).null_count
            empty += len(table) - len(table.drop_null())
            kept = table.append_column("row", pa.array(np.arange(total, total + len(table)))).filter(condition)
            rows.append(kept.column("row").to_numpy())
            values.append(kept.column(by or "row").to_numpy())
            total += len(table)
    for name, number in nulls.items():
        if total and number == total:
            how = FILLED_BY.get(name, "curate other clips")
            raise UserError(f"{folder}: expected values in the column {name}, found none in any of {total} clips; {how}.")
    return np.concatenate(rows), np.concatenate(values), total, empty
