"""Like against like: the rule, its numbers against Pillow and torch, and what is written."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emu_core import media
from emu_core.cli import equalise as command
from emu_core.evaluation.equalise import Target, chosen_frames, common_target, equal_frames, equalise_sets, equalise_video, square
from emu_core.evaluation.prompts import Prompt
from emu_core.evaluation.videos import open_sets
from emu_core.media import Facts, VideoReader


def _pattern(frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth colours that change with time."""
    coarse = torch.rand(1, 3, 4, 5, 5, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (frames, height, width), mode="trilinear")
    return fine[0].permute(1, 2, 3, 0).contiguous()


def _read(path: Path) -> np.ndarray:
    return np.stack(list(VideoReader(path)))


def _parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    return parser.parse_args(list(arguments))


def test_each_dimension_is_the_smaller() -> None:
    a, b = Facts(512, 320, 65, 16.0), Facts(256, 400, 16, 8.0)
    assert (common_target([a, b]), common_target([a])) == (Target(256, 16, 8.0), Target(320, 65, 16.0))
    assert common_target([Facts(33, 40, 9, 3.0)], even=True).side == 32
    assert common_target([Facts(64, 64, 1, 100.0), Facts(64, 64, 8, 8.0)]).frames == 1
    with pytest.raises(ValueError, match="found none"):
        common_target([])


@pytest.mark.parametrize(
    ("facts", "target", "expected"),
    [
        (Facts(8, 8, 10, 8.0), Target(8, 4, 8.0), [3, 4, 5, 6]),  # the middle in time
        (Facts(8, 8, 16, 16.0), Target(8, 8, 8.0), [1, 3, 5, 7, 9, 11, 13, 15]),  # half the rate
        (Facts(8, 8, 8, 8.0), Target(8, 8, 8.0), list(range(8))),  # nothing to do
        (Facts(8, 8, 24, 24.0), Target(8, 8, 8.0), [1, 4, 7, 10, 13, 16, 19, 22]),
        (Facts(8, 8, 30, 30000 / 1001), Target(8, 30, 30000 / 1001), list(range(30))),
    ],
)
def test_frames_come_from_the_middle_at_the_lower_rate(facts: Facts, target: Target, expected: list[int]) -> None:
    assert chosen_frames(facts, target) == expected


@pytest.mark.parametrize(("height", "width", "side"), [(96, 160, 40), (160, 96, 33), (100, 100, 64), (70, 50, 25)])
def test_resizing_is_pillows_and_torchs_bilinear(height: int, width: int, side: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    part = frame[top : top + edge, left : left + edge]
    found = square(frame, side)
    pillow = np.asarray(Image.fromarray(part).resize((side, side), Image.Resampling.BILINEAR))
    assert np.abs(found.astype(int) - pillow).max() <= 1  # Pillow calculates in whole numbers
    planes = torch.from_numpy(part.copy()).permute(2, 0, 1)[None].double()
    exact = torch.nn.functional.interpolate(planes, (side, side), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    assert np.abs(found - exact.numpy()).max() <= 0.501


def test_lossless_is_bit_for_bit_and_keeps_what_the_file_said(tmp_path: Path) -> None:
    media.write_video(tmp_path / "v.mp4", torch.rand(9, 50, 36, 3), 12.0, {"prompt": "a fox", "seed": "3"})
    video, target = VideoReader(tmp_path / "v.mp4"), Target(31, 5, 8.0)
    assert equalise_video(video, tmp_path / "out.mp4", target) is None
    written = VideoReader(tmp_path / "out.mp4")
    assert np.array_equal(np.stack(list(written)), np.stack(list(equal_frames(video, target))))
    assert (written.facts.width, written.facts.height, written.facts.frames, written.facts.fps) == (31, 31, 5, 8.0)
    assert written.facts.metadata == {"prompt": "a fox", "seed": "3"}


def test_playable_states_its_loss(tmp_path: Path) -> None:
    media.write_video(tmp_path / "v.webp", _pattern(8, 40, 40), 8.0)
    video, target = VideoReader(tmp_path / "v.webp"), Target(32, 8, 8.0)
    loss = equalise_video(video, tmp_path / "out.mp4", target, playable=True)
    error = np.square(_read(tmp_path / "out.mp4").astype(float) - np.stack(list(equal_frames(video, target)))).mean()
    assert loss == pytest.approx(10 * np.log10(255**2 / error))
    assert loss > 35


def _two_sets(folder: Path) -> list[str]:
    for name, videos in {"a": ((33, 96, 160, 16.0), (10, 64, 64, 4.0)), "b": ((12, 100, 80, 8.0), (12, 100, 81, 8.0))}.items():
        (folder / name).mkdir()
        for number, (frames, height, width, fps) in enumerate(videos):
            media.write_video(folder / name / f"{number}.mp4", _pattern(frames, height, width, number), fps)
    return [str(folder / "a"), str(folder / "b")]


def test_the_videos_of_a_prompt_become_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = _two_sets(tmp_path)
    (tmp_path / "p.txt").write_text("a fox\na cat\na dog\n")
    command.equalise(_parse("equalise", *folders, str(tmp_path / "out"), "--prompts", str(tmp_path / "p.txt"), "--playable"))
    table = capsys.readouterr().out
    assert "dB PSNR" in table
    assert "left out: 002: 0 of 2 sets have a video of this prompt" in table
    said = json.loads((tmp_path / "out" / "equalised.json").read_text())
    assert [video["after"] for video in said["videos"]] == ["80 x 80, 12 frames at 8 a second"] * 2 + [
        "64 x 64, 6 frames at 4 a second"
    ] * 2
    assert all(video["loss_db"] > 35 for video in said["videos"])
    for name in ("a", "b"):
        assert sorted(file.name for file in (tmp_path / "out" / name).iterdir()) == ["000-a-fox.mp4", "001-a-cat.mp4"]
        assert _read(tmp_path / "out" / name / "000-a-fox.mp4").shape == (12, 80, 80, 3)


def test_across_all_every_video_is_alike(tmp_path: Path) -> None:
    sets = open_sets(_two_sets(tmp_path))
    said = equalise_sets(sets, tmp_path / "out", across="all")
    assert {video["after"] for video in said["videos"]} == {"64 x 64, 6 frames at 4 a second"}
    assert {video["loss_db"] for video in said["videos"]} == {None}
    alike = equalise_sets(open_sets([str(tmp_path / "out" / "a"), str(tmp_path / "out" / "b")]), tmp_path / "again")
    assert [v["before"] for v in alike["videos"]] == [v["after"] for v in alike["videos"]]
    first, again = (_read(tmp_path / place / "a" / "0.mp4") for place in ("out", "again"))
    assert np.array_equal(first, again)  # doing it twice changes nothing


def test_a_broken_video_leaves_its_prompt_out(tmp_path: Path) -> None:
    folders = _two_sets(tmp_path)
    broken = tmp_path / "b" / "1.mp4"
    broken.write_bytes(broken.read_bytes()[:2000])
    said = equalise_sets(open_sets(folders), tmp_path / "out", [Prompt("0", "x"), Prompt("1", "y")])
    assert [video["prompt"] for video in said["videos"]] == ["000-x", "000-x"]
    assert "1.mp4" in said["left_out"][0]["file"]
    assert not list((tmp_path / "out").rglob("001*"))


def test_wrong_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folders = _two_sets(tmp_path)
    sets = open_sets(folders)
    with pytest.raises(ValueError, match="two or more sets"):
        equalise_sets(sets[:1], tmp_path / "out")
    with pytest.raises(ValueError, match="would be overwritten"):
        equalise_sets(sets, tmp_path)
    (tmp_path / "b" / "2.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="as many videos in each set"):
        equalise_sets(open_sets(folders), tmp_path / "out")
    with pytest.raises(ValueError, match="two or more folders and OUT"):
        command.equalise(_parse("equalise", folders[0], folders[1]))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="found a file"):
        command.equalise(_parse("equalise", *folders, str(tmp_path / "file")))
    assert not (tmp_path / "out").exists()
