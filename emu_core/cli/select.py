"""The command `emu-video select`: a subset of curated clips."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .options import add_command, is_there, wrote


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "a subset of curated clips, without rewriting them"
    parser = add_command(commands, "select", summary, f"{__name__}:select")
    parser.add_argument("out", metavar="OUT", help="folder that curate made")
    parser.add_argument("name", metavar="NAME", help="name of the selection")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--hq", action="store_true", help="the paper's rule: clip_score > 0.25, aesthetic > 5.7, motion_min > 0.5")
    what.add_argument("--where", metavar="EXPRESSION", help="""such as 'width >= 512 and not contains(caption, "logo")'""")
    parser.add_argument("--top", type=int, metavar="N", help="of these the N with the largest value of --by")
    parser.add_argument("--by", metavar="COLUMN", help="a column of numbers")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def select(options: argparse.Namespace) -> None:
    """Write the selection and say how many clips it has."""
    from ..data import select as work  # here: help does not wait for pyarrow

    replaced = is_there(Path(options.out) / work.SELECTIONS / f"{options.name}.npy")
    chosen = work.select(options.out, options.name, work.HQ if options.hq else options.where, options.top, options.by)
    if options.json:
        print(json.dumps({**vars(chosen), "path": str(chosen.path)}, indent=2))
        return
    empty = f"; {chosen.without_value} have no value in a column of it" if chosen.without_value else ""
    print(f"{wrote(chosen.path, replaced)}: {chosen.count} of {chosen.of} clips{empty}")
