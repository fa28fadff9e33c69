"""`emu-video generate`: text -> starting frame -> video -> four times the frame rate."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import UserError
from .options import (
    WEIGHTS_HELP,
    add_command,
    add_model_options,
    add_output_options,
    add_sampling_options,
    add_timeline_options,
    choose_device,
    progress_bars,
    then_close,
)

if TYPE_CHECKING:
    import torch

    from ..longer import Pictures
    from ..pipeline import EmuVideoPipeline
    from ..settings import Keep, Progress, Settings


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "text -> starting frame -> video -> four times the frame rate"
    parser = add_command(commands, "generate", summary, f"{__name__}:generate")
    example = 'for the bundled model such as "a big red circle moves right on a white background"'
    parser.add_argument("prompt", nargs="?", help=f"{example}; {WEIGHTS_HELP}")
    length = "frames before interpolation, or seconds such as 16s; what one call cannot make goes on from the frames before it"
    parser.add_argument("--length", metavar="N", help=length)
    add_timeline_options(parser, "from the first frame on", output=False)
    add_output_options(parser)
    parser.add_argument("--starting-frame", metavar="OUT.png", help="also write the starting frame")
    parser.add_argument("--candidates", type=int, default=1, help="starting frames to make, of which CLIP takes the best")
    parser.add_argument("--clip", metavar="FOLDER", help="CLIP that judges the candidates: a local folder of transformers")
    parser.add_argument("--no-interpolate", action="store_true", help="leave out the third step")
    parser.add_argument("--t2i-guidance", type=float, help="text guidance of the starting frame")
    add_sampling_options(parser)
    add_model_options(parser, motion_loras=True)


def generate(options: argparse.Namespace) -> None:
    """Make a video of the prompt. With --candidates its starting frame is the best of several by CLIP, made from the seeds that
    follow the given one."""
    from ..evaluation.candidates import MOST_CANDIDATES  # here: they bring torch, and help does not wait for it
    from ..networks import check_networks
    from .making import interpolates, load_pipeline, read_request, write

    if not 1 <= options.candidates <= MOST_CANDIDATES:
        raise UserError(f"--candidates must be 1 to {MOST_CANDIDATES}, found {options.candidates}")
    if options.candidates > 1 and not options.clip:
        raise UserError("--candidates needs a CLIP that judges them: name its folder with --clip")
    if options.candidates == 1 and options.clip:
        raise UserError("--clip judges several starting frames, and there is one: say how many with --candidates")
    if options.clip:
        check_networks(clip=options.clip)
    long = ("length", "ranges", "past", "plan", "resume")
    if any(getattr(options, name) for name in long):
        _long(options)
        return
    if options.prompt is None:
        raise UserError("expected a prompt, found none: say what the video should show")
    prompt, settings = read_request(options)
    third_step = interpolates(options, settings)
    pipeline = load_pipeline(options)
    with ExitStack() as bars:
        progress = bars.enter_context(progress_bars())
        image, scores = _chosen(options, pipeline, prompt, settings, progress) if options.candidates > 1 else (None, [])
        made = pipeline.coming(prompt, settings, image, third_step, progress)
        write(options, settings, pipeline, then_close(made.parts, bars), made.count, made.fps, made.starting_frame[0], scores)


def _chosen(
    options: argparse.Namespace, pipeline: EmuVideoPipeline, prompt: str, settings: Settings, progress: Progress | None
) -> tuple[torch.Tensor, list[float]]:
    """The best starting frame (1, H, W, 3) by CLIP, and what it gave to each."""
    from ..base.prompts import plain
    from ..evaluation.candidates import best, rank
    from ..networks import ClipNetwork

    clip = ClipNetwork(options.clip, choose_device(options.device))
    seeds = range(settings.seed, settings.seed + options.candidates)
    frames = [pipeline.starting_frame(prompt, replace(settings, seed=seed), progress) for seed in seeds]
    scores = rank([frame[0] for frame in frames], plain(prompt), clip)
    return frames[best(scores)], scores


def _long(options: argparse.Namespace) -> None:
    """A video of several calls, from the starting frame of its first prompt."""
    from ..media import write_image
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
            if options.candidates > 1:
                return _chosen(options, pipeline, first, settings, progress)[0]
            return pipeline.starting_frame(first, settings, progress)

        frame = picture() if keep is None else keep("starting frame", 0, picture)
        if options.starting_frame:
            write_image(options.starting_frame, frame[0], {"prompt": first})
        return lambda wanted: (frame[0] for _ in wanted)

    third = length > 1 and interpolates(options, settings)
    make(options, settings, config, Work(timeline, given, fps, third=third))
