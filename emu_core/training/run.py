"""Start a recipe, in one process or several, or a chain of them: stages one after the other, each from the last, that goes on
where it was stopped."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..errors import SaidAlready, Stopped, UserError
from . import checkpoints
from .checks import check_chain, check_clips, check_output, check_recipe
from .claim import check_owner, claimed
from .distil import video_task
from .distil_image import ImageDistilTask
from .folder import RECIPE_FILE, check_folder, write_json
from .loop import Task, Trainer
from .processes import Processes, is_main, processes, processes_started
from .recipes import Recipe, override

logger = logging.getLogger(__name__)

DONE = "done.json"
TASKS: dict[str, Callable[..., Task]] = {"video": video_task, "image": ImageDistilTask}
"""What is trained on image models of any family, by `Recipe.task`."""


@dataclass(frozen=True)
class RunOptions:
    """How recipes are run: go on with what is there, for so many minutes at most, figures for TensorBoard as well. `tasks`: what
    is trained, by `Recipe.task`; the procedural world hands in more."""

    resume: bool = False
    max_minutes: float = math.inf
    tensorboard: bool = False
    tasks: Mapping[str, Callable[[Recipe, Path, Processes], Task]] = field(default_factory=lambda: dict(TASKS))


def train(recipe: Recipe, folder: Path, options: RunOptions = RunOptions()) -> bool:
    """Run a recipe in `folder`, from the start or from its newest checkpoint. Returns whether it came to its end. ValueError for
    what can be known to be impossible."""
    if recipe.task not in options.tasks:
        raise UserError(f"recipe {recipe.name!r} names an unknown task {recipe.task!r}")
    check_run(recipe, folder, options.resume, processes_started())
    with claimed(folder, recipe, wanted=is_main()), processes(recipe.compute.parallel == "fsdp") as here:
        trainer = Trainer(recipe, options.tasks[recipe.task](recipe, folder, here), folder, here)
        if options.resume:
            trainer.load()
        trainer.run(options.max_minutes, options.tensorboard)
    return trainer.step >= recipe.optimisation.steps


def check_run(recipe: Recipe, folder: Path, resume: bool, world: int) -> None:
    """ValueError for what can be known to be impossible, in so many processes. Makes the folder where nothing is."""
    check_owner(folder, recipe)
    check_output(folder, resume)
    check_recipe(recipe, world)
    check_clips(recipe)
    check_folder(folder)


def launch(count: int, arguments: Sequence[str]) -> None:
    """Run `emu-video` with these arguments in `count` processes of this machine, through torch's own launcher. ValueError if
    one of them fails; KeyboardInterrupt if they were told to stop, and did."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # the launcher takes a second
    from torch.distributed.run import main

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the process that fails says why
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting processes must not take the cores of those that work
    try:
        main(["--standalone", "--nproc-per-node", str(count), "-m", "emu_core", *arguments, "--processes", "1"])
    except SignalException as error:  # it has passed the signal on, and waited
        raise KeyboardInterrupt from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            raise SaidAlready(f"one of the {count} processes failed; what it said stands above") from error
        name = failure.signal_name()
        why = ", which is often the system's answer to memory that has run out" if name == "SIGKILL" else ""
        raise Stopped(f"process {rank} of {count} was ended by {name}{why}: go on with --resume") from error


# -- chains


def open_chain(out: Path, resume: bool) -> None:
    """Make the folder of a chain. ValueError if it holds one already that is not to be resumed, or none that is."""
    there = (out / DONE).exists() or any(out.glob("*/" + RECIPE_FILE))
    if there and not resume:
        raise UserError(f"{out} holds a chain already: go on with --resume, or name another folder with --out")
    if resume and not there:
        raise UserError(f"nothing to resume: {out} holds no chain; start without --resume")
    check_folder(out)


def train_chain(
    recipes: Sequence[Recipe], out: Path, options: RunOptions = RunOptions(), count: int = 1
) -> Iterator[tuple[Recipe, Path, bool]]:
    """Run stages in folders of their own below `out`, each in `count` processes from the one before, or pass over those that are
    complete. For each its recipe, its model's folder, and whether it came to its end; after one that did not, no more follow.
    ValueError with all that would stop any of the stages, before the first begins."""
    end, stages = time.monotonic() + 60 * options.max_minutes, _stages(recipes, out)
    check_chain(recipes, out, count, pending=[r for r, folder in stages if not (folder / DONE).is_file()])
    if strange := {file.parent for file in out.glob("*/" + RECIPE_FILE)} - {folder for _, folder in stages}:
        found = f"{out} holds a chain with the stage {min(strange).name}, which this one has not"
        raise UserError(f"{found}: go on with the same chain, or name another folder with --out")
    for recipe, folder in stages:
        check_owner(folder, recipe)
    for recipe, folder in stages:
        left = replace(options, max_minutes=max((end - time.monotonic()) / 60, 0.0))
        complete = _run_stage(recipe, folder, left, count)
        yield recipe, folder / "model", complete
        if not complete:
            return
    write_json(out / DONE, {"stages": [recipe.name for recipe in recipes]})


def _stages(recipes: Sequence[Recipe], out: Path) -> list[tuple[Recipe, Path]]:
    """Each stage's recipe, from the one before, and its folder. A U-Net that is trained along is handed on as it is."""
    stages: list[tuple[Recipe, Path]] = []
    for number, recipe in enumerate(recipes, 1):
        before = str(stages[-1][1] / "model") if stages else recipe.start.init
        changes = {"start.init": before} | ({"compute.exported": "float32"} if number < len(recipes) else {})
        stages.append((override(recipe, changes), out / f"{number}-{recipe.name}"))
    return stages


def _run_stage(recipe: Recipe, folder: Path, options: RunOptions, count: int) -> bool:
    if (folder / DONE).is_file():
        logger.info("%s is complete", folder)
        return True
    options = replace(options, resume=bool(checkpoints.checkpoints(folder)))
    steps = recipe.optimisation.steps
    if count > 1:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECIPE_FILE, asdict(recipe))
        limit = [] if math.isinf(options.max_minutes) else ["--max-minutes", str(options.max_minutes)]
        flags = [f"--{name}" for name in ("resume", "tensorboard") if getattr(options, name)]
        launch(count, ["train", str(folder / RECIPE_FILE), "--out", str(folder), *flags, *limit])
        complete = checkpoints.newest(folder).name == f"checkpoint-{steps:08d}"
    else:
        complete = train(recipe, folder, options)
    if complete:
        write_json(folder / DONE, {"steps": steps})
    return complete
