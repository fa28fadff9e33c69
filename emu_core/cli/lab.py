"""`emu-video lab list | run | report`."""

from __future__ import annotations

import argparse
import logging
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from .options import add_command, add_verbose

if TYPE_CHECKING:
    from ..lab.run import Lab

OUT = "runs/lab"


def add(commands: argparse._SubParsersAction) -> None:
    """`lab` and its own commands."""
    summary = "the claims of the paper, and the systems before it, in miniature: every arm trained under one budget, and judged"
    parser = commands.add_parser("lab", help=summary, description=summary)
    add_verbose(parser)
    parts = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    shown = add_command(parts, "list", "the arms and probes, and which of them are done", f"{__name__}:show")
    summary = "train and judge the arms, then run the probes; what is there is not made again"
    run = add_command(parts, "run", summary, f"{__name__}:run")
    run.add_argument("names", nargs="*", metavar="NAME", help="arms and probes: all, unless some are named")
    run.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time, each with its share of the cores (default: %(default)s)"
    )
    report = add_command(parts, "report", "tables, curves and sheets of what is done", f"{__name__}:report")
    for each in (shown, run, report):
        each.add_argument("--out", default=OUT, metavar="FOLDER", help="the laboratory's folder")
        each.add_argument(
            "--quick", action="store_true", help="the smallest budget: everything runs, and no figure means anything"
        )
    report.add_argument("--to", metavar="FILE.md", help="where the report goes, its pictures beside it (default: in the folder)")
    report.add_argument("--study", metavar="FOLDER", help="also make the same pairs a study for people, in this new folder")


def show(options: Namespace) -> None:
    """A line for each arm, and for each probe."""
    from ..lab.arms import ARMS
    from ..lab.probes import PROBES, is_done

    lab = _open(options) if (Path(options.out) / "budget.json").is_file() else None
    for name, arm in ARMS.items():
        done = "" if lab is None else f"{sum(lab.is_done(name, s) for s in lab.seeds(arm))}/{len(lab.seeds(arm))} "
        print(f"  {name:<20} {done}{arm.about}")
    for name, probe in PROBES.items():
        done = "" if lab is None else f"{int(is_done(lab, name))}/1 "
        print(f"  {name:<20} {done}{probe.about}")


def run(options: Namespace) -> None:
    """Train and judge; go on with what was begun."""
    from ..lab.jobs import run as run_jobs
    from ..lab.probes import find
    from ..lab.probes import run as run_probe
    from ..lab.run import run as run_lab

    arms, probes = find(options.names)
    logging.getLogger("emu_core").setLevel(logging.INFO)
    lab = _open(options)
    if options.jobs != 1:
        run_jobs(lab, arms, probes, options.jobs)
        return
    run_lab(lab, arms)
    for name in probes:
        run_probe(lab, name)


def report(options: Namespace) -> None:
    """Write the report of what is done."""
    from ..lab.report import write_report

    print(f"wrote {write_report(_open(options), options.to, options.study)}")


def _open(options: Namespace) -> Lab:
    from ..lab.budget import QUICK, STANDARD
    from ..lab.run import Lab

    return Lab(Path(options.out), QUICK if options.quick else STANDARD)
