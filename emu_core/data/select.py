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

from ..media.files import whole_file
from .arrow import pa, parquet, pc
from .shards import SELECTIONS
from .table import COLUMNS, TABLE

HQ = "clip_score > 0.25 and aesthetic > 5.7 and motion_min > 0.5"
"""The paper's rule for its high-quality subset (1.6 K of 34 M clips)."""
FILLED_BY = {
    "clip_score": "curate into a new folder with --clip FOLDER",
    "aesthetic": "curate into a new folder with --clip FOLDER --aesthetic HEAD.safetensors",
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
EXAMPLE = 'for example: width >= 512 and motion_min > 0.5 and not contains(caption, "logo")'
WHOLE_NUMBERS = ("int32", "int64", "uint32", "uint64")
OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    **{ast.And: operator.and_, ast.Or: operator.or_, ast.Add: pc.add, ast.Sub: pc.subtract, ast.Mult: pc.multiply},
    # of whole numbers too: 1 / 2 is a half, as in Python
    ast.Div: lambda a, b: pc.divide(a.cast("float64"), b.cast("float64")),
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne},
}


@dataclass(frozen=True)
class Parsed:
    """A pyarrow expression and the columns in it."""

    expression: Any
    columns: frozenset[str]


def parse(text: str) -> Parsed:
    """Translate an expression. Raises ValueError that names what is not understood."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        raise ValueError(f"expression {text!r}: expected a condition, found what cannot be read; {EXAMPLE}.") from problem
    translator = _Translator(text)
    return Parsed(translator(tree.body), frozenset(translator.columns))


class _Translator:
    """Python's syntax tree to pyarrow's expressions, one method for each kind of node that is allowed."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.columns: set[str] = set()

    def __call__(self, node: ast.AST) -> Any:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise self._refuse(node)
        return method(node)

    def _refuse(self, node: ast.AST) -> ValueError:
        part = ast.get_source_segment(self._text.strip(), node) if hasattr(node, "lineno") else None  # type: ignore[arg-type]
        return ValueError(
            f"expression {self._text!r}: expected comparisons, and, or, not, + - * /, in, is None and "
            f'contains(column, "text"), found {part or type(node).__name__!r}; {EXAMPLE}.'
        )

    def _name(self, node: ast.Name) -> Any:
        if node.id not in COLUMNS:
            known = ", ".join(COLUMNS)
            raise ValueError(f"expression {self._text!r}: expected one of the columns {known}, found {node.id!r}; quote text.")
        self.columns.add(node.id)
        # whole numbers would be compared and multiplied in as few bits as hold the smaller side, and overflow
        return pc.field(node.id).cast("float64", safe=False) if COLUMNS[node.id] in WHOLE_NUMBERS else pc.field(node.id)

    def _constant(self, node: ast.Constant) -> Any:
        if not isinstance(node.value, bool | int | float | str):
            raise self._refuse(node)
        return pc.scalar(_plain(node.value))

    def _boolop(self, node: ast.BoolOp) -> Any:
        return reduce(OPERATORS[type(node.op)], map(self, node.values))

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Not):
            return ~self(node.operand)
        if isinstance(node.op, ast.USub):
            return pc.negate(self(node.operand))
        raise self._refuse(node)

    def _binop(self, node: ast.BinOp) -> Any:
        if type(node.op) not in OPERATORS:
            raise self._refuse(node)
        return OPERATORS[type(node.op)](self(node.left), self(node.right))

    def _compare(self, node: ast.Compare) -> Any:
        sides = [node.left, *node.comparators]
        return reduce(operator.and_, map(self._compare_two, sides, node.ops, node.comparators))

    def _compare_two(self, left: ast.expr, how: ast.cmpop, right: ast.expr) -> Any:
        if type(how) in OPERATORS:
            return OPERATORS[type(how)](self(left), self(right))
        if isinstance(how, ast.In | ast.NotIn):
            found = self._among(left, right)
        elif isinstance(right, ast.Constant) and right.value is None:
            found = self(left).is_null()
        else:
            raise self._refuse(right)
        return found if isinstance(how, ast.In | ast.Is) else ~found

    def _among(self, left: ast.expr, right: ast.expr) -> Any:
        """`codec in ("h264", "hevc")`, and `"cat" in caption`, which minds capitals."""
        if isinstance(right, ast.Tuple | ast.List | ast.Set):
            values = [element.value for element in right.elts if isinstance(element, ast.Constant)]
            if len(values) == len(right.elts):
                return self(left).isin([_plain(value) for value in values])
        elif isinstance(left, ast.Constant) and isinstance(left.value, str):
            return pc.match_substring(self(right), left.value)
        raise self._refuse(right)

    def _call(self, node: ast.Call) -> Any:
        """contains(column, "text"): whether the text is in it, capitals or not."""
        named = isinstance(node.func, ast.Name) and node.func.id == "contains"
        if not named or node.keywords or len(node.args) != 2 or not isinstance(node.args[1], ast.Constant):
            raise self._refuse(node)
        if not isinstance(node.args[1].value, str):
            raise self._refuse(node.args[1])
        return pc.match_substring(self(node.args[0]), node.args[1].value, ignore_case=True)


def _plain(value: Any) -> Any:
    """A whole number as the float that columns of whole numbers are compared as."""
    return float(value) if type(value) is int else value


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
        raise ValueError(f"NAME: expected letters, digits, - and _, found {name!r}; choose another name.")
    if (top is None) != (by is None) or (top is not None and top < 1):
        raise ValueError(f"--top and --by: expected a number of at least 1 and a column, or neither, found {top} and {by}.")
    parsed = parse(where)
    numbers = [column for column, kind in COLUMNS.items() if kind in ("float64", *WHOLE_NUMBERS)]
    if by is not None and by not in numbers:
        raise ValueError(f"--by: expected one of {', '.join(numbers)}, found {by!r}.")
    if not (folder / TABLE).is_file():
        raise ValueError(f"{folder}: expected a folder that emu-video curate made, found no {TABLE} in it; check the path.")
    try:
        rows, values, total, empty = _scan(folder, parsed, by)
    except (pa.ArrowException, TypeError) as problem:
        why = f"expected a condition that fits its columns, found {problem}; {EXAMPLE}."
        raise ValueError(f"expression {where!r}: {why}") from problem
    if top is not None and len(rows) > top:
        rows = np.sort(rows[np.argsort(-values, kind="stable")[:top]])
    if not len(rows):
        raise ValueError(f"{folder}: expected clips for which {where!r} holds, found none of {total}; loosen it.")
    path = folder / SELECTIONS / f"{name}.npy"
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as part, open(part, "wb") as file:
        np.save(file, rows.astype(np.uint32 if total < 2**32 else np.uint64))
    about = {"expression": where, "top": top, "by": by, "count": len(rows), "of": total}
    with whole_file(path.with_suffix(".json")) as part:
        part.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Selection(path, len(rows), total, empty)


def _scan(folder: Path, parsed: Parsed, by: str | None) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Matching rows, their values of `by`, all rows, and those without a value in a used column; one row group at a time."""
    used = sorted(parsed.columns | ({by} if by else set()))
    condition = parsed.expression & pc.field(by).is_valid() if by else parsed.expression
    nulls, rows, values, total, empty = dict.fromkeys(used, 0), [np.empty(0, np.int64)], [np.empty(0)], 0, 0
    with parquet.ParquetFile(folder / TABLE) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=used or ["key"])
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
            raise ValueError(f"{folder}: expected values in the column {name}, found none in any of {total} clips; {how}.")
    return np.concatenate(rows), np.concatenate(values), total, empty
