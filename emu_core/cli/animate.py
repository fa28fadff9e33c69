"""`emu-video animate`: picture and text -> video."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from .. import media
from .making import _interpolates, _write, check_files, load_pipeline, read_settings
from .options import add_command, add_model_options, add_output_options, add_sampling_options, progress_bar

if TYPE_CHECKING:
    pass


def add(commands: argparse._SubParsersAction) -> None:
    parser = add_command(
        commands, "animate", "picture and text -> video that starts with the picture", "emu_core.cli.animate:animate"
    )
    parser.add_argument(
        "image", help="any picture; it is turned upright, put on white if transparent, centre-cropped and resized"
    )
    parser.add_argument("prompt", help="what should happen")
    parser.add_argument("--position", type=int, default=0, help="which frame the picture is: 0 the first, -1 the last")
    add_output_options(parser)
    parser.add_argument("--no-interpolate", action="store_true", help="leave out the last step")
    add_sampling_options(parser, keyframes=False)
    add_model_options(parser)


def animate(options: Namespace) -> None:
    from ..pipeline import check_prompt

    prompt = check_prompt(options.prompt)
    settings = read_settings(options)
    image = media.read_image(options.image)[None]
    check_files(options, settings)
    pipeline = load_pipeline(options)
    interpolates = _interpolates(options, settings, pipeline)
    with progress_bar() as progress:
        result = pipeline(prompt, settings, image, interpolate=interpolates, progress=progress, position=options.position)
    _write(options, pipeline, settings, *result.final)
