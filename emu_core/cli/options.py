"""What the parts of the command line share. Each part names its function as text, so that `emu-video --help` imports none."""

from __future__ import annotations

import argparse


def add_command(commands: argparse._SubParsersAction, name: str, summary: str, run: str) -> argparse.ArgumentParser:
    """A parser for one command; `run` is the function that takes its options, as "module:function"."""
    parser = commands.add_parser(name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.set_defaults(run=run, command=name)
    parser.add_argument("-v", "--verbose", action="store_true", help="say more about what is being done")
    return parser
