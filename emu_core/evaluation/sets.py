"""Figures of whole sets of videos. What is held is one number a prompt and metric, and the sums of networks."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..media import Unreadable, VideoReader
from ..networks import Array, Networks, VideoFeatures
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

    def interval(self, metric: Metric) -> Interval | None:
        """The figure of a metric; None where it was not computed, and then `reasons` says why. To be asked for at the end."""
        if metric.key in self.reasons:
            return None
        if metric.key not in self.whole:
            self.whole[metric.key] = bootstrap_mean(self.columns[metric.key])
        return self.whole[metric.key]


@dataclass(frozen=True)
class Evaluation:
    """Everything that is reported. networks: what was given, for names and hashes."""

    results: Sequence[SetResult]
    prompts: Sequence[Prompt]
    prompts_name: str
    networks: Networks = field(default_factory=Networks)
    reference: Reference = field(default_factory=Reference)
    samples: int = SAMPLES

    @property
    def names(self) -> list[str]:
        """Of the systems."""
        return [result.videos.name for result in self.results]


class _FrechetSums:
    """Features of a set, by groups of prompts, so that the distance has an interval; GROUPS matrices are held."""

    def __init__(self) -> None:
        self._groups: dict[int, Gaussian] = {}

    def add(self, features: Array, prompt: int) -> None:
        self._groups.setdefault(prompt % GROUPS, Gaussian(features.size)).add(features)

    @property
    def count(self) -> int:
        return sum(group.count for group in self._groups.values())

    def distance(self, reference: Gaussian) -> Interval:
        """Raises ValueError for fewer than 2 videos."""
        parts = list(self._groups.values())
        value = frechet_distance(merged(parts), reference)
        without = [merged([*parts[:i], *parts[i + 1 :]]) for i in range(len(parts))] if len(parts) == GROUPS else []
        usable = all(part.count >= 2 for part in without)
        low, high = jackknife(value, [frechet_distance(part, reference) for part in without] if usable else [])
        return Interval(value, max(0.0, low) if math.isfinite(low) else low, high, self.count)


class _SetSums:
    """What networks say of a whole set: features for Fréchet distances, classes for Inception scores."""

    def __init__(self, networks: Networks, samples: int) -> None:
        self._frechet = {m.key: _FrechetSums() for m, _ in video_networks(networks) if m is not metrics.IS_VIDEO}
        self._inception: dict[str, InceptionScore] = {}
        self._splits = split_numbers(samples, max(1, min(SPLITS, samples)))
        self._number = 0

    def add(self, measured: Measured, prompt: int) -> None:
        split = int(self._splits[self._number])
        self._number += 1
        for key, features in measured.features.items():
            if key in self._frechet:
                self._frechet[key].add(features, prompt)
            else:
                self._score(key, features.size).add(features, split)
        if measured.frames is not None:
            self._score(metrics.IS_FRAMES.key, measured.frames.classes).take(measured.frames, split)

    def _score(self, key: str, classes: int) -> InceptionScore:
        return self._inception.setdefault(key, InceptionScore(classes, int(self._splits.max()) + 1))

    def finish(self, result: SetResult, references: Statistics) -> None:
        for key, sums in self._frechet.items():
            if key not in references:
                result.reasons[key] = f"needs {REFERENCE_NEEDS}"
            elif sums.count < 2:
                result.reasons[key] = f"needs 2 or more videos that are long enough, found {sums.count}"
            else:
                result.whole[key] = sums.distance(references[key])
        for key in (metrics.IS_VIDEO.key, metrics.IS_FRAMES.key):
            if key in self._inception:
                score = self._inception[key]
                mean, deviation = score.result()
                result.whole[key] = Interval(mean, mean - deviation, mean + deviation, int(score.counts.sum()))
            else:
                result.reasons.setdefault(key, "needs videos that are long enough, found none")


def measure_set(
    videos: VideoSet,
    prompts: Sequence[Prompt],
    networks: Networks = Networks(),
    references: Statistics | None = None,
    progress: Callable[[], object] = lambda: None,
) -> SetResult:
    """Measure a set, streaming. A broken video is named in the result and left out. `progress` is called after each video."""
    matching = match(videos, prompts)
    sums = _SetSums(networks, sum(len(files) for _, files in matching.found))
    keys = [*(metric.key for metric in metrics.VIDEO_METRICS), *metrics.CHANGES]
    columns = {key: array("d", [NAN] * len(prompts)) for key in keys}
    result = SetResult(videos, matching, columns, missing_needs(networks, prompts))
    numbers = {prompt.id: number for number, prompt in enumerate(prompts)}
    for prompt, files in matching.found:
        number, means = numbers[prompt.id], Means()
        for file in files:
            try:
                measured = measure_video(file, prompt, networks)
            except Unreadable as problem:
                result.broken.append((file, str(problem)))
            else:
                result.measured += 1
                facts = measured.facts
                result.shapes[f"{facts.width} x {facts.height}, {facts.frames} frames at {facts.fps:.6g} a second"] += 1
                result.lacks.update(measured.lacks)
                sums.add(measured, number)
                for key, value in measured.figures.items():
                    if math.isfinite(value):
                        means.add(key, value)
            progress()
        for key, value in means.values().items():
            columns[key][number] = value
    sums.finish(result, references or {})
    for metric in metrics.VIDEO_METRICS:  # what no video of the set has is not computed, and says so
        if not any(map(math.isfinite, columns[metric.key])):
            lack = "needs a readable video of 2 or more frames" if result.measured else "needs readable videos"
            result.reasons.setdefault(metric.key, lack)
    return result


def missing_needs(networks: Networks, prompts: Sequence[Prompt]) -> dict[str, str]:
    """Why each metric that cannot be computed is not, by its key: "needs ..."."""
    images = any(prompt.image is not None for prompt in prompts)
    given = {**vars(networks), "images": images or None}
    return {m.key: f"needs {m.needs}" for m in metrics.METRICS if any(given[thing] is None for thing in m.needed)}


# -- the reference of a Fréchet distance


def measure_reference(
    reference: str, networks: Networks, save: str | None = None, progress: Callable[[], object] = lambda: None
) -> Reference:
    """Statistics of the reference videos for each network of a Fréchet distance, and the videos that could not be used.

    reference: a folder of videos (sub-folders too, as UCF-101 has one a class), or a .npz that `save` made before. `save`: .npz;
    with two networks, one file each, with the metric's key before the extension. Raises ValueError for fewer than 2 videos, or
    statistics of another network.
    """
    wanted = [(metric, network) for metric, network in video_networks(networks) if metric is not metrics.IS_VIDEO]
    if Path(reference).is_file():
        saved = {m.key: load_statistics(_named(reference, m, wanted), network.source.facts()) for m, network in wanted}
        return Reference(reference, saved)
    found: Statistics = {}
    broken: list[tuple[Path, str]] = []
    for path in reference_files(reference):
        try:
            features = _features(path, wanted)
        except Unreadable as problem:
            broken.append((path, str(problem)))
            continue
        for key, vector in features.items():
            if vector is None:
                broken.append((path, f"{path.name}: too short for {key}"))
            else:
                found.setdefault(key, Gaussian(vector.size)).add(vector)
        progress()
    few = ", ".join(metric.label for metric, _ in wanted if metric.key not in found or found[metric.key].count < 2)
    if few:
        raise ValueError(f"{reference}: expected 2 or more reference videos for {few}, found fewer that can be used; give more")
    if save:
        for metric, network in wanted:
            save_statistics(_named(save, metric, wanted), found[metric.key], network.source.facts())
    return Reference(reference, found, broken)


def _features(path: Path, wanted: Sequence[tuple[Metric, VideoFeatures]]) -> dict[str, Array | None]:
    video = VideoReader(path)
    middles = {metric.key: Middle(network, video.facts.frames) for metric, network in wanted}
    for frame in video:
        for middle in middles.values():
            middle.add(frame)
    return {key: middle.result() for key, middle in middles.items()}


def _named(path: str, metric: Metric, wanted: Sequence[tuple[Metric, VideoFeatures]]) -> Path:
    place = Path(path)
    return place if len(wanted) == 1 else place.with_name(f"{place.stem}.{metric.key}{place.suffix}")


def reference_files(reference: str) -> list[Path]:
    """Videos in a folder and its sub-folders, sorted. ValueError where there are none."""
    folder = Path(reference).expanduser()
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS) if folder.is_dir() else []
    if not files:
        raise ValueError(f"{reference}: expected a folder of reference videos or statistics (.npz), found none; check the path")
    return files


def class_balance(result: SetResult, prompts: Sequence[Prompt]) -> tuple[int, int]:
    """Fewest and most videos of a prompt, which for UCF-101 is a class; prompts without a video count as 0."""
    counts = {prompt.id: len(files) for prompt, files in result.matching.found}
    numbers = [counts.get(prompt.id, 0) for prompt in prompts]
    return min(numbers), max(numbers)
