"""The paper's stages as recipes, its ablations as one-word changes, and chains of stages.

Figures are Emu Video's (Girdhar et al., arXiv 2311.10709, section 4 and its table of training) where they stand in `Scale`; what
the paper does not say (steps of stage 3, of the fine-tuning and of I, drop rates, EMA, clipping) is our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from ..model.conditioning import KEYFRAMES, slot_count
from ..model.schedule import ScheduleConfig
from .recipes import Clips, Every, Given, Optimisation, Recipe, Recommended, override

LDM = ScheduleConfig(zero_snr=False, prediction="epsilon")  # stage 1: what latent diffusion models are trained with
ZERO_SNR = ScheduleConfig(zero_snr=True, prediction="v_prediction")
Figures = tuple[int, int, float, int]


@dataclass(frozen=True)
class Scale:
    """What differs between the families: sizes in pixels, (steps, batch, peak rate, warm-up) of each stage, sampling."""

    family: str
    low: int = 256
    full: int = 512
    stage1: Figures = (70_000, 512, 1e-4, 1000)
    stage2: Figures = (15_000, 512, 1e-4, 1000)
    stage3: Figures = (25_000, 512, 1e-4, 1000)  # rate and warm-up: as stage 2
    hq: Figures = (20_000, 64, 2.5e-5, 10_000)  # the paper gives no number of steps
    interpolation: Figures = (15_000, 384, 1.5e-4, 1500)  # nor here
    distil: Figures = (5_000, 512, 5e-5, 500)  # of each round of distillation, which the paper knows nothing of
    distil_rank: int = 64  # of the LoRA that an image model's becomes
    ema: float = 0.9999
    first_frame: float = 1.0
    image_noise: int = 250  # of I's given latents in training, timesteps 0..this
    recommended: Recommended = Recommended()
    recommended_of_i: Recommended = Recommended(image_noise=100)
    every: int = 1000  # steps between two checkpoints, measurements and sheets


SCALES = {family: Scale(family) for family in ("sd15", "sd21", "sdxl")}


def _stage(scale: Scale, name: str, figures: Figures, size: int, frames: int, fps: float, **parts: Any) -> Recipe:
    steps, batch, rate, warmup = figures
    standard = {
        "optimisation": Optimisation(steps, batch, rate, warmup, decay=0.0, betas=(0.9, 0.999), ema=scale.ema),
        "clips": Clips(frames, fps, (size, size)),
        "given": Given(first_frame=scale.first_frame),
        "schedule": ZERO_SNR,
        "recommended": scale.recommended,
        "every": Every(scale.every, scale.every, scale.every),
    }
    return Recipe(name, "video", family=scale.family, **{**standard, **parts})


def stage1_256px(scale: Scale) -> Recipe:
    """8 frames at 8 fps, half the resolution, epsilon on the schedule of latent diffusion models; from the identity."""
    return _stage(scale, "stage1_256px", scale.stage1, scale.low, 8, 8.0, schedule=LDM)


def stage2_512px(scale: Scale) -> Recipe:
    """8 frames at 4 fps, full resolution, v on the zero terminal SNR schedule; from stage 1."""
    return _stage(scale, "stage2_512px", scale.stage2, scale.full, 8, 4.0)


def stage3_16frames(scale: Scale) -> Recipe:
    """16 frames at 4 fps; from stage 2. Optional: F is complete without it."""
    return _stage(scale, "stage3_16frames", scale.stage3, scale.full, 16, 4.0)


def hq_finetune(scale: Scale) -> Recipe:
    """F again on the few clips of high quality and much motion (`emu-video select SHARDS hq --hq`), at a low rate."""
    changes = {"clips.selection": "hq", "optimisation.weight_decay": 1e-4}
    return override(_stage(scale, "hq_finetune", scale.hq, scale.full, 8, 4.0), changes)


def interpolation(scale: Scale) -> Recipe:
    """Stack I, from F: 37 frames at 16 fps of which 8 are given, with noise on the given latents."""
    own = {
        "role": "I",
        "recommended": scale.recommended_of_i,
        "given": Given(first_frame=scale.first_frame, image_noise=scale.image_noise),
    }
    return _stage(scale, "interpolation", scale.interpolation, scale.full, slot_count(KEYFRAMES), 16.0, **own)


_IN_ORDER = (stage1_256px, stage2_512px, stage3_16frames, hq_finetune, interpolation)
STAGES: dict[str, Callable[[Scale], Recipe]] = {stage.__name__: stage for stage in _IN_ORDER}
"""In the order in which the paper runs them."""


_SNR = "the schedule of latent diffusion models throughout, without zero terminal SNR"
_MIXING = "learned weights between a layer's input and output, as in Align Your Latents (arXiv 2304.08818)"
_NOISE = "half of the noise's power is the same in all frames of a clip, as in PYoCo (arXiv 2305.10474, alpha 1)"
ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "direct": ("no image conditioning: text to video in one step", {"method.image": False}),
    "standard_snr": (_SNR, {"schedule.zero_snr": False}),
    "all_trained": ("the image model's U-Net is trained with the temporal layers", {"method.trained": "all"}),
    "single_stage": ("full resolution from the start, without stage 1", {"start.init": ""}),
    "learned_mixing": (_MIXING, {"method.mixing": "learned", "method.start": "random"}),
    "correlated_noise": (_NOISE, {"method.shared_noise": 1.0}),
    "random_start": ("temporal layers start from random weights instead of the identity", {"method.start": "random"}),
    "convolutions_alone": ("temporal convolutions without temporal attention", {"method.stack": "convolutions"}),
    "attention_alone": ("temporal attention without temporal convolutions", {"method.stack": "attention"}),
    "depthwise": ("temporal convolutions of each channel by itself", {"method.stack": "depthwise"}),
    "directed": ("no frame attends to a later one, as in MagicVideo (arXiv 2211.11018)", {"method.stack": "directed"}),
    "textless": ("temporal layers that read no text, as in Make-A-Video (arXiv 2209.14792)", {"method.stack": "textless"}),
    "cosine": ("the cosine schedule of improved DDPM (arXiv 2102.09672)", {"schedule.beta_schedule": "cosine"}),
    "slim": ("not the paper's: fewer and narrower temporal layers, for small GPUs", {"method.stack": "slim"}),
}
"""Changes of the design: what each is, and its settings."""


def ablate(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe with these ablations, one after the other. ValueError for a name that is none, or that changes nothing of it."""
    for name in names:
        if name not in ABLATIONS:
            raise UserError(f"unknown ablation {name!r}: expected one of {', '.join(ABLATIONS)}")
        if recipe.task != "video":
            raise UserError(f"recipe {recipe.name!r} trains no temporal layers, which is what ablations change: leave {name} out")
        if name == "single_stage" and recipe.name == "stage1_256px":
            raise UserError("single_stage is to train without stage1_256px: start with stage2_512px, or leave single_stage out")
        if recipe.distil.steps:
            raise UserError(f"recipe {recipe.name!r} keeps the design of the stack that it starts from: leave {name} out")
        recipe = override(recipe, ABLATIONS[name][1])
    return recipe


@dataclass(frozen=True)
class Chain:
    """Stages in order, each from the one before. `family`: the only one it is for; `changes`: settings by stage, "" for all;
    `demo`: so many clips are made and curated first, and the result is judged."""

    name: str
    about: str
    stages: tuple[str, ...]
    family: str = ""
    changes: dict[str, dict[str, str]] = field(default_factory=dict)
    demo: int = 0

    def recipes(self, scale: Scale, ablations: Sequence[str] = ()) -> list[Recipe]:
        """The stages' recipes, ablated, the fine-tuning with the clip's length of the stage before."""
        made: list[Recipe] = []
        for name in self.stages:
            if name == "stage1_256px" and "single_stage" in ablations:
                continue
            recipe = STAGES[name](scale)
            if name == "hq_finetune" and made:
                recipe = override(recipe, {"clips.frames": made[-1].clips.frames, "clips.fps": made[-1].clips.fps})
            made.append(ablate(recipe, [a for a in ablations if a != "single_stage"]))
        return made


CHAINS = {
    "paper": Chain("paper", "all five stages of the paper", tuple(STAGES)),
    "short": Chain("short", "without the 16 frames of stage 3", ("stage1_256px", "stage2_512px", "hq_finetune", "interpolation")),
}
