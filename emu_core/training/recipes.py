"""Recipes: what is trained, on what, for how long. Each is a function that returns a typed config."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Optimisation:
    """How the weights move. Rates are per step, `steps` counts optimiser steps, `batch` counts samples over all processes."""

    steps: int
    batch: int
    rate: float
    warmup: int = 100
    decay: float = 0.3  # last share of the steps, over which the rate falls linearly to zero
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """One training run. `task` names the class in `tasks` that knows the loss; `base` and `init` name earlier results."""

    name: str
    task: str
    optimisation: Optimisation
    base: str = ""  # folder of the model that this run builds on
    init: str = (
        ""  # what the trained part starts from: a model folder, for a stack its file; empty: nothing, for a stack the identity
    )
    world_seed: int = 1
    anything: float = 0.0  # share of nameless figures on gradients among the clips, so that other pictures work too
    cache: int = 0  # encode this many samples once and draw from them; 0: draw endless new ones and encode each
    text_drop: float = 0.1
    image_drop: float = 0.1
    widths: tuple[float, ...] = (64, 128)  # of the image U-Net, where the recipe trains one
    layers: int = 1
    role: str = "F"  # of the stack that is trained: F makes videos, I interpolates
    image_noise: int = 0  # noise augmentation of the given latents, timesteps 0..this; 0: none
    image_noise_inference: int = 0
    t_power: float = 1.0  # timesteps are N u^t_power; below 1 favours noisy ones, where the motion is decided
    sheet_every: int = 500
    save_every: int = 250


def tiny_vae() -> Recipe:
    """The tiny model's image autoencoder: 64 x 64 pixels to 8 x 8 x 4 latents and back."""
    return Recipe(
        name="tiny-vae",
        task="autoencoder",
        optimisation=Optimisation(steps=2600, batch=8, rate=1.5e-3, decay=0.4, ema=0.995),
        cache=0,
    )


def tiny_vae_wide() -> Recipe:
    """The autoencoder again, half of it now on nameless figures over gradients."""
    return Recipe(
        name="tiny-vae-wide",
        task="autoencoder",
        optimisation=Optimisation(steps=1500, batch=8, rate=1e-3, decay=0.5, ema=0.995),
        init="runs/tiny-vae/model",
        anything=0.5,
    )


def tiny_t2i() -> Recipe:
    """The tiny model's text encoder and image U-Net, trained together."""
    return Recipe(
        name="tiny-t2i",
        task="text_to_image",
        optimisation=Optimisation(steps=3300, batch=64, rate=2e-3, decay=0.35),
        base="runs/tiny-vae/model",
        cache=64_000,
    )


def tiny_t2i_wide() -> Recipe:
    """The image model again, on the latents of the wider autoencoder."""
    return Recipe(
        name="tiny-t2i-wide",
        task="text_to_image",
        optimisation=Optimisation(steps=750, batch=64, rate=1.5e-3, decay=1 / 3, ema=0.998),
        base="runs/tiny-vae-wide/model",
        init="runs/tiny-t2i/model",
        cache=32_000,
        anything=0.15,
    )


def tiny_f() -> Recipe:
    """Stack F of the tiny model: 8 frames at 4 fps from a starting frame and a prompt."""
    return Recipe(
        name="tiny-f",
        task="video",
        optimisation=Optimisation(steps=2600, batch=16, rate=2e-3, warmup=50, decay=0.35, ema=0.995),
        base="runs/tiny-t2i-wide/model",
        anything=0.2,
        cache=6000,
        t_power=0.75,
        sheet_every=250,
        save_every=100,
    )


def tiny_f_wide() -> Recipe:
    """Stack F again, half of its clips now of nameless figures, so that other pictures move too."""
    return Recipe(
        name="tiny-f-wide",
        task="video",
        optimisation=Optimisation(steps=700, batch=16, rate=1.2e-3, warmup=30, decay=0.6, ema=0.99),
        base="runs/tiny-t2i-wide/model",
        init="runs/tiny-f/model/stack_F.safetensors",
        world_seed=2,
        anything=0.5,
        cache=4000,
        t_power=0.75,
        sheet_every=350,
        save_every=100,
    )


def tiny_i() -> Recipe:
    """Stack I of the tiny model, from F: 8 frames become 37 at 16 fps."""
    return Recipe(
        name="tiny-i",
        task="video",
        optimisation=Optimisation(steps=1100, batch=4, rate=1.2e-3, warmup=30, decay=0.4, ema=0.99),
        base="runs/tiny-t2i-wide/model",
        anything=0.25,
        init="runs/tiny-f/model/stack_F.safetensors",
        role="I",
        image_noise=100,
        image_noise_inference=20,
        cache=800,
        sheet_every=275,
        save_every=100,
    )


def tiny_lora() -> Recipe:
    """A LoRA on the tiny image model, the bundled example: pastel colours."""
    return Recipe(
        name="tiny-lora",
        task="lora",
        optimisation=Optimisation(steps=500, batch=32, rate=2e-3, warmup=20, decay=0.4, ema=0.98),
        base="runs/tiny-t2i-wide/model",
        cache=4000,
        sheet_every=250,
    )


def override(recipe: Recipe, changes: dict[str, str]) -> Recipe:
    """Replace fields given as text, `field=value` or `optimisation.field=value`; unknown names are refused."""
    for name, text in changes.items():
        if name.startswith("optimisation."):
            inner = _set(recipe.optimisation, name.removeprefix("optimisation."), text)
            recipe = dataclasses.replace(recipe, optimisation=inner)
        else:
            recipe = _set(recipe, name, text)
    return recipe


def _set(config: Any, name: str, text: str) -> Any:
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    if name not in fields or dataclasses.is_dataclass(fields[name]):
        raise ValueError(f"unknown setting {name!r}: expected one of {', '.join(sorted(fields))}")
    kind = type(fields[name])
    try:
        value = tuple(float(v) for v in text.split(",")) if kind is tuple else kind(text)
    except ValueError as error:
        raise ValueError(f"setting {name!r} must be {kind.__name__}, found {text!r}") from error
    return dataclasses.replace(config, **{name: value})


RECIPES: dict[str, Callable[[], Recipe]] = {
    "tiny-vae": tiny_vae,
    "tiny-vae-wide": tiny_vae_wide,
    "tiny-t2i": tiny_t2i,
    "tiny-t2i-wide": tiny_t2i_wide,
    "tiny-f": tiny_f,
    "tiny-f-wide": tiny_f_wide,
    "tiny-i": tiny_i,
    "tiny-lora": tiny_lora,
}
"""In the order in which they make the bundled model."""
