"""`emu-video compare`: several models or settings over one list of prompts, a folder each."""

from __future__ import annotations

import argparse
import shlex
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UserError
from . import animate, generate, many
from .options import PROMPTS_HELP, SCALE_HELP, add_command, add_model_options, add_sampling_options, check_folder

FRAMES = "starting_frames"
OF_THE_LIST = ("out", "prompts", "samples", "seed", "json", "resume", "processes", "engine", "address", "format")
"""What is one for all systems."""
OF_THE_IMAGE_MODEL = ("model", "lora", "vae", "tokenizer", "size", "dtype", "fast")
"""Systems that agree in these begin with the same pictures."""


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "several models or settings over one list of prompts, a folder each, for evaluate and study create"
    parser = add_command(commands, "compare", summary, f"{__name__}:compare")
    system = (
        "a system and the options of generate in which it differs, such as 'long: --frames 16 --stack FILE'; its videos go to "
        "OUT/NAME; given twice or more. Systems with one image model get the same starting frames, made as the first says"
    )
    parser.add_argument("--prompts", required=True, metavar="FILE", help=PROMPTS_HELP)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the folder of each system is made")
    parser.add_argument("--system", required=True, action="append", metavar="'NAME: OPTIONS'", help=system)
    parser.add_argument("--samples", type=int, default=1, help="videos of each prompt, each with a seed of its own")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON, a line a folder")
    parser.add_argument("--scale", metavar="N", help=SCALE_HELP)
    generate.add_generate_options(parser, frame=False)
    many.add_how(parser)
    add_sampling_options(parser)
    add_model_options(parser, motion_loras=True)


def compare(options: Namespace) -> None:
    """Make the starting frames that systems share, then each system's videos. What fails of one system keeps no other from being
    made; UserError in the end."""
    from ..many import manifest  # here: they bring torch, and help does not wait for it
    from ..training.processes import processes_started
    from .batch import read_work
    from .candidates import check_candidates

    if processes_started() > 1:
        raise UserError("compare starts its own processes (--processes): start it without torchrun")
    check_folder(options.out)
    parts = plan(options)
    for part in parts:  # all that is wrong is said before the first is made
        if part.command == "generate":
            check_candidates(part)
        if part.command == "animate" and not Path(part.images).is_dir():
            read_work(_with(part, out=options.out, command="generate", images=None))  # whose pictures are still to be made
        else:
            work = read_work(_with(part, out=options.out))
            manifest.check(Path(part.out), work.facts, work.files, options.resume)
    out, problems = Path(options.out), list[str]()
    new = not out.exists()
    out.mkdir(exist_ok=True)
    try:
        for part in parts:
            problems += _run(part)
    finally:
        if new:
            with suppress(OSError):
                out.rmdir()  # which it is not where anything was made
    if problems:
        raise UserError("; ".join(problems))


def _run(part: Namespace) -> list[str]:
    """Make one list; gives what is said of videos that could not be made."""
    try:
        many.run(part, arguments(part))
    except many.SomeFailed as problem:
        return [str(problem)]
    return []


def plan(options: Namespace) -> list[Namespace]:
    """The lists of videos that are to be made, as options of `generate` and `animate`, in turn. UserError for systems that cannot
    be told apart, or options that are one for all."""
    from .making import fast_for, read_stacks

    systems: dict[str, Namespace] = {}
    for text in options.system:
        name, system = read_system(text, options)
        if name.casefold() in (FRAMES, *(each.casefold() for each in systems)):
            raise UserError(f"--system {text!r}: expected a name for each system, found {name!r} again; choose another")
        systems[name] = system
    if len(systems) < 2:
        raise UserError(f"compare: expected two or more systems, found {len(systems)}; give --system again")
    parts: list[Namespace] = []
    frames: dict[str, Path] = {}
    for name, system in systems.items():
        stacks, system = read_stacks(system), _with(system, fast=fast_for(system))  # once, for frames and videos alike
        if "F" in stacks and stacks["F"].takes_image:
            key = repr([getattr(system, each) for each in OF_THE_IMAGE_MODEL])
            if key not in frames:
                frames[key] = Path(options.out) / (FRAMES if not frames else f"{FRAMES}-{len(frames) + 1}")
                parts.append(_with(system, out=str(frames[key]), only_starting_frames=True))
            system = _with(system, command="animate", images=str(frames[key]), position=0, candidates=1, clip=None)
        parts.append(_with(system, out=str(Path(options.out) / name)))
    # as if each had been given by itself, which it may be to go on
    return [_parser(part.command, part.out).parse_args(arguments(part)[1:]) for part in parts]


def read_system(text: str, common: Namespace) -> tuple[str, Namespace]:
    """NAME: OPTIONS -> the name, and the options of `generate` that it comes to with those that are common to all systems."""
    name, colon, words = text.partition(":")
    name = name.strip()
    if not colon or not name or name.startswith((".", "-")) or any(sign in name for sign in "/\\=") or not name.isprintable():
        raise UserError(f"--system {text!r}: expected 'NAME: OPTIONS', with a name that a folder can have; write it so")
    try:
        found = _parser("generate", text).parse_args(["--out", common.out, *shlex.split(words)], Namespace(**vars(common)))
    except ValueError as problem:
        raise UserError(f"--system {text!r}: {problem}") from problem
    if changed := [each for each in OF_THE_LIST if getattr(found, each) != getattr(common, each)]:
        raise UserError(f"--system {text!r}: --{changed[0]} is one for all systems; give it to compare itself")
    if found.prompt is not None or found.only_starting_frames or found.starting_frame or found.sheet:
        raise UserError(f"--system {text!r}: expected options of how videos are made, found others; leave them out")
    del found.system
    return name, _with(found, command="generate")


def arguments(part: Namespace) -> list[str]:
    """The command line that has these options."""
    found = [part.command]
    for action in _parser(part.command, part.command)._actions:
        value = getattr(part, action.dest, action.default)
        if isinstance(action, argparse.BooleanOptionalAction):
            found += [] if value is None else [action.option_strings[0 if value else -1]]
            continue
        if not action.option_strings or action.dest == "help" or value is False or value in (action.default, argparse.SUPPRESS):
            continue
        option = action.option_strings[-1]
        values = value if isinstance(value, list) else [value]
        found += [option] if value is True else [f"{option}={each}" for each in values]
    return found


def _with(options: Namespace, **changes: Any) -> Namespace:
    return Namespace(**vars(options) | changes)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as a sentence of ours."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"--system {self.prog!r}: {message}")


def _parser(command: str, said: str) -> argparse.ArgumentParser:
    commands = argparse.ArgumentParser().add_subparsers(parser_class=_Parser)
    {"generate": generate, "animate": animate}[command].add(commands)
    commands.choices[command].prog = said
    return commands.choices[command]
