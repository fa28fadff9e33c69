"""The command line, `emu-video`: the commands. Each command is a file of its own beside this one."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise

from .. import __version__
from ..errors import UserError
from ..limits import changed
from . import (
    animate,
    between,
    compare,
    convert,
    curate,
    equalise,
    evaluate,
    extend,
    fill,
    generate,
    info,
    interpolate,
    lab,
    loop,
    retrieve,
    select,
    study,
    train,
)
from .options import CommandParser
from .said import EXIT_INTERRUPTED, Told, open_streams, say, settle, tell

COMMANDS = (
    generate,
    animate,
    compare,
    interpolate,
    extend,
    loop,
    between,
    fill,
    info,
    convert,
    curate,
    select,
    train,
    evaluate,
    equalise,
    retrieve,
    study,
    lab,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, of these arguments or the process's own; returns the exit code."""
    open_streams()
    try:
        code = _run(arguments)
    except SystemExit as end:  # of help, or of arguments that cannot be read
        raise SystemExit(settle(int(end.code or 0))) from None
    return settle(code)


def _run(arguments: Sequence[str] | None) -> int:
    options = build_parser().parse_args(arguments)
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", handlers=[Told()])
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever downloaded
    try:
        _refuse_empty(sys.argv[1:] if arguments is None else arguments)
        module, _, function = options.run.partition(":")
        with changed(options.limit):
            getattr(import_module(module), function)(options)
    except KeyboardInterrupt:
        tell("emu-video: stopped; nothing half-written is left")
        return EXIT_INTERRUPTED
    except Exception as error:
        return say(error, options.command, options.verbose)
    return 0


def _refuse_empty(arguments: Sequence[str]) -> None:
    """An option whose value is empty, as of a shell variable that is not set, is not taken for one that was left out."""
    for option, value in pairwise([*(part for text in arguments for part in _split(text)), "end"]):
        if option.startswith("--") and not value and option not in ("--title", "--negative"):
            raise UserError(f"{option}: expected a value, found an empty one; give one, or leave the option out")


def _split(text: str) -> list[str]:
    return text.split("=", 1) if text.startswith("--") else [text]


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands, in the order in which help lists them."""
    parser = argparse.ArgumentParser(
        prog="emu-video",
        description="Text to video in three steps: a starting frame, a video from it, and more frames a second in between. "
        "Without --model everything runs on the bundled tiny model, which knows twelve figures on eight grounds that move.",
    )
    parser.add_argument("--version", action="version", version=f"emu-video {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more, and where in the program an error arose")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=CommandParser)
    for command in COMMANDS:
        command.add(commands)
    return parser
