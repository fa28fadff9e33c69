"""What can be known to be impossible before anything long begins: each a sentence."""

from __future__ import annotations

from pathlib import Path

from ..base import BaseInfo, inspect_base
from ..checkpoint import read_config
from ..model.conditioning import KEYFRAMES, slot_count
from ..model.config import StackConfig
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
    if not recipe.base:
        raise ValueError(f"recipe {recipe.name!r} needs an image model to build on: name its folder or file with --base")
    info = inspect_base(recipe.base)
    if info.family != recipe.family:
        raise ValueError(
            f"recipe {recipe.name!r} is for a base of family {recipe.family}, and {recipe.base} is of family {info.family}: "
            f"choose --family {info.family}, or another --base"
        )
    if not recipe.clips.shards and info.family != "tiny":
        raise ValueError(
            f"a base of family {info.family} needs real videos: name a folder that `emu-video curate` wrote with --shards"
        )
    if recipe.init:
        _check_start(recipe, info)


def _check_numbers(recipe: Recipe) -> None:
    config = recipe.optimisation
    wrong = [
        (config.steps < 1, "optimisation.steps", config.steps, "1 or more"),
        (config.batch < 1, "optimisation.batch", config.batch, "1 or more"),
        (not config.rate > 0, "optimisation.rate", config.rate, "above 0"),
        (config.warmup < 0, "optimisation.warmup", config.warmup, "0 or more"),
        (not 0 <= config.ema < 1, "optimisation.ema", config.ema, "0 to below 1"),
        (not config.clip > 0, "optimisation.clip", config.clip, "above 0"),
        (recipe.sheet_every < 1, "sheet_every", recipe.sheet_every, "1 or more"),
        (recipe.save_every < 1, "save_every", recipe.save_every, "1 or more"),
        (recipe.validate_every < 0, "validate_every", recipe.validate_every, "0 or more"),
        (not 0 <= recipe.text_drop < 1, "text_drop", recipe.text_drop, "0 to below 1"),
        (not 0 <= recipe.image_drop < 1, "image_drop", recipe.image_drop, "0 to below 1"),
        (recipe.compute.micro < 0, "compute.micro", recipe.compute.micro, "0 or more"),
        (recipe.clips.workers < 0, "clips.workers", recipe.clips.workers, "0 or more"),
        (recipe.clips.starts < 0, "clips.starts", recipe.clips.starts, "0 or more"),
        (recipe.clips.validation < 0, "clips.validation", recipe.clips.validation, "0 or more"),
    ]
    for bad, name, found, expected in wrong:
        if bad:
            raise ValueError(f"{name} must be {expected}, found {found}: change it with --set {name}=...")


def _check_video(recipe: Recipe) -> None:
    clips, method = recipe.clips, recipe.method
    if recipe.role == "I" and clips.frames != slot_count(KEYFRAMES):
        raise ValueError(
            f"an interpolation model is trained on {slot_count(KEYFRAMES)} frames, of which {KEYFRAMES} are given, "
            f"found clips.frames={clips.frames}"
        )
    if recipe.role == "I" and not method.image:
        raise ValueError("an interpolation model is given frames, and method.image=false takes them away: change one of the two")
    if clips.frames < 2 or not clips.fps > 0:
        raise ValueError(f"a clip has 2 or more frames at a rate above 0, found {clips.frames} at {clips.fps} fps")
    if min(clips.size) < 8 or any(side % 8 for side in clips.size):
        raise ValueError(f"clips.size must be multiples of 8, found {clips.size[0]},{clips.size[1]}")
    if not 0 <= recipe.image_noise < recipe.schedule.steps:
        raise ValueError(f"image_noise must be a timestep, 0 to {recipe.schedule.steps - 1}, found {recipe.image_noise}")
    if recipe.compute.cache and clips.shards and not clips.starts:
        raise ValueError(
            "compute.cache keeps the latents of every clip, and clips.starts=0 cuts a video anywhere: "
            "choose how many clips of each video to keep, such as --set clips.starts=4"
        )
    if recipe.compute.precision == "float16" and recipe.compute.parallel == "fsdp":
        raise ValueError("float16 is not sharded here, since its gradients are scaled: use compute.precision=bfloat16")


def _check_start(recipe: Recipe, info: BaseInfo) -> None:
    path = stack_file(recipe.init)
    if not path.is_file():
        raise ValueError(f"recipe {recipe.name!r} starts from {path}, which does not exist: train that stage first")
    config = read_config(path)
    if config.unet.base != info.family:
        raise ValueError(
            f"{path} is a stack for {config.unet.base}, and {recipe.base} is of family {info.family}: choose one of that family"
        )
    _check_method(recipe, config)


def _check_method(recipe: Recipe, config: StackConfig) -> None:
    method = recipe.method
    if config.origin.family != "emu":
        raise ValueError(
            f"{recipe.init} is a stack of {config.origin.family}; this trainer goes on with Emu Video stacks alone: leave it out"
        )
    if config.layers.mixing != method.mixing:
        raise ValueError(
            f"{recipe.init} was trained with method.mixing={config.layers.mixing}, the recipe asks for {method.mixing}: use one"
        )
    if config.takes_image != method.image:
        has = "takes a starting frame" if config.takes_image else "takes none"
        raise ValueError(f"{recipe.init} {has}, and the recipe has method.image={str(method.image).lower()}: use the same")


def check_output(folder: Path, resume: bool) -> None:
    """A run is only ever continued on purpose."""
    from . import checkpoints

    there = checkpoints.checkpoints(folder)
    if resume and not there:
        raise ValueError(f"nothing to resume: {folder} holds no checkpoint; start without --resume")
    if not resume and there:
        raise ValueError(f"{there[-1]} exists: continue with --resume, or name another folder with --out")
