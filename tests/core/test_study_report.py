"""Numbers of the report against closed forms and scipy; export, import and merging."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from emu_core.evaluation.statistics import bootstrap_share, fleiss_kappa, wilson
from emu_core.study.exchange import import_new, merge, read_results, to_csv, to_json, write_results
from emu_core.study.report import build_report, report_json, write_report
from emu_core.study.results import Answer, Pair, Results, Side, Vote
from emu_core.study.store import Study
from emu_core.study.tables import cell, markdown

from ..study import worlds

COMPLETE, PARTIAL, SPLIT = [(5, 0), (0, 5)], [(4, 1), (1, 4)], [(3, 2), (2, 3)]


@pytest.mark.parametrize(("rows", "kappa"), [(COMPLETE, 1.0), (PARTIAL, 0.2), (SPLIT, -0.2)])
def test_kappa_on_the_check_patterns(rows: list[tuple[int, int]], kappa: float) -> None:
    assert fleiss_kappa(rows * 15) == kappa  # exactly


def test_kappa_on_fleiss_own_example_and_where_it_is_not_defined() -> None:
    # Fleiss (1971), table 1: 10 subjects of the well-known worked example with 14 raters and 5 classes
    table = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    kappa = fleiss_kappa(table)
    assert kappa == pytest.approx(0.20993, abs=1e-5)
    assert fleiss_kappa([]) is None
    assert fleiss_kappa([(5, 0), (5, 0)]) is None  # all for one: chance agreement is complete
    assert fleiss_kappa([(1, 0), (0, 1)]) is None  # one rater
    with pytest.raises(ValueError, match="same number of raters"):
        fleiss_kappa([(5, 0), (3, 1)])


@pytest.mark.parametrize(("wins", "trials"), [(0, 1), (1, 1), (7, 10), (30, 30), (50, 65), (298, 307)])
def test_wilson_against_the_closed_form(wins: int, trials: int) -> None:
    z, share = 1.959963984540054, wins / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    found = wilson(wins, trials)
    interval = binomtest(wins, trials).proportion_ci(0.95, method="wilson")
    assert found == (interval.low, interval.high)
    assert found == pytest.approx((max(0, centre - half), min(1, centre + half)), abs=1e-12)
    assert wilson(0, 0) is None


def test_bootstrap_draws_prompts() -> None:
    alone = bootstrap_share([(1, 1)] * 70 + [(0, 1)] * 30, 10_000)
    assert alone == pytest.approx((0.61, 0.79), abs=0.011)  # what scipy.stats.bootstrap gives for 70 of 100
    assert bootstrap_share([(0, 1)] * 30 + [(1, 1)] * 70, 10_000) == alone  # the order does not matter
    together = bootstrap_share([(5, 5)] * 14 + [(0, 5)] * 6, 10_000)  # the same 100, but only 20 prompts
    assert together is not None
    assert together[1] - together[0] > 1.8 * (alone[1] - alone[0])
    assert bootstrap_share([(3, 3)], 10) == (1, 1)
    assert bootstrap_share([], 10) is None


def a_vote(
    uid: str, rater: str, first: bool, reasons: Sequence[str] = ("sharpness",), left: Side = "first", ms: int = 2000
) -> Vote:
    side: Side = "first" if first else "second"
    return Vote(uid.rjust(16, "0"), rater, left, Answer(side, tuple(reasons), ms), Answer(side, ("spatial",), ms), 1)


def results_of(patterns: Sequence[Sequence[int]], systems: tuple[str, ...] = ("A", "B")) -> Results:
    """A pair for each pattern of votes, 1 for the first system; raters r0, r1, ..."""
    pairs = [
        Pair(f"p{n}", "A", "B", "1" * 64, "2" * 64, tuple(a_vote(f"{n}x{k}", f"r{k}", bool(v)) for k, v in enumerate(pattern)))
        for n, pattern in enumerate(patterns)
    ]
    return Results(
        "0123456789abcdef", "Title", 5, systems, {pair.prompt: f"text of {pair.prompt}" for pair in pairs}, tuple(pairs)
    )


def test_majorities_agreement_and_short_pairs() -> None:
    found = build_report(results_of([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1], []]))
    study = found["study"]
    assert (study["pairs"], study["complete_pairs"], study["votes"], study["raters"]) == (6, 4, 24, 5)
    (row,) = found["questions"]["quality"]["comparisons"]
    assert (row["prompts"], row["wins_first"], row["win_rate"], row["vote_share"]) == (4, 3, 0.75, 0.6)
    assert (row["wilson"], row["agreement"]) == (wilson(3, 4), {"split": 1, "partial": 1, "complete": 2})
    assert row["kappa"] == fleiss_kappa([(5, 0), (4, 1), (3, 2), (0, 5)])
    assert [(short["prompt"], short["votes"], short["missing"]) for short in found["short"]] == [("p4", 4, 1), ("p5", 0, 5)]
    assert found["prompts"][2]["quality"] == {"winner": "A", "votes": "3-2"}
    assert [system["win_rate"] for system in found["questions"]["quality"]["systems"]] == [0.75, 0.25]


def test_raters_are_compared_with_the_majority_and_with_the_others() -> None:
    found = build_report(results_of([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 1]]))
    by_name = {row["rater"]: row["quality"] for row in found["raters"]}
    assert (by_name["r0"]["with_majority"], by_name["r4"]["with_majority"]) == (1, 0)
    assert by_name["r3"]["with_majority"] == pytest.approx(2 / 3)
    # r0 on the 3-2 pair: the four others are 2-2, nobody's majority, so only two pairs are left
    assert (by_name["r0"]["with_others"], by_name["r0"]["left_share"]) == (1, pytest.approx(2 / 3))
    assert by_name["r0"]["median_seconds"] == 2.0


def test_reasons_are_those_of_votes_for_the_winner() -> None:
    base = results_of([[1, 1, 1, 0, 0]])
    pair = base.pairs[0]
    votes = [
        replace(vote, quality=replace(vote.quality, reasons=reasons))
        for vote, reasons in zip(
            pair.votes,
            [("motion_smoothness", "sharpness"), ("sharpness",), ("consistency",), ("motion_amount",), ("motion_amount",)],
            strict=True,
        )
    ]
    found = build_report(replace(base, pairs=(replace(pair, votes=tuple(votes)),)))
    reasons = found["questions"]["quality"]["comparisons"][0]["reasons"]
    assert reasons["first"]["votes"] == 3
    given = {"motion_smoothness": 1, "consistency": 1, "sharpness": 2, "recognizable": 0, "motion_amount": 0}
    assert reasons["first"]["given"] == given
    assert reasons["second"]["votes"] == 0
    assert reasons["second"]["share"]["sharpness"] is None


def test_the_same_text_twice_is_one_cluster() -> None:
    base = results_of([[1] * 5, [1] * 5, [0] * 5, [0] * 5])
    apart = build_report(base)["questions"]["quality"]["comparisons"][0]["bootstrap"]
    same = replace(base, prompts={key: ("x" if key in ("p0", "p1") else "y") for key in base.prompts})
    together = build_report(same)["questions"]["quality"]["comparisons"][0]["bootstrap"]
    assert apart[1] - apart[0] <= together[1] - together[0] == 1


def test_files_of_the_report(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    results = results_of(generator.integers(0, 2, (12, 5)).tolist())
    nasty = replace(results, title="<script>alert(1)</script> | [x](javascript:y) $a$", systems=("A", "B", "C"))
    files = write_report(nasty, tmp_path / "out")
    names = [file.name for file in files]
    assert names == ["report.json", "report.md", "win_rates.png", "agreement.png", "reasons.png", "raters.png"]
    assert json.loads(files[0].read_text()) == json.loads(report_json(build_report(nasty)))
    text = files[1].read_text()
    assert "<script>" not in text
    assert "[x](javascript" not in text
    for file in files[2:]:
        with Image.open(file) as picture:
            assert min(picture.size) > 300


def test_a_note_stands_first_in_every_report_and_on_the_page(tmp_path: Path) -> None:
    note = "Simulated <b>raters</b>; no person\nhas voted."
    results = replace(results_of([[1] * 5, [0] * 5]), note=note)
    report = build_report(results)
    assert report["study"]["note"] == note
    assert markdown(report).splitlines()[2] == "**Simulated &lt;b&gt;raters&lt;/b&gt;; no person has voted.**"
    assert "note" not in build_report(results_of([[1] * 5]))["study"]
    write_report(results, tmp_path / "with")
    write_report(replace(results, note=""), tmp_path / "without")
    for name in ("win_rates.png", "raters.png"):
        assert (tmp_path / "with" / name).read_bytes() != (tmp_path / "without" / name).read_bytes()
    import_new(results, tmp_path / "study")
    with Study(tmp_path / "study") as study:
        assert study.note == study.overview()["note"] == study.results().note == note


def test_a_note_goes_with_the_votes(tmp_path: Path) -> None:
    results = results_of([[1, 1, 0, 0, 1], []])
    silent = replace(results, pairs=(replace(results.pairs[0], votes=()), results.pairs[1]))
    import_new(silent, tmp_path / "study")
    with Study(tmp_path / "study") as study:
        merge(study, results)
        assert study.note == ""
        for _ in range(2):
            merge(study, replace(results, note="A pilot."))
            assert study.note == "A pilot."
        merge(study, replace(results, note="Votes of friends."))
        assert study.results().note == "A pilot. Votes of friends."
        with study.transaction() as db:  # as a store of before has it
            db.execute("ALTER TABLE study DROP COLUMN note")
        assert study.note == study.results().note == ""
    with Study(tmp_path / "study") as again:
        assert again.note == ""
        merge(again, replace(results, note="A pilot."))
        assert again.note == "A pilot."


def test_a_report_of_nothing(tmp_path: Path) -> None:
    files = write_report(results_of([[], [1]]), tmp_path)
    assert [file.name for file in files] == ["report.json", "report.md"]
    assert "Pairs short of votes" in files[1].read_text()


def test_cells_cannot_end_a_table_or_become_html() -> None:
    assert cell('a | b\n<b> `c` [d](e) *f* "g"') == 'a \\| b &lt;b&gt; \\`c\\` \\[d\\](e) \\*f\\* "g"'
    assert markdown(build_report(results_of([[1] * 5]))).count("\n# ") == 0


@pytest.fixture
def voted(tmp_path: Path) -> Study:
    study = Study.create(tmp_path / "study", title='A "title"; with <b>', seed=3)
    worlds.empty_pairs(study, 12)
    with study.transaction() as db:
        db.execute("UPDATE prompts SET text = ? WHERE id = 1", ('=1+1, "quoted"\nsecond line; ../x <b>',))
        db.execute("UPDATE prompts SET text = 'the same' WHERE id > 9")
    worlds.vote_all(study, 4, 0.7)  # four raters: all pairs are short of one vote
    return study


@pytest.mark.parametrize("note", ["", 'A "pilot";\nraters are <friends>'])
@pytest.mark.parametrize("kind", [".json", ".csv"])
def test_round_trip_to_the_byte(voted: Study, tmp_path: Path, kind: str, note: str) -> None:
    worlds.vote_all_by(voted, "last", pairs=7)
    with voted:
        results = replace(voted.results(), note=note)
    report = report_json(build_report(results)) + markdown(build_report(results))
    write_results(results, tmp_path / f"export{kind}")
    read = read_results(tmp_path / f"export{kind}")
    assert report_json(build_report(read)) + markdown(build_report(read)) == report
    import_new(read, tmp_path / "again")
    with Study(tmp_path / "again") as again:
        taken = again.results()
        assert again.counts()["playable"] == 0
    assert (taken, report_json(build_report(taken)) + markdown(build_report(taken))) == (results, report)
    write_results(taken, tmp_path / f"again{kind}")
    assert (tmp_path / f"again{kind}").read_bytes() == (tmp_path / f"export{kind}").read_bytes()


def test_an_export_that_another_program_saved_is_read_and_a_damaged_one_named(voted: Study, tmp_path: Path) -> None:
    with voted:
        results = voted.results()
    text, file = to_csv(results), tmp_path / "export.csv"
    rows = io.StringIO(newline="")
    csv.writer(rows, delimiter=";").writerows(csv.reader(io.StringIO(text, newline="")))
    for content in (text.encode("utf-16"), text.encode("utf-8-sig"), rows.getvalue().encode()):
        file.write_bytes(content)
        assert read_results(file) == results
    lines = text.splitlines(keepends=True)
    for damaged in (lines[-1][:-1] + ",more\n", lines[-1].replace(",", "", 1), lines[-1].replace(",", ',"', 1)):
        file.write_text("".join([*lines[:-1], damaged]))
        with pytest.raises(ValueError, match=f"line {len(lines)}: "):
            read_results(file)
    (tmp_path / "export.json").write_text(to_json(results).replace('"title"', '"uid": "x", "title"', 1))
    with pytest.raises(ValueError, match="'uid' twice"):
        read_results(tmp_path / "export.json")


def test_an_export_holds_no_secret(voted: Study) -> None:
    text = to_json(voted.results()) + to_csv(voted.results())
    row = voted._all("SELECT secret FROM study")[0]
    hashes = [entry[0] for entry in voted._all("SELECT token_hash FROM raters UNION SELECT secret_hash FROM sessions")]
    assert all(secret not in text for secret in [row[0], *hashes])
    assert len(list(csv.DictReader(io.StringIO(to_csv(voted.results()))))) == 48
    voted.close()


def test_votes_of_two_copies_are_merged_or_refused_whole(voted: Study, tmp_path: Path) -> None:
    with voted:
        base = voted.results()
    import_new(base, tmp_path / "copy")
    pair = base.pairs[0]
    fifth = a_vote("fifth", "new rater", True)

    def changed(*votes: Vote) -> Results:
        return replace(base, pairs=(replace(pair, votes=votes), *base.pairs[1:]))

    with Study(tmp_path / "copy") as study:
        assert (merge(study, base), merge(study, changed(*pair.votes, fifth))) == ((0, 48), (1, 48))
        assert merge(study, changed(fifth)) == (0, 45)
        before = study.results()
        other_content = replace(pair.votes[0], time_ms=pair.votes[0].time_ms + 1)
        second_time = replace(pair.votes[0], uid="f" * 32)
        for wrong, words in (
            (changed(other_content), "same content"),
            (changed(second_time), "one vote of"),
            (changed(a_vote("sixth", "another", False)), "at most 5 votes"),
            (replace(base, uid="f" * 16), "copies of one study"),
            (replace(base, pairs=(*base.pairs[1:], replace(pair, first_sha256="9" * 64))), "same videos"),
        ):
            with pytest.raises(ValueError, match=words):
                merge(study, wrong)
            assert study.results() == before


def test_a_merged_vote_takes_the_place_of_a_lease(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "study", raters=1)
    worlds.empty_pairs(study, 1)
    base = study.results()
    rater = study.join("here")[0]
    assert study.next_pair(rater) is not None
    merge(study, replace(base, pairs=(replace(base.pairs[0], votes=(a_vote("v", "elsewhere", True),)),)))
    assert study.next_pair(rater) is None
    assert study.counts()["done"] == 1
    study.close()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format": "emu-video-study"', '"format": "other"'),
        ('"raters": 5', '"raters": 4'),
        ('"choice": "first"', '"choice": "third"'),
        ('"sharpness"', '"<b>"'),
        ('"ms": 2000', '"ms": -1'),
        ('"ms": 2000', '"ms": 1.5'),
        ('"rater": "r1"', '"rater": "r0"'),
        ('"uid": "00000000000000x1"', '"uid": "00000000000000x0"'),
        ('"uid": "00000000000000x1"', '"uid": "../../../../etc/passwd"'),
        ('"first": "A"', '"first": "Z"'),
        ('"votes"', '"vote"'),
        ("{", "["),
    ],
)
def test_an_edited_export_is_refused(tmp_path: Path, old: str, new: str) -> None:
    text = to_json(results_of([[1, 1, 1, 0, 0]]))
    assert old in text
    (tmp_path / "export.json").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match="expected an exported study"):
        read_results(tmp_path / "export.json")
