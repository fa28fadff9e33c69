"""The laboratory, whole and small: its arms, that it goes on where it was stopped, and what its report says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emu_core.checkpoint import read_config
from emu_core.cli.main import main
from emu_core.errors import UserError
from emu_core.lab import figures, makers, stages, videos
from emu_core.lab.arms import ARMS, CLAIMS, Arm, Claim
from emu_core.lab.budget import QUICK, STANDARD
from emu_core.lab.jobs import run as run_jobs
from emu_core.lab.probes import PROBES
from emu_core.lab.report import write_report
from emu_core.lab.run import Lab, run
from emu_core.model_folder import BUNDLED
from emu_core.toy import reading
from emu_core.toy.worlds import LAB, LAB_IMAGES
from emu_core.training import checkpoints
from emu_core.training.checks import check_recipe
from emu_core.weights import open_weights

SMALL = replace(
    QUICK, name="small", image=2, low=1, full=2, clips=32, prompts=3, classifier=2, adversarial=2, steps=1, measured=2
)
SHORT = {
    "design": ARMS["design"],
    "mine": Arm("an arm of somebody's own", {"method.stack": "slim"}),
    "real": ARMS["real"],
}
CLAIM = (Claim("design", "mine", "all layers are needed", 60.0, 40.0, "a guess"), Claim("design", "real", "against real clips"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Run once."""
    lab = Lab(tmp_path_factory.mktemp("lab"), SMALL, SHORT, CLAIM)
    run(lab, list(SHORT))
    return lab


def stacks() -> list[str]:
    return [name for name, arm in ARMS.items() if arm.maker == "stack"]


@pytest.mark.parametrize("name", stacks())
def test_the_recipes_of_every_arm_can_be_run(name: str) -> None:
    made = stages.arm_recipes(ARMS[name], STANDARD, BUNDLED, 0)
    for recipe in made:
        check_recipe(recipe)
    if name not in ("design", "mixed_data"):  # which differs in its clips
        assert made != stages.arm_recipes(ARMS["design"], STANDARD, BUNDLED, 0)


def test_what_a_comparison_is_of_is_the_only_difference() -> None:
    """Direct and zero SNR arms differ from the design in one setting; a single stage has no less work."""
    design = stages.arm_recipes(ARMS["design"], STANDARD, BUNDLED, 0)
    for name, changed in (("direct", "method"), ("standard_snr", "schedule"), ("random_start", "method")):
        for recipe, other in zip(design, stages.arm_recipes(ARMS[name], STANDARD, BUNDLED, 0), strict=True):
            assert replace(other, **{changed: getattr(recipe, changed)}) == recipe
    (single,) = stages.arm_recipes(ARMS["single_stage"], STANDARD, BUNDLED, 0)
    work = [[r.optimisation.steps * r.optimisation.batch * r.clips.size[0] ** 2 for r in some] for some in (design, [single])]
    pixels = [sum(one) for one in work]
    assert pixels[0] <= pixels[1] <= 1.5 * pixels[0]


def test_claims_name_arms_that_are_there_and_the_papers_figures() -> None:
    assert all({claim.arm, claim.against} <= ARMS.keys() for claim in CLAIMS)
    paper = {(claim.arm, claim.against): (claim.quality, claim.faithfulness) for claim in CLAIMS}
    assert paper["design", "direct"] == (70.5, 63.3)
    assert paper["design", "standard_snr"] == (96.8, 88.3)
    assert paper["design", "single_stage"] == (81.8, 84.1)
    assert paper["hq", "mixed_data"] == (65.1, 79.6)
    assert paper["design", "all_trained"] == (55.0, 58.1)


def test_no_prompt_is_trained_on_and_pictures_know_more_than_videos() -> None:
    trained = {(c.figure, c.colour, c.motion) for c in videos.lab_clips(stages.SEED, range(STANDARD.clips))}
    asked = {(c.figure, c.colour, c.motion) for c in videos.prompts(STANDARD.prompts)}
    assert not trained & asked
    only = videos.prompts(20, part=videos.ONLY_IMAGES)
    assert not {c.figure for c in only} & set(LAB.figures)
    assert {c.colour for c in only} <= set(LAB_IMAGES.colours) - set(LAB.colours)


def test_real_clips_are_right_by_the_judge_and_near_to_real_ones(lab: Lab) -> None:
    found = figures.of_arms(lab)
    assert found["real"]["measures"]["motion"]["value"] == 1
    assert found["real"]["measures"]["figure"]["value"] == 1
    assert found["real"]["fvd_lab"]["value"] < found["design"]["fvd_lab"]["value"]


def test_what_is_done_is_not_made_again_and_the_same_seed_is_the_same_to_the_bit(lab: Lab, tmp_path: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in (lab.folder / "arms").rglob("*.safetensors")}
    run(Lab(lab.folder, SMALL, SHORT, CLAIM), list(SHORT))
    assert before == {file: file.stat().st_mtime_ns for file in (lab.folder / "arms").rglob("*.safetensors")}
    shutil.copytree(lab.folder / "image", tmp_path / "image")
    again = Lab(tmp_path, SMALL, SHORT, CLAIM)
    assert again.run("mine", 0).rows == lab.run("mine", 0).rows
    assert torch.equal(again.run("mine", 0).videos, lab.run("mine", 0).videos)


def test_a_laboratory_that_was_killed_goes_on_to_the_same_bits(lab: Lab) -> None:
    """After the first stage, as a kill between two would leave it."""
    out, before = lab.place("mine", 0), lab.run("mine", 0)
    shutil.rmtree(out / "2-stage2_512px")
    for file in ("rows.json", "videos.safetensors", "done.json"):
        (out / file).unlink()
    first = (out / "1-stage1_256px" / "model" / "stack_F.safetensors").stat().st_mtime_ns
    again = Lab(lab.folder, SMALL, SHORT, CLAIM).run("mine", 0)
    assert (out / "1-stage1_256px" / "model" / "stack_F.safetensors").stat().st_mtime_ns == first
    assert torch.equal(again.videos, before.videos)
    assert again.rows == before.rows


def test_another_budget_is_refused_by_name(lab: Lab) -> None:
    with pytest.raises(ValueError, match=r"was begun with another budget than 'standard': go on with the one in .*budget.json"):
        Lab(lab.folder, STANDARD)


def test_the_report_says_what_the_numbers_say(lab: Lab, tmp_path: Path) -> None:
    path = write_report(lab, tmp_path / "docs" / "lab.md", tmp_path / "people")
    text, found = path.read_text(), json.loads((tmp_path / "docs" / "lab.json").read_text(), parse_constant=pytest.fail)
    assert "simulated" in text.split("\n")[2]
    assert list(found["arms"]) == list(SHORT)
    for claim in found["claims"]:
        rate = claim["our_quality"]["win_rate"]
        assert f"| {100 * rate:.0f} (" in text
        assert claim["our_quality"]["by_seed"] == [rate]
    guess = found["claims"][0]
    assert guess["our_quality"]["agrees"] == (guess["our_quality"]["win_rate"] > 0.5)
    assert guess["our_faithfulness"]["agrees"] == (guess["our_faithfulness"]["win_rate"] < 0.5)
    against_real = found["claims"][1]["our_quality"]
    assert against_real["win_rate"] == 0  # two steps of training against real clips
    for picture in ("lab_design-mine.jpg", "lab_design-real.jpg", "lab_curves.png"):
        assert (tmp_path / "docs" / "images" / picture).stat().st_size > 1000
        assert f"images/{picture}" in text
    assert (tmp_path / "people" / "design-mine").is_dir()


def test_an_arm_of_ones_own_is_what_it_says(lab: Lab) -> None:
    stack = lab.place("mine", 0) / "2-stage2_512px" / "model" / "stack_F.safetensors"
    assert read_config(stack).layers.kinds == ("self",)


@pytest.mark.parametrize("name", ["vgan", "mocogan", "retrieval"])
def test_systems_without_a_stack_make_a_video_of_each_prompt(name: str, tmp_path: Path) -> None:
    clips = videos.prompts(3)
    made = makers.MAKERS[name](clips, tmp_path, SMALL, 0)
    assert made.shape == (3, 8, 64, 64, 3)
    assert 0 <= made.min() < made.max() <= 1
    assert torch.equal(made, makers.MAKERS[name](clips, tmp_path, SMALL, 0))


def test_the_nearest_clip_shows_most_of_what_was_asked() -> None:
    clips = videos.prompts(8)
    made = makers.retrieval(clips, Path(), replace(SMALL, clips=2000), 0)
    seen = [reading.read(video.movedim(-1, 1) * 2 - 1, videos.TIMES) for video in made]
    assert sum(one.figure == clip.figure for one, clip in zip(seen, clips, strict=True)) >= 6


def test_the_command_lists_runs_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "list", "--out", str(tmp_path / "lab")]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ARMS)
    assert main(["lab", "run", "real", "--quick", "--out", str(tmp_path / "lab")]) == 0
    assert main(["lab", "report", "--quick", "--out", str(tmp_path / "lab")]) == 0
    assert "`real`" in (tmp_path / "lab" / "lab.md").read_text()
    assert main(["lab", "run", "unknown", "--out", str(tmp_path / "lab")]) == 2


def test_videos_of_mixed_data_are_mostly_still_and_the_rule_finds_the_others(tmp_path: Path) -> None:
    from emu_core.data.shards import Shards
    from emu_core.lab.mixed import make_shards, one

    shards = make_shards(tmp_path, 40)
    moving = {one(i)[0].caption for i in range(40) if one(i)[0].motion != "still" and one(i)[1] == one(i)[0].caption}
    chosen = Shards.open(str(shards), "hq")
    assert len(Shards.open(str(shards), None).rows) == 40
    said = {caption for row in chosen.rows for caption in chosen.all_captions(int(row))}
    assert 0 < len(said & moving) >= 0.9 * len(said)


def test_videos_are_kept_as_bytes(lab: Lab) -> None:
    file = open_weights(lab.place("design", 0) / "videos.safetensors")
    assert file.read()["videos"].dtype == torch.uint8


@pytest.mark.slow
def test_all_of_it_runs_in_the_smallest_budget(tmp_path: Path) -> None:
    """Every arm, every probe and every claim, from nothing to the report, two runs at a time."""
    out = str(tmp_path / "lab")
    assert main(["lab", "run", "--quick", "--jobs", "2", "--out", out]) == 0
    assert main(["lab", "report", "--quick", "--out", out]) == 0
    assert {file.stem for file in (tmp_path / "lab" / "probes").glob("*.json")} == set(PROBES)
    found = json.loads((tmp_path / "lab" / "lab.json").read_text())
    assert list(found["arms"]) == list(ARMS)
    assert [(claim["arm"], claim["against"]) for claim in found["claims"]] == [(one.arm, one.against) for one in CLAIMS]


def test_the_arms_are_listed_where_no_videos_can_be_curated() -> None:
    """Curation takes pyarrow, which the first installation that README names does not bring."""
    code = "import sys; sys.modules['pyarrow'] = None; from emu_core.cli.main import main; sys.exit(main(['lab', 'list']))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "standard_snr" in told.stdout


def test_runs_side_by_side_make_the_same_as_one_after_the_other(lab: Lab, tmp_path: Path) -> None:
    """Two at a time with a thread each, and one at a time with one."""
    both = [Lab(tmp_path / name, SMALL, SHORT, CLAIM) for name in ("jobs", "alone")]
    for one in both:
        shutil.copytree(lab.folder / "image", one.folder / "image")
    run_jobs(both[0], list(SHORT), [], 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        run(both[1], ["mine"])
    finally:
        torch.set_num_threads(threads)
    assert all(both[0].is_done(name, 0) for name in SHORT)
    assert both[0].run("mine", 0).rows == both[1].run("mine", 0).rows
    assert torch.equal(both[0].run("mine", 0).videos, both[1].run("mine", 0).videos)


def test_an_arm_whose_start_is_not_asked_for_trains_that_itself_and_waits_for_it_otherwise(lab: Lab, tmp_path: Path) -> None:
    arms = {"first": SHORT["design"], "second": Arm("goes on", low=0.0, full=0.0, fine=1.0, after="first")}
    for names in (["second"], ["first", "second"]):
        other = Lab(tmp_path / names[0], SMALL, arms, ())
        shutil.copytree(lab.folder / "image", other.folder / "image")
        run_jobs(other, names, [], 2)
        assert all(other.is_done(name, 0) for name in names)


def test_a_run_that_fails_beside_others_says_why_and_where(lab: Lab, tmp_path: Path) -> None:
    broken = {"real": ARMS["real"], "broken": Arm("a setting that is none", {"optimisation.rate": "fast"})}
    other = Lab(tmp_path, SMALL, broken, ())
    shutil.copytree(lab.folder / "image", tmp_path / "image")
    with pytest.raises(UserError, match=r"broken-0 ended before its end, (.|\n)*fast(.|\n)*logs.broken-0.log"):
        run_jobs(other, list(broken), [], 2)
    assert main(["lab", "run", "real", "--quick", "--jobs", "0", "--out", str(tmp_path / "none")]) == 2


def test_runs_side_by_side_are_told_to_stop_and_keep_a_checkpoint(lab: Lab, tmp_path: Path) -> None:
    """SIGTERM, as a scheduler sends it, in the middle of a stage that would take an hour."""
    shutil.copytree(lab.folder / "image", tmp_path / "image")
    code = f"""if __name__ == "__main__":
    from dataclasses import replace
    from pathlib import Path
    from emu_core.lab.jobs import run
    from emu_core.lab.run import Lab
    from tests.core.test_lab import SHORT, SMALL
    run(Lab(Path({str(tmp_path)!r}), replace(SMALL, low=9999), SHORT, ()), ["design", "mine"], [], 2)"""
    script = tmp_path / "script.py"
    script.write_text(code)
    stages_of = [tmp_path / "arms" / name / "seed-0" / "1-stage1_256px" for name in ("design", "mine")]
    with subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": os.getcwd()}) as running:
        for _ in range(600):
            if all((folder / "log.jsonl").is_file() for folder in stages_of):
                break
            time.sleep(0.2)
        running.terminate()
        assert running.wait(60) != 0
    assert all(checkpoints.checkpoints(folder) for folder in stages_of)
    assert "told to stop" in (tmp_path / "logs" / "mine-0.log").read_text()


@pytest.mark.slow
def test_a_probe_beside_others_has_its_arms_trained_once(tmp_path: Path) -> None:
    out = tmp_path / "lab"
    assert main(["lab", "run", "starting_frames", "image_guidance", "--quick", "--jobs", "2", "--out", str(out)]) == 0
    assert {file.stem for file in (out / "probes").glob("*.json")} == {"starting_frames", "image_guidance"}
    assert [file.name for file in (out / "arms").iterdir()] == ["design"]
