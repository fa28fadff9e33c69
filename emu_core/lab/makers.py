"""What makes videos without a temporal stack: the systems before diffusion, the nearest clip of training, and real clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..toy import world
from ..toy.worlds import LAB
from ..training import checkpoints
from .adversarial import MODEL_FILE, Adversaries, Course, train
from .budget import Budget
from .mocogan import LAB_WIDTH, MoCoGAN
from .stages import SEED
from .vgan import LAB_WIDTHS, VGAN
from .videos import TIMES, lab_clips, real_videos

BATCH = 16
"""Clips a step of the systems before diffusion."""
Maker = Callable[[Sequence[world.Clip], Path, Budget, int], Tensor]
"""(clips whose captions are the prompts, folder, budget, seed) -> videos (n, 8, 64, 64, 3) in 0..1."""


def label(clip: world.Clip) -> int:
    """The class of a clip, which is what MoCoGAN is told: its motion, as its authors had the action."""
    return LAB.motions.index(clip.motion)


def _adversarial(game: Adversaries, clips: Sequence[world.Clip], folder: Path, budget: Budget, seed: int) -> Tensor:
    """Train on the clips of all arms, as pixels; then a video of each prompt's class."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        numbers = [i % budget.clips for i in range(step * BATCH, (step + 1) * BATCH)]
        shown = lab_clips(SEED, numbers)
        return world.render(shown, TIMES), torch.tensor([label(clip) for clip in shown])

    if not (folder / MODEL_FILE).is_file():
        course = Course(budget.adversarial, seed, max(budget.adversarial // 4, 1))
        train(game, batch, folder, course, resume=bool(checkpoints.checkpoints(folder)))
    game.load(folder)
    return game.generate(torch.tensor([label(clip) for clip in clips]), seed).movedim(2, -1) / 2 + 0.5


def vgan(clips: Sequence[world.Clip], folder: Path, budget: Budget, seed: int) -> Tensor:
    """VGAN knows no condition: whatever it makes is shown for every prompt."""
    return _adversarial(VGAN(LAB_WIDTHS, seed=seed), clips, folder, budget, seed)


def mocogan(clips: Sequence[world.Clip], folder: Path, budget: Budget, seed: int) -> Tensor:
    """MoCoGAN is told the motion."""
    return _adversarial(MoCoGAN(len(LAB.motions), width=LAB_WIDTH, seed=seed), clips, folder, budget, seed)


def retrieval(clips: Sequence[world.Clip], folder: Path, budget: Budget, seed: int) -> Tensor:
    """The clip of training whose caption is nearest to each prompt, by the words that they share."""
    from ..evaluation.retrieval import lexical_search  # takes pyarrow, which no other system needs

    known = lab_clips(SEED, range(budget.clips))
    found = lexical_search([clip.caption for clip in clips], lambda: [[clip.caption for clip in known]])
    return real_videos([known[one.row] for one in found])


def real(clips: Sequence[world.Clip], folder: Path, budget: Budget, seed: int) -> Tensor:
    """The prompts' own clips."""
    return real_videos(clips)


MAKERS: dict[str, Maker] = {"vgan": vgan, "mocogan": mocogan, "retrieval": retrieval, "real": real}
"""By `Arm.maker`."""
