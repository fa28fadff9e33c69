"""Recipes: what is trained, on what, for how long. A recipe is a few small frozen parts, and any field of them can be changed.

Here is the form of a recipe and of its file. The paper's stages are in `paper`, the bundled model's recipes in the toy world.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..limits import json_of
from ..model.config import StackKind
from ..model.schedule import ScheduleConfig


@dataclass(frozen=True)
class Start:
    """Earlier results that a run builds on."""

    base: str = ""  # folder or file of the image model
    init: str = ""  # what the trained part starts from: a model folder, for a stack its file; empty: for a stack the identity
    tokenizer: str = ""  # folder with the tokenizer that a single-file base lacks


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
    t_power: float = 1.0  # timesteps are N u^t_power; below 1 favours noisy ones, where the motion is decided
    optimiser: Literal["adamw", "muon"] = "adamw"


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
class Given:
    """What the network is given of a sample in training."""

    text_drop: float = 0.1  # share of samples without their text; 1: the text is not used at all
    image_drop: float = 0.1  # and without their frames
    first_frame: float = 0.7  # share of F's clips that are given the first frame alone; 1: all, as in the paper
    image_noise: int = 0  # noise augmentation of the given latents, timesteps 0..this; 0: none


@dataclass(frozen=True)
class Method:
    """What the paper's ablations change. The defaults are Emu Video's own design."""

    image: bool = True  # the starting frame is given; false: text alone, the "direct" arm
    start: Literal["identity", "random"] = "identity"  # of temporal layers that nothing is loaded into
    trained: Literal["stack", "all"] = "stack"  # the temporal layers alone, or the image model's U-Net with them
    mixing: Literal["residual", "learned"] = "residual"  # learned: weights between old and new, as in Align Your Latents
    shared_noise: float = 0.0  # PYoCo's alpha: how much of the noise all frames of a clip share; 0: none
    keep_given: bool = False  # not the paper's: given frames come out as they were given, in training and after it
    stack: StackKind = "full"  # slim: fewer and narrower temporal layers, for small GPUs; the others see STACKS


@dataclass(frozen=True)
class Compute:
    """How the work is done; the result is the same but for rounding."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the frozen parts and of the matrix products
    micro: int = 0  # clips that one process handles at a time; 0: its whole share of the batch
    checkpointing: bool = False  # compute activations again in the backward pass, to need less memory
    parallel: Literal["ddp", "fsdp"] = "ddp"  # of several processes: each has everything, or each a share
    cache: bool = False  # encode every clip and caption of the shards once and keep them; needs clips.starts
    ema_on_cpu: bool = False
    exported: Literal["float32", "bfloat16", "float16"] = "float16"  # what a U-Net that is trained along is written in


@dataclass(frozen=True)
class Recommended:
    """What the trained stack recommends to whoever samples from it."""

    text_guidance: float = 7.5
    image_guidance: float = 2.0
    steps: int = 250
    image_noise: int = 0  # timestep to which the given latents are noised


@dataclass(frozen=True)
class Every:
    """Steps between two events."""

    sheet: int = 500
    save: int = 250
    validate: int = 0  # 0: never


@dataclass(frozen=True)
class World:
    """The procedural world, where a recipe trains on it."""

    seed: int = 1
    anything: float = 0.0  # share of nameless figures on gradients among the clips, so that other pictures work too
    cache: int = 0  # encode this many samples once and draw from them; 0: endless new ones
    kind: Literal["shapes", "little", "lab", "lab_images", "lab_best"] = "shapes"  # a shape a picture; the little world, parts
    figures: float = 0.0  # how many times more an error counts where a figure is, in training what makes or decodes pictures
    camera: float = 0.0  # the same of every place of a clip in which the camera moves


@dataclass(frozen=True)
class Network:
    """The image U-Net or the autoencoder, where a recipe trains one."""

    widths: tuple[int, ...] = (64, 128)
    layers: int = 1
    latents: int = 4  # channels of an autoencoder that it trains


@dataclass(frozen=True)
class Distil:
    """Distillation: what is trained needs `steps` calls of the network, where its teacher takes `teacher_steps` with guidance."""

    steps: int = 0  # of the student; 0: no distillation
    teacher_steps: int = 0  # a multiple of them; 0: about as many as the teacher recommends
    rounds: int = 0  # runs from the one to the other, each the next one's teacher; 0: as many as halve the steps
    text_guidance: float = -1.0  # of the teacher, which the student is to do without; below 0: as it recommends
    image_guidance: float = -1.0
    rank: int = 64  # of the LoRA that makes an image model faster


@dataclass(frozen=True)
class Recipe:
    """One training run. `task` says what is trained: `video` a stack, `image` a LoRA with which an image model needs fewer steps,
    the others parts of the bundled model."""

    name: str
    task: str
    optimisation: Optimisation
    family: str = "tiny"  # of the base: tiny, sd15, sd21 or sdxl
    role: Literal["F", "I"] = "F"  # of the stack that is trained: F makes videos, I interpolates
    start: Start = Start()
    clips: Clips = Clips()
    given: Given = Given()
    method: Method = Method()
    compute: Compute = Compute()
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    recommended: Recommended = Recommended()
    every: Every = Every()
    world: World = World()
    network: Network = Network()
    distil: Distil = Distil()

    @property
    def on_a_base(self) -> bool:
        """Whether it trains something on an image model of any family; the others are parts of the bundled model."""
        return self.task in ("video", "image")


_MOVED = {
    "start": "base init tokenizer",
    "given": "text_drop image_drop first_frame image_noise",
    "recommended": "text_guidance image_guidance",
    "optimisation": "t_power",
    "world": "anything cache",
    "network": "widths layers",
}
FLAT = {name: f"{part}.{name}" for part, names in _MOVED.items() for name in names.split()}
FLAT |= {f"{name}_every": f"every.{name}" for name in ("sheet", "save", "validate")}
FLAT |= {"image_noise_inference": "recommended.image_noise", "sampling_steps": "recommended.steps", "world_seed": "world.seed"}
"""Where the settings are that version 0.1 had in the recipe itself; its files and its names on the command line are read."""


def from_dict(values: Any) -> Recipe:
    """A recipe from the form that `dataclasses.asdict` and JSON give it, as each run's recipe.json holds it. ValueError for
    settings that are unknown, missing or of the wrong form."""
    if not isinstance(values, dict):
        raise UserError(f"a recipe should hold settings by name, found {type(values).__name__}")
    nested = {name: value for name, value in values.items() if name not in FLAT}
    for name in values.keys() & FLAT.keys():
        part, _, own = FLAT[name].partition(".")
        if isinstance(inner := nested.get(part, {}), dict):
            nested[part] = {**inner, own: values[name]}
    return _from_dict(Recipe, nested, "")


def _from_dict(kind: Any, values: Any, path: str) -> Any:
    fields = typing.get_type_hints(kind)
    strange = sorted(values.keys() - fields.keys()) if isinstance(values, dict) else [type(values).__name__]
    if strange:
        raise UserError(f"{path or 'a recipe'} should hold the settings {', '.join(fields)}, found {strange[0]}")
    made = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(fields[name]):
            value = _from_dict(fields[name], value, f"{path}{name}.")
        made[name] = _checked(fields[name], tuple(value) if isinstance(value, list) else value, f"{path}{name}")
    try:
        return kind(**made)
    except TypeError as error:
        raise UserError(f"a recipe lacks a setting: {error}") from error


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file that a run wrote, or that somebody wrote in its form. ValueError for what is none."""
    try:
        return from_dict(json_of(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no recipe: {error}") from error


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with other values for settings named as in `clips.size`, or as version 0.1 named them. Text is read as what the
    setting is: `100`, `256,256`, `true`. ValueError for unknown names, and for text that cannot be read."""
    for name, value in changes.items():
        recipe = _set(recipe, FLAT.get(name, name).split("."), value, name)
    return recipe


def _set(config: Any, path: list[str], value: Any, name: str) -> Any:
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    own, *deeper = path
    if own not in fields or dataclasses.is_dataclass(fields[own]) != bool(deeper):
        known = sorted(f"{k}." if dataclasses.is_dataclass(v) else k for k, v in fields.items())
        raise UserError(f"unknown setting {name!r}: expected one of {', '.join(known)}")
    old = fields[own]
    if deeper:
        value = _set(old, deeper, value, name)
    elif isinstance(value, str):
        try:
            value = _read(old, value)
        except (KeyError, ValueError) as error:
            expected = "true or false" if isinstance(old, bool) else type(old).__name__
            raise UserError(f"setting {name!r} must be {expected}, found {value!r}") from error
    return dataclasses.replace(config, **{own: _checked(typing.get_type_hints(type(config))[own], value, name)})


def _checked(hint: Any, value: Any, name: str) -> Any:
    """A value that is what its setting is declared as. ValueError if not."""
    kinds = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        right, expected = value in kinds, f"one of {', '.join(kinds)}"
    elif typing.get_origin(hint) is tuple:
        many, count = Ellipsis in kinds, len(kinds)
        right = isinstance(value, tuple) and (many or len(value) == count) and all(_is(kinds[0], part) for part in value)
        expected = f"{'numbers' if many else f'{count} numbers'}, such as {'64,128' if many else ','.join('0' * count)}"
    else:
        right, expected = _is(hint, value), getattr(hint, "__name__", "another value")
    if not right:
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        raise UserError(f"setting {name!r} must be {expected}, found {shown!r}")
    return value


def _is(kind: Any, value: Any) -> bool:
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def _read(old: Any, text: str) -> Any:
    if isinstance(old, bool):
        return {"true": True, "false": False}[text.lower()]
    return tuple(type(old[0])(part) for part in text.split(",")) if isinstance(old, tuple) else type(old)(text)
