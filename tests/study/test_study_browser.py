"""The page in real headless Chromium. See browser.mjs.

Needs node, playwright-core in .browser/node_modules (npm install --prefix .browser playwright-core) and Chromium. The screenshots
are kept in the folder that EMU_SCREENSHOTS names, for a person to look at.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from emu_core.study.questions import QUESTIONS
from emu_core.study.report import build_report, write_report
from emu_core.study.results import SIDES
from emu_core.study.store import Study

from . import worlds
from .serving import LACKING, Serving, browse

needs_browser = pytest.mark.skipif(bool(LACKING), reason=f"THE PAGE WAS NOT TESTED: no {', '.join(LACKING)}")
SCREENS = ["welcome", "ready", "quality", "faithfulness", "offline", "paused", "welcome_dark", "quality_dark", "finished_dark"]

TASTES: dict[tuple[str, str], dict[str, float]] = {
    ("ours", "blurred"): {"quality": 0.9, "faithfulness": 0.6},
    ("ours", "frozen"): {"quality": 0.75, "faithfulness": 0.95},
    ("blurred", "frozen"): {"quality": 0.35, "faithfulness": 0.7},
}
"""How often a rater takes the first of two systems."""
QUALITY = {"ours": ("sharpness", "motion_amount"), "blurred": ("motion_smoothness",), "frozen": ("consistency", "recognizable")}
FAITHFULNESS = {"ours": ("temporal",), "blurred": ("temporal",), "frozen": ("spatial",)}
REASONS = {"quality": QUALITY, "faithfulness": FAITHFULNESS}


@needs_browser
def test_the_page_by_keys_at_both_widths(tmp_path: Path) -> None:
    folder = worlds.make_study(tmp_path, 3, "--raters", "1", systems=("ours", "blurred"))
    shots = Path(os.environ.get("EMU_SCREENSHOTS", tmp_path)) / "study"
    with Study(folder) as study, study.transaction() as db:
        db.execute("UPDATE study SET note = 'A <b>pilot</b>.'")
    with Serving(folder) as serving:
        found = browse("tour", serving.address, {}, shots, 180)
    assert found["errors"] == []  # no script error, and nothing that the content security policy had to block
    assert found["overflow"] <= 0
    assert found["note"] == "A <b>pilot</b>."
    assert found["name"] == '<b>Ann</b> "x"'
    assert found["prompt_hidden"]
    assert found["prompt"] in worlds.captions(3)
    assert found["drift"] < 0.1
    assert found["empty_name"]
    assert "Choose" in found["no_choice"]
    assert "at least one" in found["no_reason"]
    assert found["ticked"] == ["right", "motion_smoothness", "sharpness"]
    assert found["stopped"]
    assert found["same_after_reload"]
    assert "No connection" in found["offline"]
    assert found["progress"] == "2 of 3"
    assert found["calm"]
    assert "3 pairs" in found["finished"]
    for name in SCREENS:
        for size in ("desktop", "phone"):
            assert (shots / f"{name}_{size}.png").stat().st_size > 8_000
    with Study(folder) as study:
        assert study.counts()["votes"] == 3  # the one of the lost network is there, once
        assert study.events() == []


@needs_browser
def test_the_owners_page(tmp_path: Path) -> None:
    folder = worlds.make_study(tmp_path, 2, "--raters", "1", systems=("ours", "blurred"))
    with Study(folder) as study:
        worlds.vote_all_by(study, "Ann", 1)
        study.next_pair(study.join("Bob")[0])
        study.record(429, "POST /api/join", "one too many")
    shots = Path(os.environ.get("EMU_SCREENSHOTS", tmp_path)) / "study_owner"
    with Serving(folder) as serving:
        serving.stop()
        link = next(line.split()[-1] for line in serving.written.splitlines() if "owner.html#owner=" in line)
    with Serving(folder, port=int(link.split(":")[2].split("/")[0])) as serving:
        found = browse("owner", serving.address, {"address": link}, shots, 180)
    assert found["errors"] == []
    assert found["overflow"] <= 0
    assert found["votes"] == "1 of 2 votes"
    assert not found["note"]  # this study has none
    assert "Seats taken now\n1, 1 of them without a look at a video" in found["facts"]
    assert "Turned away in the last hour\n1: too many from one address" in found["facts"]
    assert found["closed"]
    assert found["open"]
    assert "for the study's owner" in found["stranger"]
    assert found["hidden"]
    with Study(folder) as study:
        assert study.signup_open


def plan_votes(study: Study, generator: random.Random) -> tuple[list[dict[str, Any]], dict[tuple[int, str], Counter[str]]]:
    """Five raters with the tastes above: what each does with each video on the left, and the votes that must come of it."""
    pairs = study._all(
        "SELECT p.id, x.name first, y.name second FROM pairs p "
        "JOIN videos a ON a.id = p.first_id JOIN videos b ON b.id = p.second_id "
        "JOIN systems x ON x.id = a.system_id JOIN systems y ON y.id = b.system_id ORDER BY p.id"
    )
    raters, expected = [], {(pair["id"], question.key): Counter[str]() for pair in pairs for question in QUESTIONS}
    for name, token in study.require_tokens(5):
        rater = study.join(token=token)[0]
        plan = {}
        for pair in pairs:
            left = study.sides(rater.id, pair["id"])["left"]
            steps = {}
            for question in QUESTIONS:
                taste = TASTES[pair["first"], pair["second"]][question.key]
                side = "first" if generator.random() < taste else "second"
                expected[pair["id"], question.key][pair[side]] += 1
                steps[question.key] = {"left": side == left, "reasons": REASONS[question.key][pair[side]]}
            plan[f"video/{study._name('video', rater.id, pair['id'], left)}.mp4"] = steps
        raters.append({"name": name, "token": token, "plan": plan})
    return raters, expected


def majority_share(taste: float, raters: int = 5) -> float:
    """How often the majority is for a system that each rater takes with this probability."""
    return sum(math.comb(raters, n) * taste**n * (1 - taste) ** (raters - n) for n in range(raters // 2 + 1, raters + 1))


@pytest.mark.slow
@needs_browser
def test_the_report_finds_what_the_raters_like(tmp_path: Path) -> None:
    """3 systems, 30 prompts, 5 raters: 450 votes by clicks and keys in the page.

    All twelve 95 % intervals hold what was planted for about half of all seeds (0.95 ** 12; 33 of the first 59); 11 is one.
    """
    folder = worlds.make_study(tmp_path, 30)
    with Study(folder) as study:
        raters, expected = plan_votes(study, random.Random(11))
    letters = {question.key: {reason.key: reason.letter for reason in question.reasons} for question in QUESTIONS}
    with Serving(folder) as serving:
        found = browse("raters", serving.address, {"raters": raters, "letters": letters}, tmp_path / "shots", 1500)
    assert (found["errors"], [rater["count"] for rater in found["raters"]]) == ([], [90] * 5)
    with Study(folder) as study:
        results = study.results()
        events = study.events()
    out = Path(os.environ.get("EMU_SCREENSHOTS", tmp_path)) / "study_report"
    out.mkdir(parents=True, exist_ok=True)
    write_report(results, out)
    assert events == []
    for number, pair in enumerate(results.pairs, 1):
        for question in QUESTIONS:
            got = Counter({getattr(pair, side): 0 for side in SIDES})
            got.update(getattr(pair, vote.answer(question.key).choice) for vote in pair.votes)
            assert got == expected[number, question.key]  # each click arrived as what it was meant to be
            for vote in pair.votes:
                answer = vote.answer(question.key)
                assert set(answer.reasons) == set(REASONS[question.key][getattr(pair, answer.choice)])
    check_report(build_report(results))


def check_report(report: dict[str, Any]) -> None:
    """The planted win rates and single votes lie within the intervals."""
    assert report["short"] == []
    for question in QUESTIONS:
        rows = report["questions"][question.key]["comparisons"]
        assert [(row["first"], row["second"]) for row in rows] == list(combinations(worlds.SYSTEMS, 2))
        for row in rows:
            taste = TASTES[row["first"], row["second"]][question.key]
            low, high = row["wilson"]
            assert low <= majority_share(taste) <= high, (row, json.dumps(question.key))
            low, high = row["vote_share_bootstrap"]
            assert low <= taste <= high, (row, question.key)
            for side in SIDES:
                reasons = row["reasons"][side]
                if reasons["votes"]:
                    named = REASONS[question.key][row[side]]
                    assert {key for key, share in reasons["share"].items() if share == 1} == set(named)
