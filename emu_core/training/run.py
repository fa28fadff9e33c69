"""Start a recipe: build its task, open its folder, run it in one process or several."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from .checks import check_output, check_recipe
from .loop import Task, Trainer, check_folder
from .processes import Processes, processes, processes_started
from .recipes import Recipe


def build_task(recipe: Recipe, folder: Path, here: Processes) -> Task:
    if recipe.task == "autoencoder":
        from ..toy.autoencoder import AutoencoderTask

        return AutoencoderTask(recipe)
    if recipe.task == "text_to_image":
        from ..toy.text_to_image import TextToImageTask

        return TextToImageTask(recipe, folder, here)
    if recipe.task == "video":
        from .video import VideoTask

        return VideoTask(recipe, folder, here)
    if recipe.task == "lora":
        from ..toy.lora import LoraTask

        return LoraTask(recipe, folder, here)
    raise ValueError(f"recipe {recipe.name!r} names an unknown task {recipe.task!r}")


def train(recipe: Recipe, folder: Path, resume: bool = False, max_minutes: float = math.inf, tensorboard: bool = False) -> bool:
    """Run a recipe in `folder`, from the start or from its newest checkpoint, to its end or for `max_minutes`. Returns whether
    it came to its end."""
    check_output(folder, resume)
    check_recipe(recipe, processes_started())
    check_folder(folder, 0)
    with processes(need_group=recipe.compute.parallel == "fsdp") as here:
        if recipe.task != "video":  # made for the tiny model, on a CPU
            here = Processes(here.rank, here.world, torch.device("cpu"))
        trainer = Trainer(recipe, build_task(recipe, folder, here), folder, here)
        if resume:
            trainer.load()
        trainer.run(max_minutes, tensorboard)
    return trainer.step >= recipe.optimisation.steps


def launch(processes: int, arguments: list[str]) -> None:
    """Run `emu-video` with these arguments in several processes of this machine, through torch's own launcher."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    rest = _without(arguments, "--processes")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting processes must not take the cores of those that work
    try:
        main(["--standalone", "--nproc-per-node", str(processes), "-m", "emu_core", *rest])
    except ChildFailedError as error:
        raise ValueError(f"one of the {processes} processes failed; what it said stands above") from error


def _without(arguments: list[str], option: str) -> list[str]:
    """Arguments less `option VALUE` or `option=VALUE`."""
    result, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == option:
            skip = True
        elif not argument.startswith(option + "="):
            result.append(argument)
    return result
