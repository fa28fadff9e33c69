"""The paper's stages as recipes, its ablations as one-word changes, and chains of stages.

Figures are Emu Video's (Girdhar et al., arXiv 2311.10709, section 4 and its table of training) where `PAPER` holds them; what the
paper does not say (steps of stage 3, of the fine-tuning and of I, drop rates, EMA, clipping) is our choice. The tiny family's are
all ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..model.conditioning import KEYFRAMES, slot_count
from ..model.schedule import ScheduleConfig
from .recipes import Clips, Optimisation, Recipe

LDM = ScheduleConfig(zero_snr=False, prediction="epsilon")  # stage 1: what latent diffusion models are trained with
ZERO_SNR = ScheduleConfig(zero_snr=True, prediction="v_prediction")


@dataclass(frozen=True)
class Scale:
    """What differs between the families: sizes in pixels, and (steps, batch, peak rate, warm-up) of each stage."""

    low: int = 256
    full: int = 512
    stage1: tuple[int, int, float, int] = (70_000, 512, 1e-4, 1000)
    stage2: tuple[int, int, float, int] = (15_000, 512, 1e-4, 1000)
    stage3: tuple[int, int, float, int] = (25_000, 512, 1e-4, 1000)  # rate and warm-up: as stage 2
    hq: tuple[int, int, float, int] = (20_000, 64, 2.5e-5, 10_000)  # the paper gives no number of steps
    interpolation: tuple[int, int, float, int] = (15_000, 384, 1.5e-4, 1500)  # nor here
    ema: float = 0.9999
    image_noise: tuple[int, int] = (250, 100)  # of I's given latents: training 0..first, inference
    guidance: tuple[float, float] = (7.5, 2.0)  # text, image
    sampling_steps: int = 250
    every: int = 1000  # steps between two checkpoints, measurements and sheets


PAPER = Scale()
TINY = Scale(
    low=32, full=64,
    stage1=(1200, 16, 2e-3, 50), stage2=(1600, 16, 2e-3, 50), stage3=(300, 8, 1e-3, 30), hq=(200, 16, 3e-4, 40),
    interpolation=(800, 4, 1.2e-3, 30), ema=0.995, image_noise=(100, 20), guidance=(3.0, 1.0), sampling_steps=20, every=200,
)  # fmt: skip
SCALES: dict[str, Scale] = {"tiny": TINY, "sd15": PAPER, "sd21": PAPER, "sdxl": PAPER}


def scale_of(family: str) -> Scale:
    if family not in SCALES:
        raise ValueError(f"there are recipes for the families {', '.join(SCALES)}, found {family!r}")
    return SCALES[family]


def _stage(family: str, name: str, figures: tuple[int, int, float, int], size: int, clips: Clips, **settings: Any) -> Recipe:
    scale = scale_of(family)
    steps, batch, rate, warmup = figures
    weight_decay = settings.pop("weight_decay", 0.0)
    values: dict[str, Any] = {
        "first_frame": 1.0 if scale is PAPER else 0.7,
        "text_guidance": scale.guidance[0],
        "image_guidance": scale.guidance[1],
        "sampling_steps": scale.sampling_steps,
        "sheet_every": scale.every,
        "save_every": scale.every,
        "validate_every": scale.every,
    }
    return Recipe(
        name=name,
        task="video",
        family=family,
        optimisation=Optimisation(
            steps, batch, rate, warmup, decay=0.0, betas=(0.9, 0.999), weight_decay=weight_decay, ema=scale.ema
        ),
        clips=replace(clips, size=(size, size)),
        **{**values, **settings},
    )


def stage1_256px(family: str = "sd15") -> Recipe:
    """8 frames at 8 fps, half the resolution, epsilon on the schedule of latent diffusion models; from the identity."""
    scale = scale_of(family)
    return _stage(family, "stage1_256px", scale.stage1, scale.low, Clips(frames=8, fps=8.0), schedule=LDM)


def stage2_512px(family: str = "sd15") -> Recipe:
    """8 frames at 4 fps, full resolution, v on the zero terminal SNR schedule; from stage 1."""
    scale = scale_of(family)
    return _stage(family, "stage2_512px", scale.stage2, scale.full, Clips(frames=8, fps=4.0), schedule=ZERO_SNR)


def stage3_16frames(family: str = "sd15") -> Recipe:
    """16 frames at 4 fps; from stage 2. Optional: F is complete without it."""
    scale = scale_of(family)
    return _stage(family, "stage3_16frames", scale.stage3, scale.full, Clips(frames=16, fps=4.0), schedule=ZERO_SNR)


def hq_finetune(family: str = "sd15") -> Recipe:
    """F again on the few clips of high quality and much motion (`emu-video select SHARDS hq --hq`), at a low rate."""
    scale = scale_of(family)
    clips = Clips(frames=8, fps=4.0, selection="hq")
    return _stage(family, "hq_finetune", scale.hq, scale.full, clips, schedule=ZERO_SNR, weight_decay=1e-4)


def interpolation(family: str = "sd15") -> Recipe:
    """Stack I, from F: 37 frames at 16 fps of which 8 are given, with noise on the given latents."""
    scale = scale_of(family)
    clips = Clips(frames=slot_count(KEYFRAMES), fps=16.0)
    training, inference = scale.image_noise
    noise = {"image_noise": training, "image_noise_inference": inference}
    guidance = {} if scale is PAPER else {"text_guidance": 1.0, "image_guidance": 1.0, "sampling_steps": 10}
    return _stage(
        family, "interpolation", scale.interpolation, scale.full, clips, role="I", schedule=ZERO_SNR, **noise, **guidance
    )


STAGES: dict[str, Callable[[str], Recipe]] = {
    stage.__name__: stage for stage in (stage1_256px, stage2_512px, stage3_16frames, hq_finetune, interpolation)
}
"""In the order in which the paper runs them."""


# -- ablations


def _method(**changes: Any) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, method=replace(recipe.method, **changes))


def _standard_snr(recipe: Recipe) -> Recipe:
    return replace(recipe, schedule=replace(recipe.schedule, zero_snr=False))


def _single_stage(recipe: Recipe) -> Recipe:
    return replace(recipe, init="")


ABLATIONS: dict[str, Callable[[Recipe], Recipe]] = {
    "direct": _method(image=False),
    "standard_snr": _standard_snr,
    "all_trained": _method(trained="all"),
    "single_stage": _single_stage,
    "learned_mixing": _method(mixing="learned", start="random"),
    "correlated_noise": _method(shared_noise=1.0),
    "random_start": _method(start="random"),
    "slim": _method(stack="slim"),
}
ABOUT_ABLATIONS: dict[str, str] = {
    "direct": "no image conditioning: text to video in one step",
    "standard_snr": "the schedule of latent diffusion models throughout, without zero terminal SNR",
    "all_trained": "the image model's U-Net is trained with the temporal layers",
    "single_stage": "full resolution from the start, without stage 1",
    "learned_mixing": "learned weights between a layer's input and output, as in Align Your Latents (arXiv 2304.08818)",
    "correlated_noise": "half of the noise's power is the same in all frames of a clip, as in PYoCo (arXiv 2305.10474, alpha 1)",
    "random_start": "temporal layers start from random weights instead of the identity",
    "slim": "not the paper's: fewer and narrower temporal layers, for small GPUs",
}


def ablate(recipe: Recipe, names: list[str]) -> Recipe:
    for name in names:
        if name not in ABLATIONS:
            raise ValueError(f"unknown ablation {name!r}: expected one of {', '.join(ABLATIONS)}")
        recipe = ABLATIONS[name](recipe)
    return recipe


# -- chains


@dataclass(frozen=True)
class Chain:
    """Stages in order, each from the one before. `demo`: its clips are made and curated first, from the procedural world."""

    name: str
    about: str
    stages: tuple[str, ...]
    family: str = ""  # empty: the user's choice
    changes: dict[str, dict[str, str]] = field(default_factory=dict)  # by stage; "" for all
    demo: int = 0  # how many clips

    def recipes(self, family: str, ablations: list[str]) -> list[Recipe]:
        """The stages' recipes, ablated, the later ones of F with the clip's length of the stage before."""
        names = [n for n in self.stages if not (n == "stage1_256px" and "single_stage" in ablations)]
        made: list[Recipe] = []
        for name in names:
            recipe = STAGES[name](self.family or family)
            if name == "hq_finetune" and made:
                before = made[-1].clips
                recipe = replace(recipe, clips=replace(recipe.clips, frames=before.frames, fps=before.fps))
            made.append(ablate(recipe, [a for a in ablations if a != "single_stage"]))
        return made


_DEMO_ALL = {
    "optimisation.warmup": "2",
    "optimisation.ema": "0.9",
    "clips.validation": "8",
    "clips.workers": "1",
}
_DEMO_KEPT = {"clips.starts": "1", "compute.cache": "true"}  # where most clips are seen more than once
CHAINS: dict[str, Chain] = {
    "paper": Chain("paper", "all five stages of the paper", tuple(STAGES)),
    "short": Chain("short", "without the 16 frames of stage 3", ("stage1_256px", "stage2_512px", "hq_finetune", "interpolation")),
    "tiny-demo": Chain(
        "tiny-demo",
        "all five stages in miniature on the bundled model, with clips that are drawn, encoded as mp4 and curated first",
        tuple(STAGES),
        family="tiny",
        changes={
            "": _DEMO_ALL,
            "stage1_256px": {"optimisation.steps": "16", "optimisation.batch": "8", **_DEMO_KEPT},
            "stage2_512px": {"optimisation.steps": "20", "optimisation.batch": "8", **_DEMO_KEPT},
            "stage3_16frames": {"optimisation.steps": "6", "optimisation.batch": "4"},
            "hq_finetune": {"optimisation.steps": "6", "optimisation.batch": "4"},
            "interpolation": {"optimisation.steps": "6", "optimisation.batch": "2"},
        },
        demo=120,
    ),
}
