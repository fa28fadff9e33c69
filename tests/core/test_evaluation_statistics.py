"""Intervals against scipy and by simulation; Fréchet distance and Inception score against torchmetrics and closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap, kendalltau, spearmanr
from torch import Tensor, nn

from emu_core.evaluation.frechet import (
    Gaussian,
    InceptionScore,
    frechet_distance,
    load_statistics,
    merged,
    save_statistics,
    split_numbers,
)
from emu_core.evaluation.statistics import (
    bootstrap_clusters,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_share,
    jackknife,
    kendall_tau,
    spearman_rho,
)


def test_bootstrap_is_scipys() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=80)
    ours = bootstrap_mean(values, resamples=20_000)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0))
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(theirs.confidence_interval, rel=1e-12)
    assert bootstrap_mean(values) == bootstrap_mean(values)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    inside = 0
    for _ in range(200):
        found = bootstrap_mean(generator.normal(1.0, 2.0, size=40), resamples=400)
        inside += found.low <= 1.0 <= found.high
    assert 0.89 <= inside / 200 <= 0.99


def test_prompts_without_a_figure_are_left_out() -> None:
    found = bootstrap_mean([1.0, float("nan"), 3.0])
    assert (found.value, found.count, bootstrap_mean([float("nan")]).count) == (2.0, 2, 0)
    assert np.isnan(bootstrap_mean([4.0]).low)


def test_paired_differences_are_narrower_than_the_systems() -> None:
    generator = np.random.default_rng(3)
    hard = generator.normal(0, 5, size=60)  # how hard each prompt is, for both alike
    a, b = hard + generator.normal(0.5, 0.2, size=60), hard + generator.normal(0, 0.2, size=60)
    paired, alone = bootstrap_difference(a, b), bootstrap_mean(a)
    assert 0.3 < paired.low < 0.5 < paired.high < 0.7
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)


def test_clusters_are_drawn_whole_and_what_is_not_defined_is_left_out() -> None:
    table = np.array([(n % 3, 3) for n in range(40)])

    def shares(drawn: np.ndarray) -> np.ndarray:
        hits, tried = (drawn @ table).T
        return np.stack([hits / tried, np.where(drawn[:, 0] > 0, 7.0, np.nan), np.full(len(drawn), np.nan)], axis=1)

    first, second, third = bootstrap_clusters(shares, 40, 10_000)
    alone = bootstrap_share([(int(hits), int(tried)) for hits, tried in table], 10_000)
    assert first == pytest.approx(alone, abs=0.005)
    assert second == (7, 7)
    assert np.isnan(third).all()
    assert bootstrap_clusters(shares, 40, 100)[:2] == bootstrap_clusters(shares, 40, 100)[:2]


# -- rank correlation


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_rank_correlations_are_scipys_with_ties_too(count: int) -> None:
    generator = np.random.default_rng(count)
    a, b = generator.normal(size=(20, count)), generator.integers(0, 4, size=(20, count)).astype(float)
    for x, y in ((a, generator.normal(size=a.shape)), (a, b), (b, b[::-1])):
        taus, rhos = kendall_tau(x, y), spearman_rho(x, y)
        for row in range(20):
            if len({*x[row]}) > 1 and len({*y[row]}) > 1:
                assert taus[row] == pytest.approx(kendalltau(x[row], y[row]).statistic, abs=1e-12)
                assert rhos[row] == pytest.approx(spearmanr(x[row], y[row]).statistic, abs=1e-12)
            else:
                assert np.isnan([taus[row], rhos[row]]).all()


def test_rank_correlations_have_closed_forms() -> None:
    order = np.arange(6.0)
    swapped = np.array([0.0, 2.0, 1.0, 3.0, 4.0, 5.0])  # one of 15 pairs the other way round; ranks off by 1 twice
    assert kendall_tau(order, swapped) == pytest.approx(1 - 2 / 15, abs=1e-15)
    assert spearman_rho(order, swapped) == pytest.approx(1 - 6 * 2 / (6 * 35), abs=1e-15)
    assert kendall_tau(order, np.exp(order)) == spearman_rho(order, -np.exp(-order)) == 1
    assert kendall_tau(order, order[::-1]) == spearman_rho(order, order[::-1]) == -1
    # tau-b of two tied in one ranking of three: 2 pairs the same way, of 3 and of 2 that are not tied
    assert kendall_tau([1.0, 2.0, 3.0], [1.0, 2.0, 2.0]) == pytest.approx(2 / np.sqrt(3 * 2))
    assert np.isnan(kendall_tau(order, 0 * order))
    assert np.isnan(spearman_rho(order, 0 * order))


# -- Fréchet distance


class _Pass(nn.Module):
    """Images that already are features."""

    num_features = 12

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).float()


def _features(seed: int, count: int, size: int = 12) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(count, size)) @ generator.normal(size=(size, size)) + generator.normal(size=size)).astype("f4")


def _gaussian(features: np.ndarray, batch: int = 7) -> Gaussian:
    found = Gaussian(features.shape[1])
    for start in range(0, len(features), batch):
        found.add(features[start : start + batch])
    return found


@pytest.mark.parametrize(("real", "made"), [(300, 200), (40, 9), (5, 6)])
def test_frechet_distance_is_torchmetrics(real: int, made: int) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    a, b = _features(1, real), _features(2, made)
    theirs = FrechetInceptionDistance(feature=_Pass(), input_img_size=(3, 2, 2), normalize=True).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(a).double().view(-1, 3, 2, 2), real=True)
    theirs.update(torch.from_numpy(b).double().view(-1, 3, 2, 2), real=False)
    # the double of float32 features, as both see them
    ours = frechet_distance(_gaussian(b), _gaussian(a))
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-4)


def test_frechet_distance_of_diagonal_gaussians_has_a_closed_form() -> None:
    def exact(mean: np.ndarray, deviation: np.ndarray) -> Gaussian:
        """Samples with exactly this mean and covariance."""
        size = len(mean)
        corners = np.concatenate([np.eye(size), -np.eye(size)]) * np.sqrt((2 * size - 1) / 2)
        return _gaussian(corners * deviation + mean)

    m1, m2 = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.5])
    s1, s2 = np.array([1.0, 3.0, 0.2]), np.array([2.0, 0.5, 0.2])
    truth = np.square(m1 - m2).sum() + np.square(s1 - s2).sum()
    assert frechet_distance(exact(m1, s1), exact(m2, s2)) == pytest.approx(truth, rel=1e-10)
    assert frechet_distance(exact(m1, s1), exact(m1, s1)) == pytest.approx(0, abs=1e-9)


def test_sums_in_batches_are_the_sums_of_all() -> None:
    features = _features(4, 101) + 1e4  # far from zero, where sums of squares would lose their digits
    whole = _gaussian(features, batch=101)
    for found in (_gaussian(features, batch=1), merged([_gaussian(features[:40]), _gaussian(features[40:])])):
        assert np.allclose(found.mean, np.mean(features, axis=0, dtype="f8"), rtol=1e-12)
        assert np.allclose(found.covariance, np.cov(features.astype("f8").T), rtol=1e-9, atol=1e-9)
        assert found.count == whole.count == 101


def test_features_of_another_size_or_with_nan_are_refused() -> None:
    found = Gaussian(4)
    with pytest.raises(ValueError, match=r"expected \(n, 4\), found \(1, 5\)"):
        found.add(np.zeros(5))
    with pytest.raises(ValueError, match="finite"):
        found.add([0, 1, 2, np.nan])
    with pytest.raises(ValueError, match="2 or more samples"):
        _ = found.covariance


def test_statistics_of_another_network_are_refused(tmp_path: Path) -> None:
    facts = {"name": "i3d.pt", "sha256": "ab", "preprocessing": "size 224"}
    given = _gaussian(_features(1, 30))
    save_statistics(tmp_path / "r.npz", given, facts)
    found = load_statistics(tmp_path / "r.npz", facts)
    assert frechet_distance(found, given) == pytest.approx(0, abs=1e-8)
    with pytest.raises(ValueError, match="expected statistics with sha256 cd, found ab"):
        load_statistics(tmp_path / "r.npz", {**facts, "sha256": "cd"})
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="save-reference"):
        load_statistics(tmp_path / "bad.npz", facts)


def test_jackknife_of_a_mean_is_students() -> None:
    values = np.random.default_rng(0).normal(size=10)
    without = [float(np.delete(values, i).mean()) for i in range(10)]
    low, high = jackknife(float(values.mean()), without)
    half = 2.262157 * values.std(ddof=1) / np.sqrt(10)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-5)


# -- Inception score


def test_inception_score_is_torchmetrics() -> None:
    from torchmetrics.image.inception import InceptionScore as Theirs

    logits = torch.from_numpy(_features(7, 95)).double()
    theirs = Theirs(feature=_Pass(), splits=10, normalize=True).set_dtype(torch.float64)
    theirs.features = [logits]
    torch.manual_seed(11)
    mean, deviation = (float(value) for value in theirs.compute())
    torch.manual_seed(11)
    splits = np.empty(95, dtype=np.int64)
    for split, members in enumerate(torch.randperm(95).chunk(10)):
        splits[members] = split
    ours = InceptionScore(12, 10)
    for start in range(0, 95, 8):
        ours.add(logits[start : start + 8].softmax(dim=1).numpy(), splits[start : start + 8])
    assert ours.result() == pytest.approx((mean, deviation), rel=1e-4)


def test_inception_score_of_sure_and_varied_classes_is_their_number() -> None:
    score = InceptionScore(5, 1)
    score.add(np.eye(5).repeat(3, axis=0), np.zeros(15, dtype=int))
    assert score.result()[0] == pytest.approx(5)
    blind = InceptionScore(5, 1)
    blind.add(np.full((15, 5), 0.2), np.zeros(15, dtype=int))
    assert blind.result()[0] == pytest.approx(1)
    with pytest.raises(ValueError, match="softmax"):
        blind.add(np.ones((2, 5)), np.zeros(2, dtype=int))


def test_splits_are_even_and_mixed() -> None:
    numbers = split_numbers(95, 10)
    assert sorted(np.bincount(numbers)) == [9] * 5 + [10] * 5
    assert len(set(numbers[:10].tolist())) > 3
    assert (numbers == split_numbers(95, 10)).all()
