"""One bad video, prompt, picture or plot does not end an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from emu_core.cli.main import main
from emu_core.evaluation import report, sets
from emu_core.evaluation.prompts import file_stems, read_prompts
from emu_core.media import write_video

BAD = [{"prompt": "a fox"}, 5, {"prompt": "a cat", "image": "gone.png"}, {"prompt": ""}, {"prompt": "a dog", "image": "bad.png"}]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "p.json").write_text(json.dumps(BAD))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.new("RGB", (16, 16)).save(tmp_path / "fine.png")
    (tmp_path / "s").mkdir()
    for name in ("000.mp4", "002.mp4", "004.mp4"):
        frames = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(0))
        write_video(tmp_path / "s" / name, frames, 5.0)
    (tmp_path / "s" / "002.mp4").write_bytes(b"broken")
    return tmp_path


def test_prompts_behind_a_bad_one_keep_their_numbers(place: Path) -> None:
    left_out: list[tuple[str, str]] = []
    prompts = read_prompts(place / "p.json", left_out)
    assert [(prompt.id, prompt.text) for prompt in prompts] == [("000", "a fox"), ("002", "a cat"), ("004", "a dog")]
    assert file_stems(prompts) == ["000-a-fox", "002-a-cat", "004-a-dog"]
    assert [where for where, _ in left_out] == ["entry 2", "entry 3", "entry 4"]
    with pytest.raises(ValueError, match="entry 2"):
        read_prompts(place / "p.json")


def test_the_rest_is_measured_and_a_second_run_is_the_same(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "draw_all", lambda *_: 1 / 0)
    command = ["evaluate", str(place / "s"), "--prompts", str(place / "p.json"), "--out", str(place / "out")]
    command += ["--export-vbench", str(place / "v"), "--json"]
    found = []
    for _ in range(2):
        assert main(command) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1] == json.loads((place / "out" / "evaluation.json").read_text())
    system = found[0]["systems"]["s"]
    assert (system["measured"], [each["file"] for each in system["broken"]]) == (2, ["002.mp4"])
    assert [each["prompt"] for each in found[0]["prompts"]["left_out"]] == ["entry 2", "entry 3", "entry 4", "prompt 004"]
    assert sorted(path.name for path in (place / "v" / "s").iterdir()) == ["a dog-0.mp4", "a fox-0.mp4"]


def test_a_fault_in_one_video_is_listed_and_in_all_is_raised(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = sets.measure_video

    def fails(path: Path, *rest: object) -> object:
        if path.stem in wrong:
            raise IndexError("odd")
        return measure(path, *rest)

    monkeypatch.setattr(sets, "measure_video", fails)
    command = ["evaluate", str(place / "s"), "--prompts", str(place / "p.json"), "--json"]
    wrong = {"004"}
    assert main(command) == 0
    broken = json.loads(capsys.readouterr().out)["systems"]["s"]["broken"]
    assert {"file": "004.mp4", "why": "IndexError: odd"} in broken
    wrong = {"000", "002", "004"}
    assert main(command) == 1
    assert "IndexError: odd" in capsys.readouterr().err
