"""A small classifier of videos that the laboratory trains on real clips of its world: which figure, and which motion.

Its features are for a Fréchet distance, its probabilities of classes for an Inception score. Both are figures of this classifier
alone, under names of their own (`FVD_LAB`, `IS_LAB`): they say nothing beside those of I3D or C3D.

Shapes: `n` videos, `f` = 8 frames at 4 a second, pixels `(n, f, 3, 64, 64)` float32 in -1..1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..errors import UserError
from ..evaluation.frechet import Gaussian, InceptionScore
from ..evaluation.metrics import Metric
from ..evaluation.sets import GROUPS, frechet_interval
from ..evaluation.statistics import Interval, jackknife
from ..model.streams import derived
from ..networks import Array
from ..toy import world
from ..toy.figures import FIGURES
from ..toy.shapes import SIZE
from ..weights import open_weights, save_tensors

FRAMES, FPS = 8, 4.0
OF_FRAMES, OF_VIDEO = 32, 32
FEATURES = OF_FRAMES + OF_VIDEO
FORMAT = "emu-video lab classifier 1"
BATCH = 32  # of videos that are looked at, not trained on
FVD_LAB = Metric(
    "fvd_lab", "FVD (lab's classifier)", "", "lower", 2, "Fréchet distance of the features of the laboratory's own classifier"
)
IS_LAB = Metric(
    "is_lab", "IS (lab's classifier)", "", "higher", 2, "Inception score of the laboratory's own classifier, of figure and motion"
)
Clips = Callable[[int, Sequence[int], bool], list[Any]]
"""(seed, numbers, held out) -> clips, as `toy.world.clips` and the `clips` of `toy.worlds.Kind`."""


@dataclass(frozen=True)
class Classes:
    """What is told apart. Clips of other figures or motions are passed over."""

    figures: tuple[str, ...] = FIGURES
    motions: tuple[str, ...] = world.MOTIONS


@dataclass(frozen=True)
class Budget:
    """How long it is trained: clips, each seen once, in batches; rate: the largest learning rate, of AdamW."""

    clips: int = 12_800
    batch: int = 16
    rate: float = 4e-3


@dataclass(frozen=True)
class Seen:
    """What the classifier says of n videos: features (n, FEATURES), probabilities of figures (n, F) and of motions (n, M)."""

    features: Array
    figures: Array
    motions: Array

    @property
    def classes(self) -> Array:
        """Probabilities (n, F * M) of a figure with a motion, each told by a head of its own."""
        return (self.figures[:, :, None] * self.motions[:, None, :]).reshape(len(self.figures), -1)


class Network(nn.Module):
    """Frames by 2-D convolutions to 16 x 16, then time and space together. A feature is the standard deviation over both of a
    channel of the frames, which tells sharp edges from soft ones, or the mean over both of one of the video, from which classes
    are told; each in units of its standard deviation in training, so that none outweighs the others in a Fréchet distance."""

    def __init__(self, classes: Classes) -> None:
        super().__init__()
        # Beside each frame goes what changes up to the next one: a motion of half a pixel is faint in the frames themselves.
        self.frames = nn.Sequential(_step(nn.Conv2d(6, 16, 5, 2, 2)), _step(nn.Conv2d(16, OF_FRAMES, 3, 2, 1)))
        self.video = nn.Sequential(
            _step(nn.Conv3d(OF_FRAMES, 64, 3, (1, 2, 2), 1)),
            _step(nn.Conv3d(64, 64, 3, 2, 1)),
            _step(nn.Conv3d(64, OF_VIDEO, 3, 2, 1)),
        )
        self.units = nn.BatchNorm1d(FEATURES, affine=False)
        self.figures, self.motions = (nn.Linear(OF_VIDEO, len(names)) for names in (classes.figures, classes.motions))

    def forward(self, videos: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of pixels (n, f, 3, 64, 64): features (n, FEATURES), and logits of figures and of motions."""
        change = F.pad(videos[:, 1:] - videos[:, :-1], (0, 0, 0, 0, 0, 0, 0, 1))
        both = torch.cat([videos, 4 * change], 2)
        maps = self.frames(both.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        maps = maps.unflatten(0, videos.shape[:2]).transpose(1, 2)
        features = self.units(torch.cat([maps.flatten(2).std(2), self.video(maps).mean((2, 3, 4))], 1))
        of_video = features[:, OF_FRAMES:]
        return features, self.figures(of_video), self.motions(of_video)


def _step(convolution: nn.Conv2d | nn.Conv3d) -> nn.Sequential:
    norm = nn.BatchNorm2d if isinstance(convolution, nn.Conv2d) else nn.BatchNorm3d
    return nn.Sequential(convolution, norm(convolution.out_channels), nn.ReLU())


@dataclass(frozen=True)
class Classifier:
    """A trained network, and what it tells apart."""

    network: Network
    classes: Classes

    def look(self, videos: Tensor) -> Seen:
        """At pixels (n, 8, 3, 64, 64) in -1..1. ValueError for other shapes."""
        wanted = (FRAMES, 3, SIZE, SIZE)
        if videos.ndim != 5 or tuple(videos.shape[1:]) != wanted or not len(videos):
            raise UserError(f"the lab's classifier looks at videos (n, *{wanted}), found {tuple(videos.shape)}; give those")
        with torch.no_grad():
            parts = [self.network(part.float().cpu()) for part in videos.split(BATCH)]
        features, figures, motions = (torch.cat(each).double() for each in zip(*parts, strict=True))
        return Seen(features.numpy(), figures.softmax(1).numpy(), motions.softmax(1).numpy())

    def save(self, path: Path, facts: dict[str, str] | None = None) -> None:
        """Write it as one safetensors file, whole or not at all; facts: what else its metadata should say."""
        told = {"format": FORMAT, "figures": json.dumps(self.classes.figures), "motions": json.dumps(self.classes.motions)}
        save_tensors(self.network.state_dict(), path, told | (facts or {}))

    @staticmethod
    def load(path: Path) -> Classifier:
        """Read what `save` wrote. ValueError for another file."""
        file = open_weights(path)
        if file.metadata.get("format") != FORMAT:
            said = file.metadata.get("format", "a file that says nothing of it")
            raise UserError(f"{path}: expected {FORMAT}, found {said}; train it again")
        classes = Classes(*(tuple(json.loads(file.metadata[name])) for name in ("figures", "motions")))
        network = Network(classes)
        shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        if dict(file.shapes) != shapes:
            raise UserError(f"{path}: expected the {len(shapes)} tensors of the lab's classifier, found others; train it again")
        network.load_state_dict(file.read())
        return Classifier(network.eval(), classes)


def labelled(clips: Clips, classes: Classes, seed: int, held_out: bool) -> Iterator[world.Clip]:
    """Clips of the classes, without end."""
    for start in count(0, 64):
        yield from (
            clip
            for clip in clips(seed, range(start, start + 64), held_out)
            if clip.figure in classes.figures and clip.motion in classes.motions
        )


def render(clips: Sequence[world.Clip]) -> Tensor:
    """Their pixels (n, 8, 3, 64, 64)."""
    return world.render(clips, torch.arange(FRAMES) / FPS)


def train(classes: Classes = Classes(), budget: Budget = Budget(), seed: int = 0, clips: Clips = world.clips) -> Classifier:
    """Train on clips of combinations that models of the world are trained on too. The same seed on as many threads gives the same
    weights. With the default budget about two minutes on two cores."""
    steps = max(1, budget.clips // budget.batch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(seed, "classifier"))
        network = Network(classes).train()
    optimiser = torch.optim.AdamW(network.parameters(), budget.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, budget.rate, total_steps=steps)
    drawn = labelled(clips, classes, derived(seed, "clips") % 2**31, held_out=False)
    for _ in tqdm(range(steps), desc="classifier", mininterval=2):
        batch = list(islice(drawn, budget.batch))
        _, figures, motions = network(render(batch))
        loss = F.cross_entropy(figures, _numbers([clip.figure for clip in batch], classes.figures))
        loss = loss + F.cross_entropy(motions, _numbers([clip.motion for clip in batch], classes.motions))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return Classifier(network.eval(), classes)


def _numbers(names: Sequence[str], classes: Sequence[str]) -> Tensor:
    return torch.tensor([classes.index(name) for name in names])


def trained_at(
    path: Path, classes: Classes = Classes(), budget: Budget = Budget(), seed: int = 0, clips: Clips = world.clips
) -> Classifier:
    """The classifier in a file if it is this one, of the same classes, budget, seed and world; else it is trained and kept
    there. ValueError where something else is there."""
    drawn = render(list(islice(labelled(clips, classes, seed, held_out=False), 8)))  # whatever changes the world shows in these
    made_of = repr((classes, budget, seed)).encode() + drawn.numpy().tobytes()
    facts = {"made_of": hashlib.sha256(made_of).hexdigest()}
    if path.is_file():
        found = Classifier.load(path)
        if open_weights(path).metadata.get("made_of") == facts["made_of"]:
            return found
    made = train(classes, budget, seed, clips)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(path, facts)
    return made


def accuracy(classifier: Classifier, number: int, seed: int = 1, clips: Clips = world.clips) -> dict[str, float]:
    """Shares of right figures and right motions on so many clips of combinations that no training saw."""
    shown = list(islice(labelled(clips, classifier.classes, seed, held_out=True), number))
    found = [classifier.look(render(shown[start : start + BATCH])) for start in range(0, number, BATCH)]
    right = {}
    for name, names in (("figure", classifier.classes.figures), ("motion", classifier.classes.motions)):
        told = np.concatenate([getattr(seen, f"{name}s") for seen in found]).argmax(1)
        right[name] = float((told == _numbers([getattr(clip, name) for clip in shown], names).numpy()).mean())
    return right


def frechet(videos: Seen, reference: Seen) -> Interval:
    """FVD_LAB of videos, one a prompt in the order of the prompts, against real ones; its interval is a jackknife over groups of
    prompts, as `emu-video evaluate` has it for I3D's."""
    groups = [_gaussian(videos.features[group::GROUPS]) for group in range(min(GROUPS, len(videos.features)))]
    return frechet_interval(groups, _gaussian(reference.features))


def _gaussian(features: Array) -> Gaussian:
    found = Gaussian(features.shape[1])
    found.add(features)
    return found


def inception(videos: Seen) -> Interval:
    """IS_LAB of all videos together, with a jackknife over the same groups. Not the mean over splits that is usual for 10,000
    videos: the score is bounded by how many classes a split can have, and few videos in splits would say little else."""
    left_out = [np.delete(videos.classes, np.s_[group::GROUPS], 0) for group in range(GROUPS)]
    value = _score(videos.classes)
    without = [_score(part) for part in left_out] if len(videos.classes) >= 2 * GROUPS else []
    return Interval(value, *jackknife(value, without), len(videos.classes))


def _score(classes: Array) -> float:
    score = InceptionScore(classes.shape[1], 1)
    score.add(classes, np.zeros(len(classes), dtype=np.int64))
    return score.result()[0]
