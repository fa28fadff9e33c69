"""Rows of lists as people have them: CSV, TSV and JSON lines, in UTF-8, UTF-16 or UTF-32.

A damaged row is named by its line and the next line is read on its own, so that no row ends up inside another. Well-formed rows
are the csv module's. Lists of any length are read a line at a time.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

MAX_ROW = 1 << 20
"""Characters of a row."""
BOMS = {
    **{codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"},
    **{codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"},
}
"""UTF-32 first: its mark begins with UTF-16's."""
TAB = "\t"
WRONG = re.compile("[\0\ud800-\udfff]")
OPEN_QUOTE = "a quote that is not closed, or text behind a closing one"
Line = tuple[int, str]


@dataclass(frozen=True)
class Row:
    """A row by the names of its columns, in small letters and without space around; or the `problem` for which it cannot be read.
    place: "line 3", as an editor counts."""

    place: str
    cells: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


# -- text


def _marked(problem: UnicodeError) -> tuple[str, int]:
    """Bytes that are no text stand as half surrogates, so that the row they are in is known."""
    if not isinstance(problem, UnicodeDecodeError):
        raise problem
    return "".join(chr(0xDC00 + byte) for byte in problem.object[problem.start : problem.end]), problem.end


codecs.register_error("emu_video.marked", _marked)


def open_text(path: str | os.PathLike[str]) -> TextIO:
    """A file of text, its line ends as they are. The byte order mark says which of UTF-8, 16 and 32 it is; else UTF-8, or UTF-16
    where every second byte at the start is 0. `not_text` finds what was no text."""
    with open(path, "rb") as file:
        start = file.read(4)
    encoding = next((name for mark, name in BOMS.items() if start.startswith(mark)), "utf-8")
    if encoding == "utf-8" and len(start) == 4 and b"\0" in start:
        encoding = {b"\0\1\0\1": "utf-16-be", b"\1\0\1\0": "utf-16-le"}.get(bytes(map(bool, start)), encoding)
    return open(path, encoding=encoding, errors="emu_video.marked", newline="")


def decoded(data: bytes) -> str:
    """A whole text, as `open_text` takes it by its mark. UnicodeDecodeError where it is none."""
    return data.decode(next((name for mark, name in BOMS.items() if data.startswith(mark)), "utf-8"))


def not_text(text: str) -> str:
    """Why a text is none, or "": bytes of another encoding, half characters, NUL."""
    if (found := WRONG.search(text)) is None:
        return ""
    wrong = ord(found[0])
    if not wrong:
        return "a NUL character in it"
    known = f" (byte 0x{wrong - 0xDC00:02x})" if 0xDC00 <= wrong < 0xDD00 else ""
    return f"not text in UTF-8{known}; save it as UTF-8"


class Lines:
    """The lines of a file with their numbers from 1; some may be put back. One of more than MAX_ROW characters is cut there."""

    def __init__(self, text: TextIO) -> None:
        self._text, self._number = text, 0
        self._back: deque[Line] = deque()

    def next(self) -> Line | None:
        """The next line, None at the end."""
        if self._back:
            return self._back.popleft()
        line = rest = self._text.readline(MAX_ROW)
        while len(rest) == MAX_ROW and rest[-1] not in "\r\n":
            rest = self._text.readline(MAX_ROW)
        self._number += 1
        return (self._number, line) if line else None

    def put_back(self, lines: Sequence[Line]) -> None:
        """To be given again, in this order."""
        self._back.extendleft(reversed(lines))


# -- JSON


def unique_names(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """For json's object_pairs_hook. ValueError where a name is given twice, of which json would keep the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name!r} twice in one object")
        found[name] = value
    return found


def lowered(cells: dict[str, Any]) -> dict[str, Any]:
    """An object by names in small letters, without space around."""
    return {name.strip().lower(): cell for name, cell in cells.items()}


def _only_objects(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def read_json_lines(path: str | os.PathLike[str], taken: Callable[[Any], dict[str, Any] | None] = _only_objects) -> Iterator[Row]:
    """One JSON object a line; empty lines are passed over. taken: what stands for an object, None for what is none."""
    with open_text(path) as text:
        lines = Lines(text)
        while (line := lines.next()) is not None:
            number, content = line
            if content.strip():
                yield _json_row(f"line {number}", content, taken)


def _json_row(place: str, line: str, taken: Callable[[Any], dict[str, Any] | None]) -> Row:
    if len(line) >= MAX_ROW:
        return Row(place, problem=f"more than {MAX_ROW} characters in a row")
    if wrong := not_text(line):
        return Row(place, problem=wrong)
    try:
        cells = taken(json.loads(line, object_pairs_hook=unique_names))
    except (ValueError, RecursionError) as problem:
        return Row(place, problem=f"no JSON ({problem})")
    return Row(place, problem="no JSON object") if cells is None else Row(place, lowered(cells))


# -- CSV and TSV


Like = Callable[[str], bool]


def read_table(path: str | os.PathLike[str], known: Collection[str], like: Like | None = None) -> Iterator[Row]:
    """Rows of a CSV, or of a TSV by its extension; what is a CSV by name may also be cut by semicolons or tabs.

    known: names of the columns that matter. like: whether a cell is one that only begins a row, by which rows that an open quote
    swallowed are known; with it, a lone quote in a field of a CSV is a mistake, not a letter. The first row given is the
    heading: its cells are empty but for those names. In a TSV quotes mean something only around a whole field, as Excel writes
    them; others are letters. Raises ValueError for a heading that cannot be read, or has one of those names twice.
    """
    with open_text(path) as text:
        lines = Lines(text)
        heading, delimiter = _heading(path, lines, known)
        yield Row("line 1", dict.fromkeys(heading, ""))
        while (row := _row(lines, delimiter, like, heading)) is not None:
            if row.cells or row.problem:
                yield row


def _heading(path: str | os.PathLike[str], lines: Lines, known: Collection[str]) -> tuple[list[str], str]:
    """Names of the columns, and what is between them: of those that can be, the first that gives a known name."""
    found: list[tuple[bool, list[str], str]] = []
    wrong = ""
    while (line := lines.next()) is not None:
        if line[1].strip():
            lines.put_back([line])
            break
    for delimiter in TAB if os.fspath(path).lower().endswith(".tsv") else (",", ";", TAB):
        taken, cells, problem = _record(lines, delimiter)
        lines.put_back(taken)
        names = [cell.strip().lower() for cell in cells]
        if problem := problem or not_text("".join(names)):
            wrong = wrong or problem
        else:
            found.append((bool({*names} & {*known}), names, delimiter))
    if not found:
        raise ValueError(f"{path}: expected a heading with the names of columns, found {wrong}; mend it.")
    _, heading, delimiter = max(found, key=lambda one: one[0])
    if twice := [name for name in known if heading.count(name) > 1]:
        raise ValueError(f"{path}: expected every column once, found two called {twice[0]!r}; rename one.")
    _record(lines, delimiter)
    return heading, delimiter


def _record(lines: Lines, delimiter: str) -> tuple[list[Line], list[str], str]:
    """The next record of the csv module, the lines it took, and why there is none. No lines: the end."""
    taken: list[Line] = []

    def feed() -> Iterator[str]:
        size = 0
        while (line := lines.next()) is not None:
            taken.append(line)
            size += len(line[1])
            if size >= MAX_ROW:
                raise csv.Error("larger")
            yield line[1]

    try:
        return taken, next(csv.reader(feed(), delimiter=delimiter, strict=True), []), ""
    except csv.Error as problem:
        if len(taken) == 1 and "larger" in str(problem):
            return taken, [], f"a field of more than {min(MAX_ROW, csv.field_size_limit())} characters"
        return taken, [], "a NUL character in it" if "NUL" in str(problem) else OPEN_QUOTE


def _row(lines: Lines, delimiter: str, like: Like | None, heading: Sequence[str]) -> Row | None:
    """The next row; without cells and problem where it is blank, None at the end."""
    taken, cells, problem = _record(lines, delimiter)
    if not taken:
        return None
    place, rest = f"line {taken[0][0]}", taken[1:]
    if not problem and like and any(like(cell.strip(' "\r\n')) for _, line in rest for cell in line.split(delimiter)):
        problem = OPEN_QUOTE
        if _ends_a_text(rest[-1][1], delimiter):  # one caption that holds rows, or rows: neither is taken
            return Row(place, problem=f"{problem} (up to line {rest[-1][0]}, which are not taken either)")
    if delimiter == TAB and problem == OPEN_QUOTE:
        problem, cells = "", taken[0][1].rstrip("\r\n").split(TAB)
    elif not problem and len(cells) == len(heading):
        rest = []
    lines.put_back(rest)
    if not problem and len(cells) <= 1 and not "".join(cells).strip():
        return Row(place)
    if delimiter != TAB and like and not problem and sum(line.count('"') for _, line in taken) % 2:
        problem = "a lone quote; a field with quotes in it stands in quotes, and they twice"
    problem = problem or not_text("".join(cells))
    if not problem and len(cells) != len(heading):
        fields = f"{len(cells)} field{'s'[: len(cells) != 1]} where the heading has {len(heading)}"
        problem = f"{fields}; a field with {'tabs' if delimiter == TAB else 'commas'} in it stands in quotes"
    return Row(place, problem=problem) if problem else Row(place, dict(zip(heading, cells, strict=True)))


def _ends_a_text(line: str, delimiter: str) -> bool:
    """Whether the first quote of a line, pairs aside, stands behind text; one that opens a field stands behind a delimiter."""
    place = line.replace('""', "  ").find('"')
    return place > 0 and line[place - 1] != delimiter
