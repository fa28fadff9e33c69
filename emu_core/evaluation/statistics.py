"""Intervals and agreement: how far a figure can be trusted.

A prompt is what is drawn at random, so everything is resampled over prompts, never over frames or votes. Seeds are fixed: the
same videos and votes give the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import nan, sqrt

import numpy as np
import scipy  # loads scipy.stats when it is first used: that takes half a second
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError

CONFIDENCE = 0.95
RESAMPLES = 5000
SEED = 0
_CHUNK = 2_000_000  # numbers drawn at a time


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its interval, nan where there are too few prompts for one. `count`: prompts it rests on."""

    value: float
    low: float
    high: float
    count: int


def bootstrap_mean(values: ArrayLike, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """Mean of values (n,), one a prompt, with its percentile bootstrap interval (Efron 1979). nan values are left out."""
    numbers = np.asarray(values, dtype=np.float64).ravel()
    kept = numbers[np.isfinite(numbers)]
    if kept.size < 2:
        return Interval(float(kept[0]) if kept.size else nan, nan, nan, kept.size)

    def means(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        return kept[generator.integers(kept.size, size=(count, kept.size))].mean(axis=1)

    return Interval(float(kept.mean()), *_percentiles(means, kept.size, confidence, resamples, seed), kept.size)


def bootstrap_difference(
    first: ArrayLike, second: ArrayLike, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """Mean of first - second over the prompts (n,) that both have; a prompt is drawn with both of its values (paired)."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise UserError(f"expected one value a prompt from both systems, found {a.shape} and {b.shape}; use the same prompts")
    return bootstrap_mean(a - b, confidence, resamples, seed)


def bootstrap_share(clusters: Sequence[tuple[int, int]], resamples: int, seed: int = SEED) -> tuple[float, float] | None:
    """Percentile interval of sum(successes) / sum(trials), drawing whole clusters (a prompt is one) with replacement.

    clusters: (successes, trials) of each, with trials > 0; the order does not matter. None without any.
    """
    if not clusters:
        return None
    table = np.array(sorted(clusters), dtype=np.int64)

    def shares(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        # How often each cluster is drawn: as good as drawing them one by one.
        sums = generator.multinomial(len(table), np.full(len(table), 1 / len(table)), size=count) @ table
        return sums[:, 0] / sums[:, 1]

    return _percentiles(shares, len(table), CONFIDENCE, resamples, seed)


def bootstrap_clusters(
    statistics: Callable[[NDArray[np.int64]], NDArray[np.float64]], clusters: int, resamples: int = RESAMPLES, seed: int = SEED
) -> list[tuple[float, float]]:
    """Percentile intervals of k statistics, drawing whole clusters (a prompt is one) with replacement.

    statistics: takes how often each cluster was drawn, (n, clusters), and gives the values of n resamples, (n, k); where one is
    not defined (nan), that resample is left out of its interval, and both ends are nan where none is left.
    """

    def values(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        return statistics(generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=count))

    found = _drawn(values, clusters, resamples, seed)
    return [_middle(column[np.isfinite(column)], CONFIDENCE) for column in found.T]


def _percentiles(
    draw: Callable[[np.random.Generator, int], NDArray[np.float64]], size: int, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """The middle `confidence` of what `draw` gives for resamples of `size` numbers."""
    return _middle(_drawn(draw, size, resamples, seed), confidence)


def _drawn(
    draw: Callable[[np.random.Generator, int], NDArray[np.float64]], size: int, resamples: int, seed: int
) -> NDArray[np.float64]:
    """What `draw` gives, called for some resamples of `size` numbers at a time to save memory."""
    generator, step = np.random.default_rng(seed), max(1, _CHUNK // size)
    return np.concatenate([draw(generator, min(step, resamples - start)) for start in range(0, resamples, step)])


def _middle(found: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    if not found.size:
        return nan, nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def kendall_tau(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Kendall's tau-b of two rankings (..., n) along the last axis (Kendall 1945): pairs in the same order less pairs in the
    other order, over the geometric mean of the numbers of pairs that each does not tie. nan where one ties all. scipy's takes one
    ranking at a time, which a bootstrap of thousands would wait for."""
    orders = []
    for values in (np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)):
        i, j = np.triu_indices(values.shape[-1], 1)
        orders.append(np.sign(values[..., i] - values[..., j]))
    return _cosine(*orders)


def spearman_rho(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Spearman's rho of two rankings (..., n) along the last axis: Pearson's correlation of their ranks, equal ones sharing the
    mean of theirs (Spearman 1904). nan where one ties all."""
    ranks = [scipy.stats.rankdata(values, axis=-1) for values in (first, second)]
    return _cosine(*(values - values.mean(axis=-1, keepdims=True) for values in ranks))


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    return np.divide((a * b).sum(axis=-1), lengths, out=np.full(np.shape(lengths), nan), where=lengths > 0)


def jackknife(whole: float, without: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a figure of a whole set (a Fréchet distance) from what it is without each of g groups of prompts.

    Delete-a-group jackknife (Efron & Tibshirani 1993, 11.5): se^2 = (g - 1) / g * sum (x_i - mean)^2, Student's t with g - 1
    degrees of freedom. Not the bootstrap: drawing prompts twice would make every Fréchet distance larger.
    """
    left = np.asarray(without, dtype=np.float64)
    if left.size < 2:
        return nan, nan
    error = sqrt((left.size - 1) / left.size * float(np.square(left - left.mean()).sum()))
    half = float(scipy.stats.t.ppf(0.5 + confidence / 2, left.size - 1)) * error
    return whole - half, whole + half


def wilson(successes: int, trials: int) -> tuple[float, float] | None:
    """Wilson's 95 % interval of a share; None without trials."""
    if trials == 0:
        return None
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def fleiss_kappa(counts: Sequence[Sequence[int]]) -> float | None:
    """Fleiss (1971): agreement beyond chance. counts (subjects, classes): how many raters chose each class.

    Exact fractions inside. None where it is not defined: no subject, one rater, or all votes in one class.
    ValueError: subjects with different numbers of raters.
    """
    if not counts:
        return None
    raters = sum(counts[0])
    if any(sum(row) != raters for row in counts):
        raise UserError("counts: expected the same number of raters for every subject, found different ones; leave those out.")
    total = raters * len(counts)
    chance = sum(Fraction(sum(column), total) ** 2 for column in zip(*counts, strict=True)) if total else Fraction(1)
    if raters < 2 or chance == 1:
        return None
    agreement = Fraction(sum(count * (count - 1) for row in counts for count in row), total * (raters - 1))
    return float((agreement - chance) / (1 - chance))
