"""`emu-video generate`: text -> starting frame -> video -> four times the frame rate."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ..errors import UserError
from .options import (
    WEIGHTS_HELP,
    add_command,
    add_model_options,
    add_output_options,
    add_sampling_options,
    choose_device,
    progress_bars,
)


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "text -> starting frame -> video -> four times the frame rate"
    parser = add_command(commands, "generate", summary, f"{__name__}:generate")
    example = 'for the bundled model such as "a big red circle moves right on a white background"'
    parser.add_argument("prompt", help=f"{example}; {WEIGHTS_HELP}")
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
    from ..base.prompts import plain  # here: they bring torch, and help does not wait for it
    from ..evaluation.candidates import MOST_CANDIDATES, best, rank
    from ..networks import ClipNetwork, check_networks
    from .making import interpolates, load_pipeline, read_request, write

    if not 1 <= options.candidates <= MOST_CANDIDATES:
        raise UserError(f"--candidates must be 1 to {MOST_CANDIDATES}, found {options.candidates}")
    if options.candidates > 1 and not options.clip:
        raise UserError("--candidates needs a CLIP that judges them: name its folder with --clip")
    if options.candidates == 1 and options.clip:
        raise UserError("--clip judges several starting frames, and there is one: say how many with --candidates")
    prompt, settings = read_request(options)
    third_step = interpolates(options, settings)
    if options.clip:
        check_networks(clip=options.clip)
    pipeline = load_pipeline(options)
    clip = ClipNetwork(options.clip, choose_device(options.device)) if options.candidates > 1 else None
    image, scores = None, []
    with progress_bars() as progress:
        if clip is not None:
            seeds = range(settings.seed, settings.seed + options.candidates)
            frames = [pipeline.starting_frame(prompt, replace(settings, seed=seed), progress) for seed in seeds]
            scores = rank([frame[0] for frame in frames], plain(prompt), clip)
            image = frames[best(scores)]
        result = pipeline(prompt, settings, image, interpolate=third_step, progress=progress)
    video, fps = result.final
    write(options, settings, pipeline, [video], len(video), fps, result.starting_frame[0], scores)
