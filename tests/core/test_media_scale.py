"""Videos that are written larger than they are, and read as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emu_core.evaluation.equalise import Target, equalise_video
from emu_core.evaluation.metrics import measure_video
from emu_core.evaluation.prompts import Prompt
from emu_core.limits import changed
from emu_core.media import Scale, VideoReader, read_video, write_video
from emu_core.media.writing import ENCODINGS

from .test_media import EVERY, EXACT, METADATA, smooth_clip


@pytest.mark.parametrize("extension", EVERY)
@pytest.mark.parametrize("factor", [3, 4])
def test_what_was_written_larger_is_read_as_it_was(tmp_path: Path, extension: str, factor: int) -> None:
    """To the bit where nothing is lost. Of equal pixels the encoder, which halves the resolution of colours, loses less."""
    clip, plain, large = smooth_clip(4), tmp_path / f"plain{extension}", tmp_path / f"large{extension}"
    clip = (clip + 0.2 * torch.rand(clip.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    clip = (clip * 255).round() / 255
    write_video(plain, clip, 4.0, METADATA)
    write_video(large, clip, 4.0, METADATA, scale=Scale(factor))
    stored, read = VideoReader(large, stored=True), read_video(large)
    assert (stored.facts.width, stored.facts.height) == (64 * factor, 48 * factor)
    assert next(iter(stored)).shape == (48 * factor, 64 * factor, 3)
    assert (read.frames.shape, read.fps) == (clip.shape, 4.0)
    assert read.metadata == METADATA | {"scale": f"{factor}:nearest of 64x48"}
    errors = [(read_video(path).frames - clip).square().mean() for path in (large, plain)]
    if extension in EXACT:
        assert torch.equal(read.frames, clip)
        assert np.array_equal(np.stack([*VideoReader(large)]), (clip * 255).round().byte().numpy())
    elif extension in ENCODINGS:
        assert errors[0] < errors[1] / 2


def test_what_is_smooth_or_has_another_size_since_is_read_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = smooth_clip(2)
    write_video(tmp_path / "smooth", clip, 4.0, scale=Scale(2, "lanczos"))
    wanted = Image.fromarray((clip[0] * 255).byte().numpy()).resize((128, 96), Image.Resampling.LANCZOS)
    assert np.array_equal(next(iter(VideoReader(tmp_path / "smooth"))), np.asarray(wanted))
    assert "what lanczos enlarged is not undone" in caplog.text
    write_video(tmp_path / "other", clip, 4.0, {"scale": "2:nearest of 64x48"})  # as of a program that keeps what a file says
    assert read_video(tmp_path / "other").frames.shape == clip.shape
    assert [Scale(4, within=384).of(*size).factor for size in ((64, 64), (64, 128), (8, 200), (512, 384))] == [4, 3, 1, 1]


def test_what_no_file_holds_or_is_read_again_is_refused(tmp_path: Path) -> None:
    """Pillow's libwebp refuses a side of 16384 (WEBP_MAX_DIMENSION), and VideoReader more pixels than the limit."""
    wide = torch.zeros(1, 8, 1024, 3)
    with pytest.raises(ValueError, match="--scale 16: expected sides of at most 16383 px in the file, found 1024 x 8"):
        write_video(tmp_path / "huge.webp", wide, 4.0, scale=Scale(16))
    write_video(tmp_path / "wide.webp", wide, 4.0, scale=Scale(15))
    assert read_video(tmp_path / "wide.webp").frames.shape == wide.shape
    with changed(["pixels=100000"]):
        told = "--scale 4: expected at most 100,000 pixels a frame in the file, found 100 x 80 times that.*--limit pixels=N"
        with pytest.raises(ValueError, match=told):
            write_video(tmp_path / "huge.webp", torch.zeros(1, 80, 100, 3), 4.0, scale=Scale(4))
        write_video(tmp_path / "large.webp", torch.zeros(1, 80, 100, 3), 4.0, scale=Scale(3))
        assert read_video(tmp_path / "large.webp").frames.shape == (1, 80, 100, 3)
    assert not (tmp_path / "huge.webp").exists()
    Scale().check(20000, 20000)  # of what is not enlarged others say so


@pytest.mark.parametrize("extension", [".mp4", ".webp"])
def test_figures_are_those_of_the_video_and_not_of_a_larger_file(tmp_path: Path, extension: str) -> None:
    """A texture that moves 2 pixels a frame, by construction."""
    texture = torch.rand(64, 96, 3, generator=torch.Generator().manual_seed(3))
    texture = torch.nn.functional.avg_pool2d(texture.permute(2, 0, 1), 5, 1, 2).permute(1, 2, 0)
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    clip = torch.stack([texture[:, 2 * at : 2 * at + 64] for at in range(8)])
    write_video(tmp_path / f"large{extension}", clip, 8.0, scale=Scale(4))
    measured = measure_video(tmp_path / f"large{extension}", Prompt("000", "a texture"))
    assert (measured.facts.width, measured.facts.height) == (64, 64)
    assert measured.figures["motion_score"] == pytest.approx(2, abs=0.15)


def test_an_equalised_video_says_nothing_of_a_scale(tmp_path: Path) -> None:
    write_video(tmp_path / "large.mp4", smooth_clip(2), 4.0, METADATA, scale=Scale(4))
    video = VideoReader(tmp_path / "large.mp4")
    equalise_video(video, tmp_path / "equal.mp4", Target(48, 2, 4.0))
    equal = read_video(tmp_path / "equal.mp4")
    assert equal.frames.shape == (2, 48, 48, 3)
    assert equal.metadata == METADATA
