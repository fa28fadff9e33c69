"""Distillation of a temporal stack: a copy of it learns to do in one call, without guidance, what it does in several steps with.

The teacher never changes: each halving of the steps is a run of its own, whose teacher is what the one before exported.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base import TextStates
from ..checkpoint import load_stack
from ..model.guidance import Call, GuidedDenoiser, calls
from ..model.schedule import add_noise
from ..model.stack import TemporalStack
from ..model.video_model import VideoModel
from .distil_rounds import filled, student_config
from .distil_steps import ddim_step, distance, output_between, step_grid
from .processes import Processes
from .recipes import Recipe
from .sources import SourceFactory
from .video import Predict, VideoTask, guided, start_file


def video_task(
    recipe: Recipe, folder: Path, processes: Processes = Processes(), source: SourceFactory | None = None
) -> VideoTask:
    """The task of a recipe that trains a stack: from clips alone, or from a teacher."""
    return (DistilTask if recipe.distil.steps else VideoTask)(recipe, folder, processes, source)


class DistilTask(VideoTask):
    """See `loop.Task`. What VideoTask does, with other timesteps, another target, and two rows for each clip of a sheet."""

    forward_methods = ("draw", "tell")

    # -- student and teacher

    def __init__(
        self, recipe: Recipe, folder: Path, processes: Processes = Processes(), source: SourceFactory | None = None
    ) -> None:
        super().__init__(filled(recipe), folder, processes, source)

    def attach(self) -> None:
        """Put the student on the image model, and the teacher beside it."""
        super().attach()
        # in the precision of the image model, as it is run with
        teacher = load_stack(start_file(self.recipe), dtype=self.base.dtype).to(self.processes.device)
        self.teacher: Any = VideoModel(self.base.unet, teacher)
        self.teacher.attachment.autocast = self.model.attachment.autocast

    def fresh_stack(self) -> TemporalStack:
        """The teacher's weights, as a stack that wants few steps and no guidance."""
        stack = load_stack(start_file(self.recipe), dtype=torch.float32)
        stack.config = student_config(stack.config, self.recipe)
        return stack

    def frozen(self) -> list[nn.Module]:
        """The image model and the teacher."""
        return [*super().frozen(), self.teacher.stack]

    def taught(self, x: Tensor, t: Tensor, text: TextStates, given: Tensor | None) -> Tensor:
        """The teacher's output, one call, for noisy latents x (n, f, C, h, w)."""
        return self.predict(x, t, text, given, self.teacher)

    tell = taught
    """The same, outside of training, see `VideoTask.forward_methods`."""

    @cached_property
    def grid(self) -> Tensor:
        """See `step_grid`."""
        distil = self.recipe.distil
        return step_grid(self.config.schedule, distil.steps, distil.teacher_steps).to(self.processes.device)

    @property
    def plan(self) -> list[Call]:
        """The calls of the teacher's guidance."""
        distil = self.recipe.distil
        return calls(distil.image_guidance, distil.text_guidance, self.config.takes_image)

    def guided(self, network: Predict, text: TextStates, given: Tensor | None) -> GuidedDenoiser:
        """The teacher with its guidance, for clips with these texts and given frames."""
        count, empty = len(text.hidden), self.empty
        pooled = None if empty.pooled is None else empty.pooled.expand(count, -1)
        texts = {True: text, False: TextStates(empty.hidden.expand(count, -1, -1), pooled)}
        return guided(network, self.plan, texts, given)

    # -- the loss

    def timestep(self, position: int) -> Tensor:
        """One of the student's own, all of them equally often where `t_power` is 1: the next above that of ordinary training."""
        begun, drawn = self.grid[:, 0].cpu(), super().timestep(position)
        return begun[(begun >= drawn).sum() - 1]

    def errors(
        self, x0: Tensor, text: TextStates, t: Tensor, noise: Tensor, given: Tensor | None, counts: Tensor | None = None
    ) -> Tensor:
        """Of each clip, (n,), how far the student's output is from that which leads where the teacher's steps do."""
        schedule = self.config.schedule
        x, rows = add_noise(schedule, x0, noise, t), self.grid[(self.grid[:, :1] == t).long().argmax(0)]
        with torch.no_grad():
            end = self.led(x, rows, self.guided(self.taught, text, given))
        wanted = output_between(schedule, x, end, rows[:, 0], rows[:, -1])
        return distance(schedule, self.predict(x, t, text, given), wanted, t, counts)

    def led(self, x: Tensor, rows: Tensor, teacher: GuidedDenoiser) -> Tensor:
        """Where the teacher's steps lead x (n, f, C, h, w) along each clip's row (n, steps + 1) of the grid."""
        for t, after in pairwise(rows.unbind(1)):
            x = ddim_step(self.config.schedule, x, teacher(x, t), t, after)
        return x

    # -- measuring

    def validate(self) -> dict[str, float]:
        """On clips that are kept out, at fixed noise, along the teacher's way from pure noise to a video: `val_loss` as in
        training, the mean and that of each of the student's steps, the cleanest first; `val_end`, the mean square difference of
        the student's own videos from the teacher's, latents of unit variance."""
        schedule, found = self.config.schedule, []
        for x0, text, given, generators in self.measuring():
            errors, teacher = [], self.guided(self.tell, text, given)
            x = own = self.noise(x0, generators)
            for row in self.grid:
                rows = row.expand(len(x0), -1)
                t, after = rows[:, 0], rows[:, -1]
                end = self.led(x, rows, teacher)
                wanted = output_between(schedule, x, end, t, after)
                errors.append(distance(schedule, self.draw(x, t, text, given), wanted, t))
                own = ddim_step(schedule, own, self.draw(own, t, text, given).float(), t, after)
                x = end
            found.append(torch.stack([*reversed(errors), (own - x).square().flatten(1).mean(1)]))
        if not found:
            return {}
        *means, end_error = self.over_all(found)
        bands = {f"val_loss_{i + 1}": mean for i, mean in enumerate(means)}
        return {"val_loss": sum(means) / len(means), **bands, "val_end": end_error}

    def sheet(self, path: Path | None, count: int = 32) -> dict[str, float]:
        """Videos of up to `count` clips that are kept out: above the teacher's with its guidance, below the student's, from the
        same noise. What the source says is of the student's."""
        batch, distil = self.source.examples(count), self.recipe.distil
        if not len(batch.latents):
            return {}
        teacher = self.decoded(self.sampled(batch, self.tell, self.plan, distil.teacher_steps))
        student = self.decoded(self.sampled(batch, self.draw, calls(1.0, 1.0, self.config.takes_image), distil.steps))
        self.write(torch.stack([teacher, student], 1).flatten(0, 1), path)
        return self.source.judge(student)
