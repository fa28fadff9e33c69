"""The training loop: steps, schedule, averaging, checkpoints that resume to the bit, measurements and pictures along the way.

Every random draw is a function of the seed and of a sample's place in the run, or of (seed, step, rank), so a resumed run
continues exactly as if it had never stopped, and no generator state has to be stored.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from ..errors import Stopped, UserError
from ..media.files import whole_file, whole_folder
from . import checkpoints
from .folder import BAD_BATCH, LOG_FILE, RECIPE_FILE, check_folder, forget_rows_after, open_board, plot_losses, write_json
from .optimiser import build_optimiser, moments
from .processes import Parallel, Processes, fingerprint, local, whole
from .recipes import Optimisation, Recipe

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Task(nn.Module, ABC):
    """What a recipe trains: a module that holds every trainable parameter and, called with (sample, generator, progress), returns
    the loss and further figures. `progress` is the share of the run that is done, 0..1."""

    def stream(self, positions: Iterable[range]) -> Iterator[Any]:
        """For each range of positions in the endless sequence of samples, what a call takes; here the positions."""
        return iter(positions)

    def frozen(self) -> list[nn.Module]:
        """What must be the same, to the bit, before and after."""
        return []

    def validate(self) -> dict[str, float]:
        """Figures that are measured on what is never trained on."""
        return {}

    @abstractmethod
    def sheet(self, path: Path | None) -> dict[str, float]:
        """Pictures as a PNG, and figures read from them. Of a sharded model every process has to draw; one names a path."""

    @abstractmethod
    def export(self, folder: Path | None) -> None:
        """Write what was trained; `folder` is None in the processes that only help to gather it."""


def rate_factor(step: int, config: Optimisation) -> float:
    """Linear warm-up, constant, then a linear fall to zero over the last `decay` of the steps."""
    left = (config.steps - step) / max(config.decay * config.steps, 1e-9)
    return min(1.0, (step + 1) / max(config.warmup, 1), max(left, 0.0))


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """The generator of one step in one process, on the CPU."""
    return torch.Generator().manual_seed(((seed * 100_003 + rank) * 10_000_019 + step) & (2**62 - 1))


class Trainer:
    """Runs one recipe in `folder`; `load` continues from its newest checkpoint."""

    def __init__(self, recipe: Recipe, task: Task, folder: Path, processes: Processes = Processes()) -> None:
        self.recipe, self.task, self.folder, self.processes = recipe, task, folder, processes
        self.config, self.compute = recipe.optimisation, recipe.compute
        self.share = shares(self.config.batch, processes.world, self.compute.micro)
        self.micro = self.compute.micro or self.share
        self.parallel = Parallel(task.to(processes.device), self.compute.parallel, processes)
        self.trained = {n: p for n, p in task.named_parameters() if p.requires_grad}
        self.optimiser = build_optimiser(self.config, self.trained)
        place = "cpu" if self.compute.ema_on_cpu else None
        self.average = {n: p.detach().clone().to(place) for n, p in self.trained.items()}
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=self.compute.precision == "float16")
        self.step = 0
        self.started = time.monotonic()
        self.elapsed = 0.0
        self.told = False  # to stop

    # -- checkpoints

    def state(self) -> dict[str, torch.Tensor]:
        """All that a resumed run needs, by name; the tensors are the live ones."""
        state = {"step": torch.tensor(self.step), "elapsed": torch.tensor(self.elapsed + time.monotonic() - self.started)}
        scaler = self.scaler.state_dict()  # empty where nothing is scaled
        state["scale"] = torch.tensor(scaler.get("scale", 1.0))
        state[checkpoints.GROWTH] = torch.tensor(scaler.get("_growth_tracker", 0))
        for name, p in self.trained.items():
            state[f"weights.{name}"], state[f"average.{name}"] = p.detach(), self.average[name]
            state |= {f"optimiser.{name}.{key}": value for key, value in moments(self.optimiser, p).items()}
        return state

    def save(self) -> None:
        """Write everything that a resumed run needs; the old checkpoint stays until the new one is whole."""
        checkpoints.save(self.state(), self.folder, self.step, self.processes)

    def load(self) -> None:
        """Go on from the newest checkpoint of the folder."""
        state = self.state()
        checkpoints.load(state, checkpoints.newest(self.folder), self.processes)
        self.step, self.elapsed = int(state["step"]), float(state["elapsed"])
        if self.scaler.is_enabled():
            found = {"scale": float(state["scale"]), "_growth_tracker": int(state[checkpoints.GROWTH])}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **found})

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Meanwhile the task holds the averaged weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, p in self.trained.items():
            live = p.detach().clone()
            p.copy_(self.average[name])
            self.average[name].copy_(live)

    # -- the loop

    def run(self, max_minutes: float = math.inf, tensorboard: bool = False) -> None:
        """Train to the end, or stop after `max_minutes` with a checkpoint to resume from; on SIGTERM after such a checkpoint with
        KeyboardInterrupt. `tensorboard`: figures also go to the folder `tensorboard`."""
        self.started = time.monotonic()
        writes = tensorboard and self.processes.main
        board: Any = open_board(self.folder / "tensorboard", self.step) if writes else contextlib.nullcontext()
        self.begin()
        before, main, name = fingerprint(self.task.frozen()), self.processes.main, self.recipe.name
        bar = tqdm(total=self.config.steps, initial=self.step, desc=name, disable=not main, mininterval=2)
        with bar, board, self._heeding(), open(self.folder / LOG_FILE, "a") if main else contextlib.nullcontext() as log:
            for figures in self.steps(max_minutes):
                bar.update(1)
                if log is None:
                    continue
                bar.set_postfix({k: f"{v:.4g}" for k, v in figures.items()}, refresh=False)
                log.write(json.dumps({"step": self.step, **figures}) + "\n")
                log.flush()
                for key, value in figures.items() if tensorboard else ():
                    board.add_scalar(key, value, self.step)
        self.save()
        if any(self.processes.flags(self.told)):
            logger.warning("%s was told to stop, and did at step %d with a checkpoint: go on with --resume", name, self.step)
            raise KeyboardInterrupt
        if fingerprint(self.task.frozen()) != before:
            raise RuntimeError(f"the frozen parts changed while {name} trained; its result is not to be used")
        self.export()
        if main:
            plot_losses(self.folder)
            write_json(self.folder / "frozen.json", {"sha256_before": before, "sha256_after": before, "step": self.step})
        self.processes.barrier()

    @contextlib.contextmanager
    def _heeding(self) -> Iterator[None]:
        """Meanwhile SIGTERM, with which a cluster takes a machine back, stops the run after the step that it is in."""

        def heed(*_: Any) -> None:
            self.told = True

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, heed)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def export(self) -> None:
        """Write the averaged result as the folder `model`, whole or not at all."""
        target = self.folder / "model"
        with self.averaged(), whole_folder(target) if self.processes.main else contextlib.nullcontext() as part:
            try:
                self.task.export(part)
            except UserError as error:
                raise Stopped(str(error).replace(str(part), str(target))) from error

    def begin(self) -> None:
        """Make the folder, look for room, write down the recipe, and say what is trained."""
        size = sum(local(p).numel() * p.element_size() for p in self.trained.values())
        optimiser = sum(local(t).nbytes for p in self.trained.values() for t in moments(self.optimiser, p).values())
        sizes = {"weights": size, "gradients": size, "optimiser": optimiser, "average": size}
        if self.processes.main:
            needed = (checkpoints.KEPT + 1) * (sum(sizes.values()) - size)  # gradients are not kept
            check_folder(self.folder, 0 if checkpoints.checkpoints(self.folder) else needed)
            write_json(self.folder / RECIPE_FILE, asdict(self.recipe))
            forget_rows_after(self.step, self.folder / LOG_FILE)  # of a run that broke off before its first checkpoint
            parts = ", ".join(f"{name} {size / 2**20:.0f} MB" for name, size in sizes.items())
            logger.info("%s trains %d parameters: %s", self.recipe.name, sum(p.numel() for p in self.trained.values()), parts)
        self.processes.barrier()

    def steps(self, max_minutes: float = math.inf) -> Iterator[dict[str, float]]:
        """Train; the figures of each step, with those of what is due after it."""
        end, every, steps = self.started + 60 * max_minutes, self.recipe.every, self.config.steps
        mine = [self.processes.rank * self.share + i for i in range(0, self.share, self.micro)]  # in each batch
        firsts = (step * self.config.batch + i for step in range(self.step, steps) for i in mine)
        samples = self.task.stream(range(first, first + self.micro) for first in firsts)
        while self.step < steps:
            figures = self.one_step(samples)
            if every.validate and (self.step % every.validate == 0 or self.step == steps):
                with torch.no_grad(), self.autocast():
                    figures |= self.task.validate()
            if self.step % every.sheet == 0 and (self.processes.main or self.parallel.sharded):
                with self.averaged(), torch.no_grad(), self.autocast():
                    figures |= self.task.sheet(self.folder / f"sheet_{self.step:06d}.png" if self.processes.main else None)
                if self.processes.main and self.step < steps:
                    plot_losses(self.folder)
            yield figures  # its row is written before the checkpoint that follows it
            if self.step % every.save == 0 and self.step < steps:
                self.save()
            if any(self.processes.flags(self.told or (self.processes.main and time.monotonic() > end))):  # clocks differ
                return

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """For what keeps its weights in float32. A frozen U-Net is in the precision already, and its stack sees to itself."""
        precision, kind = PRECISIONS[self.compute.precision], self.processes.device.type
        frozen = self.recipe.on_a_base and self.recipe.method.trained == "stack"
        with self.attention(), torch.autocast(kind, precision, enabled=precision != torch.float32 and not frozen):
            yield

    def attention(self) -> contextlib.AbstractContextManager[Any]:
        """For forward passes, and for backward ones, which may compute them again: on a CPU in 16 bits torch's fused attention is
        several times slower than plain products where pictures are small. Where they are large it saves the matrix of pairs."""
        small = math.prod(self.recipe.clips.size) <= 128**2
        plain = small and self.processes.device.type == "cpu" and self.compute.precision != "float32"
        return sdpa_kernel(SDPBackend.MATH) if plain else contextlib.nullcontext()

    def one_step(self, stream: Iterator[Any]) -> dict[str, float]:
        """Move the weights once, by the whole batch; loss, norm of the gradients and what the task says."""
        config = self.config
        generator = step_generator(config.seed, self.step, self.processes.rank)
        for group in self.optimiser.param_groups:
            group["lr"] = config.rate * rate_factor(self.step, config)
        self.optimiser.zero_grad(set_to_none=True)
        passes = self.share // self.micro
        together: dict[str, list[torch.Tensor]] = {}
        samples: list[Any] = []
        for i in range(passes):
            samples.append(sample := next(stream))  # one at a time: further ones are decoded while this one is computed
            with self.parallel.accumulating(last=i == passes - 1), self.attention():
                with self.autocast():
                    loss, figures = self.parallel.module(sample, generator, self.step / config.steps)
                self.scaler.scale(loss / passes).backward()
            for name, value in {"loss": loss.detach(), **figures}.items():
                found = value.cpu() if isinstance(value, torch.Tensor) else value  # some devices have no float64
                together.setdefault(name, []).append(torch.as_tensor(found, dtype=torch.float64))
        self._stop_unless_finite(float(torch.stack(together["loss"]).mean()), "loss", samples)
        self.scaler.unscale_(self.optimiser)
        norm = float(whole(nn.utils.clip_grad_norm_(list(self.trained.values()), config.clip)))
        if not self.scaler.is_enabled():  # else a step with infinite gradients is left out and the scale lowered
            self._stop_unless_finite(norm, "gradient norm", samples)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.step += 1
        live = [p.detach().to(self.average[name].device) for name, p in self.trained.items()]
        torch._foreach_lerp_(list(self.average.values()), live, 1 - min(config.ema, self.step / (self.step + 10)))
        means = {name: torch.stack(values).nanmean() for name, values in together.items()}
        loss = self.processes.mean(means.pop("loss"))
        return {"loss": float(loss), "grad_norm": norm, **{k: float(v) for k, v in means.items() if not v.isnan()}}

    def _stop_unless_finite(self, value: float, what: str, samples: list[Any]) -> None:
        """One process that stops alone would leave the others waiting: all stop, and those concerned save their batch."""
        bad = not math.isfinite(value)
        if not any(self.processes.flags(bad)):
            return
        path = self.folder / BAD_BATCH
        if bad and self.processes.world > 1:
            path = path.with_stem(f"{path.stem}_{self.processes.rank}")
        if bad:
            found = [getattr(s, "to_save", lambda s=s: list(s))() for s in samples]
            with whole_file(path) as part:
                torch.save({"step": self.step, "samples": found}, part)
        raise Stopped(f"{what} is {value} at step {self.step}; the batch is in {path}")


def shares(batch: int, world: int, micro: int) -> int:
    """Samples of one process in a step."""
    if batch % world:
        raise UserError(f"batch {batch} does not divide over {world} processes: choose another optimisation.batch")
    share = batch // world
    if micro and share % micro:
        found = f"a process's {share} of the batch of {batch} do not divide into compute.micro={micro}"
        raise UserError(f"{found}: choose a divisor of {share}")
    return share
