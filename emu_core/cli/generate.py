"""`emu-video generate`: text -> starting frame -> video -> four times the frame rate; of one prompt, or of a list of them."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ..errors import UserError
from . import many
from .options import (
    OF_ONE_LONG,
    WEIGHTS_HELP,
    add_command,
    add_model_options,
    add_output_options,
    add_sampling_options,
    add_timeline_options,
    progress_bars,
    then_close,
)

if TYPE_CHECKING:
    import torch

    from ..longer import Pictures
    from ..pipeline import EmuVideoPipeline
    from ..settings import Keep, Progress


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "text -> starting frame -> video -> four times the frame rate; of one prompt or of many"
    parser = add_command(commands, "generate", summary, f"{__name__}:generate")
    example = 'for the bundled model such as "a big purple unicorn runs right along a beach"'
    parser.add_argument("prompt", nargs="?", help=f"{example}; {WEIGHTS_HELP}. Left out with --prompts")
    length = "frames before interpolation, or seconds such as 16s; what one call cannot make goes on from the frames before it"
    parser.add_argument("--length", metavar="N", help=length)
    add_timeline_options(parser, "from the first frame on", output=False)
    add_output_options(parser, many.OUT_HELP)
    add_generate_options(parser)
    parser.add_argument("--only-starting-frames", action="store_true", help="with --prompts: leave out the second step as well")
    many.add_options(parser, resume=False)
    add_sampling_options(parser)
    add_model_options(parser, motion_loras=True)


def add_generate_options(parser: argparse.ArgumentParser, frame: bool = True) -> None:
    """Which of the three steps, and how the first is made; `frame`: of a command that may write it too."""
    if frame:
        also = "also write the starting frame; with --prompts a folder, in which each is named as its video"
        parser.add_argument("--starting-frame", metavar="OUT.png", help=also)
    parser.add_argument("--candidates", type=int, default=1, help="starting frames to make, of which CLIP takes the best")
    parser.add_argument("--clip", metavar="FOLDER", help="CLIP that judges the candidates: a local folder of transformers")
    parser.add_argument("--no-interpolate", action="store_true", help="leave out the third step")
    parser.add_argument("--t2i-guidance", type=float, help="text guidance of the starting frame")


def generate(options: argparse.Namespace) -> None:
    """Make a video of the prompt. With --candidates its starting frame is the best of several by CLIP, made from the seeds that
    follow the given one."""
    from .candidates import best_start, check_candidates, load_clip  # here: help does not wait for torch
    from .making import interpolates, load_pipeline, read_request, write

    check_candidates(options)
    if many.wanted(options):
        many.run(options)
        return
    if options.only_starting_frames:
        raise UserError("--only-starting-frames is for a list of prompts: name it with --prompts")
    if any(getattr(options, name) for name in OF_ONE_LONG):
        _long(options)
        return
    if options.prompt is None:
        raise UserError("expected a prompt, or a list of them with --prompts, found none: say what the video should show")
    prompt, settings = read_request(options)
    third_step = interpolates(options, settings)
    pipeline = load_pipeline(options)
    with ExitStack() as bars:
        progress = bars.enter_context(progress_bars())
        clip = load_clip(options)
        image, scores = best_start(pipeline, clip, options.candidates, prompt, settings, progress)
        made = pipeline.coming(prompt, settings, image, third_step, progress)
        write(options, settings, pipeline, then_close(made.parts, bars), made.count, made.fps, made.starting_frame[0], scores)


def _long(options: argparse.Namespace) -> None:
    """A video of several calls, from the starting frame of its first prompt."""
    from ..media import write_image
    from .candidates import best_start, load_clip
    from .making import interpolates
    from .timelines import Work, make, parse_length, read_long, timeline_of

    texts, settings, config = read_long(options)
    if settings.frames is not None:
        raise UserError("--frames is of a video that one call makes, and --length of one that several make: give one of the two")
    fps = settings.fps or config.clip.fps
    size = settings.window or config.clip.frames
    length = size if options.length is None else parse_length(options.length, fps, "--length")
    timeline = timeline_of(length, (0,), texts, fps)
    first = timeline.prompts[0].prompt

    def given(pipeline: EmuVideoPipeline, keep: Keep | None, progress: Progress | None) -> Pictures:
        def picture() -> torch.Tensor:
            chosen, _ = best_start(pipeline, load_clip(options), options.candidates, first, settings, progress)
            return pipeline.starting_frame(first, settings, progress) if chosen is None else chosen

        frame = picture() if keep is None else keep("starting frame", 0, picture)
        if options.starting_frame:
            write_image(options.starting_frame, frame[0], {"prompt": first})
        return lambda wanted: (frame[0] for _ in wanted)

    third = length > 1 and interpolates(options, settings)
    make(options, settings, config, Work(timeline, given, fps, third=third))
