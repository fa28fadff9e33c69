"""Adversarial training of a generator of videos against its discriminators, one loop for VGAN and MoCoGAN.

In a step each network moves once, in its turn, on what those before it have become. Every draw is a function of (seed, step), so
a resumed run equals one that was never stopped, to the bit, and no generator state has to be stored.

Shapes: `n` clips, `f` frames, videos (n, f, 3, 64, 64) float32 in -1..1, labels (n,) int64.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import Stopped, UserError
from ..model.streams import derived, stream
from ..training import checkpoints
from ..training.checks import check_output
from ..training.claim import claimed
from ..training.folder import LOG_FILE, check_folder, forget_rows_after
from ..training.optimiser import moments
from ..training.processes import Processes
from ..weights import open_weights, save_tensors

Clips = Callable[[int], tuple[Tensor, Tensor]]
"""The videos and labels of a step, which its number determines."""
SIZE = 64
RATE, BETAS = 2e-4, (0.5, 0.999)
"""Of Adam, in both systems: main.lua of the code of arXiv 1609.02612, trainers.py of that of arXiv 1707.04993."""
MODEL_FILE = "model.safetensors"
AT_ONCE = 32  # videos in one call of a generator


@dataclass(frozen=True)
class Turn:
    """The move of one network in a step: its name, the loss that it descends, and further figures for the log."""

    network: str
    loss: Tensor
    figures: dict[str, Tensor] = field(default_factory=dict)


class Adversaries(nn.Module, ABC):
    """A generator and its discriminators: each direct child is one network, with an optimiser of its own. `classes`: labels are
    below it; `weight_decay`: Adam's, as an L2 penalty."""

    frames: int
    classes: int = 1
    weight_decay: ClassVar[float] = 0.0

    @abstractmethod
    def codes(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw latent codes (n, ...) of videos of these classes."""

    @abstractmethod
    def videos(self, codes: Tensor) -> Tensor:
        """The videos that latent codes become."""

    @abstractmethod
    def turns(self, videos: Tensor, labels: Tensor, generator: torch.Generator) -> Iterator[Turn]:
        """The moves of one step on real videos, one after the other: each is computed after those before it were made."""

    @torch.no_grad()
    def generate(self, wanted: int | Tensor, seed: int) -> Tensor:
        """Videos (n, f, 3, 64, 64) in -1..1. `wanted`: how many, of classes by chance, or the class of each (n,). What the i-th
        begins with is a function of the seed and of i, whatever their number. As in both originals' programs that generate,
        batch normalisation takes the averages that it kept in training."""
        labels = wanted if isinstance(wanted, Tensor) else torch.randint(self.classes, (wanted,), generator=stream(seed, "class"))
        training, device = self.training, next(self.parameters()).device
        self.eval()
        codes = [self.codes(label, stream(seed, "video", i)) for i, label in enumerate(labels.to(device).split(1))]
        videos = torch.cat([self.videos(part).cpu() for part in torch.cat(codes).split(AT_ONCE)])
        self.train(training)
        return videos

    def load(self, folder: Path) -> None:
        """Take the networks of a run that came to its end. ValueError if there are none, or others."""
        path = folder / MODEL_FILE
        file, own = open_weights(path), self.state_dict()
        if file.shapes != {name: tuple(value.shape) for name, value in own.items()}:
            found = f"{type(self).__name__} of these widths, found other networks"
            raise UserError(f"{path}: expected {found}: build it with the settings that it was trained with")
        self.load_state_dict(file.read())


@contextmanager
def first_weights(seed: int) -> Iterator[None]:
    """Meanwhile modules draw the weights that they begin with from this seed, and the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(seed, "weights"))
        yield


def normal(*shape: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise, drawn on the CPU, where `like` is."""
    return torch.randn(shape, generator=generator).to(like.device)


# -- training


@dataclass(frozen=True)
class Course:
    """How long a training lasts, in steps, what seeds its draws, and after how many steps it is kept each time."""

    steps: int = 600
    seed: int = 0
    save_every: int = 200


def train(game: Adversaries, clips: Clips, folder: Path, course: Course = Course(), resume: bool = False) -> None:
    """Train all networks of `game`, in place, and write them as `model.safetensors`, with the figures of each step in
    `log.jsonl`; `resume` goes on from the newest checkpoint of the folder. ValueError for what cannot be trained on."""
    check_output(folder, resume)
    check_folder(folder)
    with claimed(folder):
        trainer = AdversarialTrainer(game, clips, folder, course)
        if resume:
            trainer.load()
        trainer.run()


class AdversarialTrainer:
    """One training in a folder; `load` continues from its newest checkpoint."""

    def __init__(self, game: Adversaries, clips: Clips, folder: Path, course: Course) -> None:
        self.game, self.clips, self.folder, self.course = game, clips, folder, course
        self.processes = Processes(device=next(game.parameters()).device)
        self.optimisers = {
            name: torch.optim.Adam(part.parameters(), RATE, BETAS, weight_decay=game.weight_decay)
            for name, part in game.named_children()
        }
        self.step = 0

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs, by name; the tensors are the live ones."""
        state = {"step": torch.tensor(self.step), "seed": torch.tensor(self.course.seed)}
        state |= {f"weights.{name}": value for name, value in self.game.state_dict().items()}
        for name, p in self.game.named_parameters():
            kept = moments(self.optimisers[name.split(".")[0]], p)
            state |= {f"optimiser.{name}.{key}": value for key, value in kept.items()}
        return state

    def save(self) -> None:
        """Write a checkpoint, whole or not at all; the one before stays until then."""
        checkpoints.save(self.state(), self.folder, self.step, self.processes)

    def load(self) -> None:
        """Go on from the newest checkpoint of the folder. ValueError if it is of other networks or of another seed."""
        state = self.state()
        checkpoints.load(state, path := checkpoints.newest(self.folder), self.processes)
        if (seed := int(state["seed"])) != self.course.seed:
            raise UserError(f"{path} is of the seed {seed}, not {self.course.seed}: go on with the same, or name another folder")
        self.step = int(state["step"])

    def run(self) -> None:
        """Train to the end."""
        steps, every, name = self.course.steps, self.course.save_every, type(self.game).__name__
        self.game.train()
        forget_rows_after(self.step, self.folder / LOG_FILE)  # of a run that broke off after its last checkpoint
        with tqdm(total=steps, initial=self.step, desc=name, mininterval=2) as bar, open(self.folder / LOG_FILE, "a") as log:
            while self.step < steps:
                figures = self.one_step()
                bar.update(1)
                bar.set_postfix({key: f"{value:.4g}" for key, value in figures.items()}, refresh=False)
                log.write(json.dumps({"step": self.step, **figures}) + "\n")
                log.flush()
                if self.step % every == 0 or self.step == steps:
                    self.save()
        save_tensors(self.game.state_dict(), self.folder / MODEL_FILE)

    def one_step(self) -> dict[str, float]:
        """Move every network once; their losses, and what else they say."""
        videos, labels = self.clips(self.step)
        self._check(videos, labels)
        device, generator = self.processes.device, stream(self.course.seed, "step", self.step)
        figures: dict[str, float] = {}
        for turn in self.game.turns(videos.to(device), labels.to(device), generator):
            figures |= {f"{turn.network}_loss": turn.loss.item(), **{key: value.item() for key, value in turn.figures.items()}}
            if not all(map(math.isfinite, figures.values())):
                raise Stopped(f"{self.folder}: the figures of step {self.step} are not finite ({figures}): try another seed")
            optimiser = self.optimisers[turn.network]
            optimiser.zero_grad()
            turn.loss.backward(inputs=list(self.game.get_submodule(turn.network).parameters()))  # the others only watch
            optimiser.step()
        self.step += 1
        return figures

    def _check(self, videos: Tensor, labels: Tensor) -> None:
        n, shape, classes = len(videos), (self.game.frames, 3, SIZE, SIZE), self.game.classes
        if n < 2 or videos.shape[1:] != shape or labels.shape != (n,):
            found = f"{tuple(videos.shape)} and {tuple(labels.shape)}"
            raise UserError(f"the clips of step {self.step}: expected (n, {str(shape)[1:]} and labels (n,), n > 1, found {found}")
        if videos.abs().max() > 1:
            raise UserError(f"the clips of step {self.step}: expected pixels in -1..1, found {videos.abs().max():.4g}")
        if classes > 1 and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            found = f"{int(labels.min())} to {int(labels.max())}: build {type(self.game).__name__} for more classes"
            raise UserError(f"the labels of step {self.step}: expected 0 to {classes - 1}, found {found}")
