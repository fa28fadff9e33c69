"""What can be known to be impossible before anything long begins: each a sentence."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

from ..base import BaseInfo, inspect_base
from ..checkpoint import read_config
from ..model.conditioning import KEYFRAMES, slot_count
from . import checkpoints
from .loop import shares
from .recipes import Recipe
from .video import stack_file


def check_recipe(recipe: Recipe, world: int = 1) -> None:
    """ValueError for numbers that make no sense together, a base that is missing or of another family, a stack that is for
    another base or was trained by another method. `world`: the processes that will share the batch."""
    _check_numbers(recipe)
    shares(recipe.optimisation.batch, world, recipe.compute.micro)
    if recipe.compute.parallel == "fsdp" and recipe.task != "video":
        raise ValueError(f"recipe {recipe.name!r} is too small to be sharded: leave compute.parallel=fsdp out")
    if recipe.task != "video":
        return
    _check_video(recipe)
    base = recipe.start.base
    if not base:
        raise ValueError(f"recipe {recipe.name!r} needs an image model to build on: name its folder or file with --base")
    info = inspect_base(base)
    if info.family != recipe.family:
        raise ValueError(
            f"recipe {recipe.name!r} is for a base of family {recipe.family}, and {base} is of family {info.family}: "
            f"choose --family {info.family}, or another --base"
        )
    if not recipe.clips.shards and info.family != "tiny":
        raise ValueError(
            f"a base of family {info.family} needs real videos: name a folder that `emu-video curate` wrote with --shards"
        )
    if recipe.start.init:
        _check_start(recipe, info)


NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "optimisation.steps optimisation.batch every.sheet every.save": ("1 or more", lambda n: n >= 1),
    "optimisation.rate optimisation.clip": ("above 0", lambda n: n > 0),
    "optimisation.warmup every.validate compute.micro": ("0 or more", lambda n: n >= 0),
    "clips.workers clips.starts clips.validation": ("0 or more", lambda n: n >= 0),
    "optimisation.ema given.text_drop given.image_drop": ("0 to below 1", lambda n: 0 <= n < 1),
}


def _check_numbers(recipe: Recipe) -> None:
    for names, (expected, right) in NUMBERS.items():
        for name in names.split():
            found = attrgetter(name)(recipe)
            if not right(found):
                raise ValueError(f"{name} must be {expected}, found {found}: change it with --set {name}=...")


def _check_video(recipe: Recipe) -> None:
    clips, compute, noise, frames = recipe.clips, recipe.compute, recipe.given.image_noise, slot_count(KEYFRAMES)
    if recipe.role == "I" and clips.frames != frames:
        raise ValueError(
            f"an interpolation model is trained on {frames} frames, of which {KEYFRAMES} are given, "
            f"found clips.frames={clips.frames}"
        )
    if recipe.role == "I" and not recipe.method.image:
        raise ValueError("an interpolation model is given frames, and method.image=false takes them away: change one of the two")
    if clips.frames < 2 or not clips.fps > 0:
        raise ValueError(f"a clip has 2 or more frames at a rate above 0, found {clips.frames} at {clips.fps} fps")
    if min(clips.size) < 8 or any(side % 8 for side in clips.size):
        raise ValueError(f"clips.size must be multiples of 8, found {clips.size[0]},{clips.size[1]}")
    if not 0 <= noise < recipe.schedule.steps:
        raise ValueError(f"given.image_noise must be a timestep, 0 to {recipe.schedule.steps - 1}, found {noise}")
    if compute.cache and clips.shards and not clips.starts:
        raise ValueError(
            "compute.cache keeps the latents of every clip, and clips.starts=0 cuts a video anywhere: "
            "choose how many clips of each video to keep, such as --set clips.starts=4"
        )
    if compute.precision == "float16" and compute.parallel == "fsdp":
        raise ValueError("float16 is not sharded here, since its gradients are scaled: use compute.precision=bfloat16")


def _check_start(recipe: Recipe, info: BaseInfo) -> None:
    path, base, method = stack_file(recipe.start.init), recipe.start.base, recipe.method
    if not path.is_file():
        raise ValueError(f"recipe {recipe.name!r} starts from {path}, which does not exist: train that stage first")
    config = read_config(path)
    if config.unet.base != info.family:
        raise ValueError(
            f"{path} is a stack for {config.unet.base}, and {base} is of family {info.family}: choose a stack of that family"
        )
    init = recipe.start.init
    if config.origin.family != "emu":
        raise ValueError(
            f"{init} is a stack of {config.origin.family}, and training goes on with Emu Video stacks alone: leave it out"
        )
    if config.layers.mixing != method.mixing:
        raise ValueError(
            f"{init} was trained with method.mixing={config.layers.mixing}, the recipe asks for {method.mixing}: use the same"
        )
    if config.takes_image != method.image:
        has = "takes a starting frame" if config.takes_image else "takes none"
        raise ValueError(f"{init} {has}, and the recipe has method.image={str(method.image).lower()}: use the same")


def check_output(folder: Path, resume: bool) -> None:
    """A run is only ever continued on purpose: ValueError for checkpoints where none are expected, and the reverse."""
    if resume:
        checkpoints.newest(folder)
    elif there := checkpoints.checkpoints(folder):
        raise ValueError(f"{there[-1]} exists: continue with --resume, or name another folder with --out")
