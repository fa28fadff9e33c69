"""What can be known to be impossible before anything long begins: each a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch

from ..base import inspect_base
from ..base.architectures import stack_kind
from ..checkpoint import read_config
from ..errors import UserError
from ..model.conditioning import KEYFRAMES, slot_count
from ..weights import open_weights
from . import checkpoints
from .distil_rounds import ABOUT, complaints_of_distil, complaints_of_teacher
from .folder import lacks_room
from .loop import shares
from .memory import parameters
from .recipes import Recipe
from .video import start_file

NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "optimisation.steps optimisation.batch every.sheet every.save": ("1 or more", lambda n: n >= 1),
    "recommended.steps network.widths network.layers distil.rank": ("1 or more", lambda n: n >= 1),
    "optimisation.rate optimisation.clip optimisation.t_power clips.fps": ("above 0", lambda n: n > 0),
    "optimisation.warmup optimisation.weight_decay every.validate compute.micro": ("0 or more", lambda n: n >= 0),
    "clips.frames clips.workers clips.starts clips.validation": ("0 or more", lambda n: n >= 0),
    "method.shared_noise recommended.text_guidance recommended.image_guidance": ("0 or more", lambda n: n >= 0),
    "recommended.image_noise world.cache distil.steps distil.teacher_steps distil.rounds": ("0 or more", lambda n: n >= 0),
    "optimisation.decay given.first_frame world.anything given.text_drop": ("0 to 1", lambda n: 0 <= n <= 1),
    "optimisation.ema optimisation.betas given.image_drop": ("0 to below 1", lambda n: 0 <= n < 1),
    "distil.text_guidance distil.image_guidance": ("a number", lambda n: not math.isnan(n)),
    "schedule.steps": ("2 or more", lambda n: n >= 2),
    "optimisation.seed world.seed": (f"at most {2**63 - 1}", lambda n: abs(n) < 2**63),
}
MOST = 2**31 - 1  # of any number but a seed


def check_recipe(recipe: Recipe, world: int = 1) -> None:
    """ValueError for numbers that make no sense together, a base that is missing or of another family, a stack that is for
    another base or was trained by another method. `world`: the processes that will share the batch."""
    if (first := next(complaints(recipe, world), None)) is not None:
        raise UserError(first)


def complaints(recipe: Recipe, world: int = 1) -> Iterator[str]:
    """All that `check_recipe` would refuse, a sentence each."""
    wrong = False
    for names, (expected, right) in NUMBERS.items():
        for name in names.split():
            found = attrgetter(name)(recipe)
            values = found if isinstance(found, tuple) else (found,)
            large = not name.endswith("seed") and any(abs(value) > MOST for value in values)
            if large or not all(map(right, values)):
                wrong = True
                must = f"at most {MOST}" if large else expected
                yield f"{name} must be {must}, found {found}: change it with --set {name}=..."
    if not wrong:
        yield from _said_by(lambda: shares(recipe.optimisation.batch, world, recipe.compute.micro))
    if (recipe.distil.steps or recipe.task == "image" or recipe.name in ABOUT) and not wrong:
        yield from complaints_of_distil(recipe)
    if recipe.on_a_base:
        yield from _of_video(recipe)
        yield from _of_start(recipe)
    if recipe.optimisation.optimiser == "muon" and (recipe.compute.precision == "float16" or recipe.compute.parallel == "fsdp"):
        yield "optimisation.optimiser=muon takes whole gradients that are not scaled: choose adamw, or bfloat16 and ddp"
    if recipe.task != "video" and recipe.compute.parallel == "fsdp":
        yield f"recipe {recipe.name!r} is too small to be sharded: leave compute.parallel=fsdp out"


def _said_by(check: Callable[[], object]) -> Iterator[str]:
    """What a check that raises has to say."""
    try:
        check()
    except UserError as error:
        yield str(error)


def _true(faults: dict[str, bool]) -> Iterator[str]:
    return (sentence for sentence, wrong in faults.items() if wrong)


def _of_video(recipe: Recipe) -> Iterator[str]:
    clips, compute, noise, frames = recipe.clips, recipe.compute, recipe.given.image_noise, slot_count(KEYFRAMES)
    interpolates, sharded = recipe.role == "I", compute.parallel == "fsdp"
    given, last = (
        f"an interpolation model is trained on {frames} frames, of which {KEYFRAMES} are given",
        recipe.schedule.steps - 1,
    )
    height, width = clips.size
    starts = "choose how many clips of each video to keep, such as --set clips.starts=4"
    kept = "method.keep_given keeps given frames as they are, without noise"
    least = 1 if recipe.task == "image" else 2
    few = f"a clip has {least} or more frames at a rate above 0, found {clips.frames} at {clips.fps} fps"
    anywhere = f"compute.cache keeps the latents of every clip, and clips.starts=0 cuts a video anywhere: {starts}"
    scaled = "float16 is not sharded here, since its gradients are scaled: use compute.precision=bfloat16"
    yield from _true(
        {
            f"{given}, found clips.frames={clips.frames}": interpolates and clips.frames != frames,
            f"{given}, and method.image=false takes them away: change one of the two": interpolates and not recipe.method.image,
            f"{kept}, found given.image_noise={noise}": recipe.method.keep_given and noise > 0,
            f"{kept}, found method.image=false": recipe.method.keep_given and not recipe.method.image,
            few: clips.frames < least or not clips.fps > 0,
            f"clips.size must be multiples of 8, found {height},{width}": min(clips.size) < 8 or height % 8 + width % 8 > 0,
            f"given.image_noise must be a timestep, 0 to {last}, found {noise}": not 0 <= noise <= last,
            anywhere: compute.cache and bool(clips.shards) and not clips.starts,
            scaled: compute.precision == "float16" and sharded,
        }
    )


def _of_start(recipe: Recipe) -> Iterator[str]:
    """The base, and the stack that training starts from."""
    name, base, init = f"recipe {recipe.name!r}", recipe.start.base, recipe.start.init
    if not base:
        yield f"{name} needs an image model to build on: name its folder or file with --base"
        return
    try:
        family = inspect_base(base).family
    except UserError as error:
        yield str(error)
        return
    of, videos = f"{base} is of family {family}", "needs real videos: name a folder that `emu-video curate` wrote with --shards"
    other = f"{name} is for a base of family {recipe.family}, and {of}: choose --family {family}, or another --base"
    if recipe.distil.steps and recipe.task == "video":
        made_for = f"the stack {init} is for a base of family {recipe.family}"
        other = f"{made_for}, and {of}: name the image model that it was trained on with --base"
    none = not recipe.clips.shards and family != "tiny"
    yield from _true({other: family != recipe.family, f"a base of family {family} {videos}": none})
    if init and not start_file(recipe).is_file():
        yield f"{name} starts from {start_file(recipe)}, which does not exist: train that stage first"
    elif init and recipe.task == "video":
        yield from _of_init(recipe, family)


def _of_init(recipe: Recipe, family: str) -> Iterator[str]:
    init, method, path = recipe.start.init, recipe.method, start_file(recipe)
    config = read_config(path)
    built_for, made_by, mixing, image = config.unet.base, config.origin.family, config.layers.mixing, config.takes_image
    kind = stack_kind(config)
    if made_by == "emu" and recipe.distil.steps > 0:
        yield from complaints_of_teacher(recipe, config)
    stranger = f"{init} is a stack of {made_by}, and training goes on with Emu Video stacks alone: leave it out"
    mixed = f"{init} was trained with method.mixing={mixing}, the recipe asks for {method.mixing}: use the same"
    takes = f"{init} takes {'a starting frame' if image else 'none'}, and the recipe has method.image={str(method.image).lower()}"
    other = f"{path} is a stack for {built_for}, and {recipe.start.base} is of family {family}: choose a stack of that family"
    shape = f"{init} is a {kind} stack, and the recipe asks for method.stack={method.stack}: use the same"
    yield from _true(
        {
            other: built_for != family,
            stranger: made_by != "emu",
            mixed: mixing != method.mixing,
            f"{takes}: use the same": image != method.image,
            shape: made_by == "emu" and kind != method.stack,
        }
    )


def check_output(folder: Path, resume: bool) -> None:
    """A run is only ever continued on purpose: ValueError for checkpoints where none are expected, and the reverse."""
    if resume:
        checkpoints.newest(folder)
    elif there := checkpoints.checkpoints(folder):
        raise UserError(f"{there[-1]} exists: continue with --resume, or name another folder with --out")


def check_processes(count: int, accelerated: bool = True) -> None:
    """ValueError for a number of processes that this machine has no accelerators for, if they are to be `accelerated`."""
    if count < 1:
        raise UserError(f"--processes must be 1 or more, found {count}")
    if accelerated and torch.accelerator.is_available() and count > (there := torch.accelerator.device_count()):
        raise UserError(f"--processes {count} needs as many GPUs, and this machine has {there}: start with --processes {there}")


# -- chains


def check_chain(
    recipes: Sequence[Recipe], out: Path, world: int = 1, shards: bool = True, pending: Sequence[Recipe] | None = None
) -> None:
    """ValueError with everything that would stop any stage: all of `check_recipe`, clips that are not there or too short, a
    folder without room for all that are `pending` (None: all stages). shards: false where they are still to be made."""
    found: dict[str, list[str]] = {}
    for recipe in recipes:
        for sentence in (*complaints(recipe, world), *(_of_clips(recipe) if shards else ())):
            found.setdefault(sentence, []).append(recipe.name)
    said = [f"{', '.join(stages)}: {sentence}" for sentence, stages in found.items()]
    said += _said_by(lambda: check_processes(world))
    if not said and (lack := lacks_room(out, room_of_chain(recipes if pending is None else pending), ROOM_OF_CHAIN)):
        said.append(lack)
    if len(said) == 1:
        raise UserError(f"the chain cannot begin: {said[0]}")
    if said:
        numbered = " ".join(f"({number}) {one}" for number, one in enumerate(said, 1))
        raise UserError(f"the chain cannot begin, for {len(said)} reasons: {numbered}")


ROOM_OF_CHAIN = "the checkpoints, models and latents of all stages", "make room, or name another folder with --out"


def room_of_chain(recipes: Sequence[Recipe]) -> int:
    """Bytes that the stages leave in their folders, with one checkpoint that is being written."""
    each = []
    total = trained = 0
    for recipe in recipes:
        trained = _trained(recipe, trained)
        each.append(16 * trained)  # weights, their average and AdamW's two moments, in float32
        total += checkpoints.KEPT * each[-1] + 4 * trained + (_latents(recipe) if recipe.compute.cache else 0)
    return total + max(each, default=0)


def _trained(recipe: Recipe, before: int) -> int:
    """How many numbers a stage trains, for a base of any family if it distils: as many as its teacher has, or as the stage
    `before`, which is still to make it. A LoRA's are few."""
    if recipe.distil.steps:
        file = start_file(recipe)
        made = recipe.task == "video" and file.is_file()
        return sum(map(math.prod, open_weights(file).shapes.values())) if made else before
    spatial, temporal = parameters(recipe.family, recipe.method.stack)
    return temporal + (spatial if recipe.method.trained == "all" else 0)


def _latents(recipe: Recipe) -> int:
    from ..data.shards import Shards  # it needs pyarrow, which the procedural world does not

    clips = recipe.clips
    if not clips.shards:
        return 0
    count = len(Shards.open(clips.shards, clips.selection or None).rows) * max(clips.starts, 1)
    return count * clips.frames * 4 * (clips.size[0] // 8) * (clips.size[1] // 8) * 2


def check_clips(recipe: Recipe) -> None:
    """ValueError for shards, or a selection of them, that are not there or too short."""
    if (first := next(_of_clips(recipe), None)) is not None:
        raise UserError(first)


def _of_clips(recipe: Recipe) -> Iterator[str]:
    clips = recipe.clips
    if not clips.shards:  # the procedural world, which no selection is of, and which needs none of these packages
        return
    from fsspec.core import url_to_fs

    from ..data.clips import ClipDataset
    from ..data.shards import Shards
    from ..data.table import shard_name

    try:
        shards = Shards.open(clips.shards, clips.selection or None)
        ClipDataset(shards, None, clips.fps, clips.frames, clips.size, recipe.optimisation.seed, clips.starts or None)
    except UserError as error:
        yield str(error)
        return
    files, folder = url_to_fs(clips.shards)
    there = {file.rpartition("/")[2] for file in files.ls(folder, detail=False)}
    wanted = {shard_name(int(number)) for number in np.unique(shards.index["shard"][shards.rows])}
    if missing := sorted(wanted - there):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        yield f"{clips.shards}: expected the shards of its index, {missing[0]}{more} is not there: copy the folder whole"
