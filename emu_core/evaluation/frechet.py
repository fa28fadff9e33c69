"""Fréchet distance and Inception score, from features that come in piece by piece. All sums are float64.

Shapes: `n` samples, `d` features, `k` classes. What is kept does not grow with n. Own code: ComfyUI brings no torchmetrics,
whose Inception score keeps all samples and whose Fréchet distance does not centre its sums; tests compare with both.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from ..limits import how, limits
from ..media.files import PathLike, whole_file
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
            raise UserError(f"features: expected (n, {self.mean.size}), found {batch.shape}; use one network for all")
        if not np.isfinite(batch).all():
            raise UserError("features: expected finite numbers, found nan or infinity; check the network's precision")
        mean = batch.mean(axis=0)
        self._merge(len(batch), mean, (batch - mean).T @ (batch - mean))

    def _merge(self, count: int, mean: Array, scatter: Array) -> None:
        total, shift = self.count + count, mean - self.mean
        if total:
            self._scatter += scatter + np.outer(shift, shift) * (self.count * count / total)
            self.mean = self.mean + shift * (count / total)
            self.count = total

    @property
    def covariance(self) -> Array:
        """(d, d), unbiased (n - 1), as in the reference implementations."""
        if self.count < 2:
            raise UserError(f"a covariance needs 2 or more samples, found {self.count}; give more videos")
        return self._scatter / (self.count - 1)


def merged(parts: Sequence[Gaussian]) -> Gaussian:
    """All samples of several together."""
    whole = Gaussian(parts[0].mean.size)
    for part in parts:
        whole._merge(part.count, part.mean, part._scatter)
    return whole


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; FID: Heusel et al. 2017, FVD: Unterthiner et al. 2018).

    The trace of the root is the sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which is symmetric: no complex
    numbers, and no small constant on the diagonal where there are fewer samples than features.
    """
    if first.mean.shape != second.mean.shape:
        raise UserError(f"expected features of one size, found {first.mean.size} and {second.mean.size}; use one network")
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
            raise UserError(f"expected probabilities (n, {self._sums.shape[1]}) of sum 1, found {rows.shape}; apply a softmax")
        which = np.atleast_1d(np.asarray(splits, dtype=np.int64))
        np.add.at(self.counts, which, 1)
        np.add.at(self._sums, which, rows)
        np.add.at(self._negative_entropy, which, _negative_entropy(rows))

    def take(self, other: InceptionScore, split: int) -> None:
        """Add all samples of another one (of one split) to a split."""
        self.counts[split] += other.counts[0]
        self._sums[split] += other._sums[0]
        self._negative_entropy[split] += other._negative_entropy[0]

    @property
    def classes(self) -> int:
        """How many there are, k."""
        return int(self._sums.shape[1])

    def result(self) -> tuple[float, float]:
        """Mean and standard deviation (n - 1; nan for one split) over the splits that have samples; nan without any."""
        used = self.counts > 0
        marginal = self._sums[used] / self.counts[used, None]
        scores = np.exp(self._negative_entropy[used] / self.counts[used] - _negative_entropy(marginal))
        mean = float(scores.mean()) if scores.size else nan
        return mean, float(scores.std(ddof=1)) if scores.size > 1 else nan


def _negative_entropy(rows: Array) -> Array:
    return (rows * np.log(rows.clip(min=_SMALLEST))).sum(axis=1)


def split_numbers(samples: int, splits: int) -> NDArray[np.int64]:
    """(samples,): which of the splits each sample belongs to. Drawn, since videos often come sorted by class."""
    sizes = [len(part) for part in np.array_split(np.empty(samples), splits)]
    numbers = np.empty(samples, dtype=np.int64)
    numbers[np.random.default_rng(0).permutation(samples)] = np.repeat(np.arange(splits), sizes)
    return numbers


def save_statistics(path: PathLike, statistics: Gaussian, facts: Mapping[str, str]) -> None:
    """Write mean, covariance and count as .npz, with `facts` (network, sha256, preprocessing), whole or not at all."""
    if Path(path).suffix.lower() != ".npz":
        raise UserError(f"{path}: expected a name that ends in .npz for the statistics, found another; change it")
    told: dict[str, Any] = {f"fact_{name}": np.array(value) for name, value in facts.items()}
    with whole_file(path) as part, open(part, "wb") as file:
        np.savez(file, count=statistics.count, mean=statistics.mean, covariance=statistics.covariance, **told)


_BROKEN = (zipfile.BadZipFile, zlib.error)


def _check_archive(path: PathLike) -> None:
    """ValueError where arrays claim more than their part of the archive has, or it unfolds to more than the limit."""
    with zipfile.ZipFile(path) as archive:
        if (size := sum(part.file_size for part in archive.infolist())) > limits().bytes:
            raise UserError(f"{size:,} bytes of arrays; {how('bytes')}")
        for part in archive.infolist():
            with archive.open(part) as file:
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _, kind = read[np.lib.format.read_magic(file)](file)
                if math.prod(shape) * kind.itemsize > part.file_size:
                    raise UserError(f"an array {shape} in {part.file_size:,} bytes")


def load_statistics(path: PathLike, facts: Mapping[str, str]) -> Gaussian:
    """Read what save_statistics wrote. Raises ValueError where `facts` differ: such features cannot be compared."""
    try:
        _check_archive(path)
        with np.load(path, allow_pickle=False) as file:
            found = {name.removeprefix("fact_"): str(file[name]) for name in file.files if name.startswith("fact_")}
            count, mean, covariance = int(file["count"]), file["mean"], file["covariance"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, OverflowError, RuntimeError, *_BROKEN) as problem:
        wanted = f"{path}: expected statistics of `emu-video evaluate --save-reference`"
        raise UserError(f"{wanted}, found others ({problem}); make it again") from problem
    for name, value in facts.items():
        if found.get(name) != value:
            said = found.get(name, "nothing said")
            raise UserError(f"{path}: expected statistics with {name} {value}, found {said}; make them again with this network")
    statistics = Gaussian(mean.size)
    statistics.count, statistics.mean, statistics._scatter = count, mean, covariance * (count - 1)
    return statistics
