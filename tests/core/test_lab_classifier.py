"""The laboratory's classifier, trained for seconds: what it knows of clips that it never saw, and what its distance sees."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from emu_core.evaluation.metrics import METRICS
from emu_core.evaluation.statistics import Interval
from emu_core.lab import classifier
from emu_core.lab.classifier import (
    FEATURES,
    FVD_LAB,
    IS_LAB,
    Budget,
    Classes,
    Classifier,
    Seen,
    accuracy,
    frechet,
    inception,
    labelled,
    render,
    train,
    trained_at,
)
from emu_core.toy import world

CLASSES = Classes(("square", "fish", "rocket"), ("right", "left", "still", "jumps"))
LEAST = Budget(clips=16, batch=8)


def videos(number: int, seed: int) -> Tensor:
    """Real ones (number, 8, 3, 64, 64) of combinations that no training sees."""
    return render(list(islice(labelled(world.clips, CLASSES, seed, held_out=True), number)))


@pytest.fixture(scope="module")
def trained() -> Classifier:
    return train(CLASSES, Budget(clips=1280, batch=8))


@pytest.fixture(scope="module")
def reference(trained: Classifier) -> Seen:
    return trained.look(videos(96, 5))


def test_figures_and_motions_of_unseen_combinations_are_told_apart(trained: Classifier) -> None:
    found = accuracy(trained, 96)
    assert found["figure"] > 0.5 > 1 / 3 + 3 * (2 / 9 / 96) ** 0.5  # chance, and three times its error
    assert found["motion"] > 0.7


def shuffled(video: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([one[torch.randperm(8, generator=generator)] for one in video])


def blurred(video: Tensor) -> Tensor:
    padded = F.pad(video.flatten(0, 1), (2,) * 4, "replicate")
    return F.avg_pool2d(padded, 5, 1).unflatten(0, video.shape[:2])


def frozen(video: Tensor) -> Tensor:
    return video[:, :1].expand_as(video)


@pytest.fixture(scope="module")
def floor(trained: Classifier, reference: Seen) -> Interval:
    """Of other real videos, as many."""
    return frechet(trained.look(videos(96, 6)), reference)


@pytest.mark.parametrize("change", [shuffled, blurred, frozen])
def test_real_videos_are_far_nearer_to_real_ones_than_damaged_ones(
    trained: Classifier, reference: Seen, floor: Interval, change: Any
) -> None:
    found = frechet(trained.look(change(videos(96, 6))), reference)
    assert found.value > 2.5 * floor.value
    assert found.low < found.value < found.high
    assert found.count == 96


def test_distances_and_scores_are_those_of_their_definitions(reference: Seen) -> None:
    assert frechet(reference, reference).value == pytest.approx(0, abs=1e-6)
    moved = Seen(reference.features + 0.5, reference.figures, reference.motions)
    assert frechet(moved, reference).value == pytest.approx(FEATURES * 0.25, rel=1e-6)  # the means alone differ
    assert np.allclose(reference.classes.sum(1), 1)
    assert np.allclose(reference.classes.reshape(96, 3, 4).sum(2), reference.figures)
    sure = Seen(reference.features, np.repeat(np.eye(3), 32, axis=0), np.tile(np.eye(4), (24, 1)))  # each of 12 classes 8 times
    some = inception(sure)
    assert (some.value, some.count) == (pytest.approx(12), 96)
    assert some.low < 12 < some.high
    assert inception(Seen(sure.features, sure.figures, np.full((96, 4), 0.25))).value == pytest.approx(3)
    few = inception(Seen(sure.features[:8], sure.figures[:8], sure.motions[:8]))  # one figure
    assert (few.value, few.count, np.isnan(few.low)) == (pytest.approx(4), 8, True)


def test_its_figures_have_names_of_their_own() -> None:
    known = {metric.key for metric in METRICS}
    assert not {FVD_LAB.key, IS_LAB.key} & known
    assert (FVD_LAB.better, IS_LAB.better) == ("lower", "higher")


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    states = []
    for seed, before in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(before)
        states.append(train(CLASSES, LEAST, seed).network.state_dict())
        assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(before))
    one, again, other = states
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_file_keeps_all_of_it_and_another_file_is_refused(trained: Classifier, tmp_path: Path) -> None:
    trained.save(tmp_path / "c.safetensors")
    again, some = Classifier.load(tmp_path / "c.safetensors"), videos(4, 9)
    assert again.classes == CLASSES
    for name in ("features", "figures", "motions"):
        assert np.array_equal(getattr(again.look(some), name), getattr(trained.look(some), name))
    content = (tmp_path / "c.safetensors").read_bytes()
    again.save(tmp_path / "d.safetensors")
    assert (tmp_path / "d.safetensors").read_bytes() == content
    (tmp_path / "cut.safetensors").write_bytes(content[:-1000])
    with pytest.raises(ValueError, match=r"cut\.safetensors"):
        Classifier.load(tmp_path / "cut.safetensors")
    classifier.save_tensors({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="expected emu-video lab classifier 1, found a file that says nothing of it"):
        Classifier.load(tmp_path / "other.safetensors")


def test_it_is_trained_once_and_again_where_anything_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []

    def counted(*arguments: Any) -> Classifier:
        runs.append(arguments)
        return train(*arguments)

    monkeypatch.setattr(classifier, "train", counted)
    file = tmp_path / "new" / "c.safetensors"
    first, again = (trained_at(file, CLASSES, LEAST) for _ in range(2))
    assert len(runs) == 1
    assert all(torch.equal(value, again.network.state_dict()[name]) for name, value in first.network.state_dict().items())
    trained_at(file, CLASSES, LEAST, seed=1)
    trained_at(file, Classes(CLASSES.figures[:2], CLASSES.motions), LEAST, seed=1)

    def posed(seed: int, indices: Sequence[int], held_out: bool) -> list[world.Clip]:
        return [world.posed(clip) for clip in world.clips(seed, indices, held_out)]

    assert trained_at(file, CLASSES, LEAST, 1, posed).classes == CLASSES
    assert len(runs) == 4
    assert [path.name for path in file.parent.iterdir()] == ["c.safetensors"]


def test_only_clips_of_the_classes_are_drawn_and_only_videos_of_its_shape_are_looked_at(trained: Classifier) -> None:
    some = list(islice(labelled(world.clips, CLASSES, 0, held_out=False), 100))
    assert {clip.figure for clip in some} == {*CLASSES.figures}
    assert {clip.motion for clip in some} == {*CLASSES.motions}
    for shape in ((1, 7, 3, 64, 64), (8, 3, 64, 64), (0, 8, 3, 64, 64), (1, 8, 64, 64, 3)):
        with pytest.raises(ValueError, match="looks at videos"):
            trained.look(torch.zeros(shape))
