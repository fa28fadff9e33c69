"""Automatic metrics against votes: closed forms on votes and figures that are given, and once with the commands themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emu_core.cli.main import main
from emu_core.study.correlation import AutomaticMetric, as_markdown, correlate, read_figures
from emu_core.study.exchange import import_new, write_results
from emu_core.study.report import build_report, write_files
from emu_core.study.results import Pair, Results
from emu_core.study.store import Study

from ..study import worlds
from .test_study_report import a_vote

SYSTEMS = ("a", "b", "c", "d")


def voted(worths: Sequence[Mapping[str, float]], raters: int = 3) -> Results:
    """A prompt for each mapping of systems to what they are worth; all raters prefer what is worth more."""
    pairs = []
    for number, worth in enumerate(worths):
        for first, second in combinations(worth, 2):
            name = f"{number}x{first}{second}x"
            votes = tuple(a_vote(f"{name}{k}", f"r{k}", worth[first] > worth[second]) for k in range(raters))
            pairs.append(Pair(f"p{number}", first, second, "1" * 64, "2" * 64, votes))
    systems = tuple(dict.fromkeys(name for worth in worths for name in worth))
    return Results("0123456789abcdef", "Title", raters, systems, {f"p{n}": f"text {n}" for n in range(len(worths))}, tuple(pairs))


def metric(whole: Mapping[str, float], better: str = "higher", **prompts: Mapping[str, float]) -> AutomaticMetric:
    return AutomaticMetric("m", "M", better, whole, prompts)


def entry(results: Results, one: AutomaticMetric, question: str = "quality") -> dict[str, Any]:
    (found,) = correlate(results, [one])["questions"][question]["metrics"]
    return found


def test_a_metric_with_the_order_of_the_votes_is_at_1_whichever_way_it_counts() -> None:
    results = voted([dict(zip(SYSTEMS, (4, 3, 2, 1), strict=True))] * 6)
    for better, figures in (("higher", (9, 5, 4, 1)), ("lower", (1, 4, 5, 9)), ("", (9, 5, 4, 1))):
        found = entry(results, metric(dict(zip(SYSTEMS, figures, strict=True)), better))
        assert found["kendall_tau"] == found["spearman_rho"] == {"value": 1.0, "low": 1.0, "high": 1.0}
        assert found["p"] == pytest.approx(2 / factorial(4))  # two of 24 orders are as far from 0
        assert found["better"] == (better or None)
        turned = entry(results, metric(dict(zip(SYSTEMS, figures[::-1], strict=True)), better))
        assert turned["kendall_tau"]["value"] == turned["spearman_rho"]["value"] == -1


def test_win_rates_are_those_of_the_report() -> None:
    generator = np.random.default_rng(2)
    results = voted([dict(zip(SYSTEMS, generator.permutation(4).tolist(), strict=True)) for _ in range(9)])
    found, report = correlate(results, [metric(dict.fromkeys(SYSTEMS, 1.0))]), build_report(results)
    for question in ("quality", "faithfulness"):
        rates = {row["system"]: row["win_rate"] for row in report["questions"][question]["systems"]}
        assert found["questions"][question]["win_rates"] == pytest.approx(rates, abs=1e-15)
    assert "same figure" in found["questions"]["quality"]["metrics"][0]["not_computed"]


def test_an_order_with_one_pair_the_other_way_is_two_thirds() -> None:
    results = voted([dict(zip(SYSTEMS, (4, 3, 2, 1), strict=True))] * 3)
    found = entry(results, metric({"a": 4.0, "b": 2.0, "c": 3.0, "d": 1.0}))
    assert found["kendall_tau"]["value"] == pytest.approx(2 / 3)
    assert found["spearman_rho"]["value"] == pytest.approx(0.8)


def test_intervals_draw_prompts_with_their_votes_and_figures() -> None:
    """Half of the prompts say one order and half the other, which the figures of each prompt follow: whatever prompts are drawn,
    figures and votes agree; figures of the whole set cannot follow."""
    one, other = {"a": 3.0, "b": 2.0, "c": 1.0}, {"a": 1.0, "b": 2.0, "c": 3.0}
    results = voted([one] * 5 + [other] * 4)
    of_prompts = {name: {f"p{n}": (one if n < 5 else other)[name] for n in range(9)} for name in one}
    followed = entry(results, metric(one, **of_prompts))
    assert followed["kendall_tau"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert followed["agreement"] == {"value": 1.0, "low": 1.0, "high": 1.0, "pairs": 27}
    assert followed["figures"] == pytest.approx({"a": 19 / 9, "b": 2.0, "c": 17 / 9})
    fixed = entry(results, metric(one))
    assert (fixed["kendall_tau"]["value"], fixed["kendall_tau"]["low"], fixed["kendall_tau"]["high"]) == (1, -1, 1)
    assert fixed["agreement"] == {"value": None, "low": None, "high": None, "pairs": 0}
    same_text = replace(results, prompts=dict.fromkeys(results.prompts, "one text"))
    assert entry(same_text, metric(one))["kendall_tau"] == {"value": 1.0, "low": 1.0, "high": 1.0}  # one prompt, always drawn


def test_agreement_counts_pairs_and_equal_figures_by_half() -> None:
    results = voted([{"a": 3.0, "b": 2.0, "c": 1.0}] * 4)
    figures = {"a": {"p0": 1.0, "p1": 2.0, "p2": 5.0}, "b": {"p0": 2.0, "p1": 2.0}, "c": {"p0": 3.0, "p1": 1.0, "p2": 4.0}}
    whole = dict.fromkeys("abc", 1.0)
    found = entry(results, metric(whole, "lower", **figures))["agreement"]
    # p0: 3 of 3; p1: a and b equal, c lower than both, which loses: 0.5 of 3; p2: a - c alone, wrong; p3: none
    assert (found["value"], found["pairs"]) == (3.5 / 7, 7)
    assert found["low"] <= found["value"] <= found["high"]


def test_two_systems_have_no_order_but_agree_prompt_by_prompt() -> None:
    results = voted([{"a": 2.0, "b": 1.0}] * 4)
    found = correlate(results, [metric({"a": 2.0, "b": 1.0}, a={"p0": 2.0}, b={"p0": 1.0})])
    (one,) = found["questions"]["quality"]["metrics"]
    assert one["kendall_tau"]["value"] is None
    assert one["not_computed"] == "needs 3 or more systems with this figure and votes, found 2"
    assert (one["agreement"]["value"], one["agreement"]["pairs"]) == (1.0, 1)
    assert "not computed: needs 3 or more systems" in as_markdown(found)
    with pytest.raises(ValueError, match=r"expected 3 or more systems .* found votes on a, b, figures of A; name them alike"):
        correlate(results, [metric({"A": 1.0})])


def test_what_lacks_votes_or_figures_is_left_out_and_named() -> None:
    results = voted([dict(zip(SYSTEMS, (4, 3, 2, 1), strict=True))] * 3)
    short = replace(results.pairs[0], votes=())
    found = correlate(replace(results, pairs=(short, *results.pairs[1:])), [metric({"a": 3.0, "b": 2.0, "c": 1.0, "z": 0.0})])
    assert found["study"]["systems"] == ["a", "b", "c"]
    assert (found["study"]["without_figures"], found["study"]["without_votes"]) == (["d"], ["z"])
    assert (found["study"]["prompts"], found["study"]["complete_pairs"]) == (3, 17)
    text = as_markdown(found)
    assert "Left out, without figures: d." in text
    assert "On 3 systems (a, b, c), 3 prompts and 17 pairs" in text


def test_a_note_stands_first() -> None:
    results = replace(voted([{"a": 3.0, "b": 2.0, "c": 1.0}]), note="A pilot.")
    assert as_markdown(correlate(results, [metric({"a": 3.0, "b": 2.0, "c": 1.0})])).splitlines()[2] == "**A pilot.**"


def evaluation(results: Results, **changes: Any) -> dict[str, Any]:
    """As `evaluate` writes it, with one metric."""
    ids = list(results.prompts)
    system = {
        "metrics": {"m": {"value": 1.0}, "n": {"not_computed": "needs it"}},
        "per_prompt": {"m": [1.0, None, 2.0][: len(ids)]},
    }
    about = {key: {"label": key, "better": "lower"} for key in "mn"}
    prompts = {"ids": ids, "texts": [results.prompts[key] for key in ids]}
    return {"prompts": prompts, "metrics": about, "systems": dict.fromkeys(results.systems, system), **changes}


def test_files_of_figures_are_read_or_refused_with_a_sentence(tmp_path: Path) -> None:
    results, file = voted([{"a": 3.0, "b": 2.0, "c": 1.0}] * 3), tmp_path / "evaluation.json"
    whole = evaluation(results)
    older = {**whole, "prompts": {"ids": whole["prompts"]["ids"]}}  # of a version that did not write the texts
    for content in (whole, older):
        file.write_text(json.dumps(content))
        first, second = read_figures(file, results)
        assert (first.better, first.whole, first.prompts["a"]) == ("lower", dict.fromkeys("abc", 1.0), {"p0": 1.0, "p2": 2.0})
        assert second.whole == second.prompts == {}
    other = {"ids": ["p0", "p1", "p2"], "texts": ["text 0", "another", "text 2"]}
    for content, words in (
        ({**whole, "prompts": other}, "another text for 'p1'; evaluate with the study's prompts"),
        ({**whole, "systems": []}, "evaluation.json that `emu-video evaluate --out` writes"),
        ([], "found something else"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=words):
            read_figures(file, results)
    with pytest.raises(ValueError, match="check the path"):
        read_figures(tmp_path / "nothing.json", results)


def test_the_plot_is_there_where_there_is_something_to_show(tmp_path: Path) -> None:
    results = replace(voted([dict(zip(SYSTEMS, (4, 3, 2, 1), strict=True))] * 3), systems=SYSTEMS)
    good, none = metric(dict(zip(SYSTEMS, (1.0, 2.0, 4.0, 3.0), strict=True))), metric(dict.fromkeys(SYSTEMS, 1.0))
    files = write_files(
        correlate(results, [good, replace(good, key="n", label="$a$ N"), none]), tmp_path, "correlation", as_markdown
    )
    assert [file.name for file in files] == ["correlation.json", "correlation.md", "correlation.png"]
    assert json.loads(files[0].read_text())["study"]["systems"] == list(SYSTEMS)
    assert "](correlation.png)" in files[1].read_text()
    with Image.open(files[2]) as picture:
        assert min(picture.size) > 300
    files = write_files(correlate(results, [none]), tmp_path / "none", "correlation", as_markdown)
    assert [file.name for file in files] == ["correlation.json", "correlation.md"]


def test_the_commands_from_videos_to_the_correlation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Raters who like what moves most and least blurred, and figures of the same videos, by a study and by its export."""
    study = worlds.make_study(tmp_path, 3, "--raters", "1", "--seed", "1")
    systems = [str(tmp_path / "systems" / name) for name in worlds.SYSTEMS]
    prompts = str(tmp_path / "prompts.txt")
    with Study(study) as opened:
        worlds.vote_all(opened, 1, likes_first=1.0)  # ours over blurred over frozen
        results = opened.results()
    assert main(["evaluate", *systems, "--prompts", prompts, "--out", str(tmp_path / "figures")]) == 0
    capsys.readouterr()
    figures = str(tmp_path / "figures" / "evaluation.json")
    assert main(["study", "correlate", str(study), "--figures", figures, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["study"]["systems"], found["study"]["prompts"]) == (list(worlds.SYSTEMS), 3)
    assert found["questions"]["quality"]["win_rates"] == {"ours": 1.0, "blurred": 0.5, "frozen": 0.0}
    by_key = {entry["key"]: entry for entry in found["questions"]["quality"]["metrics"]}
    measured = json.loads(Path(figures).read_text())["systems"]
    for key in ("pixel_mse", "colour_drift"):
        entries = {name: measured[name]["metrics"][key]["value"] for name in worlds.SYSTEMS}
        assert by_key[key]["figures"] == pytest.approx(entries)
    assert (
        by_key["pixel_mse"]["kendall_tau"]["value"] == 1.0
    )  # a sharp edge that moves changes more than a soft one, frozen least
    assert by_key["pixel_mse"]["p"] == pytest.approx(1 / 3)
    assert by_key["pixel_mse"]["agreement"] == {"value": 1.0, "low": 1.0, "high": 1.0, "pairs": 9}
    assert by_key["fvd_i3d"]["not_computed"] == "needs 3 or more systems with this figure and votes, found 0"
    write_results(results, tmp_path / "votes.csv")
    out = str(tmp_path / "out")
    assert main(["study", "correlate", str(tmp_path / "votes.csv"), "--figures", figures, "--out", out]) == 0
    said = capsys.readouterr().out
    assert [line.split("/")[-1] for line in said.splitlines()] == ["correlation.json", "correlation.md", "correlation.png"]
    assert json.loads((tmp_path / "out" / "correlation.json").read_text()) == found
    import_new(results, tmp_path / "again")
    assert main(["study", "correlate", str(tmp_path / "again"), "--figures", figures]) == 0
    assert "| Pixel MSE | neither (higher) | 3 | **1.00** |" in capsys.readouterr().out
