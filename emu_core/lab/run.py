"""Runs the laboratory, piece by piece, each kept in the laboratory's folder: what is there is not made again."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..limits import json_of
from ..toy import measure, world
from ..toy.source import WorldSource
from ..training import checkpoints
from ..training.folder import check_folder, write_json
from ..training.processes import Processes
from ..training.recipes import Recipe
from ..training.run import DONE, RunOptions, train, train_chain
from ..training.video import training_base
from ..weights import open_weights, save_tensors
from . import stages, videos
from .arms import ARMS, CLAIMS, Arm, Claim
from .budget import Budget
from .makers import MAKERS
from .mixed import FEWEST, make_shards

logger = logging.getLogger(__name__)

BUDGET_FILE = "budget.json"
CLIPS = "clips"
ROWS = "rows.json"
VIDEOS = "videos.safetensors"


@dataclass(frozen=True)
class Result:
    """What an arm of one seed made: videos (n, 8, 64, 64, 3) in 0..1 of the prompts, and a row of figures for each."""

    videos: Tensor
    rows: list[measure.Row]
    seconds: float
    threads: int | None = None  # that it ran with; not kept by earlier versions


class Lab:
    """A laboratory in `folder`, of these arms and claims. UserError if another budget was begun there."""

    def __init__(self, folder: Path, budget: Budget, arms: Mapping[str, Arm] = ARMS, claims: Sequence[Claim] = CLAIMS) -> None:
        self.folder, self.budget, self.arms, self.claims = folder, budget, arms, claims
        check_folder(folder)
        file, said = folder / BUDGET_FILE, asdict(budget)
        kept = json_of(file.read_bytes()) if file.is_file() else {}
        if not isinstance(kept, dict) or {**said, **kept} != said:  # an earlier version's has fewer settings
            began = f"{folder} was begun with another budget than {budget.name!r}"
            raise UserError(f"{began}: go on with the one in {file}, or name another folder with --out")
        write_json(file, said)

    # -- what all arms share

    @cached_property
    def prompts(self) -> list[world.Clip]:
        """Clips whose captions are the prompts."""
        return videos.prompts(self.budget.prompts)

    @property
    def captions(self) -> list[str]:
        """The prompts."""
        return [clip.caption for clip in self.prompts]

    @cached_property
    def image_model(self) -> Path:
        """The folder of the image model on which all arms stand; trained unless it is there."""
        return self._trained(stages.image_recipe(self.budget), self.folder / "image")

    def tuned(self, kind: str) -> Path:
        """The folder of the image model after quality tuning on pictures of a kind, see `stages.tuning_recipe`."""
        return self._trained(stages.tuning_recipe(self.budget, self.image_model, kind), self.folder / "tuned" / kind)

    def _trained(self, recipe: Recipe, folder: Path) -> Path:
        if not (folder / DONE).is_file():
            logger.info("the image model, %s", recipe.name)
            if not train(recipe, folder, RunOptions(bool(checkpoints.checkpoints(folder)), tasks=self._tasks)):
                raise KeyboardInterrupt(f"{recipe.name} was stopped")
            write_json(folder / DONE, {"steps": recipe.optimisation.steps})
        return folder / "model"

    @property
    def _tasks(self) -> Mapping[str, Any]:
        return stages.tasks(self.folder / CLIPS)

    def share(self, seeds: Iterable[int]) -> None:
        """Make what all arms that are stacks share, unless it is there: the image model, starting frames, encoded clips."""
        for seed in seeds:
            self.starts(seed)
        for recipe in stages.arm_recipes(Arm(""), self.budget, self.image_model, 0):
            WorldSource(recipe, training_base(recipe, torch.device("cpu")), self.folder / CLIPS, Processes())

    def starts(self, seed: int) -> Tensor:
        """Starting frames (n, 64, 64, 3) in 0..1 of the prompts, the same for all arms that take one."""
        file = self.folder / f"starting_frames-{seed}.safetensors"
        if not file.is_file():
            made = videos.starting_frames(self.image_model, self.captions, seed, self.budget.steps)
            save_tensors({"frames": _bytes(made)}, file)
        return _numbers(open_weights(file).read()["frames"])

    # -- an arm

    def seeds(self, arm: Arm) -> range:
        """Of training."""
        first = self.budget.first_seed
        return range(first, first + (self.budget.seeds if arm.decides else 1))

    def place(self, name: str, seed: int) -> Path:
        """The folder of an arm of one seed."""
        return self.folder / "arms" / name / f"seed-{seed}"

    def is_done(self, name: str, seed: int) -> bool:
        """Whether its videos are made and judged."""
        return (self.place(name, seed) / ROWS).is_file()

    def model(self, name: str, seed: int) -> tuple[Path, Path]:
        """The image model's folder and the stack's file of an arm, which is trained unless it is there."""
        arm, out = self.arms[name], self.place(name, seed)
        init = str(self.model(arm.after, seed)[1]) if arm.after else ""
        shards = str(make_shards(self.folder / "mixed", max(self.budget.clips // 4, FEWEST))) if arm.mixed else ""
        recipes = stages.arm_recipes(arm, self.budget, self.image_model, seed, init, shards)
        check_folder(out)
        folder = out
        for recipe, model, complete in train_chain(recipes, out, RunOptions(tasks=self._tasks)):
            if not complete:
                raise KeyboardInterrupt(f"{recipe.name} was stopped")
            folder = model
        trained_along = (folder / "unet").is_dir()
        return (folder if trained_along else self.image_model), folder / "stack_F.safetensors"

    def make(self, name: str, seed: int) -> Tensor:
        """The arm's videos of the prompts."""
        if maker := MAKERS.get(self.arms[name].maker):
            return maker(self.prompts, self.place(name, seed) / "model", self.budget, seed)
        return self.videos_of(name, seed, self.captions, self.starts(seed))

    def videos_of(
        self, name: str, seed: int, captions: Sequence[str], starts: Tensor, guidance: tuple[float, float] | None = None
    ) -> Tensor:
        """Videos of an arm that is a stack, of any prompts, from starting frames; see `videos.make_videos`."""
        base, stack = self.model(name, seed)
        reads = self.arms[name].changes.get("given.text_drop") != 1.0
        return videos.make_videos(base, stack, captions, starts, seed, self.budget, guidance, reads)

    def run(self, name: str, seed: int) -> Result:
        """Train an arm, make its videos and judge them, or read what is there."""
        out = self.place(name, seed)
        if not self.is_done(name, seed):
            logger.info("%s, seed %d: %s", name, seed, self.arms[name].about)
            if self.arms[name].maker == "stack":
                self.starts(seed)  # what all arms share is no part of this one's time
            begun = time.monotonic()
            made = self.make(name, seed)
            given = self.arms[name].maker == "stack" and self.arms[name].changes.get("method.image", True)
            rows = videos.judged(self.prompts, made, self.starts(seed) if given else None)
            check_folder(out)
            save_tensors({"videos": _bytes(made)}, out / VIDEOS)
            spent = {"seconds": time.monotonic() - begun, "threads": torch.get_num_threads()}
            write_json(out / ROWS, {**spent, "rows": rows})
        kept = json.loads((out / ROWS).read_text())
        videos_made = _numbers(open_weights(out / VIDEOS).read()["videos"])
        return Result(videos_made, kept["rows"], kept["seconds"], kept.get("threads"))


def in_order(lab: Lab, names: Sequence[str]) -> list[tuple[str, int]]:
    """These arms with their seeds; first one seed of each, so that a stop leaves the most to see. UserError if they need a
    package that is not here."""
    if any(lab.arms[name].mixed or lab.arms[name].maker == "retrieval" for name in names):
        from ..data import arrow  # noqa: F401, else it is found missing hours later
    jobs = [(name, seed) for name in names for seed in lab.seeds(lab.arms[name])]
    return sorted(jobs, key=lambda job: job[1])


def run(lab: Lab, names: Sequence[str]) -> None:
    """All seeds of these arms, one after the other. UserError as `in_order`."""
    for name, seed in in_order(lab, names):
        lab.run(name, seed)


def as_kept(images: Tensor) -> Tensor:
    """Images in 0..1 as they are read again after they were kept: in 256 levels."""
    return _numbers(_bytes(images))


def _bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().byte()


def _numbers(images: Tensor) -> Tensor:
    return images.to(torch.float32) / 255
