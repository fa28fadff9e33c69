"""The laboratory's report, of arms whose figures are made up so that what it must say is known: nothing is trained here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from emu_core.lab import automatic, figures, losses, published, stages, tables
from emu_core.lab.arms import ARMS, CLAIMS, GROUPS, Arm, Claim
from emu_core.lab.budget import QUICK, Budget
from emu_core.lab.measures import differences, pooled
from emu_core.lab.report import write_report
from emu_core.lab.run import ROWS, VIDEOS, Lab
from emu_core.model_folder import BUNDLED
from emu_core.study.results import Answer, Pair, Results, Vote
from emu_core.toy.measure import Row
from emu_core.weights import save_tensors

BUDGET = replace(QUICK, prompts=12, seeds=2, classifier=2, low=100, full=100)
GOOD: Row = {
    **dict.fromkeys(("figure", "colour", "ground", "size", "motion", "amount", "last_frame_shape", "travel_ratio"), 1.0),
    **{"edge_error_px": 0.25, "wobble_px": 0.125, "area_variation": 0.02, "colour_drift": 3.0},
    **{"ground_flicker": 1.0, "colour_flicker": 1.0},
}
WORSE: Row = {**GOOD, "motion": 0.0, "amount": 0.0, "edge_error_px": 0.75, "wobble_px": 0.625}
MADE: dict[str, tuple[Arm, Row]] = {
    "design": (ARMS["design"], GOOD),
    "twin": (Arm("the design again", decides=True), GOOD),
    "worse": (Arm("worse in everything that moves", decides=True), WORSE),
    "make_a_video": (ARMS["make_a_video"], WORSE),
    "svd": (ARMS["svd"], {**GOOD, "edge_error_px": 0.5}),
    "pyoco": (ARMS["pyoco"], {**GOOD, "figure": 0.0}),
    "random_start": (ARMS["random_start"], GOOD),
    "standard_snr": (ARMS["standard_snr"], GOOD),
    "low_0": (ARMS["low_0"], WORSE),
    "clips_quarter": (ARMS["clips_quarter"], WORSE),
}
MADE_CLAIMS = (
    Claim("design", "twin", "an arm is better than itself", 60.0, 40.0, "a guess", "paper"),
    Claim("design", "worse", "it moves", 70.0, 30.0, "a guess", "paper"),
    Claim("design", "random_start", "the identity", source="a sentence", group="paper"),
    *(Claim("design", name, f"against {name}", group="systems") for name in ("make_a_video", "svd", "pyoco")),
    Claim("worse", "design", "the other way round"),
)
PROBE: dict[str, Any] = {
    "about": "Guidance turns what moves.",
    "finding_of": "Motion rises with w_p (Girdhar et al., table 4).",
    "columns": {"motion": "motion right, %", "travel": "travel, px"},
    "rows": [
        {
            "label": f"w_p {x}",
            "x": float(x),
            "values": {
                "motion": {"value": 0.25 * x, "low": 0.125 * x, "high": 0.3 * x},
                "travel": {"value": None, "low": None, "high": None},
            },
        }
        for x in (1, 2)
    ],
    "differences": [
        {"says": "w_p 2 against 1: travel, px", "value": 1.5, "low": 1.25, "high": 1.75},
        {"says": "w_p 2 against 1: motion right, %", "value": 0.25, "low": None, "high": None},
    ],
    "x": "text guidance w_p",
}


def keep_losses(lab: Lab, name: str, of: Callable[[int, int, int], float]) -> None:
    """Logs and recipes of an arm's stages, as a training leaves them; `of`: the loss by stage, seed and step."""
    for seed in lab.seeds(lab.arms[name]):
        for number, recipe in enumerate(stages.arm_recipes(lab.arms[name], lab.budget, BUNDLED, seed), 1):
            folder = lab.place(name, seed) / f"{number}-{recipe.name}"
            folder.mkdir(parents=True)
            (folder / "recipe.json").write_text(json.dumps(asdict(recipe)))
            rows: list[dict[str, float]] = [
                {"step": step, "loss": of(number, seed, step)} for step in range(1, recipe.optimisation.steps + 1)
            ]
            rows[-1]["val_loss"] = 0.5
            (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make(folder: Path, budget: Budget = BUDGET) -> Lab:
    """A laboratory that looks as if it had run."""
    lab = Lab(folder, budget, {name: arm for name, (arm, _) in MADE.items()}, MADE_CLAIMS)
    for name, (arm, row) in MADE.items():
        for seed in lab.seeds(arm):
            lab.place(name, seed).mkdir(parents=True)
            generator = torch.Generator().manual_seed(list(MADE).index(name))
            tone = torch.rand(budget.prompts, 1, 1, 1, 3, generator=generator).expand(-1, 8, 64, 64, 3)
            save_tensors({"videos": (tone * 255).byte().contiguous()}, lab.place(name, seed) / VIDEOS)
            (lab.place(name, seed) / ROWS).write_text(json.dumps({"seconds": 1800.0, "rows": [row] * budget.prompts}))
    keep_losses(lab, "design", lambda stage, seed, step: 200.0 - step)
    keep_losses(lab, "random_start", lambda stage, seed, step: 200.0 - step / (2 if stage == 1 else 4))
    keep_losses(lab, "standard_snr", lambda stage, seed, step: 1.0)
    (folder / "probes").mkdir()
    (folder / "probes" / "guidance.json").write_text(json.dumps(PROBE))
    return lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def page(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report, written once."""
    return write_report(lab, tmp_path_factory.mktemp("page") / "lab.md")


@pytest.fixture(scope="module")
def found(page: Path) -> dict[str, Any]:
    return json.loads(page.with_name("lab.json").read_text(), parse_constant=pytest.fail)


def claim_of(found: dict[str, Any], arm: str, against: str) -> dict[str, Any]:
    return next(one for one in found["claims"] if (one["arm"], one["against"]) == (arm, against))


def test_an_arm_against_itself_is_open_and_differs_by_nothing(found: dict[str, Any]) -> None:
    one = claim_of(found, "design", "twin")
    for measure in one["differences"].values():
        assert (measure["value"], measure["low"], measure["high"], measure["count"]) == (0, 0, 0, 12)
    for question in ("quality", "faithfulness"):
        ours = one[f"our_{question}"]
        assert ours["low"] <= 0.5 <= ours["high"]
        assert 0.2 < ours["win_rate"] < 0.8
        assert ours["verdict"] == "open"


def test_an_arm_that_is_worse_by_a_constant_differs_by_it_and_loses_whichever_comes_first(found: dict[str, Any]) -> None:
    one, turned = claim_of(found, "design", "worse"), claim_of(found, "worse", "design")
    expected = {"figure": 0.0, "motion": 1.0, "amount": 1.0, "edge_error_px": -0.5, "wobble_px": -0.5}
    for key, value in expected.items():
        assert one["differences"][key] == {"value": value, "low": value, "high": value, "count": 12}
        assert turned["differences"][key] == {"value": -value, "low": -value, "high": -value, "count": 12}
    assert one["our_quality"]["win_rate"] == 1
    assert one["our_quality"]["by_seed"] == [1.0, 1.0]
    assert (one["our_quality"]["verdict"], one["our_faithfulness"]["verdict"]) == ("agrees", "does not agree")
    assert turned["our_quality"]["win_rate"] == 0
    assert turned["our_quality"]["verdict"] == "not preferred"
    assert turned["our_quality"]["winner"] == one["our_quality"]["winner"] == "design"
    assert one["our_faithfulness"]["reasons"] == {"spatial": 0.0, "temporal": 1.0}


def test_seeds_of_a_prompt_are_averaged_first_and_what_lacks_a_measure_leaves_its_pair_out() -> None:
    nothing = {key: value for key, value in GOOD.items() if key not in ("edge_error_px", "wobble_px")}
    sharp = {**GOOD, "edge_error_px": 0.0}
    of = differences([[GOOD] * 4, [GOOD, GOOD, GOOD, nothing]], [[GOOD] * 4, [WORSE, WORSE, WORSE, sharp]])
    assert of["motion"] == pytest.approx({"value": 3 / 8, "low": 1 / 8, "high": 0.5, "count": 4})
    assert of["edge_error_px"]["value"] == pytest.approx(-0.25 * 3 / 4)  # the fourth prompt has its first seed's pair alone
    of = differences([[nothing] * 4], [[GOOD] * 4])
    assert math.isnan(of["edge_error_px"]["value"])
    assert pooled([[GOOD, nothing], [WORSE, nothing]])["edge_error_px"] == pytest.approx(
        {"value": 0.5, "low": math.nan, "high": math.nan, "count": 1}, nan_ok=True
    )


def test_a_rank_correlation_has_the_p_value_of_all_orders() -> None:
    assert published.rank_correlation([1, 2, 3, 4, 5, 6], [10, 20, 30, 40, 50, 60]) == {"n": 6, "rho": 1, "p": 2 / 720}
    assert published.rank_correlation([1, 2, 3], [3, 2, 1]) == {"n": 3, "rho": -1, "p": 2 / 6}
    # rho of four is 1 - d / 10, d the sum of squares of the ranks' differences: 0.8 or more in 1 + 3 of the 24 orders
    assert published.rank_correlation([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx({"n": 4, "rho": 0.8, "p": 8 / 24})
    assert published.rank_correlation([1, 2], [1, 2]) == {"n": 2, "rho": None, "p": None}
    assert published.rank_correlation([1, 2, 3], [5, 5, 5])["rho"] is None


def test_published_figures_stand_beside_those_of_arms_that_there_are(found: dict[str, Any]) -> None:
    assert {row.arm for row in published.PUBLISHED} - {""} <= published.SYSTEMS.keys() <= ARMS.keys()
    rows = {row["system"]: row for row in found["published"]["rows"]}
    assert rows["Make-A-Video"]["fvd_lab"] == found["arms"]["make_a_video"]["fvd_lab"]["value"]
    assert rows["MagicVideo"]["fvd_lab"] is None
    first, second, score = found["published"]["orders"]
    assert (first["n"], second["n"], score["n"]) == (4, 4, 3)
    assert "Emu Video, second version" in first["systems"]
    assert "Emu Video, first version" in second["systems"]
    ours = [found["arms"][name]["fvd_lab"]["value"] for name in ("make_a_video", "pyoco", "svd", "design")]
    assert first["rho"] == published.rank_correlation([367.23, 355.19, 242.02, 317.1], ours)["rho"]


def results(wins: dict[str, int], prompts: int) -> Results:
    """Studies of arms against the design, each of which wins so many prompts, five votes to none."""

    def vote(prompt: str, arm: str, rater: int, side: str) -> Vote:
        answers = (Answer(side, (reason,), 0) for reason in ("sharpness", "spatial"))  # type: ignore[arg-type]
        return Vote(f"{prompt}-{arm}-{rater}", f"rater {rater}", "first", *answers, 0)

    pairs = tuple(
        Pair(p, "design", arm, "0" * 64, "1" * 64, tuple(vote(p, arm, r, "second" if n < won else "first") for r in range(5)))
        for arm, won in wins.items()
        for n in range(prompts)
        for p in [f"0-{n:03d}"]
    )
    return Results("", "made", 5, ("design", *wins), {f"0-{n:03d}": f"text {n}" for n in range(prompts)}, pairs)


def test_a_measure_that_orders_arms_as_the_votes_do_has_a_correlation_of_one() -> None:
    wins = {"a": 1, "b": 3, "c": 5, "d": 8}
    arms = {name: {"fvd_lab": {"value": 10.0 - won}, "is_lab": {"value": 10.0 - won}} for name, won in wins.items()}
    rows = {name: {f"0-{n:03d}": {"motion": float(n < won)} for n in range(10)} for name, won in wins.items()}
    rows["design"] = {f"0-{n:03d}": {"motion": 0.5} for n in range(10)}
    studies = [results({name: won}, 10) for name, won in wins.items()]
    about = automatic.against_votes(studies, {"design": {}} | arms, rows)
    assert about is not None
    for question in ("quality", "faithfulness"):
        assert about["questions"][question]["win_rates"] == pytest.approx({name: won / 10 for name, won in wins.items()})
        metrics = {metric["key"]: metric for metric in about["questions"][question]["metrics"]}
        for key, sign in (("fvd_lab", 1), ("is_lab", -1), ("motion", 1)):  # of a distance less is better
            assert metrics[key]["kendall_tau"]["value"] == pytest.approx(sign)
            assert metrics[key]["spearman_rho"]["value"] == pytest.approx(sign)
        assert metrics["fvd_lab"]["p"] == pytest.approx(2 / 24)
        assert metrics["motion"]["agreement"] == {"value": 1, "low": 1, "high": 1, "pairs": 40}
        assert metrics["wobble_px"]["kendall_tau"]["value"] is None
    assert automatic.against_votes(studies[:1], {"design": {}} | arms, rows) is None


def test_smoothed_losses_are_means_of_a_tenth_of_the_steps() -> None:
    window, line = losses.smoothed([float(n) for n in range(1, 41)])
    assert window == 4
    assert line.tolist() == [2.5 + n for n in range(37)]
    assert losses.smoothed([3.0, 1.0])[1].tolist() == [3.0, 1.0]


def test_how_fast_a_loss_is_reached_is_read_from_the_logs(found: dict[str, Any]) -> None:
    """200 - s has at 50 the mean of 200 - 41 .. 200 - 50, 154.5; 200 - s / 2 has it where s - 4.5 is 91, at 96; 200 - s / 4 not
    in a hundred steps."""
    first, second = found["losses"]["speed"]
    assert [(one["seed"], one["half"], one["loss"], one["reached"]) for one in first["seeds"]] == [
        (0, 50, 154.5, 96),
        (1, 50, 154.5, 96),
    ]
    assert first["mean"] == pytest.approx(1.92)
    assert second["mean"] is None
    assert {one["reached"] for one in second["seeds"]} == {None}
    for one, slope in ((first, 1 / 2), (second, 3 / 4)):  # means of 1 to 10, and of 1 to 100, times the difference of a step
        assert one["early"] == pytest.approx(dict.fromkeys(("value", "low", "high"), 5.5 * slope))
        assert one["whole"] == pytest.approx(dict.fromkeys(("value", "low", "high"), 50.5 * slope))


def test_the_identity_start_is_decided_by_the_loss_of_its_first_stage(page: Path, found: dict[str, Any]) -> None:
    """200 - s against 200 - s / 2: higher by half of 50.5 over a hundred steps, in both seeds."""
    assert found["losses"]["speed"][0]["verdict"] == "agrees"
    (line,) = [line for line in page.read_text().splitlines() if line.startswith("| the identity")]
    assert "by the loss, which decides it: agrees (+25.25 (+25.25 to +25.25))" in line


def test_interval_over_seeds_is_students() -> None:
    """Of 1, 2, 3: the mean is 2, its standard error 1 / sqrt(3), and t of two degrees of freedom 4.3027 (any table)."""
    found = losses.of_seeds([1.0, 2.0, 3.0])
    assert found["value"] == 2
    assert found["high"] == pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-4)
    assert losses.of_seeds([0.5]) == {"value": 0.5, "low": None, "high": None}


def test_only_losses_of_the_same_targets_are_shown_together(found: dict[str, Any]) -> None:
    last = found["losses"]["curves"]["stage2_512px"]
    assert list(last) == ["design", "random_start"]
    assert (last["design"]["points"][-1]["step"], last["design"]["points"][-1]["value"]) == (100, pytest.approx(104.5))
    assert last["design"]["validation"] == [0.5, 0.5]
    usual = {recipe.name: asdict(recipe) for recipe in stages.arm_recipes(ARMS["design"], BUDGET, BUNDLED, 0)}
    same = {
        name
        for name, arm in ARMS.items()
        if arm.maker == "stack" and not arm.mixed
        for recipe in stages.arm_recipes(arm, BUDGET, BUNDLED, 0)
        if losses.comparable(asdict(recipe), usual[recipe.name])
    }
    assert same == {*losses.SHOWN, "low_quarter", "low_double"}


def test_curves_have_numbers_below_them(found: dict[str, Any]) -> None:
    assert [(one["arm"], one["x"]) for one in found["curves"]["low"]["points"]] == [("low_0", 0), ("design", 100)]
    assert [(one["arm"], one["x"]) for one in found["curves"]["clips"]["points"]] == [("clips_quarter", 16), ("design", 64)]


def test_every_claim_is_in_a_group_that_has_a_title() -> None:
    assert {claim.group for claim in CLAIMS} == GROUPS.keys()
    assert all(claim.group != "ours" for claim in CLAIMS if claim.source)


def test_the_page_has_every_part_in_its_order_and_every_picture(page: Path) -> None:
    text = page.read_text()
    titles = ["Claims", "Systems", "Automatic measures against votes", "Agreement of the raters, and reasons", "Curves", "Probes"]
    places = [text.index(f"\n## {title}\n") for title in (*titles, "Arms", "Sheets")]
    assert places == sorted(places)
    assert text.index("simulated") < text.index("Budget") < places[0]
    assert "not comparable" in text.lower() or "never comparable" in text.lower()
    plots = ["agreement", "reasons", "scatter", "curves", "losses", "probe_guidance"]
    compared = {name for claim in MADE_CLAIMS for name in (claim.arm, claim.against)}
    sheets = [f"{claim.arm}-{claim.against}" for claim in MADE_CLAIMS] + [name for name in MADE if name not in compared]
    drawn = [f"lab_{name}.png" for name in plots] + [f"lab_{name}.jpg" for name in sheets]
    assert {file.name for file in (page.parent / "images").iterdir()} == set(drawn)
    assert all(f"(images/{name})" in text for name in drawn)
    assert all(line.count("|") == 3 for line in text[places[-1] :].splitlines() if line.startswith("|"))


def test_probes_are_shown_as_they_say(page: Path, found: dict[str, Any]) -> None:
    text = page.read_text()
    assert "| text guidance w_p | motion right, % | travel, px |" in text
    assert "| w\\_p 1 | 25 (12 to 30) | - |" in text
    assert "* w_p 2 against 1: travel, px: +1.50 (+1.25 to +1.75)" in text
    assert "* w_p 2 against 1: motion right, %: +25\n" in text
    assert found["probes"] == {"guidance": PROBE}


def test_the_same_laboratory_gives_the_same_bytes(lab: Lab, page: Path, tmp_path: Path) -> None:
    again = write_report(lab, tmp_path / "lab.md")
    for file in (page, page.with_name("lab.json"), *(page.parent / "images").iterdir()):
        assert file.read_bytes() == (again.parent / file.relative_to(page.parent)).read_bytes(), file.name


def test_what_somebody_wrote_beside_it_is_part_of_it(lab: Lab, page: Path, tmp_path: Path) -> None:
    (tmp_path / "read.notes.md").write_text("## What was found\n\nNothing yet.\n")
    lines = write_report(lab, tmp_path / "read.md").read_text().split("\n")
    assert lines.index("## What was found") < lines.index("## Claims")
    others = [line for line in lines if line not in ("## What was found", "Nothing yet.", "")]
    assert others == [line for line in page.read_text().split("\n") if line]


def test_a_study_s_folder_that_is_there_is_found_before_any_number_is_made(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "everything", lambda lab: pytest.fail("computed"))
    (tmp_path / "people" / "design-twin").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"people: expected a new or empty folder for the studies, found something there; name"):
        write_report(lab, tmp_path / "lab.md", tmp_path / "people")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file: expected a new or empty folder"):
        write_report(lab, tmp_path / "lab.md", tmp_path / "file")
    assert not (tmp_path / "lab.md").exists()


def test_a_laboratory_in_which_nothing_is_done_has_a_report(tmp_path: Path) -> None:
    page = write_report(Lab(tmp_path / "lab", BUDGET, {"design": ARMS["design"]}, ()))
    assert "## Arms" in page.read_text()
    assert json.loads(page.with_name("lab.json").read_text())["arms"] == {}


def test_numbers_that_are_none_are_shown_as_none() -> None:
    assert tables.figure(None) == tables.figure({"value": math.nan, "low": math.nan, "high": math.nan}) == "-"
    assert tables.figure({"value": 0.5, "low": math.nan, "high": math.nan}, 100) == "50"
    assert tables.figure({"value": -0.5, "low": -1.0, "high": 0.25}, signed=True) == "-0.50 (-1.00 to +0.25)"
