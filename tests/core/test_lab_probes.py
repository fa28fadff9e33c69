"""The laboratory's probes: what is kept of one, that nothing is made twice, and that each looks at what it says."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from emu_core.base import load_base
from emu_core.checkpoint import read_config
from emu_core.cli.main import main
from emu_core.evaluation.statistics import bootstrap_mean
from emu_core.lab import probes, stages, videos
from emu_core.lab.arms import ARMS
from emu_core.lab.budget import QUICK, STANDARD
from emu_core.lab.probes import PROBES, Point, Probe
from emu_core.lab.run import Lab
from emu_core.model_folder import BUNDLED
from emu_core.toy import grounds, world
from emu_core.toy.worlds import BEST, KINDS, LAB_IMAGES, is_best
from emu_core.training.run import DONE

SMALL = replace(
    QUICK, name="small", image=2, low=1, full=1, clips=32, prompts=2, classifier=2, adversarial=2, steps=1, measured=2, tuned=1
)
CLIP = world.Clip("square", "red", "white", "big", "right")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """All probes were run once."""
    lab = Lab(tmp_path_factory.mktemp("lab"), SMALL)
    for name in PROBES:
        probes.run(lab, name)
    return lab


def read(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(probes.place(lab, name).read_text(), parse_constant=pytest.fail)
    return found


def made(lab: Lab) -> dict[Path, int]:
    """What probes and training wrote, and when; that a chain is complete is written each time."""
    files = [file for part in ("probes", "arms", "tuned") for file in (lab.folder / part).rglob("*.*")]
    return {file: file.stat().st_mtime_ns for file in files if file.name != DONE}


# -- the table


def rows(*values: list[float]) -> list[list[dict[str, float]]]:
    """Of each seed, the travel of each prompt."""
    return [[{"travel_px": one, "motion": float(one > 1)} for one in seed] for seed in values]


def test_seeds_of_a_prompt_are_one_value_and_differences_are_paired() -> None:
    more = Point("more", rows([3.0, 7.0, 5.0], [5.0, 9.0, 5.0]), 2.0)
    less = Point("less", rows([1.0, 5.0, 2.0], [3.0, 7.0, 4.0]), 1.0)
    probe = Probe("about", "", ["travel_px", "motion"], lambda lab: [], [("more", "less", ["travel_px", "motion"])], "axis")
    found = probes.table(probe, [more, less])
    apart = bootstrap_mean([4.0, 8.0, 5.0])
    assert found["rows"][0]["values"]["travel_px"] == {"value": apart.value, "low": apart.low, "high": apart.high}
    travel, motion = found["differences"]
    assert travel == {"says": "more against less: travel, px", "value": 2.0, "low": 2.0, "high": 2.0}  # 2 for every prompt
    assert found["rows"][0]["values"]["travel_px"]["low"] < found["rows"][1]["values"]["travel_px"]["high"]
    assert motion["value"] == pytest.approx(1 - 5 / 6)
    assert [row["x"] for row in found["rows"]] == [2.0, 1.0]


def test_a_prompt_without_a_measure_is_left_out_and_no_number_is_null() -> None:
    seeds = [[{"travel_px": 1.0}, {}, {"travel_px": 4.0}], [{"travel_px": math.nan}, {}, {"travel_px": 6.0}]]
    assert probes.of_prompts(Point("a", seeds), "travel_px")[::2] == [1.0, 5.0]
    probe = Probe("about", "", ["travel_px", "wobble_px"], lambda lab: [], [])
    (row,) = probes.table(probe, [Point("a", seeds)])["rows"]
    assert row["values"]["travel_px"]["value"] == 3.0
    assert row["values"]["wobble_px"] == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize("name", PROBES)
def test_what_is_kept_has_the_form_that_reports_read(lab: Lab, name: str) -> None:
    found, probe = read(lab, name), PROBES[name]
    assert list(found) == ["about", "finding_of", "columns", "rows", "differences", "x"]
    assert found["columns"] == {measure: probes.COLUMNS[measure] for measure in probe.measures}
    assert all(list(row["values"]) == list(probe.measures) for row in found["rows"])
    assert len({row["label"] for row in found["rows"]}) == len(found["rows"])
    assert all((row["x"] is None) == (probe.axis == "") for row in found["rows"])
    assert len(found["differences"]) == sum(len(names) for _, _, names in probe.compared)
    shown = [one for row in found["rows"] for one in row["values"].values()] + found["differences"]
    measured = [one for one in shown if one["low"] is not None]
    assert measured
    assert all(one["low"] <= one["value"] <= one["high"] for one in measured)


# -- nothing twice


def test_a_second_run_makes_nothing_anew(lab: Lab) -> None:
    before = made(lab)
    again = Lab(lab.folder, SMALL)
    for name in PROBES:
        assert probes.run(again, name) == read(lab, name)
    assert made(lab) == before


def test_a_probe_that_was_stopped_goes_on_with_what_it_has(lab: Lab) -> None:
    before, found = made(lab), read(lab, "text_guidance")
    lost = lab.folder / "probes" / "parts" / "videos-design-0-seen_in_videos-made-1-8.json"
    kept = json.loads(lost.read_text())
    for file in (lost, probes.place(lab, "text_guidance")):
        file.unlink()
    assert probes.run(Lab(lab.folder, SMALL), "text_guidance") == found
    assert json.loads(lost.read_text()) == kept
    changed = {file for file, when in made(lab).items() if before.get(file) != when}
    assert changed == {lost, probes.place(lab, "text_guidance")}


def test_a_laboratory_of_an_earlier_version_goes_on_and_another_budget_does_not(tmp_path: Path) -> None:
    file = tmp_path / "budget.json"
    earlier = {name: value for name, value in asdict(SMALL).items() if name != "tuned"}
    file.write_text(json.dumps(earlier))
    Lab(tmp_path, SMALL)
    assert json.loads(file.read_text()) == asdict(SMALL)
    for changed in ({"steps": 3}, {"unknown": 1}):
        file.write_text(json.dumps(earlier | changed))
        with pytest.raises(ValueError, match="was begun with another budget than 'small'"):
            Lab(tmp_path, SMALL)


# -- what is looked at


def test_travel_is_that_of_the_world_and_what_is_kept_is_seen() -> None:
    """A figure goes 8 pixels a second, half as fast slowly, for 1.75 seconds."""
    for clip, travel in ((CLIP, 14.0), (replace(CLIP, motion="up", slowly=True), 7.0), (replace(CLIP, motion="still"), None)):
        (video,) = videos.real_videos([clip])
        row = probes.of_video(clip, video, video[0])
        assert row.get("travel_px") == (None if travel is None else pytest.approx(travel, abs=0.1))
        assert (row["figure_kept"], row["colour_kept"], row["frame0_psnr_db"]) == (1, 1, 100)
    green = replace(CLIP, colour="green")
    (other,) = videos.real_videos([green])
    half = torch.cat([video[:4], other[4:]])  # a red square that stands still for four frames, then a green one that moves
    row = probes.of_video(CLIP, half, half[0])
    assert row["colour"] == 1
    assert row["colour_kept"] == 0


def test_motion_score_is_that_of_the_codec() -> None:
    """2 pixels a frame for what goes 8 a second at 4 frames a second; a plain ground goes along with whatever moves over it."""
    for changes, score in (({}, 2.0), ({"slowly": True}, 1.0), ({"motion": "still"}, 0.0)):
        clip = replace(CLIP, **{"motion": "left", "ground": "black", **changes})
        (video,) = videos.real_videos([clip])
        assert probes.of_video(clip, video, video[0])["motion_score"] == pytest.approx(score, abs=0.1)


def test_a_picture_is_judged_by_what_was_asked_of_it() -> None:
    clip = replace(CLIP, size="small")
    ((picture, *_),) = videos.real_videos([clip])
    row = probes.of_picture(clip, picture)
    assert {name: row[name] for name in ("figure", "colour", "ground", "size", "small", "plain")} == dict.fromkeys(
        ("figure", "colour", "ground", "size", "small", "plain"), 1
    )
    wrong = probes.of_picture(replace(clip, ground="sea", size="big"), picture)
    assert (wrong["ground"], wrong["size"]) == (0, 0)
    assert not {"small", "plain"} & wrong.keys()


def test_guidance_reaches_the_videos(lab: Lab) -> None:
    """With the same starting frames and noise."""
    asked = [lab.videos_of("design", 0, lab.captions, lab.starts(0), pair) for pair in ((1.0, 1.0), (1.0, 8.0), (3.0, 4.0))]
    assert not torch.equal(asked[0], asked[1])
    assert not torch.equal(asked[1], asked[2])
    usual = lab.videos_of("design", 0, lab.captions, lab.starts(0), (SMALL.image_guidance, SMALL.text_guidance))
    assert torch.equal(usual, lab.videos_of("design", 0, lab.captions, lab.starts(0)))


def test_what_was_forgotten_is_asked_of_the_unet_that_was_trained(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, own = lab.model("all_trained", 0)[0], lab.model("design", 0)[0]
    assert own == lab.image_model != trained
    drawn = []
    draw = videos.starting_frames

    def watched(model: Path, captions: list[str], *more: Any, **told: Any) -> torch.Tensor:
        pictures = draw(model, captions, *more, **told)
        drawn.append((model, captions, pictures))
        return pictures

    monkeypatch.setattr(videos, "starting_frames", watched)
    monkeypatch.setattr(probes, "kept", lambda lab, key, make: make() if key.startswith("pictures") else [{}, {}])
    probes.forgetting(lab)
    assert [model for model, *_ in drawn] == [lab.image_model, trained, lab.image_model, trained]
    unseen = [clip.caption for clip in videos.prompts(SMALL.prompts, part=videos.ONLY_IMAGES)]
    assert [captions for _, captions, _ in drawn] == [lab.captions, lab.captions, unseen, unseen]
    assert not any(torch.equal(drawn[i][2], drawn[i + 1][2]) for i in (0, 2))  # the weights have changed
    assert load_base(lab.image_model).schedule == read_config(lab.model("all_trained", 0)[1]).schedule


def test_the_rule_picks_whole_big_figures_in_the_middle_of_textured_grounds() -> None:
    chosen = [world.posed(clip) for clip in KINDS["lab_best"].mixed(stages.SEED, range(BEST), 0.0)]
    assert len(set(chosen)) == BEST
    for clip in chosen:
        assert (clip.size, clip.ground in grounds.PLACES) == ("big", True)
        assert max(abs(place - 32) for place in clip.start) <= 3
        seen = clip.coverage(torch.zeros(1))[0]
        assert max(seen[0].max(), seen[-1].max(), seen[:, 0].max(), seen[:, -1].max()) == 0
    pool = [world.posed(clip) for clip in KINDS["lab_images"].mixed(stages.SEED, range(4 * STANDARD.clips), 0.0)]
    assert [clip for clip in pool if is_best(clip)][:BEST] == chosen  # of its own pictures, the first by their numbers
    assert {clip.size for clip in pool[:BEST]} == {"small", "big"}
    assert {clip.ground for clip in pool[:BEST]} == set(LAB_IMAGES.grounds)


def test_both_ways_to_tune_differ_in_the_pictures_alone(lab: Lab) -> None:
    best, random = (stages.tuning_recipe(STANDARD, BUNDLED, kind) for kind in ("lab_best", "lab_images"))
    assert replace(best, name=random.name, world=random.world) == random
    assert replace(best.world, kind="lab_images") == random.world
    assert (best.world.cache, best.start.init) == (300, str(BUNDLED))
    pictures = [videos.starting_frames(model, lab.captions, 0, 1) for model in (lab.tuned("lab_best"), lab.tuned("lab_images"))]
    pictures.append(videos.starting_frames(lab.image_model, lab.captions, 0, 1))
    assert not any(torch.equal(pictures[i], pictures[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


# -- the command


def test_names_are_arms_or_probes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert probes.find([]) == (list(ARMS), list(PROBES))
    assert probes.find(["forgetting", "real", "design"]) == (["design", "real"], ["forgetting"])
    assert main(["lab", "run", "guidance", "--out", str(tmp_path / "lab")]) == 2
    assert "unknown arm or probe 'guidance': expected some of design, " in capsys.readouterr().err
    assert not (tmp_path / "lab").exists()


def test_the_command_runs_a_probe_and_lists_what_is_done(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emu_core.lab.budget.QUICK", SMALL)
    probes.place(lab, "image_guidance").unlink()
    assert main(["lab", "list", "--quick", "--out", str(lab.folder)]) == 0
    before = capsys.readouterr().out
    assert main(["lab", "run", "image_guidance", "--quick", "--out", str(lab.folder)]) == 0
    assert main(["lab", "list", "--quick", "--out", str(lab.folder)]) == 0
    after = capsys.readouterr().out
    for listed, done in ((before, "0/1"), (after, "1/1")):
        assert any(line.split()[:2] == ["image_guidance", done] for line in listed.splitlines())
        assert any(line.split()[:2] == ["quality_tuning", "1/1"] for line in listed.splitlines())
