"""Fréchet distance and Inception score, from features that come in piece by piece. All sums are float64.

Shapes: `n` samples, `d` features, `k` classes. What is kept does not grow with n. Own code: ComfyUI brings no torchmetrics,
whose Inception score keeps all samples and whose Fréchet distance does not centre its sums; tests compare with both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..media.files import whole_file
from ..networks import Array

_SMALLEST = 1e-30


class Gaussian:
    """Mean and covariance of features, updated batch by batch (Chan, Golub & LeVeque 1979)."""

    def __init__(self, features: int) -> None:
        self.count = 0
        self.mean: Array = np.zeros(features)
        self._scatter: Array = np.zeros((features, features))  # sum of (x - mean) (x - mean)^T

    def add(self, features: ArrayLike) -> None:
        """features (n, d) or (d,). Raises ValueError for another d and for nan or infinity."""
        batch = np.atleast_2d(np.asarray(features, dtype=np.float64))
        if batch.ndim != 2 or batch.shape[1] != self.mean.size:
            raise ValueError(f"features: expected (n, {self.mean.size}), found {batch.shape}; use one network for all")
        if not np.isfinite(batch).all():
            raise ValueError("features: expected finite numbers, found nan or infinity; check the network's precision")
        part = Gaussian(self.mean.size)
        part.count, part.mean = len(batch), batch.mean(axis=0)
        centred = batch - part.mean
        part._scatter = centred.T @ centred
        self.merge(part)

    def merge(self, other: Gaussian) -> None:
        """Take in all samples of another one."""
        total = self.count + other.count
        if total == 0:
            return
        shift = other.mean - self.mean
        self._scatter += other._scatter + np.outer(shift, shift) * (self.count * other.count / total)
        self.mean = self.mean + shift * (other.count / total)
        self.count = total

    @property
    def covariance(self) -> Array:
        """(d, d), unbiased (n - 1), as in the reference implementations."""
        if self.count < 2:
            raise ValueError(f"a covariance needs 2 or more samples, found {self.count}; give more videos")
        return self._scatter / (self.count - 1)


def merged(parts: Sequence[Gaussian]) -> Gaussian:
    """All samples of several together."""
    whole = Gaussian(parts[0].mean.size)
    for part in parts:
        whole.merge(part)
    return whole


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; FID: Heusel et al. 2017, FVD: Unterthiner et al. 2018).

    The trace of the root is the sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which is symmetric: no complex
    numbers, and no small constant on the diagonal where there are fewer samples than features.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"expected features of one size, found {first.mean.size} and {second.mean.size}; use one network")
    s1, s2 = first.covariance, second.covariance
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    inner = root @ s2 @ root
    roots = np.sqrt(np.linalg.eigvalsh((inner + inner.T) / 2).clip(min=0))
    shift = first.mean - second.mean
    return max(0.0, float(shift @ shift + np.trace(s1) + np.trace(s2) - 2 * roots.sum()))  # rounding can leave -1e-9


class InceptionScore:
    """exp(mean over samples of KL(p(y|x) || p(y))) (Salimans et al. 2016, eq. 1), in splits; only sums are kept."""

    def __init__(self, classes: int, splits: int) -> None:
        self.counts: Array = np.zeros(splits)
        self._sums: Array = np.zeros((splits, classes))
        self._negative_entropy: Array = np.zeros(splits)

    def add(self, probabilities: ArrayLike, splits: ArrayLike) -> None:
        """probabilities (n, k), rows of sum 1; splits (n,), which split each row belongs to."""
        rows = np.atleast_2d(np.asarray(probabilities, dtype=np.float64))
        if rows.shape[1] != self._sums.shape[1] or not np.allclose(rows.sum(axis=1), 1, atol=1e-3):
            raise ValueError(f"expected probabilities (n, {self._sums.shape[1]}) of sum 1, found {rows.shape}; apply a softmax")
        which = np.atleast_1d(np.asarray(splits, dtype=np.int64))
        np.add.at(self.counts, which, 1)
        np.add.at(self._sums, which, rows)
        np.add.at(self._negative_entropy, which, (rows * np.log(rows.clip(min=_SMALLEST))).sum(axis=1))

    def take(self, other: InceptionScore, split: int) -> None:
        """Add all samples of another one (of one split) to a split."""
        self.counts[split] += other.counts[0]
        self._sums[split] += other._sums[0]
        self._negative_entropy[split] += other._negative_entropy[0]

    @property
    def classes(self) -> int:
        return int(self._sums.shape[1])

    def scores(self) -> Array:
        """The score of each split that has samples."""
        used = self.counts > 0
        marginal = self._sums[used] / self.counts[used, None]
        negative = (marginal * np.log(marginal.clip(min=_SMALLEST))).sum(axis=1)
        return np.exp(self._negative_entropy[used] / self.counts[used] - negative)

    def result(self) -> tuple[float, float]:
        """Mean and standard deviation (n - 1; nan for one split) over the splits."""
        scores = self.scores()
        if scores.size == 0:
            return float("nan"), float("nan")
        return float(scores.mean()), float(scores.std(ddof=1)) if scores.size > 1 else float("nan")


def split_numbers(samples: int, splits: int, seed: int = 0) -> NDArray[np.int64]:
    """(samples,): which of the splits each sample belongs to. Drawn, since videos often come sorted by class."""
    order = np.random.default_rng(seed).permutation(samples)
    numbers = np.empty(samples, dtype=np.int64)
    for split, members in enumerate(np.array_split(order, splits)):
        numbers[members] = split
    return numbers


def save_statistics(path: str | os.PathLike[str], statistics: Gaussian, facts: Mapping[str, str]) -> None:
    """Write mean, covariance and count as .npz, with `facts` (network, sha256, preprocessing), whole or not at all."""
    if Path(path).suffix.lower() != ".npz":
        raise ValueError(f"{path}: expected a name that ends in .npz for the statistics, found another; change it")
    with whole_file(path) as part, open(part, "wb") as file:
        arrays = {"count": np.array(statistics.count), "mean": statistics.mean, "covariance": statistics.covariance}
        arrays |= {f"fact_{name}": np.array(value) for name, value in facts.items()}
        np.savez(file, allow_pickle=False, **arrays)


def load_statistics(path: str | os.PathLike[str], facts: Mapping[str, str]) -> Gaussian:
    """Read what save_statistics wrote. Raises ValueError where `facts` differ: such features cannot be compared."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name.removeprefix("fact_"): str(file[name]) for name in file.files if name.startswith("fact_")}
            count, mean, covariance = int(file["count"]), file["mean"], file["covariance"]
    except (OSError, ValueError, KeyError, EOFError) as problem:
        raise ValueError(
            f"{path}: expected statistics of `emu-video evaluate --save-reference`, found others ({problem}); make it again"
        ) from problem
    for name, value in facts.items():
        if found.get(name) != value:
            said = found.get(name, "nothing said")
            raise ValueError(f"{path}: expected statistics with {name} {value}, found {said}; make them again with this network")
    statistics = Gaussian(mean.size)
    statistics.count, statistics.mean, statistics._scatter = count, mean, covariance * (count - 1)
    return statistics
