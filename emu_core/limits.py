"""What one file may cost: every limit on what is read, in one place, and JSON read within them.

A file can claim, or unfold to, a million times its own size. Everything that reads one asks here, before decoding and again on
the way, since headers lie. Each limit can be set by an environment variable (EMU_VIDEO_MAX_PIXELS, ...), which the processes that
a command starts inherit, or on the command line with `--limit pixels=N`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import UserError

PREFIX = "EMU_VIDEO_MAX_"
UNFOLDED = 1_000_000
"""How often its own size a file may unfold to where that is more than `bytes`: long still films, which are legitimate, stay
below; a bomb's frames of a few bytes each do not."""
DEPTH = 100
DIGITS = 100
ENTRIES = 4_000_000


@dataclass(frozen=True)
class Limits:
    """pixels: of a picture, or a frame of a video (8192 x 8192; 8K films have half of it). frames, seconds: of a video as it is
    shown. bytes: of decoded pictures that are held at once, and to which a small file may unfold in all (4 GiB; beyond it, a
    file may unfold to UNFOLDED times its size), counted as 3 a pixel. json: bytes of a text of JSON (64 MiB)."""

    pixels: int = 1 << 26
    frames: int = 1_000_000
    seconds: int = 86_400
    bytes: int = 4 << 30
    json: int = 64 << 20


NAMES = tuple(field.name for field in fields(Limits))


def limits() -> Limits:
    """The limits that hold now. ValueError for an environment variable that is no whole number above 0."""
    found = {name: _number(PREFIX + name.upper(), text) for name in NAMES if (text := os.environ.get(PREFIX + name.upper()))}
    return Limits(**found)


def _number(name: str, text: str) -> int:
    plain = text.strip().replace("_", "")
    if not (plain.isascii() and plain.isdigit() and len(plain) < 19 and int(plain)):
        raise UserError(f"{name}: expected a whole number above 0, found {text[:40]!r}; give another or leave it out.")
    return int(plain)


@contextmanager
def changed(given: Sequence[str]) -> Iterator[None]:
    """Others within the block, and for the processes that it starts, each as "name=number". ValueError for what is no limit."""
    wanted = {}
    for text in given:
        name, _, number = text.partition("=")
        if name not in NAMES:
            raise UserError(f"--limit: expected NAME=NUMBER with one of the names {', '.join(NAMES)}, found {text[:60]!r}.")
        wanted[PREFIX + name.upper()] = str(_number(f"--limit {name}", number))
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def how(name: str) -> str:
    """How to change a limit, for the end of a sentence."""
    return f"if it is right, allow more with --limit {name}=N or {PREFIX}{name.upper()}"


def in_environment() -> dict[str, str]:
    """The variables that are set, for machines that do not inherit them."""
    return {PREFIX + name.upper(): str(value) for name, value in asdict(limits()).items() if PREFIX + name.upper() in os.environ}


# -- JSON


class NotJson(UserError):
    """A text that is no JSON, or larger or deeper than any that is meant; why, for a sentence that says where."""


def json_of(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value that a text of JSON holds; pairs: json's object_pairs_hook. NaN and infinity, which json takes, are let in.

    Raises NotJson: broken, more than `json` bytes, ENTRIES values or DEPTH levels, or a number of more than DIGITS digits.
    """
    most = limits().json
    if len(text) > most:
        raise NotJson(f"{len(text):,} bytes where {most:,} are the most; {how('json')}")
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        opened = text.count("[") + text.count("{")
        if opened + text.count(",") > ENTRIES:
            raise NotJson(f"more than {ENTRIES:,} values")
        found = json.loads(text, object_pairs_hook=pairs, parse_int=_whole)
        if opened > DEPTH:
            _check_depth(found)
        return found
    except RecursionError as problem:
        raise NotJson(f"more than {DEPTH} levels") from problem
    except UserError:
        raise
    except ValueError as problem:
        raise NotJson(str(problem)) from problem


def unique_names(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """For `pairs`: an object in which no name is given twice. ValueError where one is."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise UserError(f"the name {twice!r} twice in one object")
    return found


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise NotJson(f"a number of {len(digits)} digits")
    return int(digits)


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(DEPTH):
        inside = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [each for one in inside for each in one]
        if not level:
            return
    raise NotJson(f"more than {DEPTH} levels")
