"""A list of prompts for `generate` and `animate`: the options, and who does the work. One process, several of this machine, those
that torch's launcher started on any number of machines, or a Ray cluster."""

from __future__ import annotations

import argparse
import json
import sys
from argparse import Namespace
from typing import Any

from ..errors import UserError
from .options import PROMPTS_HELP
from .said import tell

OUT_HELP = "; with --prompts a folder for all videos, which evaluate and study take as it is"
FORMATS = ("mp4", "mkv", "webm", "gif", "webp", "png")


class SomeFailed(UserError):
    """All was done, and some videos could not be made."""


def add_options(parser: argparse.ArgumentParser, images: bool = False, resume: bool = True) -> None:
    """What is said of a list; `images`: of a command that takes a picture for each prompt; `resume`: of one that has not that
    option already."""
    add = parser.add_argument_group("many prompts").add_argument
    add("--prompts", metavar="FILE", help=PROMPTS_HELP)
    if images:
        by_name = "named as the prompts (ID.png, NNN.png, NNN-slug.png), or as many as the prompts, in their order"
        add("--images", metavar="FOLDER", help=f"pictures {by_name}; left out: those of the list's column image")
    add("--samples", type=int, default=1, help="videos of each prompt, each with a seed of its own")
    add_how(parser, resume)


def add_how(parser: argparse.ArgumentParser, resume: bool = True) -> None:
    """How the work on a list is done."""
    add = parser.add_argument_group("how many prompts are worked on").add_argument
    batch = "videos made at once; auto: 1 on a CPU, else what fits into memory by the peak of one"
    threads = "threads of a process on a CPU; results depend on them in the last digit"
    engine = "processes, or ray: a Ray cluster, which may grow and shrink (the extra 'cluster')"
    add("--format", choices=FORMATS, default="mp4", help="of the videos; png: folders of frames, lossless")
    add("--batch", default="auto", metavar="N", help=batch)
    if resume:
        add("--resume", action="store_true", help="make what is missing in --out, exactly as if never stopped")
    add("--processes", type=int, default=1, help="processes on this machine, one for each GPU; on a CPU one a core")
    add("--threads", type=int, default=1, help=threads)
    add("--engine", choices=("processes", "ray"), default="processes", help=engine)
    add("--address", help="of a running Ray cluster, such as auto; left out, Ray is started on this machine")


def wanted(options: Namespace, *needed: str) -> bool:
    """Whether a list is asked for. ValueError for a request that is neither a list nor has all that is `needed` for one video."""
    given = [name for name in ("image", "prompt") if getattr(options, name, None) is not None]
    if options.prompts is None:
        many = {"samples": 1, "batch": "auto", "processes": 1, "engine": "processes", "format": "mp4", "threads": 1}
        many |= {"address": None, "images": None, **({} if hasattr(options, "ranges") else {"resume": False})}
        if strange := next((name for name, usual in many.items() if getattr(options, name, usual) != usual), None):
            raise UserError(f"--{strange} is for a list of prompts: name it with --prompts, or leave --{strange} out")
        if lacking := [name for name in needed if name not in given]:
            what = " and ".join(lacking)
            raise UserError(f"{options.command}: expected {what}, or a list with --prompts, found neither; give one")
        return False
    if given:
        found = f"found {given[0]} {getattr(options, given[0])!r} besides"
        raise UserError(f"--prompts {options.prompts}: expected all prompts in the list, {found}; leave it out")
    if options.sheet:
        raise UserError("--sheet is of one video, and --prompts makes many: leave it out")
    return True


def run(options: Namespace, again: list[str] | None = None) -> None:
    """Make the videos of a list, or what is missing of them. `again`: the arguments that would make them, for further processes;
    None: those of this command. UserError at the end if some could not be made."""
    from ..training.checks import check_processes  # here: they bring torch, and help does not wait for it
    from ..training.processes import processes_started
    from .batch import read_work
    from .making import say_preserved
    from .shares import by_ray, make_share

    world = processes_started()
    if options.engine == "ray" and world > 1:
        raise UserError("--engine ray has processes of its own: start it without torchrun")
    work = read_work(options)
    if options.engine == "ray":
        by_ray(work)
    elif options.processes > 1 and world == 1:
        from ..training.run import launch

        check_processes(options.processes, accelerated=options.device == "auto")
        work.check()
        work.check_unused()
        launch(options.processes, sys.argv[1:] if again is None else again)
    else:
        rank, entries = make_share(work)
        if world > 1:
            failed = sum("failed" in entry for entry in entries)
            tell(f"process {rank + 1} of {world}: made {len(entries) - failed} videos, {failed} failed")
            return
    if found := work.preserved():
        say_preserved(found)
    _say(options, work.summary())


def _say(options: Namespace, summary: dict[str, Any]) -> None:
    """What is there in the end. UserError where something is not."""
    failed, left_out = summary["failed"], summary["left_out"]
    said = f"{options.out}: {summary['videos']} of {summary['of']} {summary['what']} are there"
    if options.json:
        print(json.dumps(summary))
    elif not failed and not left_out:
        print(said)
    if failed or left_out:
        lost = [f"{failed} could not be made"] if failed else []
        lost += [f"{left_out} entries of {options.prompts} could not be read"] if left_out else []
        again = "; --resume tries them again" if failed else ""
        raise SomeFailed(f"{said}, {' and '.join(lost)}: manifest.jsonl says why{again}")
