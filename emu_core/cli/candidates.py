"""Starting frames to choose from: the options --candidates and --clip of `generate`."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

import torch

from ..base.prompts import plain
from ..errors import UserError
from ..evaluation.candidates import MOST_CANDIDATES, best, rank
from ..networks import ClipNetwork, check_networks
from ..pipeline import EmuVideoPipeline
from ..settings import Progress, Settings
from .options import choose_device


def check_candidates(options: Namespace) -> None:
    """ValueError for --candidates and --clip that do not go together, or a CLIP that cannot be used."""
    if not 1 <= options.candidates <= MOST_CANDIDATES:
        raise UserError(f"--candidates must be 1 to {MOST_CANDIDATES}, found {options.candidates}")
    if options.candidates > 1 and not options.clip:
        raise UserError("--candidates needs a CLIP that judges them: name its folder with --clip")
    if options.candidates == 1 and options.clip:
        raise UserError("--clip judges several starting frames, and there is one: say how many with --candidates")
    if options.clip:
        check_networks(clip=options.clip)


def load_clip(options: Namespace) -> ClipNetwork | None:
    """The CLIP that judges candidates, where there are several."""
    return ClipNetwork(options.clip, choose_device(options.device)) if options.candidates > 1 else None


def best_start(
    pipeline: EmuVideoPipeline, clip: ClipNetwork | None, count: int, prompt: str, settings: Settings, progress: Progress | None
) -> tuple[torch.Tensor | None, list[float]]:
    """Of `count` starting frames (1, H, W, 3), from the given seed on, that which shows the prompt best; and all scores. None and
    no scores without a CLIP."""
    if clip is None:
        return None, []
    seeds = range(settings.seed, settings.seed + count)
    frames = [pipeline.starting_frame(prompt, replace(settings, seed=seed), progress) for seed in seeds]
    scores = rank([frame[0] for frame in frames], plain(prompt), clip)
    return frames[best(scores)], scores
