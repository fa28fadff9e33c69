"""The recipes of the bundled model, for two CPU cores or one GPU, the paper's stages at its scale, and the demo of training."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

from ..training.paper import STAGES, Chain, Scale
from ..training.recipes import (
    Clips,
    Compute,
    Distil,
    Every,
    Given,
    Method,
    Network,
    Optimisation,
    Recipe,
    Recommended,
    Start,
    World,
)

TINY = Scale(
    "tiny", 32, 64, stage1=(1200, 16, 2e-3, 50), stage2=(1600, 16, 2e-3, 50), stage3=(300, 8, 1e-3, 30), hq=(200, 16, 3e-4, 40),
    interpolation=(800, 4, 1.2e-3, 30), ema=0.995, first_frame=0.7, image_noise=100, recommended=Recommended(3.0, 1.0, 20),
    recommended_of_i=Recommended(1.0, 1.0, 10, image_noise=20), every=200, distil=(400, 16, 3e-4, 20), distil_rank=16,
)  # fmt: skip
"""The paper's stages in miniature; the figures are ours. Between keyframes there is little left for guidance to decide."""

_DEMO_KEPT = {"optimisation.batch": "8", "clips.starts": "1", "compute.cache": "true"}  # where most clips are seen again
CHAINS = {
    "tiny-demo": Chain(
        "tiny-demo",
        "all five stages in miniature on the bundled model, with clips that are drawn, encoded as mp4 and curated first",
        tuple(STAGES),
        family="tiny",
        changes={
            "": {"optimisation.warmup": "2", "optimisation.ema": "0.9", "clips.validation": "8", "clips.workers": "1"},
            "stage1_256px": {"optimisation.steps": "16", **_DEMO_KEPT},
            "stage2_512px": {"optimisation.steps": "20", **_DEMO_KEPT},
            "stage3_16frames": {"optimisation.steps": "6", "optimisation.batch": "4"},
            "hq_finetune": {"optimisation.steps": "6", "optimisation.batch": "4"},
            "interpolation": {"optimisation.steps": "6", "optimisation.batch": "2"},
        },
        demo=120,
    ),
}
_IMAGE, _FIRST = Start("runs/tiny-t2i-wide/model"), "runs/tiny-f/model/stack_F.safetensors"
_BF16 = Compute("bfloat16")
_OPTIMISATION = {
    "tiny-vae": Optimisation(2600, 8, 1.5e-3, decay=0.4, ema=0.995),
    "tiny-vae-wide": Optimisation(1500, 8, 1e-3, decay=0.5, ema=0.995),
    "tiny-t2i": Optimisation(3300, 64, 2e-3, decay=0.35),
    "tiny-t2i-wide": Optimisation(750, 64, 1.5e-3, decay=1 / 3, ema=0.998),
    "tiny-f": Optimisation(2600, 16, 2e-3, warmup=50, decay=0.35, ema=0.995, t_power=0.75),
    "tiny-f-wide": Optimisation(700, 16, 1.2e-3, warmup=30, decay=0.6, ema=0.99, t_power=0.75),
    "tiny-i": Optimisation(1100, 4, 1.2e-3, warmup=30, decay=0.4, ema=0.99),
    "tiny-lora": Optimisation(500, 32, 2e-3, warmup=20, decay=0.4, ema=0.98),
    "little-vae": Optimisation(2400, 32, 3e-3, warmup=50, decay=0.5, ema=0.995, optimiser="muon"),
    "little-vae-late": Optimisation(1500, 32, 2e-3, warmup=30, decay=0.7, ema=0.99, seed=1, optimiser="muon"),
    "little-vae-sharp": Optimisation(3000, 32, 2e-3, warmup=30, decay=0.7, ema=0.99, seed=2, optimiser="muon"),
    "little-t2i": Optimisation(1667, 128, 3e-3, warmup=50, decay=0.0, ema=0.998, t_power=1.3, optimiser="muon"),
    "little-t2i-wide": Optimisation(2700, 128, 3e-3, warmup=30, decay=0.75, ema=0.998, seed=1, t_power=1.3, optimiser="muon"),
    "little-t2i-late": Optimisation(3000, 128, 3e-3, warmup=30, decay=0.75, ema=0.998, seed=2, t_power=1.3, optimiser="muon"),
    "little-f": Optimisation(3500, 16, 2e-3, warmup=50, decay=0.5, ema=0.995, optimiser="muon"),
    "little-f-late": Optimisation(6000, 16, 2e-3, warmup=30, decay=0.5, ema=0.995, seed=1, t_power=0.7, optimiser="muon"),
    "little-f-camera": Optimisation(5000, 16, 2e-3, warmup=30, decay=0.5, ema=0.995, seed=2, t_power=0.7, optimiser="muon"),
    "little-i": Optimisation(1000, 4, 2e-3, warmup=30, decay=0.5, ema=0.99, optimiser="muon"),
    "little-lora": Optimisation(500, 32, 2e-3, warmup=20, decay=0.4, ema=0.98),
    "little-f-fast": Optimisation(450, 16, 1e-3, warmup=20, decay=1.0, ema=0.995, seed=5, optimiser="muon"),
    "little-t2i-fast": Optimisation(600, 64, 1e-3, warmup=20, decay=1.0, ema=0.995, seed=6),
}


def _recipe(name: str, task: str, start: Start, world: World, every: Every = Every(), **further: Any) -> Recipe:
    return Recipe(name, task, _OPTIMISATION[name], start=start, world=world, every=every, **further)


_F = {"recommended": TINY.recommended}
_I = {"role": "I", "clips": Clips(37, 16.0), "given": Given(image_noise=100), "recommended": TINY.recommended_of_i}
_LITTLE, _LITTLE_F = Start("runs/little-t2i-late/model"), "runs/little-f-late/model/stack_F.safetensors"
_VAE, _VAE_EVERY = {"network": Network((64, 64, 96, 96), latents=16), "compute": _BF16}, Every(300, 300)
_KEPT = Method(keep_given=True)
_LITTLE_I = {**_I, "given": Given(), "recommended": Recommended(1.0, 1.0, 2)}  # what is kept has no noise
_LITTLE_OF_F = {"method": _KEPT, "compute": _BF16, "recommended": Recommended(1.5, 1.0, 8)}
_T2I = {"network": Network((128, 64)), "compute": _BF16, "clips": Clips(validation=512)}


def _little(cache: int, nameless: float = 0.0, seed: int = 1, **further: Any) -> World:
    return World(seed, nameless, cache, "little", **further)


_IN_ORDER = (
    _recipe("tiny-vae", "autoencoder", Start(), World()),
    _recipe("tiny-vae-wide", "autoencoder", Start(init="runs/tiny-vae/model"), World(anything=0.5)),
    _recipe("tiny-t2i", "text_to_image", Start("runs/tiny-vae/model"), World(cache=64_000)),
    _recipe("tiny-t2i-wide", "text_to_image", Start("runs/tiny-vae-wide/model", "runs/tiny-t2i/model"), World(1, 0.15, 32_000)),
    _recipe("tiny-f", "video", _IMAGE, World(1, 0.2, 6000), Every(250, 100), **_F),
    _recipe("tiny-f-wide", "video", replace(_IMAGE, init=_FIRST), World(2, 0.5, 4000), Every(350, 100), **_F),
    _recipe("tiny-i", "video", replace(_IMAGE, init=_FIRST), World(1, 0.25, 800), Every(275, 100), **_I),
    _recipe("tiny-lora", "lora", _IMAGE, World(cache=4000), Every(250)),
    _recipe("little-vae", "little_autoencoder", Start(), World(cache=2500), _VAE_EVERY, **_VAE),
    _recipe(
        "little-vae-late", "little_autoencoder", Start(init="runs/little-vae/model"), World(2, cache=2500), _VAE_EVERY, **_VAE
    ),
    _recipe(
        "little-vae-sharp",
        "little_autoencoder",
        Start(init="runs/little-vae-late/model"),
        World(3, cache=2500, figures=3.0),
        Every(500, 500),
        **_VAE,
    ),
    _recipe(
        "little-t2i",
        "text_to_image",
        Start("runs/little-vae/model"),
        _little(64_000, figures=4.0),
        Every(1000, 500, 500),
        **_T2I,
    ),
    _recipe(
        "little-t2i-wide",
        "text_to_image",
        Start("runs/little-vae/model", "runs/little-t2i/model"),
        _little(64_000, 0.2, seed=2, figures=4.0),
        Every(900, 300, 300),
        **_T2I,
    ),
    _recipe(
        "little-t2i-late",
        "text_to_image",
        Start("runs/little-vae/model", "runs/little-t2i-wide/model"),
        _little(64_000, 0.2, seed=2, figures=4.0),
        Every(1000, 300, 500),
        **_T2I,
    ),
    _recipe("little-f", "video", _LITTLE, _little(8000, 0.35), Every(400, 200, 400), **_LITTLE_OF_F),
    _recipe(
        "little-f-late",
        "video",
        replace(_LITTLE, init="runs/little-f/model/stack_F.safetensors"),
        _little(8000, 0.25, seed=2, figures=4.0),
        Every(500, 200, 500),
        **_LITTLE_OF_F,
    ),
    _recipe(
        "little-f-camera",
        "video",
        replace(_LITTLE, init=_LITTLE_F),
        _little(8000, 0.35, seed=3, figures=4.0, camera=4.0),
        Every(500, 200, 500),
        **_LITTLE_OF_F,
    ),
    _recipe(
        "little-i",
        "video",
        replace(_LITTLE, init=_LITTLE_F),
        _little(1200, 0.35),
        Every(250, 100),
        method=_KEPT,
        compute=_BF16,
        **_LITTLE_I,
    ),
    _recipe("little-lora", "lora", _LITTLE, _little(4000), Every(250)),
    _recipe(
        "little-f-fast",
        "video",
        replace(_LITTLE, init="runs/little-f-camera/model/stack_F.safetensors"),
        _little(8000, 0.35, seed=3, figures=4.0, camera=4.0),
        Every(150, 150, 150),
        given=Given(0.0),
        method=_KEPT,
        recommended=Recommended(1.0, 1.0, 4),
        distil=Distil(4, 8, 1, 1.5, 1.0),
    ),
    _recipe(
        "little-t2i-fast",
        "image",
        _LITTLE,
        _little(32_000, seed=4, figures=4.0),
        Every(200, 200, 200),
        clips=Clips(1),
        given=Given(0.0, 0.0),
        recommended=Recommended(1.0, 1.0, 4),
        distil=Distil(4, 8, 1, 3.0, 1.0, TINY.distil_rank),
    ),
)
RECIPES = {recipe.name: recipe for recipe in _IN_ORDER}
"""In the order in which they made the first bundled model (tiny-), and make the present one (little-)."""
_GPU = {
    "little-vae": (4, 128, 5000),
    "little-vae-late": (4, 128, 5000),
    "little-vae-sharp": (4, 128, 5000),
    "little-t2i": (3, 512, 200_000),
    "little-t2i-wide": (3, 512, 200_000),
    "little-t2i-late": (3, 512, 200_000),
    "little-f": (2, 128, 64_000),
    "little-f-late": (2, 128, 64_000),
    "little-f-camera": (2, 128, 64_000),
    "little-i": (2, 64, 16_000),
    "little-lora": (4, 128, 16_000),
    "little-f-fast": (4, 128, 32_000),
    "little-t2i-fast": (4, 512, 100_000),
}
"""Of the second budget, a GPU: how many times the steps of the first, the batch, and how many samples are drawn once and kept."""


def _for_gpu(recipe: Recipe, longer: int, batch: int, kept: int) -> Recipe:
    """The same networks, rates and design, so that what one budget made the other goes on from. What is counted in steps grows
    with them: the warm-up, how far the average looks back, and when what happens now and then does."""
    usual = recipe.optimisation
    steps, warmup, ema = usual.steps * longer, usual.warmup * longer, round(1 - (1 - usual.ema) / longer, 6)
    optimisation = replace(usual, steps=steps, batch=batch, warmup=warmup, ema=ema)
    every = Every(*(longer * count for count in astuple(recipe.every)))
    return replace(recipe, optimisation=optimisation, every=every, world=replace(recipe.world, cache=kept))


BUDGETS = {
    "cpu": {name: RECIPES[name] for name in _GPU},
    "gpu": {name: _for_gpu(RECIPES[name], *figures) for name, figures in _GPU.items()},
}
"""The recipes of the present bundled model by what there is to train them with: ten hours of two cores, or a GPU."""
ABOUT = {
    "tiny-vae": "The first bundled model's image autoencoder: 64 x 64 pixels to 8 x 8 x 4 latents and back.",
    "tiny-vae-wide": "The autoencoder again, half of it now on nameless figures over gradients.",
    "tiny-t2i": "The first bundled model's text encoder and image U-Net, trained together.",
    "tiny-t2i-wide": "The image model again, on the latents of the wider autoencoder.",
    "tiny-f": "Stack F of the first bundled model: 8 frames at 4 fps from a starting frame and a prompt.",
    "tiny-f-wide": "Stack F again, half of its clips now of nameless figures, so that other pictures move too.",
    "tiny-i": "Stack I of the first bundled model, from F: 8 frames become 37 at 16 fps.",
    "tiny-lora": "A LoRA on the first bundled image model: pastel colours.",
    "little-vae": "The autoencoder of the little world and of nameless pictures: 64 x 64 pixels to 8 x 8 x 16 latents and back.",
    "little-vae-late": "Its decoder again, for pictures with more that is small; its latents stay as they are.",
    "little-vae-sharp": "Its decoder once more, where figures are counting four times as much: thin legs and fins.",
    "little-t2i": "The text encoder and image U-Net of the little world, trained together.",
    "little-t2i-wide": "The image model again, a fifth of its pictures now nameless, so that a stack on it can move photographs.",
    "little-t2i-late": "The image model once more, as long again; its pictures were still growing sharper.",
    "little-f": "Stack F of the little world: 8 frames at 4 fps from given frames and a prompt, which it keeps as they are.",
    "little-f-late": "Stack F once more, where what a figure passes over counts five times as much.",
    "little-f-camera": "Stack F and the camera: where it moves, every place counts five times as much.",
    "little-i": "Stack I of the little world, from F: 8 frames become 37 at 16 fps.",
    "little-lora": "A LoRA on the image model of the little world, the bundled example: pastel colours.",
    "little-f-fast": "Stack F of the little world that needs 4 steps of one call each, from the one that needs 8 of two.",
    "little-t2i-fast": "A LoRA with which the image model of the little world does the same.",
}
