"""The recipes of the laboratory: its image model, also tuned on few pictures, and the two stages of an arm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..model.schedule import ScheduleConfig
from ..model_folder import BUNDLED
from ..toy.recipes import TINY
from ..toy.source import WorldSource
from ..toy.tasks import TASKS
from ..toy.worlds import BEST
from ..training.distil import video_task
from ..training.loop import Task
from ..training.paper import hq_finetune, stage1_256px, stage2_512px
from ..training.processes import Processes
from ..training.recipes import Clips, Compute, Every, Given, Network, Optimisation, Recipe, Recommended, Start, World, override
from .arms import Arm
from .budget import Budget
from .mixed import SELECTION

BATCH, LOW_BATCH = 8, 16
RATE, FINE_RATE = 5e-3, 2e-3
FPS = 4.0
WIDTHS = (64, 64)
SEED = 11  # of the clips
NEVER = 1_000_000
"""Steps between two sheets of the trainer: the laboratory makes its own."""


def image_recipe(budget: Budget) -> Recipe:
    """The text encoder and image U-Net on the bundled autoencoder, of pictures that show more than the videos do."""
    steps = budget.image
    return Recipe(
        "image",
        "text_to_image",
        Optimisation(
            steps, 128, 3e-3, min(50, steps), decay=0.6, ema=0.99, seed=budget.first_seed, t_power=1.3, optimiser="muon"
        ),
        start=Start(str(BUNDLED)),
        clips=Clips(validation=4 * budget.measured),
        compute=Compute("bfloat16"),
        every=Every(NEVER, max(steps // 3, 1), steps),
        world=World(SEED, cache=4 * budget.clips, kind="lab_images", figures=4.0),
        network=Network(WIDTHS),
    )


def tuning_recipe(budget: Budget, image_model: Path, kind: str) -> Recipe:
    """Quality tuning (Dai et al., arXiv 2309.15807): the image model goes on for a short while, at a low rate, on few of the
    pictures that it was trained on. `kind`: `lab_best`, or `lab_images` for as many that no rule chose."""
    usual, steps = image_recipe(budget), budget.tuned
    recipe = replace(
        usual,
        name=f"tuned_{kind}",
        optimisation=replace(usual.optimisation, steps=steps, rate=5e-4, warmup=min(20, steps), decay=0.5),
        start=replace(usual.start, init=str(image_model)),
        every=Every(NEVER, max(steps // 2, 1)),
    )
    return override(recipe, {"world.kind": kind, "world.cache": min(BEST, usual.world.cache // 32)})


def arm_recipes(arm: Arm, budget: Budget, image_model: Path, seed: int, init: str = "", shards: str = "") -> list[Recipe]:
    """The stages of an arm, in their order; those without steps are left out. `init`: what the first starts from; `shards`:
    curated clips to train on. The paper's first stage predicts noise, as Emu does. The image model here predicts v on zero
    terminal SNR, so that stage does too: frozen layers that have to be turned from one to the other and back again are no part
    of the method, and took longer than all else. Both stages see the same two seconds."""
    made = []
    for stage, share, steps in (
        (stage1_256px, arm.low, budget.low),
        (stage2_512px, arm.full, budget.full),
        (hq_finetune, arm.fine, budget.fine),
    ):
        if not (count := round(share * steps)):
            continue
        usual, low = override(replace(stage(TINY), schedule=ScheduleConfig()), {"clips.fps": FPS}), stage is stage1_256px
        recipe = replace(
            usual,
            optimisation=Optimisation(
                count,
                LOW_BATCH if low else BATCH,
                RATE if stage is not hq_finetune else FINE_RATE,
                min(30, count),
                decay=0.5,
                weight_decay=usual.optimisation.weight_decay,
                ema=0.99,
                seed=seed,
                t_power=0.6,
                optimiser="muon",
            ),
            start=Start(str(image_model), init),
            given=Given(first_frame=1.0),
            recommended=Recommended(budget.text_guidance, budget.image_guidance, budget.steps),
            compute=Compute("bfloat16"),
            every=Every(NEVER, max(count // 2, 1), count),
            world=World(SEED, cache=budget.clips, kind="lab", figures=4.0),
        )
        recipe = override(recipe, {"clips.validation": budget.measured})
        if shards:
            selection = SELECTION if stage is hq_finetune else ""
            recipe = replace(recipe, clips=replace(recipe.clips, shards=shards, selection=selection, starts=1, workers=1))
            recipe = override(recipe, {"compute.cache": True})
        made.append(override(recipe, {name: _changed(recipe, name, value) for name, value in arm.changes.items()}))
    return made


def _changed(recipe: Recipe, name: str, value: Any) -> Any:
    return max(round(value * recipe.world.cache), 1) if name == "world.cache" else value


def tasks(cache: Path) -> dict[str, Callable[..., Task]]:
    """What is trained, with the clips of all arms kept in one folder."""

    def source(recipe: Recipe, base: Any, folder: Path, processes: Processes) -> WorldSource:
        return WorldSource(recipe, base, cache, processes)

    def video(recipe: Recipe, folder: Path, processes: Processes) -> Task:
        return video_task(recipe, folder, processes, source)

    return {**TASKS, "video": video}
