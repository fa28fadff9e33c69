"""Simulated raters: what is known of their votes exactly, the study's report of them, and once real videos with known faults."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emu_core.evaluation.prompts import file_stem
from emu_core.lab import raters
from emu_core.lab.raters import NOTE, TABLE, simulate, weights, worth
from emu_core.media import write_video
from emu_core.study.create import create_study
from emu_core.study.exchange import import_new
from emu_core.study.questions import KEYS, reason_keys
from emu_core.study.report import build_report
from emu_core.study.results import Pair, Results
from emu_core.study.store import Study
from emu_core.study.tables import markdown
from emu_core.toy import measure, world
from emu_core.toy.measure import Row, Sample

from ..study import worlds

GOOD: Row = {
    **dict.fromkeys(("figure", "colour", "ground", "size", "motion", "amount", "last_frame_shape", "travel_ratio"), 1.0),
    **{"edge_error_px": 0.3, "wobble_px": 0.1, "area_variation": 0.02, "colour_drift": 3.0},
    **{"ground_flicker": 1.0, "colour_flicker": 1.0},
}
Rows = dict[str, dict[str, Row]]


def empty(folder: Path, rows: Mapping[str, Mapping[str, Row]], uid: str = "0123456789abcdef") -> Path:
    """A study of these systems and prompts without videos: raters that know the rows watch none."""
    prompts = list(next(iter(rows.values())))
    pairs = tuple(Pair(prompt, a, b, a * 64, b * 64) for prompt in prompts for a, b in combinations(rows, 2))
    import_new(Results(uid, "Title", 5, tuple(rows), {prompt: f"text of {prompt}" for prompt in prompts}, pairs), folder)
    return folder


def results_of(folder: Path) -> Results:
    with Study(folder) as study:
        return study.results()


def reported(folder: Path, rows: Rows, **settings: Any) -> dict[str, Any]:
    simulate(empty(folder, rows), rows, **settings)
    return build_report(results_of(folder))


def two(changed: Row, prompts: int, better: str = "a") -> Rows:
    """Systems a and b, of which the one that is not better has this other row."""
    return {name: {f"p{n:03d}": GOOD if name == better else {**GOOD, **changed} for n in range(prompts)} for name in "ab"}


def test_a_part_is_worth_what_its_formula_says() -> None:
    row = {**GOOD, "wobble_px": 0.2, "ground_flicker": 0.0, "colour_flicker": 5.0}
    assert worth(row, "quality")["motion_smoothness"] == pytest.approx((2 * math.exp(-1) + 1 + math.exp(-1)) / 4)
    assert worth(GOOD, "faithfulness") == {"spatial": 1.0, "temporal": 1.0}
    assert worth({**GOOD, "motion": 0.0}, "faithfulness")["temporal"] == pytest.approx((1 + math.exp(-2)) / 2)
    assert worth({**GOOD, "edge_error_px": math.nan}, "quality")["sharpness"] == 0 < worth(GOOD, "quality")["sharpness"]
    assert worth({}, "quality") == dict.fromkeys(reason_keys("quality"), 0.0)


def test_the_table_has_the_questionnaire_s_reasons_and_measures_that_there_are() -> None:
    assert {key: tuple(reasons) for key, reasons in TABLE.items()} == {key: reason_keys(key) for key in KEYS}
    clip, times = world.Clip("boat", "red", "white", "big", "right", start=(28.0, 32.0)), torch.arange(8) / 4
    known = set()
    for one in (clip, replace(clip, motion="still")):
        video = one.draw(times).permute(0, 2, 3, 1) / 2 + 0.5
        known |= measure.row(Sample(one, video, 4.0)).keys()
    assert {part.measure for reasons in TABLE.values() for parts in reasons.values() for part in parts} <= known


def test_weights_are_a_rater_s_own_and_equal_without_spread() -> None:
    drawn = [weights(3, rater, "quality") for rater in range(50)]
    assert all(sum(one.values()) == pytest.approx(1) and min(one.values()) > 0 for one in drawn)
    assert len({tuple(one.values()) for one in drawn}) == 50
    logs = np.log([list(one.values()) for one in drawn])
    assert (logs - logs.mean(1, keepdims=True)).std() == pytest.approx(0.5 * math.sqrt(4 / 5), rel=0.15)
    assert list(weights(3, 0, "quality", spread=0).values()) == pytest.approx([0.2] * 5)


@pytest.mark.parametrize("better", ["a", "b"])
def test_without_noise_a_clear_winner_gets_every_vote(tmp_path: Path, better: str) -> None:
    found = reported(tmp_path / "study", two({"wobble_px": 0.3, "motion": 0.0}, 12, better), noise=0)
    for question in KEYS:
        (row,) = found["questions"][question]["comparisons"]
        assert (row["win_rate"], row["vote_share"]) == ((1.0, 1.0) if better == "a" else (0.0, 0.0))
        assert found["questions"][question]["agreement"] == {"split": 0, "partial": 0, "complete": 12}
    assert (found["study"]["votes"], found["study"]["raters"], found["short"]) == (60, 5, [])


FAULTS = {
    "motion_smoothness": {"wobble_px": 0.6},
    "consistency": {"colour_drift": 30.0},
    "sharpness": {"edge_error_px": 1.5},
    "recognizable": {"last_frame_shape": 0.0},
    "motion_amount": {"travel_ratio": 0.1},
    "spatial": {"colour": 0.0},
    "temporal": {"motion": 0.0},
}


@pytest.mark.parametrize("reason", FAULTS)
def test_reasons_name_the_measure_that_differs(tmp_path: Path, reason: str) -> None:
    question = next(key for key in KEYS if reason in reason_keys(key))
    (row,) = reported(tmp_path / "study", two(FAULTS[reason], 4), noise=0)["questions"][question]["comparisons"]
    assert row["win_rate"] == 1
    assert row["reasons"]["first"]["share"] == {key: float(key == reason) for key in reason_keys(question)}


def test_votes_are_those_of_bradley_and_terry(tmp_path: Path) -> None:
    """A difference d wins 1 / (1 + exp(-d / noise)) of votes; with noise far above it, half."""
    rows = two({"edge_error_px": 0.6}, 300)
    difference = (math.exp(-0.5) - math.exp(-1)) / 5
    for noise in (difference, 100.0):
        found = reported(tmp_path / str(noise), rows, noise=noise, spread=0)
        (row,) = found["questions"]["quality"]["comparisons"]
        share = 1 / (1 + math.exp(-difference / noise))
        assert row["vote_share"] == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 1500))
        majority = sum(math.comb(5, k) * share**k * (1 - share) ** (5 - k) for k in (3, 4, 5))
        assert row["win_rate"] == pytest.approx(majority, abs=4 * math.sqrt(majority * (1 - majority) / 300))
        assert row["wilson"][0] < majority < row["wilson"][1]


def test_agreement_falls_with_noise(tmp_path: Path) -> None:
    rows = two({"edge_error_px": 0.9, "motion": 0.0}, 60)
    kappas, complete = [], []
    mixed: Rows = {name: {f"p{n:03d}": rows["ab"[(n + k) % 2]][f"p{n:03d}"] for n in range(60)} for k, name in enumerate("ab")}
    for noise in (0, 0.03, 0.1, 10):
        quality = reported(tmp_path / str(noise), mixed, noise=noise)["questions"]["quality"]
        kappas.append(quality["kappa"])
        complete.append(quality["agreement"]["complete"])
    assert kappas[0] == 1
    assert kappas == sorted(kappas, reverse=True)
    assert complete == sorted(complete, reverse=True)
    assert kappas[1] - 0.1 > kappas[2] > kappas[3] + 0.1
    assert abs(kappas[3]) < 0.15


def uneven(prompts: int = 8, systems: str = "abc") -> Rows:
    generator = np.random.default_rng(4)
    return {s: {f"p{n}": {**GOOD, "wobble_px": float(generator.uniform(0, 0.5))} for n in range(prompts)} for s in systems}


def test_the_same_seed_gives_the_same_votes_to_the_bit(tmp_path: Path) -> None:
    rows = uneven()
    for name, seed, uid in (("one", 1, "1" * 16), ("again", 1, "2" * 16), ("other", 2, "1" * 16)):
        assert simulate(empty(tmp_path / name, rows, uid), rows, seed=seed) == 8 * 3 * 5
    one, again, other = (results_of(tmp_path / name).pairs for name in ("one", "again", "other"))
    assert one == again != other
    assert simulate(tmp_path / "one", rows, seed=1) == 0
    assert results_of(tmp_path / "one").pairs == one
    with pytest.raises(ValueError, match="expected one vote of 'simulated 1', found another one here; nothing was taken"):
        simulate(tmp_path / "one", rows, seed=2)
    assert results_of(tmp_path / "one").pairs == one


def test_neither_the_order_of_systems_nor_the_side_nor_other_pairs_matter(tmp_path: Path) -> None:
    rows = uneven()
    turned = {name: dict(reversed(rows[name].items())) for name in "cba"}
    few = {name: {key: rows[name][key] for key in ("p1", "p5")} for name in "ab"}
    chosen = []
    for name, some in (("rows", rows), ("turned", turned), ("few", few)):
        simulate(empty(tmp_path / name, some), some)
        votes = [(pair, vote) for pair in results_of(tmp_path / name).pairs for vote in pair.votes]
        chosen.append({vote.uid: (vote.rater, getattr(pair, vote.quality.choice), vote.quality.reasons) for pair, vote in votes})
        left = [getattr(pair, vote.shown_left) == "a" for pair, vote in votes if "a" in (pair.first, pair.second)]
        assert 0 < sum(left) < len(left)
    assert chosen[0] == chosen[1]
    assert chosen[2].items() <= chosen[0].items()
    votes = [vote for pair in results_of(tmp_path / "rows").pairs for vote in pair.votes]
    took_left = np.mean([vote.quality.choice == vote.shown_left for vote in votes])
    assert took_left == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(len(votes)))


def test_equal_videos_are_decided_by_coins(tmp_path: Path) -> None:
    found = reported(tmp_path / "study", two({}, 200), noise=0)
    for question in KEYS:
        (row,) = found["questions"][question]["comparisons"]
        assert row["vote_share"] == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(1000))
        assert all(sum(row["reasons"][side]["given"].values()) == row["reasons"][side]["votes"] for side in ("first", "second"))


def test_of_more_raters_each_pair_has_five(tmp_path: Path) -> None:
    rows = two({"wobble_px": 0.3}, 40)
    found = reported(tmp_path / "study", rows, raters=12)
    votes = [row["votes"] for row in found["raters"]]
    assert (len(votes), sum(votes), found["study"]["complete_pairs"]) == (12, 200, 40)
    assert 5 < min(votes) < max(votes) < 30
    with pytest.raises(ValueError, match="expected at least the 5 that each pair of the study needs, found 4"):
        simulate(empty(tmp_path / "few", rows), rows, raters=4)


def test_a_study_says_first_that_its_raters_are_simulated(tmp_path: Path) -> None:
    rows = two({}, 2)
    found = reported(tmp_path / "study", rows)
    assert markdown(found).splitlines()[:3] == ["# Title", "", f"**{NOTE}**"]
    with Study(tmp_path / "study") as study:
        assert study.note == NOTE


def without_b(rows: Rows) -> Rows:
    return {"a": rows["a"]}


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        (without_b, {}, "rows: expected the measures of b's video of the prompt 'p000', found none"),
        (dict, {"noise": -1}, "noise and spread: expected numbers from 0"),
        (dict, {"spread": math.nan}, "noise and spread: expected numbers from 0"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_stored(
    tmp_path: Path, change: Callable[[Rows], Rows], settings: dict[str, float], words: str
) -> None:
    rows = two({}, 2)
    with pytest.raises(ValueError, match=words):
        simulate(empty(tmp_path / "study", rows), change(rows), **settings)  # type: ignore[arg-type]
    assert all(not pair.votes for pair in results_of(tmp_path / "study").pairs)


def test_votes_of_people_are_not_mixed_with_simulated_ones(tmp_path: Path) -> None:
    with Study.create(tmp_path / "study") as study:
        worlds.empty_pairs(study, 2)
        worlds.vote_all(study, 1, 0.5)
    rows = {name: dict.fromkeys(("0001", "0002"), GOOD) for name in "ab"}
    with pytest.raises(ValueError, match="without votes of people, found some of 'rater 0'; make another study"):
        simulate(tmp_path / "study", rows)
    assert results_of(tmp_path / "study").note == ""


def test_real_videos_with_known_faults(tmp_path: Path) -> None:
    """A study made of files: the world's own clips, blurred, and frozen at their first frame."""
    clips = [replace(clip, motion=motion) for clip, motion in zip(world.clips(7, range(3)), ("right", "left", "up"), strict=True)]
    clips = [
        replace(world.posed(clip), figure=figure, slowly=False)
        for clip, figure in zip(clips, ("boat", "car", "fish"), strict=True)
    ]
    (tmp_path / "prompts.txt").write_text("\n".join(clip.caption for clip in clips))
    rows: Rows = {name: {} for name in ("real", "blurred", "frozen")}
    for number, clip in enumerate(clips):
        real = world.render([clip], torch.arange(8) / 4)[0] / 2 + 0.5
        blurred = 0.5 * real + 0.5 * worlds.blur(real)
        for name, video in (("real", real), ("blurred", blurred), ("frozen", real[:1].expand_as(real))):
            frames = video.permute(0, 2, 3, 1)
            (tmp_path / name).mkdir(exist_ok=True)
            write_video(tmp_path / name / f"{file_stem(number, clip.caption)}.mp4", frames, 4.0)
            rows[name][f"{number:03d}"] = measure.row(Sample(clip, frames, 4.0))
    create_study(tmp_path / "study", {name: tmp_path / name for name in rows}, tmp_path / "prompts.txt")
    assert simulate(tmp_path / "study", rows, noise=0.001) == 3 * 3 * 5
    found = build_report(results_of(tmp_path / "study"))
    quality = {(row["first"], row["second"]): row for row in found["questions"]["quality"]["comparisons"]}
    faithful = {(row["first"], row["second"]): row for row in found["questions"]["faithfulness"]["comparisons"]}
    assert quality["real", "blurred"]["win_rate"] == quality["real", "frozen"]["win_rate"] == 1
    assert quality["real", "blurred"]["reasons"]["first"]["share"]["sharpness"] > 0.8
    assert quality["real", "frozen"]["reasons"]["first"]["share"]["motion_amount"] == 1
    assert faithful["real", "frozen"]["reasons"]["first"]["share"] == {"spatial": 0, "temporal": 1}
    assert found["study"]["note"] == raters.NOTE
