"""What can be known to be impossible before anything long begins: each a sentence."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

from ..base import inspect_base
from ..checkpoint import read_config
from ..errors import UserError
from ..model.conditioning import KEYFRAMES, slot_count
from . import checkpoints
from .loop import shares
from .recipes import Recipe
from .video import stack_file

NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "optimisation.steps optimisation.batch every.sheet every.save": ("1 or more", lambda n: n >= 1),
    "optimisation.rate optimisation.clip": ("above 0", lambda n: n > 0),
    "optimisation.warmup every.validate compute.micro": ("0 or more", lambda n: n >= 0),
    "clips.workers clips.starts clips.validation": ("0 or more", lambda n: n >= 0),
    "optimisation.ema given.text_drop given.image_drop": ("0 to below 1", lambda n: 0 <= n < 1),
}


def check_recipe(recipe: Recipe, world: int = 1) -> None:
    """ValueError for numbers that make no sense together, a base that is missing or of another family, a stack that is for
    another base or was trained by another method. `world`: the processes that will share the batch."""
    for names, (expected, right) in NUMBERS.items():
        for name in names.split():
            found = attrgetter(name)(recipe)
            if not right(found):
                raise UserError(f"{name} must be {expected}, found {found}: change it with --set {name}=...")
    shares(recipe.optimisation.batch, world, recipe.compute.micro)
    if recipe.task == "video":
        _check_video(recipe)
        _check_start(recipe)
    elif recipe.compute.parallel == "fsdp":
        raise UserError(f"recipe {recipe.name!r} is too small to be sharded: leave compute.parallel=fsdp out")


def _refuse(faults: dict[str, bool]) -> None:
    """ValueError with the first sentence that is true."""
    for sentence, wrong in faults.items():
        if wrong:
            raise UserError(sentence)


def _check_video(recipe: Recipe) -> None:
    clips, compute, noise, frames = recipe.clips, recipe.compute, recipe.given.image_noise, slot_count(KEYFRAMES)
    interpolates, sharded = recipe.role == "I", compute.parallel == "fsdp"
    given, last = (
        f"an interpolation model is trained on {frames} frames, of which {KEYFRAMES} are given",
        recipe.schedule.steps - 1,
    )
    height, width = clips.size
    starts = "choose how many clips of each video to keep, such as --set clips.starts=4"
    few = f"a clip has 2 or more frames at a rate above 0, found {clips.frames} at {clips.fps} fps"
    anywhere = f"compute.cache keeps the latents of every clip, and clips.starts=0 cuts a video anywhere: {starts}"
    scaled = "float16 is not sharded here, since its gradients are scaled: use compute.precision=bfloat16"
    _refuse(
        {
            f"{given}, found clips.frames={clips.frames}": interpolates and clips.frames != frames,
            f"{given}, and method.image=false takes them away: change one of the two": interpolates and not recipe.method.image,
            few: clips.frames < 2 or not clips.fps > 0,
            f"clips.size must be multiples of 8, found {height},{width}": min(clips.size) < 8 or height % 8 + width % 8 > 0,
            f"given.image_noise must be a timestep, 0 to {last}, found {noise}": not 0 <= noise <= last,
            anywhere: compute.cache and bool(clips.shards) and not clips.starts,
            scaled: compute.precision == "float16" and sharded,
        }
    )


def _check_start(recipe: Recipe) -> None:
    """The base, and the stack that training starts from."""
    name, base, init, method = f"recipe {recipe.name!r}", recipe.start.base, recipe.start.init, recipe.method
    if not base:
        raise UserError(f"{name} needs an image model to build on: name its folder or file with --base")
    family = inspect_base(base).family
    of, videos = f"{base} is of family {family}", "needs real videos: name a folder that `emu-video curate` wrote with --shards"
    other = f"{name} is for a base of family {recipe.family}, and {of}: choose --family {family}, or another --base"
    none = not recipe.clips.shards and family != "tiny"
    _refuse({other: family != recipe.family, f"a base of family {family} {videos}": none})
    if not init:
        return
    path = stack_file(init)
    if not path.is_file():
        raise UserError(f"{name} starts from {path}, which does not exist: train that stage first")
    config = read_config(path)
    built_for, made_by, mixing, image = config.unet.base, config.origin.family, config.layers.mixing, config.takes_image
    stranger = f"{init} is a stack of {made_by}, and training goes on with Emu Video stacks alone: leave it out"
    mixed = f"{init} was trained with method.mixing={mixing}, the recipe asks for {method.mixing}: use the same"
    takes = f"{init} takes {'a starting frame' if image else 'none'}, and the recipe has method.image={str(method.image).lower()}"
    _refuse(
        {
            f"{path} is a stack for {built_for}, and {of}: choose a stack of that family": built_for != family,
            stranger: made_by != "emu",
            mixed: mixing != method.mixing,
            f"{takes}: use the same": image != method.image,
        }
    )


def check_output(folder: Path, resume: bool) -> None:
    """A run is only ever continued on purpose: ValueError for checkpoints where none are expected, and the reverse."""
    if resume:
        checkpoints.newest(folder)
    elif there := checkpoints.checkpoints(folder):
        raise UserError(f"{there[-1]} exists: continue with --resume, or name another folder with --out")
