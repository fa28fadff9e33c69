"""Evaluation and study from end to end on three systems whose order is known: real renders, the bundled model, and the same
model with a stack that was never trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from emu_core.base.architectures import STACK_SETTINGS
from emu_core.cli.main import main
from emu_core.evaluation.prompts import file_stem
from emu_core.media import write_image, write_video
from emu_core.model.stack import TemporalStack
from emu_core.model.video_model import VideoModel
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings
from emu_core.study.store import Study
from emu_core.toy import measure

from . import worlds

SYSTEMS = ("real", "model", "untrained")
COUNT, SEED = 8, 424_242
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos a system, made from the same prompts and the same given first frames; prompts.json names both."""
    out = tmp_path_factory.mktemp("systems")
    trained = EmuVideoPipeline.from_files()
    untrained = EmuVideoPipeline.from_files()
    stack = TemporalStack.for_unet(untrained.base.unet, base="tiny", size=(64, 64), **STACK_SETTINGS["tiny"]).requires_grad_(
        False
    )
    untrained.models["F"].attachment.detach()
    untrained.models["F"] = VideoModel(untrained.base.unet, stack)
    times, entries = torch.arange(8) / 4, []
    for number, clip in enumerate(measure.clips_asked(COUNT, SEED)):
        real = clip.draw(times).permute(0, 2, 3, 1) / 2 + 0.5
        stem = file_stem(number, clip.caption)
        write_image(out / f"{stem}.png", real[0])
        entries.append({"id": stem, "prompt": clip.caption, "image": str(out / f"{stem}.png")})
        settings = Settings(seed=number, text_guidance=3.0, image_guidance=1.0, steps=8)
        videos = {"real": real}
        videos |= {n: p.video(real[:1], clip.caption, settings) for n, p in (("model", trained), ("untrained", untrained))}
        for name, frames in videos.items():
            (out / name).mkdir(exist_ok=True)
            write_video(out / name / f"{stem}.webp", frames, 4.0, {"prompt": clip.caption})  # without loss
    (out / "prompts.json").write_text(json.dumps(entries))
    return out


def test_automatic_figures_have_the_order_of_the_truth(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", *(str(folder / name) for name in SYSTEMS), "--prompts", str(folder / "prompts.json")]
    assert main([*arguments, "--out", str(folder / "report")]) == 0
    capsys.readouterr()
    report = json.loads(next((folder / "report").glob("*.json")).read_text())
    figures = {name: report["systems"][name]["metrics"] for name in SYSTEMS}
    fidelity = [figures[name]["first_frame_psnr"]["value"] for name in SYSTEMS]
    assert fidelity == sorted(fidelity, reverse=True)
    assert fidelity[0] > fidelity[1] + 3 > fidelity[2] + 6  # in dB
    change = {name: figures[name]["pixel_mse"]["value"] for name in SYSTEMS}
    assert change["untrained"] > 2 * max(change["real"], change["model"])  # its frames have nothing to do with each other
    assert "needs" in json.dumps(figures["real"]["clip_text"])
    assert list((folder / "report").glob("*.png"))
    right = {}
    for name in SYSTEMS:
        assert main(["evaluate", "toy", "--videos", str(folder / name), "--json"]) == 0
        right[name] = json.loads(capsys.readouterr().out)
    assert right["real"]["direction"] == 1.0
    assert right["real"]["direction"] >= right["model"]["direction"] > right["untrained"]["direction"]
    assert right["model"]["direction"] >= 0.75


def test_people_who_prefer_the_truth_are_read_from_the_study(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(folder / name) for name in SYSTEMS]
    assert main(["study", "create", str(folder / "study"), *arguments, "--prompts", str(folder / "prompts.json")]) == 0
    with Study(folder / "study") as study:
        worlds.vote_all(study, 5, likes_first=0.9)  # of each pair the system that was named first
    capsys.readouterr()
    assert main(["study", "report", str(folder / "study"), "--out", str(folder / "votes"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    for question in report["questions"].values():
        assert len(question["comparisons"]) == 3
        for comparison in question["comparisons"]:
            assert SYSTEMS.index(comparison["first"]) < SYSTEMS.index(comparison["second"])
            assert comparison["win_rate"] > 0.75
            assert comparison["wilson"][0] > 0.5
            assert 0.7 < comparison["vote_share"] < 1  # 0.9 of some 60 votes, which are hardly ever below 0.7
    assert list((folder / "votes").glob("*.png"))
