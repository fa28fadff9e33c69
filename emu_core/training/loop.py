"""The training loop: steps, schedule, averaging, checkpoints that resume to the bit, pictures along the way.

Every random draw is a function of (seed, step, rank), so a resumed run continues exactly as if it had never
stopped, and no generator state has to be stored.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from .recipes import Optimisation, Recipe

logger = logging.getLogger(__name__)


CHECKPOINT = "checkpoint.pt"


class Task(Protocol):
    """What a recipe trains. `module` holds every trainable parameter and, called with (indices, generator, progress),
    returns the loss and further figures. `progress` is the share of the run that is done, 0..1."""

    module: nn.Module

    def sheet(self, path: Path) -> dict[str, float]: ...

    def export(self, folder: Path) -> None: ...


def rate_factor(step: int, config: Optimisation) -> float:
    """Linear warm-up, constant, then a linear fall to zero over the last `decay` of the steps."""
    left = (config.steps - step) / max(config.decay * config.steps, 1e-9)
    return min(1.0, (step + 1) / max(config.warmup, 1), max(left, 0.0))


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """The generator of one step in one process, on the CPU."""
    return torch.Generator().manual_seed(((seed * 100_003 + rank) * 10_000_019 + step) & (2**62 - 1))


class Trainer:
    """Runs one recipe in `folder`; `resume` continues from its newest checkpoint."""

    def __init__(self, recipe: Recipe, task: Task, folder: Path, accelerator: Accelerator) -> None:
        self.recipe, self.task, self.folder, self.accelerator = recipe, task, folder, accelerator
        self.config = recipe.optimisation
        if self.config.batch % accelerator.num_processes:
            raise ValueError(f"batch {self.config.batch} does not divide over {accelerator.num_processes} processes")
        self.trained = {n: p for n, p in task.module.named_parameters() if p.requires_grad}
        self.module = accelerator.prepare(task.module)
        self.optimiser = torch.optim.AdamW(
            list(self.trained.values()), lr=self.config.rate, betas=self.config.betas, weight_decay=self.config.weight_decay
        )
        self.average = {n: p.detach().clone() for n, p in self.trained.items()}
        self.step = 0
        self.started = time.monotonic()
        self.elapsed = 0.0

    # -- checkpoints

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / CHECKPOINT

    def save(self) -> None:
        """Write everything that a resumed run needs; the old checkpoint stays until the new one is whole."""
        if self.accelerator.is_main_process:
            state = {
                "step": self.step,
                "elapsed": self.elapsed + time.monotonic() - self.started,
                "weights": {n: p.detach() for n, p in self.trained.items()},
                "average": self.average,
                "optimiser": self.optimiser.state_dict(),
            }
            temporary = self.checkpoint_path.with_suffix(".tmp")
            torch.save(state, temporary)
            os.replace(temporary, self.checkpoint_path)
        self.accelerator.wait_for_everyone()

    def load(self) -> None:
        if not self.checkpoint_path.is_file():
            raise ValueError(f"nothing to resume: {self.checkpoint_path} does not exist; start without --resume")
        state = torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
        if state["weights"].keys() != self.trained.keys():
            raise ValueError(f"{self.checkpoint_path} holds other parameters than recipe {self.recipe.name!r} trains")
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state["weights"][name])
                self.average[name].copy_(state["average"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.elapsed = state["step"], state["elapsed"]

    def averaged(self) -> _Swap:
        """Context in which the module holds the averaged weights."""
        return _Swap(self.trained, self.average)

    # -- the loop

    def run(self, max_minutes: float = math.inf) -> None:
        """Train to the end, or stop after `max_minutes` with a checkpoint to resume from."""
        self.started = time.monotonic()
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "recipe.json").write_text(json.dumps(asdict(self.recipe), indent=2))
        self.accelerator.wait_for_everyone()
        bar = tqdm(total=self.config.steps, initial=self.step, disable=not self.accelerator.is_main_process, mininterval=2)
        with open(self.folder / "log.jsonl", "a") as log:
            for figures in self.steps(max_minutes):
                bar.update(1)
                if self.accelerator.is_main_process and 0 in (self.step % 20, self.step % self.recipe.sheet_every):
                    bar.set_postfix({k: f"{v:.4g}" for k, v in figures.items()}, refresh=False)
                    log.write(json.dumps({"step": self.step, **figures}) + "\n")
                    log.flush()
        bar.close()
        self.save()
        if self.accelerator.is_main_process:
            with self.averaged():
                self.task.export(self.folder / "model")
            plot_losses(self.folder)
        self.accelerator.wait_for_everyone()

    def steps(self, max_minutes: float) -> Iterator[dict[str, float]]:
        end = self.started + 60 * max_minutes
        while self.step < self.config.steps:
            figures = self.one_step()
            if self.step % self.recipe.save_every == 0:
                self.save()
            if self.step % self.recipe.sheet_every == 0 and self.accelerator.is_main_process:
                with self.averaged(), torch.no_grad():
                    figures |= self.task.sheet(self.folder / f"sheet_{self.step:06d}.png")
                plot_losses(self.folder)
            yield figures
            if self.all_agree_to_stop(time.monotonic() > end):
                return

    def all_agree_to_stop(self, mine: bool) -> bool:
        """One process decides for all: clocks differ, and a rank that stops alone leaves the others waiting."""
        if self.accelerator.num_processes == 1:
            return mine
        flag = torch.tensor([float(mine)], device=self.accelerator.device)
        torch.distributed.broadcast(flag, 0)
        return bool(flag.item())

    def one_step(self) -> dict[str, float]:
        config, accelerator = self.config, self.accelerator
        share = config.batch // accelerator.num_processes
        first = self.step * config.batch + accelerator.process_index * share
        generator = step_generator(config.seed, self.step, accelerator.process_index)
        for group in self.optimiser.param_groups:
            group["lr"] = config.rate * rate_factor(self.step, config)
        loss, figures = self.module(range(first, first + share), generator, self.step / config.steps)
        if not torch.isfinite(loss):
            torch.save({"step": self.step, "indices": list(range(first, first + share))}, self.folder / "bad_batch.pt")
            raise RuntimeError(f"loss is {loss.item()} at step {self.step}; the batch is in {self.folder / 'bad_batch.pt'}")
        self.optimiser.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        norm = nn.utils.clip_grad_norm_(list(self.trained.values()), config.clip)
        self.optimiser.step()
        self.step += 1
        decay = min(config.ema, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.trained.values()], 1 - decay)
        return {"loss": loss.item(), "grad_norm": norm.item(), **figures}


class _Swap:
    def __init__(self, live: dict[str, nn.Parameter], other: dict[str, torch.Tensor]) -> None:
        self.live, self.other = live, other

    def exchange(self) -> None:
        for name, parameter in self.live.items():
            parameter.data, self.other[name] = self.other[name], parameter.data

    def __enter__(self) -> None:
        self.exchange()

    def __exit__(self, *_: Any) -> None:
        self.exchange()


def plot_losses(folder: Path) -> None:
    """Draw `log.jsonl` as `loss.png`: the loss, a running mean, and every other figure in a panel of its own."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    names = sorted({k for row in rows for k in row} - {"step", "grad_norm"})
    if not names:
        return
    figure, axes = pyplot.subplots(len(names), 1, figsize=(8, 2.4 * len(names)), squeeze=False)
    for axis, name in zip(axes[:, 0], names, strict=True):
        points = [(row["step"], row[name]) for row in rows if name in row]
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, lw=0.5, alpha=0.4)
        window = max(1, len(values) // 50)
        smooth = [sum(values[max(0, i - window) : i + 1]) / len(values[max(0, i - window) : i + 1]) for i in range(len(values))]
        axis.plot(steps, smooth, lw=1.5)
        axis.set_ylabel(name)
        if "loss" in name:
            axis.set_yscale("log")
    axes[-1, 0].set_xlabel("step")
    figure.tight_layout()
    figure.savefig(folder / "loss.png", dpi=80)
    pyplot.close(figure)


def build_accelerator(precision: str = "no") -> Accelerator:
    # without `cpu`, accelerate passes over a torchrun launch on a machine that has no accelerator
    return Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=precision)


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    return replace(recipe, optimisation=replace(recipe.optimisation, steps=steps))
