"""A task that trains in milliseconds, in float64, and, run as a module, a training of it in one of several processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emu_core.training.loop import Task, Trainer
from emu_core.training.processes import processes
from emu_core.training.recipes import Every, Optimisation, Recipe, override


def toy_recipe(**changes: Any) -> Recipe:
    settings = {"steps": 6, "batch": 8, "rate": 0.02, "warmup": 2, "decay": 0.5, "ema": 0.9, "clip": 0.1, "seed": 3}
    return Recipe("toy", "toy", Optimisation(**{**settings, **changes}), every=Every(sheet=1000, save=1000))


class ToyTask(Task):
    """Learns sin from samples that their indices determine; with `noise`, each is disturbed from the step's generator.

    In float64, rounding lies far below AdamW's epsilon of 1e-8, so where a gradient is near zero a step is as small; in float32
    its sign alone would decide, and another order of sums would lead elsewhere.
    """

    def __init__(self, seed: int = 0, noise: float = 0.1, fail_at: float = 2.0) -> None:
        super().__init__()
        self.noise, self.fail_at = noise, fail_at
        self.seen: list[tuple[int, float]] = []
        self.sheets: list[Path] = []
        self.exported: dict[str, torch.Tensor] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))
            torch.manual_seed(100)  # what is to be learned does not depend on where learning starts
            self.truth = nn.Linear(4, 4).requires_grad_(False)
        self.double()

    def forward(self, indices: range, generator: torch.Generator, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        self.seen += [(i, progress) for i in indices]
        x = torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(i)) for i in indices]).double()
        noise = self.noise * torch.randn(x.shape, generator=generator)
        device = self.truth.weight.device
        loss = (self.net((x + noise).to(device)) - self.truth(x.to(device)).sin()).square().mean()
        return loss * (torch.nan if progress >= self.fail_at else 1), {"progress": progress}

    def frozen(self) -> list[nn.Module]:
        return [self.truth]

    def sheet(self, path: Path | None) -> dict[str, float]:
        assert path is not None
        self.sheets.append(path)
        return {"toy_score": 1.0}

    def export(self, folder: Path | None) -> None:
        self.exported = {name: value.detach().clone() for name, value in self.named_parameters()}


def main(folder: str, mode: str) -> None:
    recipe = override(toy_recipe(), {"compute.parallel": mode})
    with processes(need_group=mode == "fsdp") as here:
        trainer = Trainer(recipe, ToyTask(noise=0.0), Path(folder), here)
        trainer.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
