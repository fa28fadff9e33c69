"""The command line, `emu-video`: arguments, errors and exit codes. What the commands do is in `commands`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from .. import __version__
from . import animate, convert, generate, info, interpolate
from .curate import add as add_curate
from .evaluate import add_commands as add_evaluation
from .evaluate import add_folder_options
from .options import add_command, add_model_options, add_sampling_options
from .select import add as add_select
from .study import add_commands as add_study
from .train import add_commands as add_training

EXIT_INPUT = 2  # what the user gave cannot be used; one sentence on standard error says why
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s: %(message)s")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever downloaded
    try:
        module, _, function = options.run.partition(":")
        getattr(import_module(module), function)(options)
    except (ValueError, OSError, MemoryError) as error:
        print(f"emu-video: {_sentence(error)}", file=sys.stderr)
        return EXIT_INPUT
    except KeyboardInterrupt:
        print("emu-video: stopped; nothing half-written is left", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emu-video",
        description="Text to video in three steps: a starting frame, a video from it, and more frames a second in between. "
        "Without --model everything runs on the bundled tiny model, which knows coloured shapes that move.",
    )
    parser.add_argument("--version", action="version", version=f"emu-video {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    generate.add(commands)
    animate.add(commands)
    interpolate.add(commands)
    info.add(commands)
    convert.add(commands)
    add_curate(commands)
    add_select(commands)
    add_training(commands)
    _add_evaluate(commands)
    add_evaluation(commands)
    add_study(commands)
    return parser


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = add_command(
        commands,
        "evaluate",
        "measure folders of videos, one for each system; or, with the word toy, the tiny model on combinations it never saw",
        "emu_core.cli.evaluate:evaluate",
    )
    parser.add_argument("sets", nargs="+", metavar="VIDEOS", help="folder of videos or NAME=FOLDER, of any system; or toy")
    parser.add_argument(
        "--prompts",
        help="folders: file or name of a set of prompts; toy: how many held-out prompts (default 200)",
    )
    parser.add_argument(
        "--videos",
        metavar="FOLDER",
        help="toy: measure the videos in this folder instead, wherever they were made; their prompts are in their metadata, or "
        "in a .txt of the same name",
    )
    parser.add_argument("--out", metavar="FOLDER", help="where JSON, table and plots go; toy: also write contact sheets there")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--no-interpolate", action="store_true", help="toy: leave out the interpolation model")
    add_folder_options(parser)
    add_sampling_options(parser, keyframes=False)
    add_model_options(parser)
