"""What every arm of the laboratory gets. It was fixed before the first claim was read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Steps, clips and seeds. Times are of two CPU cores."""

    name: str
    image: int  # steps of the image model, of 128 pictures each
    low: int  # steps of 16 clips at half the resolution
    full: int  # and of 8 at the full one
    fine: int  # of fine-tuning on the clips of high quality
    clips: int  # that are encoded once and shared by all arms
    seeds: int  # of training, for the arms that decide a claim
    prompts: int  # held-out ones, the same for all
    classifier: int  # steps of the network behind the Fréchet distance and the Inception score
    adversarial: int  # steps of VGAN and MoCoGAN
    measured: int = 64  # clips that are kept out, for the losses
    raters: int = 5
    steps: int = 8  # of sampling
    text_guidance: float = 2.0
    image_guidance: float = 1.0
    text_alone_guidance: float = 3.0  # of what makes a video without a starting frame, as for the starting frame itself
    tuned: int = 200  # steps of quality tuning, of 128 pictures each
    first_seed: int = 0  # of training and sampling; another repeats everything with other draws


STANDARD = Budget(
    "standard",
    image=1500,
    low=700,
    full=250,
    fine=400,
    clips=4000,
    seeds=3,
    prompts=120,
    classifier=400,
    adversarial=4000,
    first_seed=3,
)
"""Some two hours with two runs at a time."""
QUICK = Budget(
    "quick",
    image=6,
    low=3,
    full=3,
    fine=2,
    clips=64,
    seeds=1,
    prompts=6,
    classifier=4,
    adversarial=3,
    measured=4,
    steps=2,
    tuned=2,
)
"""A quarter of an hour: everything runs, and no figure means anything."""
BUDGETS = {budget.name: budget for budget in (STANDARD, QUICK)}
