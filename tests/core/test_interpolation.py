"""Interpolation of frames of any size, window by window."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emu_core.cli.main import main
from emu_core.media import contact_sheet, read_image, read_video, shown_every, write_parts, write_video
from emu_core.media.sheet import MAX_HEIGHT, MAX_PIXELS
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings

PROMPT = "a big red circle moves right on a white background"
QUICK = Settings(steps=1, seed=5)


@pytest.fixture(scope="module")
def pipeline(narrow: Path) -> EmuVideoPipeline:
    return EmuVideoPipeline.from_files(narrow)


def noise(frames: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width"), [(64, 128), (65, 91), (8, 8), (9, 15), (72, 40)])
def test_what_comes_out_is_as_large_as_what_comes_in(pipeline: EmuVideoPipeline, height: int, width: int) -> None:
    """Sides that 8 does not divide are padded as numpy pads with its edge, and the padding is cut off again."""
    frames = noise(2, height, width)
    padded = np.pad(frames.numpy(), ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    settings = replace(QUICK, size=(padded.shape[1], padded.shape[2]))
    found = pipeline.interpolate(frames, PROMPT, QUICK)
    assert found.shape == (13, height, width, 3)
    assert torch.equal(found, pipeline.interpolate(torch.from_numpy(padded), PROMPT, settings)[:, :height, :width])


def test_a_size_that_is_asked_for_is_made(pipeline: EmuVideoPipeline) -> None:
    assert pipeline.interpolate(noise(2, 64, 128), PROMPT, replace(QUICK, size=(64, 64))).shape == (13, 64, 64, 3)


def test_no_more_than_a_window_of_frames_is_held(pipeline: EmuVideoPipeline) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def frames() -> Iterator[torch.Tensor]:
        nonlocal most
        for frame in noise(35, 16, 16):
            given = frame.clone()
            alive.append(weakref.ref(given))
            most = max(most, sum(each() is not None for each in alive))
            yield given

    told: list[tuple[str, int, int]] = []
    parts = []
    for part in pipeline.interpolated(frames(), 35, PROMPT, QUICK, lambda *report: told.append(report)):
        parts.append(part)
        gc.collect()
        assert len(alive) == min(35, 8 * told[-1][1])  # windows
    assert most <= 9  # a window, and the one that its generator has in hand
    assert torch.equal(torch.cat(parts), pipeline.interpolate(noise(35, 16, 16), PROMPT, QUICK))
    assert told == [("interpolation", number, 5) for number in range(1, 6)]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a"])
def test_parts_are_written_as_a_whole_is(tmp_path: Path, name: str) -> None:
    frames = noise(9, 16, 24)
    write_video(tmp_path / f"whole_{name}", frames, 5.0, {"prompt": "x"})
    write_parts(tmp_path / f"parts_{name}", iter(frames.split(4)), 9, 5.0, {"prompt": "x"})
    whole, parts = (read_video(tmp_path / f"{how}_{name}") for how in ("whole", "parts"))
    assert torch.equal(whole.frames, parts.frames)
    assert (whole.fps, whole.metadata) == (parts.fps, parts.metadata)


def test_a_part_that_cannot_be_made_leaves_what_was_there(tmp_path: Path) -> None:
    def parts() -> Iterator[torch.Tensor]:
        yield noise(4, 16, 16)
        raise KeyboardInterrupt

    for name in ("a.mp4", "folder"):
        write_video(tmp_path / name, noise(2, 16, 16), 5.0)
        with pytest.raises(KeyboardInterrupt):
            write_parts(tmp_path / name, parts(), 8, 5.0)
        assert len(read_video(tmp_path / name).frames) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "folder"]


def test_the_command_keeps_the_size_says_what_it_replaced_and_refuses_what_needs_all_frames(
    narrow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out, sheet = tmp_path / "in.mp4", tmp_path / "out.mp4", tmp_path / "sheet.png"
    write_video(source, noise(10, 64, 128), 5.0)
    command = ["interpolate", str(source), PROMPT, "--out", str(out), "--steps", "1", "--sheet", str(sheet)]
    command += ["--model", str(narrow)]
    assert main(command) == 0
    video = read_video(out)
    assert (video.frames.shape, video.fps) == ((45, 64, 128, 3), 20)
    assert read_image(sheet).shape == contact_sheet(video.frames).shape
    assert capsys.readouterr().out == f"wrote {out}: 45 frames of 128 x 64 at 20 a second, seed 0\n"
    assert main(command) == 0
    assert capsys.readouterr().out == f"wrote {out} (replaced): 45 frames of 128 x 64 at 20 a second, seed 0\n"
    write_parts(source, (noise(600, 16, 16) for _ in range(1)), 600, 5.0)
    for ending in (".gif", ".webp"):
        assert main(["interpolate", str(source), PROMPT, "--out", str(tmp_path / f"out{ending}")]) == 2
        assert f"at most 512 frames for a {ending}, found 600" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "height", "width"), [(2053, 64, 64), (40_000, 256, 256), (500, 2160, 3840), (37, 512, 512)])
def test_sheets_of_long_videos_stay_small(count: int, height: int, width: int) -> None:
    shown = len(range(0, count, shown_every(count, height, width)))
    scale = max(1, -(-128 // min(height, width)))
    assert shown * height * width * scale**2 <= MAX_PIXELS
    assert -(-shown // 8) * (height * scale + 4) <= MAX_HEIGHT
    assert shown_every(37, 512, 512) == 1
