"""The numbers of a report: agreement, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000


def fleiss_kappa(counts: Sequence[Sequence[int]]) -> float | None:
    """Fleiss (1971): agreement beyond chance. counts (subjects, classes): how many raters chose each class.

    Exact fractions inside. None where it is not defined: no subject, one rater, or all votes in one class.
    ValueError: subjects with different numbers of raters.
    """
    if not counts:
        return None
    raters = sum(counts[0])
    if any(sum(row) != raters for row in counts):
        raise ValueError("counts: expected the same number of raters for every subject, found different ones; leave those out.")
    total = raters * len(counts)
    chance = sum(Fraction(sum(column), total) ** 2 for column in zip(*counts, strict=True)) if total else Fraction(1)
    if raters < 2 or chance == 1:
        return None
    agreement = Fraction(sum(count * (count - 1) for row in counts for count in row), total * (raters - 1))
    return float((agreement - chance) / (1 - chance))


def wilson(successes: int, trials: int) -> tuple[float, float] | None:
    """Wilson's 95 % interval of a share; None without trials."""
    if trials == 0:
        return None
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap(clusters: Sequence[tuple[int, int]], seed: int = 0) -> tuple[float, float] | None:
    """Percentile 95 % interval of sum(successes) / sum(trials), drawing whole clusters (a prompt is one) with replacement.

    clusters: (successes, trials) of each, with trials > 0; the order does not matter. None without any.
    """
    if not clusters:
        return None
    table = np.array(sorted(clusters), dtype=np.int64)
    generator = np.random.default_rng(seed)
    # How often each cluster is drawn: the same as drawing them one by one, and small in memory when done in parts.
    shares = []
    step = max(1, 4_000_000 // len(table))
    for start in range(0, RESAMPLES, step):
        drawn = generator.multinomial(len(table), np.full(len(table), 1 / len(table)), size=min(step, RESAMPLES - start))
        sums = drawn @ table
        shares.append(sums[:, 0] / sums[:, 1])
    low, high = np.quantile(np.concatenate(shares), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
