"""Subsets of a curated folder by an expression over its columns: row numbers in a file, the shards stay as they are.

Expressions look like Python's but are translated, not run: comparisons, `and`, `or`, `not`, `+ - * /`, `in`, `is None` and
`contains(column, "text")` over the columns of the table.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .shards import SELECTIONS
from .table import COLUMNS, TABLE, whole

HQ = "clip_score > 0.25 and aesthetic > 5.7 and motion_min > 0.5"
"""The paper's rule for its high-quality subset (1.6 K of 34 M clips)."""
FILLED_BY = {
    "clip_score": "curate into a new folder with --clip FOLDER",
    "aesthetic": "curate into a new folder with --clip FOLDER --aesthetic HEAD.safetensors",
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
EXAMPLE = 'for example: width >= 512 and motion_min > 0.5 and not contains(caption, "logo")'


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
        import pyarrow.compute as pc

        self._pc: Any = pc
        self._text = text
        self.columns: set[str] = set()
        self._binary: dict[type, Callable[[Any, Any], Any]] = {
            ast.Add: pc.add,
            ast.Sub: pc.subtract,
            ast.Mult: pc.multiply,
            # of whole numbers too: 1 / 2 is a half, as in Python
            ast.Div: lambda a, b: pc.divide(a.cast("float64"), b.cast("float64")),
        }
        self._operators: dict[type, Callable[[Any, Any], Any]] = {
            ast.Lt: lambda a, b: a < b,
            ast.LtE: lambda a, b: a <= b,
            ast.Gt: lambda a, b: a > b,
            ast.GtE: lambda a, b: a >= b,
            ast.Eq: lambda a, b: a == b,
            ast.NotEq: lambda a, b: a != b,
        }

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
            raise ValueError(
                f"expression {self._text!r}: expected one of the columns {', '.join(COLUMNS)}, found {node.id!r}; "
                f"put text in quotes."
            )
        self.columns.add(node.id)
        field = self._pc.field(node.id)
        # whole numbers would be compared and multiplied in as few bits as hold the smaller side, and overflow
        return field.cast("float64", safe=False) if "int" in COLUMNS[node.id] and "list" not in COLUMNS[node.id] else field

    def _constant(self, node: ast.Constant) -> Any:
        if not isinstance(node.value, bool | int | float | str):
            raise self._refuse(node)
        whole_number = isinstance(node.value, int) and not isinstance(node.value, bool)
        return self._pc.scalar(float(node.value) if whole_number else node.value)

    def _boolop(self, node: ast.BoolOp) -> Any:
        result, *others = [self(value) for value in node.values]
        for other in others:
            result = result & other if isinstance(node.op, ast.And) else result | other
        return result

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Not):
            return ~self(node.operand)
        if isinstance(node.op, ast.USub):
            return self._pc.negate(self(node.operand))
        raise self._refuse(node)

    def _binop(self, node: ast.BinOp) -> Any:
        if type(node.op) not in self._binary:
            raise self._refuse(node)
        return self._binary[type(node.op)](self(node.left), self(node.right))

    def _compare(self, node: ast.Compare) -> Any:
        sides = [node.left, *node.comparators]
        parts = [self._compare_one(a, operator, b) for a, operator, b in zip(sides, node.ops, sides[1:], strict=False)]
        result = parts[0]
        for part in parts[1:]:
            result = result & part
        return result

    def _compare_one(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Any:
        if type(operator) in self._operators:
            return self._operators[type(operator)](self(left), self(right))
        if isinstance(operator, ast.Is | ast.IsNot) and isinstance(right, ast.Constant) and right.value is None:
            missing = self(left).is_null()
            return missing if isinstance(operator, ast.Is) else ~missing
        if isinstance(operator, ast.In | ast.NotIn):
            found = self._among(left, right)
            return found if isinstance(operator, ast.In) else ~found
        raise self._refuse(right)

    def _among(self, left: ast.expr, right: ast.expr) -> Any:
        """`codec in ("h264", "hevc")`, and `"cat" in caption`, which minds capitals."""
        if isinstance(right, ast.Tuple | ast.List | ast.Set):
            if not all(isinstance(e, ast.Constant) for e in right.elts):
                raise self._refuse(right)
            values = [e.value for e in right.elts if isinstance(e, ast.Constant)]
            return self(left).isin([float(v) if type(v) is int else v for v in values])
        if isinstance(left, ast.Constant) and isinstance(left.value, str):
            return self._pc.match_substring(self(right), left.value)
        raise self._refuse(right)

    def _call(self, node: ast.Call) -> Any:
        """contains(column, "text"): whether the text is in it, capitals or not."""
        named = isinstance(node.func, ast.Name) and node.func.id == "contains"
        if not named or node.keywords or len(node.args) != 2 or not isinstance(node.args[1], ast.Constant):
            raise self._refuse(node)
        if not isinstance(node.args[1].value, str):
            raise self._refuse(node.args[1])
        return self._pc.match_substring(self(node.args[0]), node.args[1].value, ignore_case=True)


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
    import pyarrow as pa

    folder = Path(folder)
    if not NAME.fullmatch(name):
        raise ValueError(f"NAME: expected letters, digits, - and _, found {name!r}; choose another name.")
    if (top is None) != (by is None) or (top is not None and top < 1):
        raise ValueError(
            f"--top and --by: expected a number of at least 1 and a column, found {top} and {by}; give both or none."
        )
    parsed = parse(where)
    if by is not None and COLUMNS.get(by) not in ("float64", "int32", "int64", "uint32", "uint64"):
        numbers = ", ".join(n for n, kind in COLUMNS.items() if kind not in ("string", "list", "bool"))
        raise ValueError(f"--by: expected one of {numbers}, found {by!r}.")
    if not (folder / TABLE).is_file():
        raise ValueError(f"{folder}: expected a folder that emu-video curate made, found no {TABLE} in it; check the path.")
    try:
        rows, values, total, empty = _scan(folder, parsed, by)
    except (pa.ArrowException, TypeError) as problem:
        raise ValueError(
            f"expression {where!r}: expected a condition that fits its columns, found {problem}; {EXAMPLE}."
        ) from problem
    if top is not None and len(rows) > top:
        rows = np.sort(rows[np.argsort(-values, kind="stable")[:top]])
    if not len(rows):
        raise ValueError(f"{folder}: expected clips for which {where!r} holds, found none of {total}; loosen it.")
    path = _write(folder, name, {"expression": where, "top": top, "by": by, "count": len(rows), "of": total}, rows)
    return Selection(path, len(rows), total, empty)


def _scan(folder: Path, parsed: Parsed, by: str | None) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Matching rows, their values of `by`, all rows, and those without a value in a used column; one row group at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    used = sorted(parsed.columns | ({by} if by else set()))
    with parquet.ParquetFile(folder / TABLE) as file:
        nulls, rows, values, total, empty = dict.fromkeys(used, 0), [], [], 0, 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[*used] or ["key"])
            missing = np.zeros(len(table), bool)
            for name in used:
                mask = table.column(name).is_null().to_numpy()
                nulls[name] += int(mask.sum())
                missing |= mask
            table = table.append_column("row", pa.array(np.arange(total, total + len(table))))
            kept = table.filter(parsed.expression)
            kept = kept.filter(kept.column(by).is_valid()) if by else kept
            rows.append(kept.column("row").to_numpy())
            values.append(kept.column(by).to_numpy() if by else rows[-1])
            total, empty = total + len(table), empty + int(missing.sum())
    for name, number in nulls.items():
        if total and number == total:
            how = FILLED_BY.get(name, "curate other clips")
            raise ValueError(f"{folder}: expected values in the column {name}, found none in any of {total} clips; {how}.")
    nothing = np.empty(0, np.int64)
    return np.concatenate([nothing, *rows]), np.concatenate([nothing, *values]), total, empty


def _write(folder: Path, name: str, about: dict[str, Any], rows: np.ndarray) -> Path:
    target = folder / SELECTIONS / f"{name}.npy"
    target.parent.mkdir(exist_ok=True)
    with whole(target) as part, open(part, "wb") as file:
        np.save(file, rows.astype(np.uint32 if about["of"] < 2**32 else np.uint64))
    with whole(target.with_suffix(".json")) as part:
        part.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return target
