"""From a stack, or an image model, to the recipes that make it fast: in how many rounds, with which guidance, and what of all
that cannot be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base.architectures import stack_kind
from ..checkpoint import read_config
from ..errors import UserError
from ..model.config import SamplingConfig, StackConfig
from ..model_folder import read_defaults
from .paper import Scale
from .recipes import Clips, Distil, Every, Given, Method, Optimisation, Recipe, Recommended, Start, override
from .video import start_file

STAGE = "distil_"
"""Begins the stage that a distilled stack names; the number of its steps follows."""


ABOUT = {
    "distil": "A stack, F or I, that needs few steps of one call each: guidance is folded in, steps are halved in rounds.",
    "distil-image": "A LoRA with which an image model does the same for the starting frame: name the model with --base.",
}
"""The recipes that are made of something; steps and guidance are settings `distil.`..."""


def check_stack(file: str | None) -> StackConfig:
    """What the stack in a file, or the stack F in a folder, is. ValueError where there is none that could be distilled."""
    if not file:
        model = "for the image model it is `emu-video train distil-image --base MODEL`"
        raise UserError(f"`emu-video train distil` needs the stack that is to become faster: name its file with --stack; {model}")
    if not (path := _stack_path(file)).is_file():
        raise UserError(f"{path} does not exist: name the file of a stack with --stack")
    config = read_config(path)
    if config.origin.family != "emu":
        stranger = f"{file} is a stack of {config.origin.family}, and Emu Video stacks alone are distilled"
        raise UserError(f"{stranger}: choose one that `emu-video train` made")
    return config


def _stack_path(file: str) -> Path:
    return Path(file) / "stack_F.safetensors" if Path(file).is_dir() else Path(file)


def of_stack(file: str, scale: Scale) -> Recipe:
    """The recipe that distils this stack, with its own schedule, clips and design. ValueError for what is no stack."""
    config = check_stack(file)
    clip, sampling, interpolates = config.clip, config.sampling, config.role == "I"
    steps, batch, rate, warmup = scale.distil
    noise = scale.image_noise if interpolates and not sampling.keeps_given else 0
    figures = steps, min(batch, scale.interpolation[1]) if interpolates else batch, rate, warmup
    return Recipe(
        "distil", "video", _optimisation(figures, scale.ema), config.unet.base, config.role, Start(init=str(_stack_path(file))),
        Clips(clip.frames, clip.fps, clip.size),
        Given(0.0, first_frame=scale.first_frame, image_noise=noise),
        Method(
            config.takes_image, mixing=config.layers.mixing, shared_noise=sampling.shared_noise,
            keep_given=sampling.keeps_given, stack=stack_kind(config),
        ),
        schedule=config.schedule, recommended=Recommended(1.0, 1.0, 4, sampling.image_noise),
        every=Every(scale.every, scale.every, scale.every), distil=Distil(4),
    )  # fmt: skip


def of_image_model(scale: Scale) -> Recipe:
    """The recipe for a LoRA with which an image model needs few steps; it learns from the first frames of the clips."""
    return Recipe(
        "distil-image", "image", _optimisation(scale.distil, scale.ema), scale.family,
        clips=Clips(1, 4.0, (scale.full, scale.full)), given=Given(0.0, 0.0), recommended=Recommended(1.0, 1.0, 4),
        every=Every(scale.every, scale.every, scale.every), distil=Distil(4, rank=scale.distil_rank),
    )  # fmt: skip


def _optimisation(figures: tuple[int, int, float, int], ema: float) -> Optimisation:
    """Of each round; the rate falls all the way, as Salimans & Ho have it."""
    steps, batch, rate, warmup = figures
    return Optimisation(steps, batch, rate, warmup, decay=1.0, ema=ema)


# -- what a recipe leaves to its teacher


def recommended(recipe: Recipe) -> SamplingConfig:
    """How the teacher is sampled, as its maker recommends: a stack, or an image model."""
    if recipe.task == "video":
        return read_config(start_file(recipe)).sampling
    if recipe.start.init:  # a LoRA of an earlier round
        return SamplingConfig(recipe.distil.teacher_steps or recipe.distil.steps, 1.0, 1.0)
    known = read_defaults(Path(recipe.start.base))
    return SamplingConfig(int(known.get("steps", 50)), float(known.get("text_guidance", 7.5)), 1.0)


def filled(recipe: Recipe) -> Recipe:
    """With the numbers that it leaves to its teacher. ValueError for steps that do not go into each other."""
    distil, by = recipe.distil, recommended(recipe)
    guided = {"text_guidance": by.text_guidance, "image_guidance": by.image_guidance}
    left: dict[str, Any] = {name: value for name, value in guided.items() if getattr(distil, name) < 0}
    whole, count = distil.teacher_steps, distil.rounds
    if recipe.task == "video" and is_distilled(config := read_config(start_file(recipe))):
        whole = whole or config.sampling.steps
    if not whole:
        most = int(math.log2(recipe.schedule.steps / distil.steps))
        whole = distil.steps * 2 ** (count or max(min(round(math.log2(by.steps / distil.steps)), most), 1))
    share = whole / distil.steps
    count = count or (int(math.log2(share)) if share > 1 and math.log2(share).is_integer() else 1)
    return replace(recipe, distil=replace(distil, teacher_steps=whole, rounds=count, **left))


def rounds(recipe: Recipe) -> list[Recipe]:
    """The recipes of all rounds, each to start from the last; one that is no distillation, or of one round, stays what it is.
    ValueError for steps that do not divide, or are more than there are."""
    distil, video = recipe.distil, recipe.task == "video"
    if distil.steps < 1 or min(distil.teacher_steps, distil.rounds) < 0 or (video and not start_file(recipe).is_file()):
        return [recipe]  # what is wrong is said by those who check it
    if max(distil.teacher_steps, distil.steps * 2 ** min(max(distil.rounds, 1), 64)) > (most := recipe.schedule.steps):
        found = f"distil.teacher_steps={distil.teacher_steps}, distil.steps={distil.steps}, distil.rounds={distil.rounds}"
        raise UserError(f"a teacher has at most {most} steps, and each round at least halves them, found {found}: choose fewer")
    recipe = filled(recipe)
    distil, name = recipe.distil, "" if video else "image_"
    share = distil.teacher_steps / distil.steps
    each = max(round(share ** (1 / distil.rounds)), 1)
    unequal = each**distil.rounds != share or each == 1
    config = read_config(start_file(recipe)) if video else None
    if config and is_distilled(config) and (unequal or distil.teacher_steps != config.sampling.steps):
        raise UserError(_already(recipe, config))
    if unequal:
        ways = f"{distil.teacher_steps} steps do not become {distil.steps} in {distil.rounds} rounds of equal shares"
        raise UserError(f"{ways}: change distil.teacher_steps, distil.steps or distil.rounds")
    made = []
    for number in range(distil.rounds):
        steps = distil.teacher_steps // each ** (number + 1)
        changes: dict[str, object] = {"distil.steps": steps, "distil.teacher_steps": steps * each, "distil.rounds": 1}
        changes |= {"distil.text_guidance": 1.0, "distil.image_guidance": 1.0} if number else {}
        changes |= {"recommended.steps": steps}
        changes |= {"name": f"{STAGE}{name}{steps}"} if distil.rounds > 1 else {}
        made.append(override(recipe, changes))
    return made


def student_config(teacher: StackConfig, recipe: Recipe) -> StackConfig:
    """What a distilled stack says of itself: one call for each of its few steps, and of what it was made."""
    distil, clips, was = recipe.distil, recipe.clips, teacher.sampling
    if is_distilled(teacher):
        source = f"{teacher.origin.source}, to {distil.steps}"
    else:
        guided = f"text guidance {distil.text_guidance:g}, image guidance {distil.image_guidance:g}"
        made_of = f"{teacher.origin.stage or 'a stack'} ({guided}, {distil.teacher_steps} steps)"
        source = f"distilled by this project's trainer from {made_of} to {distil.steps}"
    role = {"frames": clips.frames, "fps": clips.fps, "size": clips.size, "image_noise": recipe.recommended.image_noise}
    few = {"steps": distil.steps, "text_guidance": 1.0, "image_guidance": 1.0, "shared_noise": was.shared_noise}
    return teacher.changed(**role, **few, sampler="ddim", stage=f"{STAGE}{distil.steps}", source=source)


def is_distilled(config: StackConfig) -> bool:
    """Whether a stack was made by distillation here."""
    return config.origin.family == "emu" and config.origin.stage.startswith(STAGE)


# -- what cannot be


def complaints_of_distil(recipe: Recipe) -> Iterator[str]:
    """A sentence each, before any file is read."""
    distil, video = recipe.distil, recipe.task == "video"
    if not distil.steps:
        yield f"recipe {recipe.name!r} is a distillation, found distil.steps=0: set how many steps the result is to need"
        return
    share = f"distil.teacher_steps must be a multiple of distil.steps and at most {recipe.schedule.steps}, found"
    dropped = "guidance is folded into what is distilled, so that no text is dropped: set given.text_drop=0"
    yield from (
        sentence
        for sentence, wrong in {
            f"recipe {recipe.name!r} distils no {recipe.task}: leave distil.steps out": not recipe.on_a_base,
            f"one run is one round, found distil.rounds={distil.rounds}: `emu-video train distil` makes one run of each": (
                distil.rounds > 1
            ),
            f"{share} {distil.teacher_steps} and {distil.steps}": (
                distil.teacher_steps > 0
                and (distil.teacher_steps % distil.steps > 0 or not distil.steps < distil.teacher_steps <= recipe.schedule.steps)
            ),
            dropped: recipe.given.text_drop > 0,
            f"an image model learns from single pictures, found clips.frames={recipe.clips.frames}: set clips.frames=1": (
                recipe.task == "image" and recipe.clips.frames != 1
            ),
            "distillation trains the stack alone, and the image model stays frozen: leave method.trained=all out": (
                recipe.method.trained == "all"
            ),
            "distillation needs the stack that is to become faster: name its file with --stack": (
                video and not recipe.start.init
            ),
        }.items()
        if wrong
    )


def complaints_of_teacher(recipe: Recipe, config: StackConfig) -> Iterator[str]:
    """A sentence each, of a stack that is to be distilled."""
    init, distil = recipe.start.init, filled(recipe).distil
    if config.role != recipe.role:
        yield f"{init} is a stack of role {config.role}, and the recipe is for role {recipe.role}: set role={config.role}"
    if config.schedule != recipe.schedule:
        yield f"{init} was trained on another noise schedule than the recipe's: leave the schedule as the stack has it"
    for name, own in {"keep_given": config.sampling.keeps_given, "shared_noise": config.sampling.shared_noise}.items():
        if getattr(recipe.method, name) != own:
            was = f"{init} was made with method.{name}={str(own).lower()}"
            yield f"{was}, and so is what is distilled from it: leave method.{name} as the stack has it"
    guided = (distil.text_guidance, distil.image_guidance) != (1.0, 1.0)
    if is_distilled(config) and (guided or distil.teacher_steps > config.sampling.steps):  # fewer: of a later round
        yield _already(recipe, config)


def _already(recipe: Recipe, config: StackConfig) -> str:
    count = config.sampling.steps
    own = f"{recipe.start.init} is distilled already, to {count} step{'s' * (count > 1)} without guidance"
    return f"{own}, and teaches nothing else: distil the stack that it was made of, or set distil.steps to a part of these"
