"""Long videos on the command line: extend, loop, between, fill, generate --length; plans, stops, going on, wrong input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from emu_core import media
from emu_core.cli import timelines
from emu_core.cli.main import main
from emu_core.errors import UserError
from emu_core.kept import Kept, folder_of
from emu_core.model_folder import BUNDLED
from emu_core.toy import shapes

pytestmark = pytest.mark.usefixtures("narrow_by_default")
QUICK = ["--steps", "1", "--seed", "5"]
PROMPT = "a big red circle moves right"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    frames = torch.rand(10, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    media.write_video(folder / "frames", frames, 4.0)
    media.write_video(folder / "odd", frames[:, :37, :50], 4.0)
    for name, frame in zip("abc", frames, strict=False):
        media.write_image(folder / f"{name}.png", frame)
    return folder


def run(*arguments: str | Path) -> int:
    return main([str(one) for one in arguments])


def frames(path: Path) -> torch.Tensor:
    return media.read_video(path).frames


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert run(*arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("emu-video: "), said
    return said[-1]


@pytest.mark.parametrize(("video", "shape"), [("frames", (17, 64, 64, 3)), ("odd", (17, 37, 50, 3))])
def test_extend_leaves_the_video_as_it_is(inputs: Path, tmp_path: Path, video: str, shape: tuple[int, ...]) -> None:
    out = tmp_path / "out"
    assert run("extend", inputs / video, PROMPT, "--by", "7", "--out", out, *QUICK) == 0
    made = media.read_video(out)
    assert made.frames.shape == shape
    assert made.fps == 4
    assert torch.equal(made.frames[:10], frames(inputs / video))
    assert made.metadata["prompt"] == PROMPT
    assert not folder_of(out).exists()


def test_extend_backwards_and_by_seconds(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("extend", inputs / "frames", PROMPT, "--by", "2.5s", "--backwards", "--out", out, *QUICK) == 0
    assert frames(out).shape[0] == 20
    assert torch.equal(frames(out)[10:], frames(inputs / "frames"))


def test_loop_begins_where_it_ends(inputs: Path, tmp_path: Path) -> None:
    assert run("loop", inputs / "a.png", PROMPT, "--out", tmp_path / "out", *QUICK) == 0
    made = frames(tmp_path / "out")
    assert len(made) == 7, "the eighth that the model sees is the first again"
    assert torch.equal(made[0], media.read_image(inputs / "a.png"))
    assert not any(torch.equal(frame, made[0]) for frame in made[1:])
    ranges = ["--prompt", "0-1s: a big red circle moves up", "--prompt", "1s-1.75s: a big red circle moves down"]
    assert run("loop", inputs / "a.png", *ranges, "--plan", "--out", tmp_path / "other") == 0, (
        "they count the frames that are shown"
    )


def test_between_and_fill_put_pictures_where_they_belong(inputs: Path, tmp_path: Path) -> None:
    a, b, c = (inputs / f"{name}.png" for name in "abc")
    assert run("between", a, b, PROMPT, "--frames", "6", "--out", tmp_path / "1", *QUICK) == 0
    assert torch.equal(frames(tmp_path / "1")[[0, 5]], torch.stack([media.read_image(a), media.read_image(b)]))
    places = [f"--keyframe=0={a}", f"--keyframe=1.5s={b}", f"--keyframe=last={c}"]
    assert run("fill", PROMPT, *places, "--length", "2.25s", "--out", tmp_path / "2", *QUICK) == 0
    made = frames(tmp_path / "2")
    assert len(made) == 9
    assert torch.equal(made[[0, 6, 8]], torch.stack([media.read_image(one) for one in (a, b, c)]))


def test_generate_of_any_length(tmp_path: Path) -> None:
    told = ["--prompt", "1s-: a big red circle moves up", "--starting-frame", str(tmp_path / "s.png")]
    assert run("generate", PROMPT, "--length", "12", *told, "--out", tmp_path / "out", "--no-interpolate", *QUICK) == 0
    made = media.read_video(tmp_path / "out")
    assert len(made.frames) == 12
    torch.testing.assert_close(made.frames[0], media.read_image(tmp_path / "s.png"), atol=1e-6, rtol=0)
    assert made.metadata["prompt"] == f"{PROMPT}\n1s-: a big red circle moves up"
    # of one call alone what it makes is what it makes without --length, but for the given frame
    assert run("generate", PROMPT, "--length", "8", "--out", tmp_path / "8", "--no-interpolate", *QUICK) == 0
    assert run("generate", PROMPT, "--out", tmp_path / "usual", "--no-interpolate", *QUICK) == 0
    assert (frames(tmp_path / "8")[1:] - frames(tmp_path / "usual")[1:]).abs().max() < 2 / 255


def test_a_plan_is_printed_and_nothing_made(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["--prompt", "0-1s: x", "--prompt", "1s-: y", "--by", "8", "--plan"]
    assert run("extend", inputs / "frames", *told, "--out", tmp_path / "o") == 0
    assert capsys.readouterr().out.splitlines() == [
        "frames 9 to 16: given 9, made 10 to 13: x",
        "frames 13 to 20: given 13, made 14 to 17: y",
    ]
    assert not [*tmp_path.iterdir()]


def test_animate_changes_a_video_by_as_much_as_is_asked(tmp_path: Path) -> None:
    clip = shapes.clip(1, 1)
    drawn = shapes.render([clip], torch.arange(8) / 4)[0].permute(0, 2, 3, 1) / 2 + 0.5
    media.write_video(tmp_path / "drawn", drawn, 4.0)
    away = []
    for number, share in enumerate(("0.1", "1")):
        out = tmp_path / str(number)
        told = ["--strength", share, "--frames", "8", "--steps", "3", "--seed", "5", "--out", out, "--model", BUNDLED]
        assert run("animate", tmp_path / "drawn", "a big red circle stays still", *told) == 0
        made = media.read_video(out)
        assert (len(made.frames), made.fps, made.metadata["denoise"]) == (8, 4, str(float(share)))
        away.append(float((made.frames[1:] - drawn[1:]).abs().mean()))
    assert away[0] < 0.7 * away[1]


# -- going on


def test_a_stop_leaves_what_is_there_and_resume_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["generate", PROMPT, "--length", "10", *QUICK]
    assert run(*asked, "--out", tmp_path / "whole") == 0
    made = media.read_video(tmp_path / "whole")
    whole = made.frames
    assert (len(whole), made.fps) == (4 * (10 + 1) + 1, 16)
    real, calls = Kept.__call__, list[str]()

    def stopping(self: Kept, name: str, number: int, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        calls.append(name)
        if calls == ["starting frame", "video", "interpolation", "video"]:
            raise KeyboardInterrupt
        return real(self, name, number, make)

    out = tmp_path / "out"
    monkeypatch.setattr(Kept, "__call__", stopping)
    assert run(*asked, "--out", out) == 130
    monkeypatch.undo()
    assert "--resume goes on" in capsys.readouterr().err
    part = frames(out)
    assert len(part) == 33, "of the first window of 8 frames"
    assert "add --resume to go on" in refused(capsys, *asked, "--out", out)
    assert "seed 5 and not 6" in refused(capsys, *asked[:-1], "6", "--out", out, "--resume")
    assert run(*asked, "--out", out, "--resume") == 0
    assert torch.equal(frames(out), whole)
    assert not folder_of(out).exists()


def test_each_stop_leaves_what_there_is_by_then(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a stop left is replaced by what the next one leaves, but never a file of before; a stop while models are loaded
    leaves all as it is."""
    real, loads = Kept.__call__, timelines.load_pipeline

    def stop_at(last: int) -> Callable[..., torch.Tensor]:
        def stopping(self: Kept, name: str, number: int, make: Callable[[], torch.Tensor]) -> torch.Tensor:
            if number == last:
                raise KeyboardInterrupt
            return real(self, name, number, make)

        return stopping

    def no_load(_: object) -> None:
        raise KeyboardInterrupt

    out, asked = tmp_path / "out", ["extend", inputs / "frames", PROMPT, "--by", "15", "--resume", *QUICK]
    for last, count in ((0, None), (1, 17), (2, 24)):
        monkeypatch.setattr(Kept, "__call__", stop_at(last))
        assert run(*asked, "--out", out) == 130
        assert (len(frames(out)) if count else out.exists()) == (count or False)
        assert ("--resume goes on" in capsys.readouterr().err) == folder_of(out).exists() == (count is not None)
    monkeypatch.setattr(timelines, "load_pipeline", no_load)
    assert run(*asked, "--out", out) == 130
    assert len(frames(out)) == 24
    shutil.rmtree(out)
    assert run(*asked, "--out", out) == 130
    assert not out.exists()
    monkeypatch.setattr(timelines, "load_pipeline", loads)
    monkeypatch.setattr(Kept, "__call__", stop_at(1))
    media.write_video(tmp_path / "mine", frames(inputs / "frames"), 4.0)
    assert run(*asked, "--out", tmp_path / "mine") == 130
    assert len(frames(tmp_path / "mine")) == 10


def test_a_changed_input_is_not_gone_on_with(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of frames as well as a file; what the run itself writes there is no change."""
    video = tmp_path / "frames"
    shutil.copytree(inputs / "frames", video)
    stamp = timelines._stamp(video, "out")
    (video / "out.windows").mkdir()
    (video / "out.windows" / "run.json").write_text("{}")
    assert timelines._stamp(video, "out") == stamp
    (video / "00003.png").write_bytes((video / "00004.png").read_bytes() + b" ")
    changed = timelines._stamp(video, "out")
    kept = Kept(tmp_path / "k", {"files": {"frames": stamp}}, resume=False)
    kept("video", 0, lambda: torch.ones(1))
    kept.close(finished=False)
    with pytest.raises(UserError, match="frames, which has changed since: give the same, or delete the folder"):
        Kept(tmp_path / "k", {"files": {"frames": changed}}, resume=True)
    with pytest.raises(UserError, match="other, and not the same files|frames, and not the same files"):
        Kept(tmp_path / "k", {"files": {"other": stamp}}, resume=True)


def test_a_folder_of_ones_own_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "out.windows").mkdir()
    (tmp_path / "out.windows" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"found thesis\.txt in it: choose another --out"):
        Kept(folder_of(tmp_path / "out"), {}, resume=False)
    assert (tmp_path / "out.windows" / "thesis.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "emu_core", "generate", PROMPT, "--length", "36", "--steps", "4", "--no-interpolate"]
    surroundings = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    assert subprocess.run([*command, "--out", tmp_path / "whole"], env=surroundings, check=False).returncode == 0
    out = tmp_path / "out"
    for count in (1, 3):
        running = subprocess.Popen([*command, "--out", out, "--resume"], env=surroundings)
        while running.poll() is None and len([*folder_of(out).glob("video-*.safetensors")]) < count:
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -9
        assert not out.exists()
    assert subprocess.run([*command, "--out", out, "--resume"], env=surroundings, check=False).returncode == 0
    assert torch.equal(frames(out), frames(tmp_path / "whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_two_runs_into_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Kept(folder_of(tmp_path / "out.mp4"), {}, resume=False)
    other("video", 0, lambda: torch.ones(1))  # it has made some: it is at work all the same, and was not stopped
    assert "is in use by process" in refused(capsys, "generate", PROMPT, "--length", "9", "--out", tmp_path / "out.mp4", *QUICK)
    other.close(finished=True)


def test_what_is_kept_is_of_one_run(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "k", {"seed": 1, "files": {"a": [1, 2]}}, resume=False)
    assert torch.equal(kept("video", 3, lambda: torch.ones(2, 3)), torch.ones(2, 3))
    assert torch.equal(kept("video", 3, lambda: torch.zeros(1)), torch.ones(2, 3))
    assert kept.has("video", 3)
    assert not kept.has("video", 2)
    kept.close(finished=False)
    again = Kept(tmp_path / "k", {"seed": 1, "files": {"a": [1, 2]}}, resume=True)
    assert again.count() == 1
    again.close(finished=True)
    assert not (tmp_path / "k").exists()


# -- wrong input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["extend", "frames", PROMPT, "--by", "0"], "--by should be a number of frames such as 48"),
        (["extend", "frames", PROMPT, "--by", "x"], "found 'x'"),
        (["extend", "frames", PROMPT, "--by", "9" * 400], "--by should be a number of frames"),
        (["fill", PROMPT, "--keyframe", f"{'9' * 5000}=a.png"], "should be a place and a file"),
        (["generate", PROMPT, "--length", "9", "--window", "1"], "2 or more at a time, found a window of 1"),
        (["extend", "frames", PROMPT, "--by", "3", "--past", "11"], "has 10 frames, and --past 11"),
        (["extend", "frames", PROMPT, "--by", "3", "--past", "8"], "1 to 7 frames of the past, found 8"),
        (["extend", "frames", PROMPT, "--by", "3", "--size", "32"], "keeps its size"),
        (["extend", "frames", "--by", "3"], "expected a prompt, found none"),
        (["extend", "frames", "--prompt", "0-2s: a red circle", "--by", "4"], "frames 0 to 7, and the video has frames 0 to 3"),
        (["extend", "frames", "--prompt", "0-2: a red circle", "--by", "4"], "no prompt holds for frames 2 to 3"),
        (["extend", "frames", "--prompt", "0-2: ", PROMPT, "--by", "4"], "the prompt is empty"),
        (["extend", "a.png", PROMPT, "--by", "4"], "a.png"),
        (["loop", "a.png", PROMPT, "--frames", "8"], "2 to 7 frames, found 8"),
        (["between", "a.png", "b.png", PROMPT, "--frames", "9"], "3 to 8 frames, found 9"),
        (["fill", PROMPT, "--keyframe", "0=a.png", "--keyframe", "9=b.png"], "0 and 9 are 9 frames apart"),
        (["fill", PROMPT, "--keyframe", "1=a.png", "--keyframe", "1=b.png"], "two pictures are to be frame 1"),
        (["fill", PROMPT, "--keyframe", "9=a.png", "--length", "9"], "frames 0 to 8, found 9"),
        (["fill", PROMPT, "--keyframe", "last=a.png"], "found no --length"),
        (["fill", PROMPT, "--keyframe", "a.png"], "should be a place and a file"),
        (["fill", PROMPT, "--keyframe", "0=d.png"], "d.png"),
        (["animate", "frames", PROMPT, "--strength", "0"], "denoise must be above 0 and at most 1, found 0"),
        (["animate", "frames", PROMPT, "--strength", "0.01", "--steps", "20"], "the last of 2000"),
        (["animate", "frames", PROMPT, "--strength", "0.5", "--frames", "11"], "has 10 frames, found --frames 11"),
        (["animate", "frames", PROMPT, "--strength", "0.5", "--position", "9"], "position 9 is outside"),
        (["animate", "frames.mp4", PROMPT], "is a video: say with --strength"),
        (["generate", PROMPT, "--length", "9", "--frames", "9"], "give one of the two"),
        (["generate", PROMPT, "--length", "200000"], "at most 100,000 frames"),
        (["generate", "--steps", "3"], "expected a prompt, or a list of them"),
        (["generate", PROMPT, "--prompt", "a big red circle", "--length", "9"], "two prompts have no range"),
    ],
)
def test_wrong_input_is_a_sentence(
    inputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(inputs)
    assert words in refused(capsys, *arguments, "--out", tmp_path / "out.mp4")
    assert not [*tmp_path.iterdir()]


def test_gif_of_many_frames_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "generate", PROMPT, "--length", "600", "--no-interpolate", "--out", tmp_path / "out.gif")
    assert "at most 512 frames" in said


def test_resume_from_a_broken_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "out.mp4")
    folder.mkdir()
    (folder / "run.json").write_text("{")
    assert "cannot be read" in refused(capsys, "generate", PROMPT, "--length", "9", "--out", tmp_path / "out.mp4")
    shutil.rmtree(folder)


def test_json_says_what_was_made(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("loop", inputs / "a.png", PROMPT, "--frames", "3", "--json", "--out", tmp_path / "out.mp4", *QUICK) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["frames"], told["fps"], told["seed"]) == (3, 4.0, 5)
