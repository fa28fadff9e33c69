"""Figures of a whole set of videos, streaming: one number a prompt and metric, and the sums of networks are held."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..media import Unreadable, VideoReader
from ..networks import Networks, VideoFeatures
from .frechet import Gaussian, InceptionScore, frechet_distance, load_statistics, merged, save_statistics, split_numbers
from .metrics import (
    AESTHETIC,
    CHANGES,
    CLIP_IMAGE,
    CLIP_TEXT,
    CONSISTENCY,
    FIRST_FRAME,
    FVD_I3D,
    FVD_VIDEOMAE,
    IS_FRAMES,
    IS_VIDEO,
    MOTION,
    NAN,
    VIDEO_METRICS,
    Measured,
    Metric,
    Middle,
    can_measure_motion,
    measure_video,
    video_networks,
)
from .prompts import Prompt
from .statistics import Interval, bootstrap_mean, jackknife
from .videos import Matching, VideoSet, match

GROUPS = 10  # of prompts, for the interval of a Fréchet distance
SPLITS = 10
SAMPLES = 10_000
REFERENCE_NEEDS = "--reference FOLDER or FILE.npz"


class _FrechetSums:
    """Features of a set, by groups of prompts, so that the distance has an interval; GROUPS matrices are held."""

    def __init__(self) -> None:
        self.groups: dict[int, Gaussian] = {}

    def add(self, features: NDArray[np.float64], prompt: int) -> None:
        group = self.groups.setdefault(prompt % GROUPS, Gaussian(features.size))
        group.add(features)

    def distance(self, reference: Gaussian) -> Interval:
        """Raises ValueError for fewer than 2 videos."""
        parts = list(self.groups.values())
        whole = merged(parts)
        value = frechet_distance(whole, reference)
        without = [merged([*parts[:i], *parts[i + 1 :]]) for i in range(len(parts))] if len(parts) == GROUPS else []
        usable = all(part.count >= 2 for part in without)
        low, high = jackknife(value, [frechet_distance(part, reference) for part in without] if usable else [])
        return Interval(value, max(0.0, low) if math.isfinite(low) else low, high, whole.count)


@dataclass
class SetResult:
    """What a set of videos came to. columns: one number a prompt (nan where there is none) by metric key or name of CHANGES.
    whole: figures of the set by key; reasons: why a metric was not computed, by its key; broken: (video, why)."""

    videos: VideoSet
    matching: Matching
    columns: dict[str, array[float]]
    whole: dict[str, Interval] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    broken: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
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
    """Everything that is reported. networks: what was given, for names and hashes; reference: where the Fréchet distances'
    reference came from, its number of videos and those that could not be used."""

    results: Sequence[SetResult]
    prompts: Sequence[Prompt]
    prompts_name: str
    networks: Networks = field(default_factory=Networks)
    reference: dict[str, Any] | None = None
    samples: int = SAMPLES

    @property
    def names(self) -> list[str]:
        return [result.videos.name for result in self.results]


class _SetSums:
    def __init__(self, networks: Networks, samples: int) -> None:
        self._networks = networks
        self.frechet = {m.key: _FrechetSums() for m, _ in video_networks(networks) if m is not IS_VIDEO}
        self.inception: dict[str, InceptionScore] = {}
        self._splits = split_numbers(samples, max(1, min(SPLITS, samples)))
        self._number = 0

    def add(self, measured: Measured, prompt: int) -> None:
        split = int(self._splits[self._number])
        self._number += 1
        for key, features in measured.features.items():
            if key in self.frechet:
                self.frechet[key].add(features, prompt)
            else:
                self._score(key, features.size).add(features, split)
        if measured.frames is not None:
            self._score(IS_FRAMES.key, measured.frames.classes).take(measured.frames, split)

    def _score(self, key: str, classes: int) -> InceptionScore:
        return self.inception.setdefault(key, InceptionScore(classes, int(self._splits.max()) + 1))

    def finish(self, result: SetResult, references: dict[str, Gaussian]) -> None:
        for metric in (FVD_I3D, FVD_VIDEOMAE):
            if metric.key not in self.frechet:
                continue
            count = sum(group.count for group in self.frechet[metric.key].groups.values())
            if metric.key not in references:
                result.reasons[metric.key] = f"needs {REFERENCE_NEEDS}"
            elif count < 2:
                result.reasons[metric.key] = f"needs 2 or more videos that are long enough, found {count}"
            else:
                result.whole[metric.key] = self.frechet[metric.key].distance(references[metric.key])
        for metric in (IS_VIDEO, IS_FRAMES):
            if metric.key in self.inception:
                score = self.inception[metric.key]
                mean, deviation = score.result()
                result.whole[metric.key] = Interval(mean, mean - deviation, mean + deviation, int(score.counts.sum()))
            elif metric.key not in result.reasons:
                result.reasons[metric.key] = "needs videos that are long enough, found none"


def measure_set(
    videos: VideoSet,
    prompts: Sequence[Prompt],
    networks: Networks = Networks(),
    references: dict[str, Gaussian] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> SetResult:
    """Measure a set, streaming. A broken video is named in the result and left out. `progress` is called after each video."""
    matching = match(videos, prompts)
    total = sum(len(files) for _, files in matching.found)
    sums = _SetSums(networks, total)
    motion = can_measure_motion()
    keys = [metric.key for metric in VIDEO_METRICS] + list(CHANGES)
    result = SetResult(videos, matching, {key: array("d", [NAN] * len(prompts)) for key in keys})
    result.reasons = missing_needs(networks, prompts, motion)
    result.notes += matching.notes
    numbers = {prompt.id: number for number, prompt in enumerate(prompts)}
    for prompt, files in matching.found:
        means = _Means()
        for file in files:
            try:
                measured = measure_video(file, prompt, networks, motion)
            except Unreadable as problem:
                result.broken.append((file, str(problem)))
            else:
                result.measured += 1
                facts = measured.facts
                result.shapes[f"{facts.width} x {facts.height}, {facts.frames} frames at {facts.fps:.6g} a second"] += 1
                result.lacks.update(measured.lacks)
                means.add(measured.figures)
                sums.add(measured, numbers[prompt.id])
            progress()
        for key, value in means.values():
            result.columns[key][numbers[prompt.id]] = value
    sums.finish(result, references or {})
    _drop_empty(result)
    return result


class _Means:
    """Mean of each figure over the samples of one prompt, those without it left out."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, figures: dict[str, float]) -> None:
        for key, value in figures.items():
            if math.isfinite(value):
                total, count = self._sums.get(key, (0.0, 0))
                self._sums[key] = total + value, count + 1

    def values(self) -> Iterable[tuple[str, float]]:
        return ((key, total / count) for key, (total, count) in self._sums.items())


def missing_needs(networks: Networks, prompts: Sequence[Prompt], motion: bool) -> dict[str, str]:
    """Why each metric that cannot be computed is not: "needs ..."."""
    images = any(prompt.image is not None for prompt in prompts)
    given = {
        CLIP_TEXT: networks.clip,
        CONSISTENCY: networks.clip,
        CLIP_IMAGE: networks.clip if images else None,
        AESTHETIC: networks.aesthetic,
        MOTION: motion or None,
        FIRST_FRAME: images or None,
        FVD_I3D: networks.i3d,
        FVD_VIDEOMAE: networks.videomae,
        IS_VIDEO: networks.classifier,
        IS_FRAMES: networks.inception,
    }
    return {metric.key: f"needs {metric.needs}" for metric, thing in given.items() if thing is None}


def _drop_empty(result: SetResult) -> None:
    """A metric that no video of the set has is not computed, and says so."""
    for metric in VIDEO_METRICS:
        if metric.key not in result.reasons and not any(map(math.isfinite, result.columns[metric.key])):
            result.reasons[metric.key] = (
                "needs a readable video of 2 or more frames" if result.measured else "needs readable videos"
            )


# -- the reference of a Fréchet distance


def reference_statistics(
    reference: str, networks: Networks, save: str | None = None, progress: Callable[[], None] = lambda: None
) -> tuple[dict[str, Gaussian], list[tuple[Path, str]]]:
    """Statistics of the reference videos for each network of a Fréchet distance, and the videos that could not be used.

    reference: a folder of videos (sub-folders too, as UCF-101 has one a class), or a .npz that `save` made before. `save`: .npz;
    with two networks, one file each, with the metric's key before the extension.
    """
    wanted = [(metric, network) for metric, network in video_networks(networks) if metric is not IS_VIDEO]
    if Path(reference).is_file():
        return {
            metric.key: load_statistics(_named(reference, metric, wanted), network.source.facts()) for metric, network in wanted
        }, []
    found: dict[str, Gaussian] = {}
    broken: list[tuple[Path, str]] = []
    for path in reference_files(reference):
        try:
            video = VideoReader(path)
            middles = {metric.key: Middle(network, video.facts.frames) for metric, network in wanted}
            for frame in video:
                for middle in middles.values():
                    middle.add(frame)
        except Unreadable as problem:
            broken.append((path, str(problem)))
            continue
        for key, middle in middles.items():
            features = middle.result()
            if features is None:
                broken.append((path, f"{path.name}: too short for {key}"))
            else:
                found.setdefault(key, Gaussian(features.size)).add(features)
        progress()
    few = [metric.label for metric, _ in wanted if metric.key not in found or found[metric.key].count < 2]
    if few:
        raise ValueError(
            f"{reference}: expected 2 or more reference videos for {', '.join(few)}, found fewer that can be used; give more"
        )
    if save:
        for metric, network in wanted:
            save_statistics(_named(save, metric, wanted), found[metric.key], network.source.facts())
    return found, broken


def _named(path: str, metric: Metric, wanted: Sequence[tuple[Metric, VideoFeatures]]) -> Path:
    place = Path(path)
    return place if len(wanted) == 1 else place.with_name(f"{place.stem}.{metric.key}{place.suffix}")


def reference_files(reference: str) -> list[Path]:
    """Videos in a folder and its sub-folders, sorted."""
    from .videos import EXTENSIONS

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
