"""Figures of whole sets of videos. What is held is one number a prompt and metric, and the sums of networks."""

from __future__ import annotations

import math
import os
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError, of_one_item
from ..media import Unreadable, VideoReader
from ..networks import Networks, VideoFeatures
from . import metrics
from .frechet import Gaussian, InceptionScore, frechet_distance, load_statistics, merged, save_statistics, split_numbers
from .metrics import Means, Measured, Metric, Middle, measure_video, video_networks
from .prompts import Prompt
from .statistics import Interval, bootstrap_mean, jackknife
from .videos import EXTENSIONS, Matching, VideoSet, match

NAN = float("nan")
GROUPS = 10  # of prompts, for the interval of a Fréchet distance
SPLITS = 10
SAMPLES = 10_000
REFERENCE_NEEDS = "--reference FOLDER or FILE.npz"
Statistics = dict[str, Gaussian]
"""Of reference videos, by the key of the metric that they are for."""


@dataclass(frozen=True)
class Reference:
    """What a Fréchet distance compares with, and where it came from; broken: (video, why it could not be used)."""

    source: str = ""
    statistics: Statistics = field(default_factory=dict)
    broken: Sequence[tuple[Path, str]] = ()


@dataclass
class SetResult:
    """What a set of videos came to. columns: one number a prompt (nan where there is none) by metric key or name of CHANGES.
    whole: figures of the set by key; reasons: why a metric was not computed, by its key; broken: (video, why)."""

    videos: VideoSet
    matching: Matching
    columns: dict[str, array[float]]
    reasons: dict[str, str]
    whole: dict[str, Interval] = field(default_factory=dict)
    broken: list[tuple[Path, str]] = field(default_factory=list)
    measured: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    lacks: Counter[str] = field(default_factory=Counter)

    @property
    def balance(self) -> tuple[int, int]:
        """Fewest and most videos of a prompt, which for UCF-101 is a class; prompts without a video count as 0."""
        counts = [len(files) for _, files in self.matching.found] + [0] * len(self.matching.missing)
        return min(counts), max(counts)

    def interval(self, metric: Metric) -> Interval | None:
        """The figure of a metric; None where it was not computed, and then `reasons` says why. To be asked for at the end."""
        if metric.key in self.reasons:
            return None
        if metric.key not in self.whole:
            self.whole[metric.key] = bootstrap_mean(self.columns[metric.key])
        return self.whole[metric.key]


@dataclass(frozen=True)
class Evaluation:
    """Everything that is reported. networks: what was given, for names and hashes. left_out: prompts that could not be used."""

    results: Sequence[SetResult]
    prompts: Sequence[Prompt]
    prompts_name: str
    networks: Networks = field(default_factory=Networks)
    reference: Reference = field(default_factory=Reference)
    samples: int = SAMPLES
    left_out: Sequence[tuple[str, str]] = ()

    @property
    def names(self) -> list[str]:
        """Of the systems."""
        return [result.videos.name for result in self.results]


class _SetSums:
    """What networks say of a whole set: features for Fréchet distances, in GROUPS of prompts so that they have an interval, and
    classes for Inception scores, in splits."""

    def __init__(self, networks: Networks, samples: int) -> None:
        self._groups: dict[str, dict[int, Gaussian]] = {metric.key: {} for metric, _ in _frechet_networks(networks)}
        self._scores: dict[str, InceptionScore] = {}
        self._splits = split_numbers(samples, max(1, min(SPLITS, samples)))
        self._number = 0

    def add(self, measured: Measured, prompt: int) -> None:
        split = int(self._splits[self._number])
        self._number += 1
        for key, features in measured.features.items():
            if key in self._groups:
                self._groups[key].setdefault(prompt % GROUPS, Gaussian(features.size)).add(features)
            else:
                self._score(key, features.size).add(features, split)
        if measured.frames is not None:
            self._score(metrics.IS_FRAMES.key, measured.frames.classes).take(measured.frames, split)

    def _score(self, key: str, classes: int) -> InceptionScore:
        return self._scores.setdefault(key, InceptionScore(classes, int(self._splits.max()) + 1))

    def finish(self, result: SetResult, references: Statistics) -> None:
        for key, groups in self._groups.items():
            count = sum(group.count for group in groups.values())
            if key not in references:
                result.reasons[key] = f"needs {REFERENCE_NEEDS}"
            elif count < 2:
                result.reasons[key] = f"needs 2 or more videos that are long enough, found {count}"
            else:
                result.whole[key] = frechet_interval(list(groups.values()), references[key])
        for key in (metrics.IS_VIDEO.key, metrics.IS_FRAMES.key):
            if key in self._scores:
                mean, deviation = self._scores[key].result()
                result.whole[key] = Interval(mean, mean - deviation, mean + deviation, int(self._scores[key].counts.sum()))
            else:
                result.reasons.setdefault(key, "needs videos that are long enough, found none")


def frechet_interval(groups: Sequence[Gaussian], reference: Gaussian) -> Interval:
    """Fréchet distance with its jackknife over the groups, where there are all, of 2 samples or more without each."""
    whole = merged(groups)
    value = frechet_distance(whole, reference)
    without = [merged([*groups[:i], *groups[i + 1 :]]) for i in range(GROUPS)] if len(groups) == GROUPS else []
    usable = all(part.count >= 2 for part in without)
    low, high = jackknife(value, [frechet_distance(part, reference) for part in without] if usable else [])
    return Interval(value, max(0.0, low) if math.isfinite(low) else low, high, whole.count)


def _frechet_networks(networks: Networks) -> list[tuple[Metric, VideoFeatures]]:
    return [(metric, network) for metric, network in video_networks(networks) if metric is not metrics.IS_VIDEO]


def measure_set(
    videos: VideoSet,
    prompts: Sequence[Prompt],
    networks: Networks = Networks(),
    references: Statistics | None = None,
    progress: Callable[[], object] = lambda: None,
) -> SetResult:
    """Measure a set, streaming. A video that cannot be measured is named in the result with the reason and left out; where none
    can, for a reason that is not the videos', that is raised. `progress` is called after each video."""
    matching = match(videos, prompts)
    sums = _SetSums(networks, sum(len(files) for _, files in matching.found))
    keys = [*(metric.key for metric in metrics.VIDEO_METRICS), *metrics.CHANGES]
    columns = {key: array("d", [NAN] * len(prompts)) for key in keys}
    given = {**vars(networks), "images": any(prompt.image is not None for prompt in prompts) or None}
    reasons = {m.key: f"needs {m.needs}" for m in metrics.METRICS if any(given[thing] is None for thing in m.needed)}
    result = SetResult(videos, matching, columns, reasons)
    numbers = {prompt.id: number for number, prompt in enumerate(prompts)}
    unusual: Exception | None = None
    for prompt, files in matching.found:
        number, means = numbers[prompt.id], Means()
        for file in files:
            try:
                measured = measure_video(file, prompt, networks)
            except Exception as problem:
                result.broken.append((file, of_one_item(problem)))
                unusual = unusual if isinstance(problem, Unreadable) else problem
            else:
                result.measured += 1
                facts = measured.facts
                result.shapes[f"{facts.width} x {facts.height}, {facts.frames} frames at {facts.fps:.6g} a second"] += 1
                result.lacks.update(measured.lacks + ["have sound, which no figure listens to"] * facts.sound)
                sums.add(measured, number)
                for key, value in measured.figures.items():
                    if math.isfinite(value):
                        means.add(key, value)
            progress()
        for key, value in means.values().items():
            columns[key][number] = value
    if unusual is not None and not result.measured:  # it is not the videos' fault, then
        raise unusual
    sums.finish(result, references or {})
    for metric in metrics.VIDEO_METRICS:  # what no video of the set has is not computed, and says so
        if not any(map(math.isfinite, columns[metric.key])):
            lack = "needs a readable video of 2 or more frames" if result.measured else "needs readable videos"
            result.reasons.setdefault(metric.key, lack)
    return result


# -- the reference of a Fréchet distance


def measure_reference(
    reference: str, networks: Networks, save: str | None = None, progress: Callable[[], object] = lambda: None
) -> Reference:
    """Statistics of the reference videos for each network of a Fréchet distance, and the videos that could not be used.

    reference: a folder of videos (sub-folders too, as UCF-101 has one a class), or a .npz that `save` made before. `save`: .npz;
    with two networks, one file each, with the metric's key before the extension. Raises ValueError for fewer than 2 videos, or
    statistics of another network.
    """
    wanted = _frechet_networks(networks)
    if Path(reference).is_file():
        saved = {m.key: load_statistics(_named(reference, m, wanted), network.source.facts()) for m, network in wanted}
        return Reference(reference, saved)
    inside = Path(os.path.expanduser(reference)).rglob("*")  # nothing where there is no folder
    files = sorted(path for path in inside if path.suffix.lower() in EXTENSIONS)
    if not files:
        raise UserError(f"{reference}: expected a folder of reference videos or statistics (.npz), found none; check the path")
    found: Statistics = {}
    broken: list[tuple[Path, str]] = []
    unusual: Exception | None = None
    for path in files:
        try:
            video = VideoReader(path)
            middles = {metric.key: Middle(network, video.facts.frames) for metric, network in wanted}
            for frame in video:
                for middle in middles.values():
                    middle.add(frame)
            vectors = {key: middle.result() for key, middle in middles.items()}
        except Exception as problem:
            broken.append((path, of_one_item(problem)))
            unusual = unusual if isinstance(problem, Unreadable) else problem
            continue
        for key, vector in vectors.items():
            if vector is None:
                broken.append((path, f"{path.name}: too short for {key}"))
            else:
                found.setdefault(key, Gaussian(vector.size)).add(vector)
        progress()
    if unusual is not None and not found:  # it is not the videos' fault, then
        raise unusual
    few = ", ".join(metric.label for metric, _ in wanted if metric.key not in found or found[metric.key].count < 2)
    if few:
        raise UserError(f"{reference}: expected 2 or more reference videos for {few}, found fewer that can be used; give more")
    if save:
        for metric, network in wanted:
            save_statistics(_named(save, metric, wanted), found[metric.key], network.source.facts())
    return Reference(reference, found, broken)


def _named(path: str, metric: Metric, wanted: Sequence[tuple[Metric, VideoFeatures]]) -> Path:
    place = Path(path)
    return place if len(wanted) == 1 else place.with_name(f"{place.stem}.{metric.key}{place.suffix}")
