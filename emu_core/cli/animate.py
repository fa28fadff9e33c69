"""`emu-video animate`: picture and text -> video; of one of each, or of many."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from . import many
from .options import (
    WEIGHTS_HELP,
    add_command,
    add_model_options,
    add_output_options,
    add_sampling_options,
    progress_bars,
    then_close,
)


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "picture and text -> video that starts with the picture"
    parser = add_command(commands, "animate", summary, f"{__name__}:animate")
    picture = "any picture; it is turned upright, put on white if transparent, centre-cropped and resized"
    parser.add_argument("image", nargs="?", help=f"{picture}. Left out with --prompts")
    parser.add_argument("prompt", nargs="?", help=f"what should happen; {WEIGHTS_HELP}. Left out with --prompts")
    parser.add_argument("--position", type=int, default=0, help="which frame the picture is: 0 the first, -1 the last")
    add_output_options(parser, many.OUT_HELP)
    parser.add_argument("--no-interpolate", action="store_true", help="leave out the last step")
    many.add_options(parser, images=True)
    add_sampling_options(parser)
    add_model_options(parser, motion_loras=True)


def animate(options: argparse.Namespace) -> None:
    """Make a video in which the picture is one frame."""
    if many.wanted(options, "image", "prompt"):
        many.run(options)
        return
    from ..media import read_image  # here: they bring torch, and help does not wait for it
    from .making import interpolates, load_pipeline, read_request, write

    prompt, settings = read_request(options)
    image = read_image(options.image)[None]
    last_step = interpolates(options, settings)
    pipeline = load_pipeline(options)
    with ExitStack() as bars:
        progress = bars.enter_context(progress_bars())
        made = pipeline.coming(prompt, settings, image, last_step, progress, options.position)
        write(options, settings, pipeline, then_close(made.parts, bars), made.count, made.fps)
