"""`emu-video animate`: picture and text -> video; of one of each, or of many."""

from __future__ import annotations

import argparse
import logging
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ..errors import UserError
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

FILMS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv")
logger = logging.getLogger(__name__)


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "picture and text -> video that starts with the picture"
    parser = add_command(commands, "animate", summary, f"{__name__}:animate")
    picture = "any picture; it is turned upright, put on white if transparent, centre-cropped and resized"
    parser.add_argument("image", nargs="?", help=f"{picture}. Left out with --prompts")
    parser.add_argument("prompt", nargs="?", help=f"what should happen; {WEIGHTS_HELP}. Left out with --prompts")
    parser.add_argument("--position", type=int, default=0, help="which frame the picture is: 0 the first, -1 the last")
    share = "IMAGE is a video, of which this share is made again, up to 1: ComfyUI's denoise; its frame at --position is given"
    parser.add_argument("--strength", dest="denoise", type=float, metavar="SHARE", help=share)
    add_output_options(parser, many.OUT_HELP)
    parser.add_argument("--no-interpolate", action="store_true", help="leave out the last step")
    many.add_options(parser, images=True)
    add_sampling_options(parser)
    add_model_options(parser, motion_loras=True)


def animate(options: argparse.Namespace) -> None:
    """Make a video in which the picture is one frame."""
    if many.wanted(options, "image", "prompt"):
        if options.denoise is not None:
            raise UserError("--strength changes one video, and --prompts is a list: leave it out")
        many.run(options)
        return
    from ..media import read_image  # here: they bring torch, and help does not wait for it
    from .making import interpolates, load_pipeline, read_request, write

    if options.denoise is not None:
        _change(options)
        return
    if Path(options.image).suffix.lower() in FILMS:
        raise UserError(
            f"{options.image} is a video: say with --strength how much of it is to change, such as 0.6, or use `extend`"
        )
    prompt, settings = read_request(options)
    image = read_image(options.image)[None]
    last_step = interpolates(options, settings)
    pipeline = load_pipeline(options)
    with ExitStack() as bars:
        progress = bars.enter_context(progress_bars())
        made = pipeline.coming(prompt, settings, image, last_step, progress, options.position)
        write(options, settings, pipeline, then_close(made.parts, bars), made.count, made.fps)


def _change(options: argparse.Namespace) -> None:
    """Make the frames of a video again from their latents with noise. The video keeps its rate, and its sound if all of it is
    made again."""
    import torch

    from ..media import VideoReader
    from ..model.conditioning import checked_positions
    from .interpolate import each_frame
    from .making import keep_scale, load_pipeline, read_request, read_stacks, write

    options.no_interpolate = True
    prompt, settings = read_request(options)
    config = read_stacks(options)["F"]
    video = VideoReader(options.image, settings.fps)
    there, usual = video.facts.frames, config.clip.frames
    count = settings.frames or min(there, settings.window and there or usual)
    if count > there:
        raise UserError(f"{options.image} has {there} frames, found --frames {count}: ask for at most as many")
    if count < there and settings.frames is None:
        more = f"--frames {there} --window {usual} changes all of them, --frames {count} these without this word"
        logger.warning("%s has %d frames, of which the first %d are changed: %s", options.image, there, count, more)
    checked_positions((options.position,), 1, count)
    settings = replace(settings, fps=video.facts.fps)
    pipeline = load_pipeline(options)
    if pipeline.size(settings) == (video.facts.height, video.facts.width):
        keep_scale(options, video)
    with progress_bars() as progress:
        frames = torch.stack([*islice(each_frame(video), count)])
        made = pipeline.changed(frames, prompt, settings, (options.position,), progress)
    sound = options.image if video.facts.sound and count == there and options.fps is None else None
    write(options, settings, pipeline, [made], count, video.facts.fps, sound=sound)
