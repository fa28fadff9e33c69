"""The arms: each is the design, Emu Video's, but for what its row says; and the claims, each a comparison of two arms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..training.paper import ABLATIONS


@dataclass(frozen=True)
class Arm:
    """`changes`: settings of the recipes of its stages. `low`, `full`, `fine`: how many times the budget's steps each stage has.
    `decides`: trained with as many seeds as the budget says, else with one. `maker`: what makes its videos, where that is no
    temporal stack. `mixed`: trained on clips as the web has them, of files. `after`: the arm whose model it starts from."""

    about: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    low: float = 1.0
    full: float = 1.0
    fine: float = 0.0
    decides: bool = False
    maker: str = "stack"
    mixed: bool = False
    after: str = ""


def _ablation(name: str, **settings: Any) -> Arm:
    about, changes = ABLATIONS[name]
    return Arm(about, changes, **settings)


_TEXT_ALONE = ABLATIONS["direct"][1]
_ADAMW = {"optimisation.optimiser": "adamw", "optimisation.rate": 2e-3}
ARMS: dict[str, Arm] = {
    # the design, and what the paper compares it with
    "design": Arm("Emu Video: a starting frame, then the video; half the resolution first, zero terminal SNR", decides=True),
    "direct": _ablation("direct", decides=True),
    "standard_snr": _ablation("standard_snr", decides=True),
    "single_stage": Arm("full resolution from the start, for as long by the clock", low=0.0, full=2.6, decides=True),
    "random_start": _ablation("random_start", decides=True),
    "all_trained": _ablation("all_trained"),
    "mixed_data": Arm("the design on clips of which most hardly move and are captioned badly", mixed=True),
    "hq": Arm(
        "the same, then fine-tuned on the few that move", mixed=True, after="mixed_data", low=0.0, full=0.0, fine=1.0
    ),
    "convolutions_alone": _ablation("convolutions_alone"),
    "attention_alone": _ablation("attention_alone"),
    "depthwise": _ablation("depthwise"),
    "cosine": _ablation("cosine"),
    # curves
    "low_0": Arm("no steps at half the resolution, the rest as in the design", low=0.0),
    "low_quarter": Arm("a quarter of the steps at half the resolution", low=0.25),
    "low_double": Arm("twice the steps at half the resolution", low=2.0),
    "clips_sixteenth": Arm("a sixteenth of the clips", {"world.cache": 1 / 16}),
    "clips_quarter": Arm("a quarter of the clips", {"world.cache": 1 / 4}),
    # the identity start again, with the paper's optimiser
    "adamw": Arm("half the resolution alone, half as many steps, moved by AdamW", _ADAMW, low=0.5, full=0.0, decides=True),
    "adamw_random": Arm(
        "the same, with temporal layers from random weights",
        {**_ADAMW, **ABLATIONS["random_start"][1]},
        low=0.5,
        full=0.0,
        decides=True,
    ),
    # systems of the story
    "make_a_video": Arm(
        "Make-A-Video's: pseudo-3D layers that read no text, from text alone (Singer et al., arXiv 2209.14792)",
        {**_TEXT_ALONE, "method.stack": "textless", "method.trained": "all"},
    ),
    "align_your_latents": Arm(
        "Align Your Latents': learned mixing, from text alone (Blattmann et al., arXiv 2304.08818)",
        {**_TEXT_ALONE, **ABLATIONS["learned_mixing"][1]},
    ),
    "pyoco": Arm(
        "PYoCo's: noise that frames share, all layers trained, from text alone (Ge et al., arXiv 2305.10474)",
        {**_TEXT_ALONE, **ABLATIONS["correlated_noise"][1], "method.trained": "all"},
    ),
    "magic_video": Arm(
        "MagicVideo's: directed temporal attention, all layers trained, from text alone (Zhou et al., arXiv 2211.11018)",
        {**_TEXT_ALONE, **ABLATIONS["directed"][1], "method.trained": "all"},
    ),
    "svd": Arm(
        "Stable Video Diffusion's: image with noise on it, no text, all layers trained (Blattmann et al., arXiv 2311.15127)",
        {"given.text_drop": 1.0, "given.image_noise": 100, "recommended.image_noise": 50, "method.trained": "all",
         **ABLATIONS["learned_mixing"][1]},
    ),
    "vgan": Arm("VGAN: foreground and background streams (Vondrick et al., arXiv 1609.02612)", maker="vgan"),
    "mocogan": Arm("MoCoGAN: content and motion codes, told the motion (Tulyakov et al., arXiv 1707.04993)", maker="mocogan"),
    "retrieval": Arm("the clip of training whose caption is nearest to the prompt", maker="retrieval"),
    "real": Arm("real clips of the prompts", maker="real"),
}  # fmt: skip
"""By name. An arm of your own is a row more."""


@dataclass(frozen=True)
class Claim:
    """That one arm is preferred to another. `quality` and `faithfulness`: win rates of the paper in per cent, None where it gives
    none; `source`: where they stand; `group`: one of GROUPS."""

    arm: str
    against: str
    says: str
    quality: float | None = None
    faithfulness: float | None = None
    source: str = ""
    group: str = "ours"


GROUPS = {"paper": "The paper's ablations", "systems": "Systems", "ours": "Ours, of which the paper gives no figure"}
_TABLE = "Girdhar et al., table of ablations"
CLAIMS = (
    Claim("design", "direct", "a starting frame first, then the video", 70.5, 63.3, _TABLE, "paper"),
    Claim("design", "standard_snr", "zero terminal SNR", 96.8, 88.3, _TABLE, "paper"),
    Claim("design", "single_stage", "half the resolution first", 81.8, 84.1, _TABLE, "paper"),
    Claim("hq", "mixed_data", "fine-tuning on clips of high quality", 65.1, 79.6, _TABLE, "paper"),
    Claim("design", "all_trained", "the image model stays frozen", 55.0, 58.1, _TABLE, "paper"),
    Claim(
        "design",
        "random_start",
        "temporal layers start as the identity",
        source="Girdhar et al., section 3: about twice as fast",
        group="paper",
    ),
    Claim("design", "convolutions_alone", "convolutions and attention, not convolutions alone"),
    Claim("design", "attention_alone", "convolutions and attention, not attention alone"),
    Claim("design", "depthwise", "convolutions over all channels, not of each by itself"),
    Claim("adamw", "adamw_random", "temporal layers start as the identity, moved by AdamW"),
    Claim("design", "cosine", "the betas of latent diffusion, not the cosine schedule"),
    Claim("design", "make_a_video", "against Make-A-Video's", 96.8, 85.1, "Girdhar et al., 307 prompts", "systems"),
    Claim("design", "align_your_latents", "against Align Your Latents'", 92.3, 97.0, "Girdhar et al., 65 prompts", "systems"),
    Claim("design", "pyoco", "against PYoCo's", 90.5, 81.1, "Girdhar et al., 74 prompts", "systems"),
    Claim("design", "svd", "against Stable Video Diffusion's", 72.3, 73.9, "Girdhar et al., the same image given", "systems"),
    Claim("design", "magic_video", "against MagicVideo's", group="systems"),
    Claim("design", "vgan", "against VGAN", group="systems"),
    Claim("design", "mocogan", "against MoCoGAN", group="systems"),
    Claim(
        "design",
        "retrieval",
        "against the nearest clip of training",
        None,
        81.1,
        "Girdhar et al., retrieval baseline",
        "systems",
    ),
    Claim("design", "real", "against real clips", group="systems"),
)
