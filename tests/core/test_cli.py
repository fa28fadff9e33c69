"""The command line on the bundled model: what it makes, and what it says to bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from emu_core.base import load_base
from emu_core.base.base import preserved
from emu_core.checkpoint import load_stack
from emu_core.cli.main import main
from emu_core.cli.making import LEAST_PRESERVED, say_preserved
from emu_core.media import Scale, read_image, read_video, write_video
from emu_core.model_folder import BUNDLED
from emu_core.pipeline import EmuVideoPipeline

from .test_data_motion import sound_only

PROMPT = "a big red circle moves right on a white background"
pytestmark = pytest.mark.usefixtures("narrow_by_default")
QUICK = ["--steps", "2"]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (90, 70), (200, 60, 30)).save(path)
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run, expect exit code 2 and one sentence; returns it."""
    assert main([*arguments]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("emu-video: ")
    return message


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.gif", "out.webp", "frames"])
def test_generate_writes_37_frames_at_16_a_second(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    assert main(["generate", PROMPT, "--out", str(out), "--seed", "3", *QUICK]) == 0
    video = read_video(out)
    assert (video.frames.shape, video.fps) == ((37, 64, 64, 3), pytest.approx(16, rel=0.05))
    assert (video.metadata["prompt"], video.metadata["seed"], sorted(p.name for p in tmp_path.iterdir())) == (PROMPT, "3", [name])


def test_generate_writes_frame_and_sheet_and_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame, sheet, out = tmp_path / "first.png", tmp_path / "sheet.png", tmp_path / "video.mp4"
    options = ["--out", str(out), "--starting-frame", str(frame), "--sheet", str(sheet), "--frames", "6", "--fps", "5"]
    assert main(["generate", PROMPT, *options, "--no-interpolate", "--json", *QUICK]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["frames"], made["fps"], made["height"], read_image(frame).shape) == (
        6,
        5,
        256,
        (64, 64, 3),
    )  # the frame as it was made
    assert read_image(sheet).shape[1] > 128


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "CMYK", "1"])
def test_animate_takes_any_kind_of_picture(tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / ("in.tif" if mode == "CMYK" else "in.png"), tmp_path / "out.mp4"
    Image.new(mode, (100, 40)).save(path)
    few = ["--steps", "1", "--frames", "2", "--no-interpolate", "--model", str(BUNDLED)]
    assert main(["animate", str(path), "moves left", "--out", str(out), *few]) == 0
    assert read_video(out).frames.shape == (2, 64, 64, 3)
    said = capsys.readouterr()
    assert "the autoencoder keeps" in said.err  # a plain picture: no warning
    assert "keeps" not in said.out


def test_what_the_autoencoder_keeps_is_said_and_little_is_a_warning(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """10 log10(1 / MSE): a picture that is 0.1 off what its latents are decoded to everywhere has 20 dB."""
    base = load_base(BUNDLED)
    latents = torch.randn(2, base.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    decoded = base.decode_latents(latents)
    off = decoded + torch.where(decoded < 0.5, 0.1, -0.1)
    assert preserved(base, torch.stack([off[0], decoded[1]]), latents) == pytest.approx([20, 100], abs=1e-3)
    say_preserved([30.04, 30.0])
    assert capsys.readouterr().err == "the autoencoder keeps 30.0 dB of the given picture\n"
    assert not caplog.records
    say_preserved([20.0, 28.0, LEAST_PRESERVED])
    say_preserved([20.0])
    many, one = (record.getMessage().partition(":")[0] for record in caplog.records)
    assert many == "the autoencoder keeps 20.0 to 28.0 dB of the given pictures, less than 22 dB of 1 of 3"
    assert one == "the autoencoder keeps 20.0 dB of the given picture, less than 22 dB"


def test_a_video_that_was_written_larger_goes_on_as_if_it_were_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It stays as large as it is."""
    clip = (torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(2)) * 255).round() / 255
    write_video(tmp_path / "plain", clip, 4.0)
    write_video(tmp_path / "large", clip, 4.0, scale=Scale(2))
    for name in ("plain", "large"):
        command = ["extend", str(tmp_path / name), PROMPT, "--by", "2", "--out", str(tmp_path / f"{name}-on"), "--steps", "1"]
        assert main([*command, "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["height"], each["width"]) for each in told] == [(64, 64), (128, 128)]
    frames = [read_video(tmp_path / f"{name}-on").frames for name in ("plain", "large")]
    assert torch.equal(*frames)
    assert torch.equal(frames[0][:3], clip)


def test_a_scale_that_is_too_much_of_a_video_is_refused_before_models_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("the models are loaded")

    monkeypatch.setattr(EmuVideoPipeline, "from_files", loaded)
    write_video(tmp_path / "wide", torch.zeros(8, 16, 1032, 3), 4.0)
    for name, *extra in (("extend", "--by", "2"), ("interpolate",)):
        said = refused(capsys, name, str(tmp_path / "wide"), PROMPT, *extra, "--scale", "16", "--out", str(tmp_path / "out"))
        assert "--scale 16: expected sides of at most 16383 px in the file, found 1032 x 16 times that" in said
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "emu_video.json").write_text('{"scale": "large"}')
    said = refused(capsys, "generate", PROMPT, "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"))
    assert "emu_video.json: --scale should be a whole number" in said


def test_what_is_made_anew_of_a_video_keeps_its_scale_if_it_has_its_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A film of another size is made in the model's, for which the model's folder recommends 4."""
    for name, clip, scale in (("own", torch.zeros(2, 64, 64, 3), 2), ("film", torch.zeros(2, 80, 80, 3), 1)):
        write_video(tmp_path / name, clip, 4.0, scale=Scale(scale))
        command = ["animate", str(tmp_path / name), PROMPT, "--strength", "0.5", "--out", str(tmp_path / f"{name}.mp4"), "--json"]
        assert main([*command, *QUICK]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["height"], each["width"]) for each in told] == [(128, 128), (256, 256)]


def test_interpolate_a_video(tmp_path: Path) -> None:
    source, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_video(source, torch.rand(3, 64, 64, 3), 5.0)
    assert main(["interpolate", str(source), PROMPT, "--out", str(out), *QUICK]) == 0
    video = read_video(out)
    assert (len(video.frames), video.fps) == (17, 20)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--frames", "0"], "frames must be"),
        (["--frames", "10000"], "frames must be"),
        (["--size", "60x64"], "multiples of 8"),
        (["--size", "big"], "WIDTHxHEIGHT"),
        (["--steps", "0"], "steps must be"),
        (["--sampler", "magic"], "unknown sampler"),
        (["--scale", "0"], "--scale should be a whole number from 1 to 16, or with a filter as 4:lanczos, found '0'"),
        (["--scale", "4:cubic"], "--scale should be a whole number"),
        (["--scale", "16", "--size", "2048x64"], "--scale 16: expected sides of at most 16383 px in the file, found 2048 x 64"),
        (["--device", "nonsense"], "--device nonsense"),
        (["--attention", "xformers"], "xformers does not run"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--stack", "/nowhere.safetensors"], "/nowhere.safetensors"),
    ],
)
def test_bad_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], said: str) -> None:
    assert said in refused(capsys, "generate", PROMPT, "--out", str(tmp_path / "out.mp4"), *extra)
    assert not list(tmp_path.iterdir())


def test_empty_prompt_unknown_extension_and_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "prompt is empty" in refused(capsys, "generate", "  ", "--out", str(tmp_path / "out.mp4"))
    assert ".xyz" in refused(capsys, "generate", PROMPT, "--out", str(tmp_path / "out.xyz"))
    missing = tmp_path / "none" / "out.mp4"
    assert str(missing.parent) in refused(capsys, "generate", PROMPT, "--out", str(missing))


def test_pictures_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, dot = tmp_path / "text.png", tmp_path / "dot.png"
    text.write_text("no picture")
    Image.new("RGB", (1, 1)).save(dot)
    for path in (text, dot, tmp_path / "absent.png"):
        assert str(path) in refused(capsys, "animate", str(path), "moves left", "--out", str(tmp_path / "out.mp4"))
    assert not (tmp_path / "out.mp4").exists()


def test_videos_without_frames_or_with_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound, single = tmp_path / "sound.mp4", tmp_path / "single.mp4"
    sound.write_bytes(sound_only())
    write_video(single, torch.rand(1, 64, 64, 3), 4.0)
    for path, said in ((sound, str(sound)), (single, "2 or more frames")):
        assert said in refused(capsys, "interpolate", str(path), PROMPT, "--out", str(tmp_path / "out.mp4"))


def test_info_of_the_paper_s_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--config", "emu", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert 2.6e9 < facts["spatial_parameters"] < 2.8e9
    assert 1.65e9 < facts["temporal_parameters"] < 1.75e9
    assert facts["sites"]["conv"] == 101
    assert main(["info", "--config", "sdxl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spatial_parameters"] == 2_567_463_684


def test_info_of_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["family"], [s["role"][0] for s in facts["stacks"]]) == ("tiny", ["F", "I"])
    assert main(["info", str(BUNDLED / "stack_I.safetensors")]) == 0
    assert "interpolation" in capsys.readouterr().out
    (tmp_path / "x.safetensors").write_bytes(b"junk")
    assert "x.safetensors" in refused(capsys, "info", str(tmp_path / "x.safetensors"))


def test_train_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "tiny-f" in refused(capsys, "train", "nothing")
    assert "NAME=VALUE" in refused(capsys, "train", "tiny-f", "--set", "steps")
    assert "unknown setting" in refused(capsys, "train", "tiny-f", "--set", "colour=3")
    assert "model_index.json" in refused(capsys, "train", "tiny-f", "--set", f"base={tmp_path}", "--out", str(tmp_path / "run"))


def test_help_explains_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("generate", "animate", "interpolate", "info", "train", "evaluate"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert len(capsys.readouterr().out) > 200


def test_help_waits_for_no_large_package() -> None:
    large = "{'torch', 'numpy', 'av', 'PIL', 'tqdm'}"
    code = f"import sys; from emu_core.cli import main; print({large} & {{*sys.modules}}); main(['-h'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("set()\nusage: emu-video")


def test_interrupting_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "emu_core", "generate", PROMPT, "--out", str(tmp_path / "out.mp4"), "--steps", "500"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert process.stderr is not None
    seen = ""
    while "starting frame" not in seen:  # the bar is up, so sampling has begun
        seen += process.stderr.read(1)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert not list(tmp_path.iterdir())


def test_the_best_of_several_starting_frames_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from emu_core.evaluation.candidates import rank
    from emu_core.networks import ClipNetwork
    from emu_core.pipeline import EmuVideoPipeline
    from emu_core.settings import Settings

    from .evaluation_tiny import ROUNDING, tiny_clip

    folder = tiny_clip(tmp_path / "clip")
    few = ["--steps", "2", "--frames", "2", "--no-interpolate", "--seed", "5", "--out", str(tmp_path / "a.mp4"), "--json"]
    chosen = tmp_path / "frame.png"
    assert main(["generate", PROMPT, *few, "--candidates", "3", "--clip", str(folder), "--starting-frame", str(chosen)]) == 0
    scores = json.loads(capsys.readouterr().out)["candidates"]
    pipeline = EmuVideoPipeline.from_files()
    frames = [pipeline.starting_frame(PROMPT, Settings(steps=2, seed=5 + i)) for i in range(3)]
    assert (scores, len(set(scores))) == (pytest.approx(rank(torch.cat(frames), PROMPT, ClipNetwork(folder)), abs=ROUNDING), 3)
    best = frames[max(range(3), key=lambda i: scores[i])][0]
    assert (read_image(chosen) - best).abs().max() < 1 / 255  # half of which is the PNG's
    assert "--candidates needs a CLIP" in refused(capsys, "generate", PROMPT, *few, "--candidates", "3")
    assert "--candidates must be 1 to 64, found 0" in refused(capsys, "generate", PROMPT, *few, "--candidates", "0")
    assert "say how many with --candidates" in refused(capsys, "generate", PROMPT, *few, "--clip", str(folder))


@pytest.mark.slow
def test_a_recipe_trains_resumes_and_writes_a_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stack F for a few steps: stopped, resumed, and the same to the bit as without the stop."""
    common = ["train", "tiny-f", "--set", f"base={BUNDLED}", "--set", "cache=8", "--set", "optimisation.batch=2"]
    common += ["--set", "optimisation.steps=4", "--set", "sheet_every=4", "--set", "save_every=1"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*common, "--out", str(whole)]) == 0
    assert main([*common, "--out", str(parts), "--max-minutes", "0"]) == 0
    assert [p.name for p in parts.glob("checkpoint-*")] == ["checkpoint-00000001"]
    assert "--resume" in refused(capsys, *common, "--out", str(parts))
    assert main([*common, "--out", str(parts), "--resume"]) == 0
    assert (whole / "log.jsonl").read_text() == (parts / "log.jsonl").read_text()
    first, second = (load_stack(p / "model" / "stack_F.safetensors").state_dict() for p in (whole, parts))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert {"loss.png", "log.jsonl", "sheet_000004.png", "recipe.json"} <= {p.name for p in whole.iterdir()}
