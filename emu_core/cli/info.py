"""`emu-video info`: what a checkpoint is; or the size of an architecture."""

from __future__ import annotations

import argparse
import json
from argparse import Namespace
from typing import TYPE_CHECKING

from .options import add_command

if TYPE_CHECKING:
    pass


def add(commands: argparse._SubParsersAction) -> None:
    parser = add_command(commands, "info", "what a checkpoint is; or the size of an architecture", "emu_core.cli.info:info")
    parser.add_argument("file", nargs="?", help="a temporal stack or an image model (default: the bundled model)")
    parser.add_argument(
        "--config", help="tiny, sd15, sd21, sdxl or emu (the paper's own U-Net): parameters and sites, nothing is loaded"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")


def info(options: Namespace) -> None:
    from .description import as_text, describe_architecture, describe_file

    if options.config and options.file:
        raise ValueError("info takes a file or --config, found both: leave one out")
    facts = describe_architecture(options.config) if options.config else describe_file(options.file)
    print(json.dumps(facts, indent=2) if options.json else as_text(facts))
