"""Small runs of the trainer on the narrow image model and the procedural world."""

from __future__ import annotations

from pathlib import Path

from emu_core.toy import recipes as toy
from emu_core.toy.source import WorldSource
from emu_core.toy.tasks import TASKS
from emu_core.training import paper, run, video
from emu_core.training.recipes import Recipe, override

from .narrow import narrow_folder

SD15 = paper.SCALES["sd15"]


def VideoTask(recipe: Recipe, folder: Path) -> video.VideoTask:
    return video.VideoTask(recipe, folder, source=WorldSource)


def train(recipe: Recipe, folder: Path, resume: bool = False) -> None:
    run.train(recipe, folder, run.RunOptions(resume, tasks=TASKS))


def small(name: str = "stage1_256px", steps: int = 3, **changes: str) -> Recipe:
    """A stage of the tiny family on 32 x 32 pixels: 4 frames, 4 clips a step."""
    settings = {
        "optimisation.steps": str(steps), "optimisation.batch": "4", "optimisation.warmup": "1", "clips.size": "32,32",
        "clips.validation": "4", "clips.workers": "0", "validate_every": "0", "sheet_every": "1000", "save_every": "1000",
    }  # fmt: skip
    if name != "interpolation":
        settings["clips.frames"] = "4"
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return override(paper.STAGES[name](toy.TINY), {"base": str(narrow_folder()), **settings, **dotted})
