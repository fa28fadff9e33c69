"""Rows of lists as people have them: CSV, TSV and JSON lines, in UTF-8, UTF-16 or UTF-32.

A damaged row is named by its line and the next line is read on its own, so that no row ends up inside another. Well-formed rows
are the csv module's. Lists of any length are read a line at a time.
"""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TextIO

from ..errors import UserError
from ..limits import json_of

MAX_ROW = 1 << 20
"""Characters of a row."""
BOMS = {
    **{codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"},
    **{codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"},
}
"""UTF-32 first: its mark begins with UTF-16's."""
MARK = "\ufeff"
"""The byte order mark as a letter: it may stand in front of any row of lists that were joined."""
TAB = "\t"
DELIMITERS = {",": "commas", ";": "semicolons", TAB: "tabs"}
WRONG = re.compile("[\0\ud800-\udfff]")
OPEN_QUOTE = "a quote that is not closed, or text behind a closing one"
LINE_END = "a line end in a field that has none, or a quote that is not closed"
LOST_QUOTE = "a quote that closes a field which none opened; a field with quotes in it stands in quotes, and they twice"
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
    if not problem.encoding.startswith("utf-8"):  # half a character; or the file breaks off
        return "\ud800", problem.end
    return "".join(chr(0xDC00 + byte) for byte in problem.object[problem.start : problem.end]), problem.end


codecs.register_error("emu_video.marked", _marked)


def _encoding(start: bytes) -> str:
    """Of a text whose first four bytes are these: its byte order mark says which of UTF-8, 16 and 32; else UTF-8, or UTF-16 where
    every second byte is 0."""
    zeros = {b"\0\1": "utf-16-be", b"\1\0": "utf-16-le"}.get(bytes(map(bool, start[:2])), "utf-8")
    known = next((name for mark, name in BOMS.items() if start.startswith(mark)), "")
    return known or (zeros if len({*map(bool, start[::2])}) == 1 == len({*map(bool, start[1::2])}) else "utf-8")


def open_text(path: str | os.PathLike[str]) -> TextIO:
    """A file of text in its encoding, its line ends as they are. `not_text` finds what was no text."""
    with open(path, "rb") as file:
        start = file.read(4)
    return open(path, encoding=_encoding(start), errors="emu_video.marked", newline="")


def decoded(data: bytes) -> str:
    """A whole text in its encoding, without marks. UnicodeDecodeError where it is none."""
    return data.decode(_encoding(data[:4])).lstrip(MARK)


def not_text(text: str) -> str:
    """Why a text is none, or "": bytes of another encoding, half characters, NUL."""
    if (found := WRONG.search(text)) is None:
        return ""
    wrong = ord(found[0])
    if not wrong:
        return "a NUL character in it"
    if 0xDC00 <= wrong < 0xDD00:
        return f"not text in UTF-8 (byte 0x{wrong - 0xDC00:02x}); save it as UTF-8"
    return "not text (half a character, as where a file in UTF-16 breaks off); save it whole, as UTF-8"


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


class Object(dict[str, Any]):
    """For json's object_pairs_hook: an object that knows which names it was given twice, of which json keeps the last."""

    twice: tuple[str, ...] = ()

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        if len(self) < len(pairs):
            self.twice = tuple(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)


def lowered(cells: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """An object by names in small letters, without space around. ValueError for one of the known names that is there twice."""
    names = [name.strip().lower() for name in (*cells, *getattr(cells, "twice", ()))]
    if twice := next((name for name in known if names.count(name) > 1), ""):
        raise UserError(f"the name {twice!r} twice in one object")
    return dict(zip(names, cells.values(), strict=False))


def _only_objects(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def read_json_lines(
    path: str | os.PathLike[str], known: Collection[str], taken: Callable[[Any], dict[str, Any] | None] = _only_objects
) -> Iterator[Row]:
    """One JSON object a line; empty lines are passed over. known: names that matter, which may be there once. taken: what stands
    for an object, None for what is none."""
    with open_text(path) as text:
        lines = Lines(text)
        while (line := lines.next()) is not None:
            number, content = line[0], line[1].lstrip(MARK)
            if content.strip():
                yield _json_row(f"line {number}", content, known, taken)


def _json_row(place: str, line: str, known: Collection[str], taken: Callable[[Any], dict[str, Any] | None]) -> Row:
    if len(line) >= MAX_ROW:
        return Row(place, problem=f"more than {MAX_ROW} characters in a row")
    if wrong := not_text(line):
        return Row(place, problem=wrong)
    try:
        cells = taken(json_of(line, Object))
        return Row(place, problem="no JSON object") if cells is None else Row(place, lowered(cells, known))
    except ValueError as problem:
        return Row(place, problem=f"no JSON ({problem})")


# -- CSV and TSV


Like = Callable[[dict[str, str], dict[str, str]], bool]


@dataclass(frozen=True)
class _Form:
    """What is between the fields, the names of the columns, the place of the last one that a row must have, and the places of
    those that hold no line ends."""

    delimiter: str
    heading: list[str]
    last: int
    one_line: list[int]

    def named(self, cells: Sequence[str]) -> dict[str, str] | None:
        """Cells by their names; None for more or fewer than there are names, unless all behind the last that matters are empty:
        one that is not could be a part of a field that a delimiter without quotes cut."""
        if len(cells) != len(self.heading) and (len(cells) <= self.last or "".join(cells[self.last + 1 :]).strip()):
            return None
        return self.by_name(cells)

    def by_name(self, cells: Sequence[str]) -> dict[str, str]:
        """However many there are; those that are missing are empty."""
        missing = len(self.heading) - len(cells)
        return dict(zip(self.heading, [*cells, *[""] * missing] if missing > 0 else cells, strict=False))


def read_table(
    path: str | os.PathLike[str],
    known: Collection[str],
    needed: Collection[str] = (),
    like: Like | None = None,
    one_line: Collection[str] | None = (),
) -> Iterator[Row]:
    """Rows of a CSV, or of a TSV by its extension; what is a CSV by name may also be cut by semicolons or tabs.

    known: names of the columns that matter. needed: those of them that a row must reach (all). one_line: columns that hold no
    line ends, None for all. like: whether the second row, if it is one at all, is of the same list as the first; by this and by
    the number of fields rows are known that an open quote swallowed. The first row given is the heading: its cells are empty but
    for those names. In a TSV quotes mean something only around a whole field, as Excel writes them; others are letters. Raises
    ValueError for a heading that cannot be read, or has one of those names twice.
    """
    with open_text(path) as text:
        lines = Lines(text)
        heading, delimiter = _heading(path, lines, known)
        yield Row("line 1", dict.fromkeys(heading, ""))
        places = [place for place, name in enumerate(heading) if name in (needed or known)]
        short = [place for place, name in enumerate(heading) if one_line is None or name in one_line]
        form = _Form(delimiter, heading, max(places, default=len(heading) - 1), short)
        while (row := _row(lines, form, like)) is not None:
            if row.cells or row.problem:
                yield row


def _heading(path: str | os.PathLike[str], lines: Lines, known: Collection[str]) -> tuple[list[str], str]:
    """Names of the columns, and what is between them: as Excel's first line `sep=;` says or, of those that can be, the first that
    gives a known name."""
    found: list[tuple[bool, list[str], str]] = []
    wrong = ""
    delimiters: Sequence[str] = TAB if os.fspath(path).lower().endswith(".tsv") else [*DELIMITERS]
    while (line := lines.next()) is not None:
        if said := re.fullmatch(r'\ufeff*"?sep=([^"\r\n])"?\s*', line[1], re.IGNORECASE):
            delimiters = said[1]
        elif line[1].strip():
            lines.put_back([line])
            break
    for delimiter in delimiters:
        taken, cells, problem = _record(lines, delimiter)
        lines.put_back(taken)
        names = [cell.strip().lower() for cell in cells]
        while names and not names[-1]:  # `path,caption,,`: a field there belongs to no column
            names.pop()
        if problem := problem or not_text("".join(names)):
            wrong = wrong or problem
        else:
            found.append((bool({*names} & {*known}), names, delimiter))
    if not found:
        raise UserError(f"{path}: expected a heading with the names of columns, found {wrong}; mend it.")
    _, heading, delimiter = max(found, key=lambda one: one[0])
    if twice := [name for name in known if heading.count(name) > 1]:
        raise UserError(f"{path}: expected every column once, found two called {twice[0]!r}; rename one.")
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
            yield line[1] if len(taken) > 1 else line[1].lstrip(MARK)

    try:
        return taken, next(csv.reader(feed(), delimiter=delimiter, strict=True), []), ""
    except csv.Error as problem:
        if len(taken) == 1 and "larger" in str(problem):
            return taken, [], f"a field of more than {min(MAX_ROW, csv.field_size_limit())} characters"
        if "NUL" in str(problem):
            return taken, [], "a NUL character in it"
    text = "".join(line for _, line in taken)
    try:  # spaces behind a closing quote mean nothing
        behind = rf'("(?:[^"]|"")*") +(?={re.escape(delimiter)}|\s*$)'
        return taken, next(csv.reader([re.sub(behind, r"\1", text)], delimiter=delimiter, strict=True), []), ""
    except csv.Error:
        return taken, [], OPEN_QUOTE


def _row(lines: Lines, form: _Form, like: Like | None) -> Row | None:
    """The next row; without cells and problem where it is blank or the heading again, None at the end."""
    taken, cells, problem = _record(lines, form.delimiter)
    if not taken:
        return None
    place, rest = f"line {taken[0][0]}", taken[1:]
    if rest and not problem and any("\n" in cells[n] or "\r" in cells[n] for n in form.one_line if n < len(cells)):
        problem = LINE_END
    elif rest and not problem and like and _swallowed(taken, cells, form, like):
        # one caption that holds rows, or rows: neither is taken
        advice = "which are not taken either; if it is one text, put quotes around the path too"
        return Row(place, problem=f"{OPEN_QUOTE} (up to line {rest[-1][0]}, {advice})")
    if not problem and form.delimiter != TAB and _lost_quote("".join(line for _, line in taken), form.delimiter):
        problem = LOST_QUOTE
    named = None if problem else form.named(cells)
    if form.delimiter == TAB and problem == OPEN_QUOTE:
        cells = taken[0][1].rstrip("\r\n").split(TAB)
        problem, named = "", form.named(cells)
    elif named is not None:
        rest = []
    lines.put_back(rest)
    plain = [cell.strip().lower() for cell in cells]
    if not problem and (not any(plain) or plain[: len(form.heading)] == form.heading):
        return Row(place)
    problem = problem or not_text("".join(cells))
    if not problem and named is None:
        fields = f"{len(cells)} field{'s'[: len(cells) != 1]} where the heading has {len(form.heading)}"
        between = DELIMITERS.get(form.delimiter, repr(form.delimiter))
        problem = f"{fields}; a field with {between} in it stands in quotes, and an empty one has its place too"
    return Row(place, problem=problem) if problem else Row(place, named or {})


def _lost_quote(text: str, delimiter: str) -> bool:
    """Whether a field without quotes around it has lost the first: it ends in one of an odd number, or holds doubled ones. Other
    lone quotes are letters, as in `a 5" disc`."""
    if '"' not in text:
        return False
    bare = (
        field.rstrip() for field in _fields_as_they_are(delimiter)(text.rstrip("\r\n")) if '"' in field[1:] and field[0] != '"'
    )
    return any(field.count('"') % 2 and (field.endswith('"') or '""' in field) for field in bare)


@cache
def _fields_as_they_are(delimiter: str) -> Callable[[str], list[str]]:
    between = re.escape(delimiter)
    return re.compile(rf'("[^"]*(?:""[^"]*)*" *|[^{between}]*)(?:{between}|\s*$)').findall


def _swallowed(taken: Sequence[Line], cells: Sequence[str], form: _Form, like: Like) -> bool:
    """Whether what was read as one row holds others, in a field that a quote began and another row's quote ended: a line in it
    has as many fields as a row, or more than one and is like this row. None is where this row would lack fields without them,
    what stands before the place in a line where the quote was closed, and what lacks a quote in front where this row has one."""
    first = taken[0][1].lstrip(MARK)
    if first.count(form.delimiter) < form.last:
        return False
    opened = len(_fields(first, form.delimiter)) - 1
    for _, line in taken[1:]:
        fields, quote = _fields(line, form.delimiter), _quote(line)
        column = line.count(form.delimiter, 0, quote) if quote >= 0 else opened
        full = sum(bool(field.strip()) for field in fields) + (quote > 0 and line[quote - 1] == form.delimiter)
        styled = opened == 0 or not first.startswith('"') or line.startswith('"')
        if full > 1 and styled and column >= opened and form.named(fields) is not None:
            return True
        if len(fields) > 1 and like(form.by_name(cells), form.by_name(fields)):
            return True
    return False


def _fields(line: str, delimiter: str) -> list[str]:
    """Of a line on its own, whatever its quotes."""
    return next(csv.reader([line], delimiter=delimiter), [])


def _quote(line: str) -> int:
    """The place of the first quote of a line, pairs aside; -1 where there is none."""
    return line.replace('""', "  ").find('"')
