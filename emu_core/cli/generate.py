"""`emu-video generate`: text -> starting frame -> video -> four times the frame rate."""

from __future__ import annotations

import argparse
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from .. import media
from ..evaluation.candidates import MOST_CANDIDATES
from .making import _interpolates, _metadata, _write, check_files, load_pipeline, read_settings
from .options import add_command, add_model_options, add_output_options, add_sampling_options, choose_device, progress_bar

if TYPE_CHECKING:
    from ..networks import Clip
    from ..pipeline import EmuVideoPipeline, Progress, Settings


def add(commands: argparse._SubParsersAction) -> None:
    parser = add_command(
        commands, "generate", "text -> starting frame -> video -> four times the frame rate", "emu_core.cli.generate:generate"
    )
    parser.add_argument("prompt", help='for the bundled model such as "a big red circle moves right on a white background"')
    add_output_options(parser)
    parser.add_argument("--starting-frame", metavar="OUT.png", help="also write the starting frame")
    parser.add_argument("--candidates", type=int, default=1, help="starting frames to make, of which CLIP takes the best")
    parser.add_argument("--clip", metavar="FOLDER", help="CLIP that judges the candidates: a local folder of transformers")
    parser.add_argument("--no-interpolate", action="store_true", help="leave out the third step")
    parser.add_argument("--t2i-guidance", type=float, help="text guidance of the starting frame")
    add_sampling_options(parser, keyframes=False)
    add_model_options(parser)


def generate(options: Namespace) -> None:
    from ..pipeline import check_prompt

    prompt = check_prompt(options.prompt)
    settings = read_settings(options)
    _check_candidates(options)
    check_files(options, settings)
    clip = open_clip(options) if options.candidates > 1 else None
    pipeline = load_pipeline(options)
    interpolates = _interpolates(options, settings, pipeline)
    scores: list[float] = []
    with progress_bar() as progress:
        image = None
        if clip is not None:
            image, scores = best_starting_frame(pipeline, prompt, settings, options.candidates, clip, progress)
        result = pipeline(prompt, settings, image, interpolate=interpolates, progress=progress)
    if options.starting_frame:
        media.write_image(options.starting_frame, result.starting_frame[0], _metadata(options, pipeline, settings))
    _write(options, pipeline, settings, *result.final, candidates=scores)


def _check_candidates(options: Namespace) -> None:
    if not 1 <= options.candidates <= MOST_CANDIDATES:
        raise ValueError(f"--candidates must be 1 to {MOST_CANDIDATES}, found {options.candidates}")
    if options.candidates > 1 and not options.clip:
        raise ValueError("--candidates needs a CLIP that judges them: name its folder with --clip")
    if options.candidates == 1 and options.clip:
        raise ValueError("--clip judges several starting frames, and there is one: say how many with --candidates")


def open_clip(options: Namespace) -> Clip:
    from ..networks import Clip

    return Clip(options.clip, choose_device(options.device))


def best_starting_frame(
    pipeline: EmuVideoPipeline, prompt: str, settings: Settings, count: int, clip: Clip, progress: Progress | None = None
) -> tuple[torch.Tensor, list[float]]:
    """The best (1, H, W, 3) of `count` starting frames by CLIP, and the score of each; they are made from the seeds that follow
    the given one."""
    from ..evaluation.candidates import best, rank

    if not pipeline.models["F"].stack.config.takes_image:
        raise ValueError(
            "--candidates chooses a starting frame, and this stack takes none: leave it out, or choose another stack"
        )
    frames = [pipeline.starting_frame(prompt, replace(settings, seed=settings.seed + i), progress) for i in range(count)]
    scores = rank(torch.cat(frames), prompt, clip)
    return frames[best(scores)], scores
