"""Intervals: how far a figure can be trusted.

A prompt is what is drawn at random, so everything is resampled over prompts, never over frames or votes. Seeds are fixed: the
same videos give the same interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 5000
SEED = 0
_CHUNK = 2_000_000  # drawn indices held at a time


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its interval, nan where there are too few prompts for one. `count`: prompts it rests on."""

    value: float
    low: float
    high: float
    count: int


def bootstrap_mean(values: ArrayLike, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """Mean of values (n,), one a prompt, with its percentile bootstrap interval (Efron 1979). nan values are left out."""
    kept = _finite(values)
    if kept.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    if kept.size == 1:
        return Interval(float(kept[0]), float("nan"), float("nan"), 1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(_resampled_means(kept, resamples, seed), [tail, 1 - tail])
    return Interval(float(kept.mean()), float(low), float(high), int(kept.size))


def bootstrap_difference(
    first: ArrayLike, second: ArrayLike, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """Mean of first - second over the prompts (n,) that both have; a prompt is drawn with both of its values (paired)."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"expected one value a prompt from both systems, found {a.shape} and {b.shape}; use the same prompts")
    return bootstrap_mean(a - b, confidence, resamples, seed)


def jackknife(whole: float, without: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a figure of a whole set (a Fréchet distance) from what it is without each of g groups of prompts.

    Delete-a-group jackknife (Efron & Tibshirani 1993, 11.5): se^2 = (g - 1) / g * sum (x_i - mean)^2, Student's t with g - 1
    degrees of freedom. Not the bootstrap: drawing prompts twice would make every Fréchet distance larger.
    """
    from scipy.stats import t

    left = np.asarray(without, dtype=np.float64)
    if left.size < 2:
        return float("nan"), float("nan")
    error = sqrt((left.size - 1) / left.size * float(np.square(left - left.mean()).sum()))
    half = float(t.ppf(0.5 + confidence / 2, left.size - 1)) * error
    return whole - half, whole + half


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64).ravel()
    return numbers[np.isfinite(numbers)]


def _resampled_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Means (resamples,) of draws with replacement, a limited number of indices in memory at a time."""
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _CHUNK // values.size)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        means[start : start + count] = values[generator.integers(values.size, size=(count, values.size))].mean(axis=1)
    return means
