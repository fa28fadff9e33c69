"""`emu-video info`: what a checkpoint is; or the size of an architecture."""

from __future__ import annotations

import argparse
import json

from ..errors import UserError
from .options import VARIANT_HELP, add_command


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "what a checkpoint is; or the size of an architecture"
    parser = add_command(commands, "info", summary, f"{__name__}:info")
    config = "tiny, sd15, sd21, sdxl or emu (the paper's own U-Net): parameters and sites, nothing is loaded"
    parser.add_argument("file", nargs="?", help="a temporal stack or an image model (default: the bundled model)")
    parser.add_argument("--config", help=config)
    parser.add_argument("--variant", metavar="NAME", help=VARIANT_HELP)
    parser.add_argument("--json", action="store_true", help="print as JSON")


def info(options: argparse.Namespace) -> None:
    """Print the facts."""
    from .description import as_text, describe_architecture, describe_file  # here: torch takes seconds, help does not wait for it

    if options.config and options.file:
        raise UserError("info takes a file or --config, found both: leave one out")
    facts = describe_architecture(options.config) if options.config else describe_file(options.file, options.variant)
    print(json.dumps(facts, indent=2) if options.json else as_text(facts))
