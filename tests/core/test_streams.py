"""Random streams: no two uses of a seed draw the same numbers, and correlated noise belongs to a video, not to a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from emu_core.base import load_base
from emu_core.checkpoint import load_stack
from emu_core.model.schedule import frame_noise, videos_noise
from emu_core.model.stack import TemporalStack
from emu_core.model.streams import derived, stream
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings
from emu_core.training.recipes import override
from emu_core.training.sources import Batch

from .tiny_training import VideoTask, small

RANDN, MANUAL_SEED = torch.randn, torch.Generator.manual_seed


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The first number of each generator that is made and drawn from meanwhile."""
    first: list[float] = []

    class Noted(torch.Generator):
        def manual_seed(self, seed: int) -> Any:
            first.append(float(RANDN(1, generator=MANUAL_SEED(torch.Generator(), seed))))
            return MANUAL_SEED(self, seed)

    monkeypatch.setattr(torch, "Generator", Noted)
    return first


def test_uses_of_a_seed_differ_and_stay_what_they_are() -> None:
    uses = [(), ("augmentation", 0), ("augmentation", 1), ("sampler", 0), ("sampler", 10), ("sampler", 1, 0)]
    seeds = [derived(seed, *use) for seed in (0, 1, 2**64 - 1) for use in uses[1:]]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived(2**64) == derived(0)
    assert derived(3, "augmentation", 0) == 2025627787860988818  # saved results depend on it
    assert torch.equal(RANDN(3, generator=stream(5)), RANDN(3, generator=torch.Generator().manual_seed(5)))


def test_an_interpolation_has_a_stream_for_each_use(streams: list[float], narrow: Path) -> None:
    """Three windows: each has start noise, noise on its keyframes, and that of a sampler which adds some. They overlapped: a
    window's keyframes and sampler had one stream, and the next window's start noise had it again."""
    stack = load_stack(narrow / "stack_I.safetensors")  # which keeps its keyframes, so that they have no noise
    sampling = replace(stack.config.sampling, keeps_given=False, image_noise=20)
    noisy = TemporalStack(stack.config.changed(sampling=sampling))
    noisy.load_state_dict(stack.state_dict())
    pipeline = EmuVideoPipeline(load_base(narrow), interpolation=noisy)
    images = torch.rand(20, 16, 16, 3)
    streams.clear()
    settings = Settings(steps=1, seed=11, size=(16, 16), sampler="euler_ancestral")
    pipeline.interpolate(images, "a big red circle", settings)
    assert len(streams) == 3 * 3
    assert len(set(streams)) == 3 * 3
    starts = [float(RANDN(1, generator=stream(11 + window))) for window in range(3)]
    assert set(starts) < set(streams)  # what a seed gave before where nothing forced a change


def test_a_training_run_has_a_stream_for_each_use(streams: list[float], tmp_path: Path) -> None:
    """Two steps, the measuring and a sheet of stack I, whose given frames have noise of their own."""
    recipe = override(small("interpolation"), {"optimisation.batch": 2, "clips.validation": 3, "compute.micro": 1})
    task = VideoTask(recipe, tmp_path)
    kept, examples = task.source.kept_out, task.source.examples(3)
    batches: list[Batch] = list(task.stream([range(2), range(2, 4)]))
    video_timesteps().cache_clear()
    streams.clear()
    with torch.no_grad():
        for batch in batches:
            task(batch, None, 0.0)
        task.validate()
        task.sample(Batch(examples.positions, examples.captions, examples.latents))
    count = 2 * 2 + 2 + 3 * 2 + len(examples.latents) * 2  # samples, timesteps of steps, kept-out clips twice, the sheet's twice
    assert len(kept.latents) == 3
    assert len(streams) == count
    assert len(set(streams)) == count


def video_timesteps() -> Any:
    from emu_core.training import video

    return video._timesteps


def test_what_measures_does_not_depend_on_how_the_clips_are_split(tmp_path: Path) -> None:
    """The noise on I's given frames was drawn by the batch, so each batch began with the same numbers."""
    found = []
    for micro in ("1", "2", "4"):
        changes = {"optimisation.batch": 4, "clips.validation": 4, "compute.micro": micro}
        task = VideoTask(override(small("interpolation"), changes), tmp_path)
        with torch.no_grad():
            task.model.stack.conv_in.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
            found.append(task.validate()["val_loss"])
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-5)


def test_correlated_noise_is_each_videos_own() -> None:
    """Two frames of one video have a correlation of alpha^2 / (1 + alpha^2) = 1/2 (PYoCo, arXiv 2305.10474), of two videos none:
    in a batch all had the same shared part. A single video's noise is what it was."""
    noise = videos_noise((6, 50_000), 3, stream(3), 1.0)
    one = torch.full((3, 3), 0.5) + 0.5 * torch.eye(3)
    error = 4 * (2 / noise.shape[1]) ** 0.5  # four standard errors of a variance of 1
    torch.testing.assert_close(noise @ noise.T / noise.shape[1], torch.block_diag(one, one), atol=error, rtol=0)
    assert torch.equal(videos_noise((3, 8), 3, stream(3), 0.6), frame_noise((3, 8), stream(3), 0.6))
    assert torch.equal(videos_noise((3, 8), 0, stream(3), 0.6), frame_noise((3, 8), stream(3), 0.6))
