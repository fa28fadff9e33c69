"""Recipes: what is trained, on what, for how long. Each is a function that returns a typed config; any field can be replaced.

Here are the parts of a recipe, and the recipes that made the bundled model. The paper's stages are in `paper`.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..model.schedule import ScheduleConfig


@dataclass(frozen=True)
class Optimisation:
    """How the weights move. Rates are per step, `steps` counts optimiser steps, `batch` counts samples over all processes."""

    steps: int
    batch: int
    rate: float
    warmup: int = 100
    decay: float = 0.3  # last share of the steps, over which the rate falls linearly to zero; 0: constant, as in the paper
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0


@dataclass(frozen=True)
class Clips:
    """What one sample of a stack's training is, and where it comes from."""

    frames: int = 8
    fps: float = 4.0
    size: tuple[int, int] = (64, 64)  # height and width in pixels
    shards: str = ""  # folder or address that `emu-video curate` wrote; empty: the procedural world of the tiny model
    selection: str = ""  # name of an `emu-video select`; empty: all clips
    starts: int = 0  # how many different starts a video is cut at; 0: any moment
    validation: int = 64  # clips that are kept out of training and measure it
    workers: int = 2  # processes that decode videos, for each training process


@dataclass(frozen=True)
class Method:
    """What the paper's ablations change. The defaults are Emu Video's own design."""

    image: bool = True  # the starting frame is given; false: text alone, the "direct" arm
    start: Literal["identity", "random"] = "identity"  # of temporal layers that nothing is loaded into
    trained: Literal["stack", "all"] = "stack"  # the temporal layers alone, or the image model's U-Net with them
    mixing: Literal["residual", "learned"] = "residual"  # learned: weights between old and new, as in Align Your Latents
    shared_noise: float = 0.0  # PYoCo's alpha: how much of the noise all frames of a clip share; 0: none
    stack: Literal["full", "slim"] = "full"  # slim: fewer and narrower temporal layers, for small GPUs


@dataclass(frozen=True)
class Compute:
    """How the work is done; the result is the same but for rounding."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the frozen parts and of the matrix products
    micro: int = 0  # clips that one process handles at a time; 0: its whole share of the batch
    checkpointing: bool = False  # compute activations again in the backward pass, to need less memory
    parallel: Literal["ddp", "fsdp"] = "ddp"  # of several processes: each has everything, or each a share
    cache: bool = False  # encode every clip and caption once and keep them; needs clips.starts
    ema_on_cpu: bool = False


@dataclass(frozen=True)
class Recipe:
    """One training run. `task` names the class in `run` that knows the loss; `base` and `init` name earlier results."""

    name: str
    task: str
    optimisation: Optimisation
    base: str = ""  # folder or file of the model that this run builds on
    init: str = (
        ""  # what the trained part starts from: a model folder, for a stack its file; empty: nothing, for a stack the identity
    )
    family: str = "tiny"  # of the base: tiny, sd15, sd21 or sdxl
    tokenizer: str = ""  # folder with the tokenizer that a single-file base lacks
    role: Literal["F", "I"] = "F"  # of the stack that is trained: F makes videos, I interpolates
    clips: Clips = Clips()
    method: Method = Method()
    compute: Compute = Compute()
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    world_seed: int = 1
    anything: float = 0.0  # share of nameless figures on gradients among the clips, so that other pictures work too
    cache: int = 0  # procedural world: encode this many samples once and draw from them; 0: endless new ones
    text_drop: float = 0.1
    image_drop: float = 0.1
    first_frame: float = 0.7  # share of F's clips that are given the first frame alone; 1: all, as in the paper
    widths: tuple[int, ...] = (64, 128)  # of the image U-Net, where the recipe trains one
    layers: int = 1
    image_noise: int = 0  # noise augmentation of the given latents, timesteps 0..this; 0: none
    image_noise_inference: int = 0
    t_power: float = 1.0  # timesteps are N u^t_power; below 1 favours noisy ones, where the motion is decided
    text_guidance: float = 7.5  # what the stack recommends to whoever samples from it
    image_guidance: float = 2.0
    sampling_steps: int = 250
    sheet_every: int = 500
    save_every: int = 250
    validate_every: int = 0  # steps between two measurements of the validation loss; 0: never


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


_TINY_F: dict[str, Any] = {"text_guidance": 3.0, "image_guidance": 1.0, "sampling_steps": 20}


def tiny_f() -> Recipe:
    """Stack F of the tiny model: 8 frames at 4 fps from a starting frame and a prompt."""
    return Recipe(
        name="tiny-f",
        task="video",
        optimisation=Optimisation(steps=2600, batch=16, rate=2e-3, warmup=50, decay=0.35, ema=0.995),
        base="runs/tiny-t2i-wide/model",
        anything=0.2,
        cache=6000,
        **_TINY_F,
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
        **_TINY_F,
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
        clips=Clips(frames=37, fps=16.0),
        text_guidance=1.0,  # between keyframes there is little left to decide
        image_guidance=1.0,
        sampling_steps=10,
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


def from_dict(values: dict[str, Any]) -> Recipe:
    """A recipe from the form that `dataclasses.asdict` and JSON give it, as each run's recipe.json holds it."""
    return _from_dict(Recipe, values, "")


def _from_dict(kind: Any, values: Any, path: str) -> Any:
    fields = typing.get_type_hints(kind)
    if not isinstance(values, dict) or (strange := sorted(set(values) - set(fields))):
        found = strange[0] if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{path or 'a recipe'} should hold the settings {', '.join(fields)}, found {found}")
    made = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(fields[name]):
            value = _from_dict(fields[name], value, f"{path}{name}.")
        made[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**made)
    except TypeError as error:
        raise ValueError(f"a recipe lacks a setting: {error}") from error


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file that a run wrote, or that somebody wrote in its form."""
    try:
        return from_dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no recipe: {error}") from error


def override(recipe: Recipe, changes: dict[str, str]) -> Recipe:
    """Replace fields given as text, such as `optimisation.steps=100` or `clips.size=256,256`; unknown names are refused."""
    for name, text in changes.items():
        recipe = _set(recipe, name.split("."), text, name)
    return recipe


def _set(config: Any, path: list[str], text: str, name: str) -> Any:
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    own, *deeper = path
    if own not in fields or dataclasses.is_dataclass(fields[own]) != bool(deeper):
        inner = {f"{k}.": v for k, v in fields.items() if dataclasses.is_dataclass(v)}
        known = [k for k in fields if f"{k}." not in inner] + list(inner)
        raise ValueError(f"unknown setting {name!r}: expected one of {', '.join(sorted(known))}")
    value = _set(fields[own], deeper, text, name) if deeper else _read(fields[own], text, name)
    return dataclasses.replace(config, **{own: value})


def _read(old: Any, text: str, name: str) -> Any:
    kind = type(old)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is tuple:
            return tuple(type(old[0])(part) for part in text.split(","))
        return kind(text)
    except (KeyError, ValueError) as error:
        expected = "true or false" if kind is bool else kind.__name__
        raise ValueError(f"setting {name!r} must be {expected}, found {text!r}") from error


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
