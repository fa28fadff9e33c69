"""FreeNoise and FreeInit against diffusers, and what they refuse."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AnimateDiffPipeline
from diffusers.pipelines.free_init_utils import FreeInitMixin
from diffusers.pipelines.free_noise_utils import AnimateDiffFreeNoiseMixin
from einops import rearrange

from emu_core import pipeline as module
from emu_core.base import load_base
from emu_core.checkpoint import load_stack
from emu_core.interop.animatediff import LINEAR
from emu_core.model.noise import begin_again, frame_order, low_pass, mixed, window_noise
from emu_core.model.sampling import build_scheduler
from emu_core.model.schedule import ScheduleConfig, frame_noise
from emu_core.model.streams import stream
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings
from tests.core import reference
from tests.core.helpers import DOUBLE, decoded_latents
from tests.core.saved import model_of_four_channels

PROMPT = "a big red circle moves right on a white background"
FEW = {"steps": 4, "size": (64, 64), "text_guidance": 4.0}


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=stream(seed))


def as_diffusers(latents: torch.Tensor) -> torch.Tensor:
    return rearrange(latents, "f c h w -> 1 c f h w")


@pytest.mark.parametrize(("frames", "length", "overlap"), [(32, 16, 4), (40, 16, 12), (16, 8, 7), (24, 8, 0), (8, 8, 4)])
def test_the_noise_is_diffusers_for_whole_strides(frames: int, length: int, overlap: int) -> None:
    """From one generator, which has drawn the noise of all frames before; a stretch of less than a stride it cuts, and
    ComfyUI shuffles it in itself (see tests/nodes/test_imported.py, where the two noises make one video)."""
    frames -= (frames - length) % (length - overlap)
    theirs = AnimateDiffFreeNoiseMixin()
    theirs._free_noise_context_length, theirs._free_noise_context_stride = length, length - overlap
    theirs._free_noise_noise_type, theirs.vae_scale_factor = "shuffle_context", 8
    sizes = {"height": 64, "width": 64, "dtype": torch.float32, "device": torch.device("cpu")}
    wanted = theirs._prepare_latents_free_noise(1, 4, frames, **sizes, generator=stream(5))
    generator = stream(5)
    noise = torch.randn(1, 4, frames, 8, 8, generator=generator)
    assert torch.equal(noise[:, :, frame_order(frames, length, overlap, generator)], wanted)


@pytest.mark.parametrize(("frames", "length", "overlap"), [(41, 16, 4), (13, 8, 3), (9, 8, 7), (5, 8, 4), (64, 8, 0)])
def test_each_frame_of_a_stride_is_one_of_a_window_before(frames: int, length: int, overlap: int) -> None:
    """The paper's noise: the first window's, and then strides of [e_(M+1) ... ] = shuffle([e_1 ...])."""
    order, stride = frame_order(frames, length, overlap, stream(7)), length - overlap
    assert (order[:length], len(order)) == (list(range(min(frames, length))), frames)
    for start in range(length, frames, stride):
        part = order[start : start + stride]
        assert sorted(part) == sorted(order[start - length : start - length + len(part)])
    if stride > 2 and frames >= length + stride:
        assert order[length : length + stride] != order[:stride]
    noise, plain = (window_noise((frames, 2, 3, 3), 7, length, overlap, free=free) for free in (True, False))
    assert torch.equal(plain, frame_noise((frames, 2, 3, 3), stream(7)))
    assert torch.equal(noise, plain[order])


@pytest.mark.parametrize("kind", ["butterworth", "gaussian", "ideal"])
@pytest.mark.parametrize("size", [(6, 8, 8), (7, 5, 12), (16, 9, 16)])
def test_filter_and_mixture_are_diffusers(kind: Any, size: tuple[int, int, int]) -> None:
    theirs = FreeInitMixin()
    wanted = theirs._get_free_init_freq_filter((1, 4, *size), torch.device("cpu"), kind, 4, 0.25, 0.25)
    kept = low_pass(*size, kind)
    torch.testing.assert_close(kept.expand(1, 4, *size), wanted, atol=1e-6, rtol=1e-5)
    assert 0 < kept.mean() < 0.2
    low, high = (drawn(seed, size[0], 4, *size[1:]) for seed in (1, 2))
    mixture = theirs._apply_freq_filter(as_diffusers(low), as_diffusers(high), wanted)
    torch.testing.assert_close(as_diffusers(mixed(low, high, kept)), mixture, atol=1e-5, rtol=1e-5)


def test_the_lowest_frequency_stays_and_the_highest_is_new() -> None:
    latents, noise, fresh = drawn(1, 8, 2, 8, 8) + 3, drawn(2, 8, 2, 8, 8), drawn(3, 8, 2, 8, 8)
    found = begin_again(latents, noise, fresh, LINEAR)
    signal = torch.cumprod(1 - torch.linspace(8.5e-4, 1.2e-2, 1000, dtype=torch.float64), 0)[-1]
    mean = (signal.sqrt() * latents.mean((0, 2, 3)) + (1 - signal).sqrt() * noise.mean((0, 2, 3))).float()
    torch.testing.assert_close(found.mean((0, 2, 3)), mean, atol=1e-5, rtol=0)
    finest = torch.tensor([1.0, -1.0]).repeat(4)
    pattern = finest.view(8, 1, 1, 1) * finest.view(1, 1, 8, 1) * finest
    torch.testing.assert_close((found * pattern).mean((0, 2, 3)), (fresh * pattern).mean((0, 2, 3)), atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_of_four_channels(tmp_path_factory.mktemp("model") / "base")


def pipeline_with(model: Path, state: Any, tmp_path: Path, **how: Any) -> tuple[EmuVideoPipeline, list[torch.Tensor]]:
    """Our pipeline with a checkpoint, and the list that its latents go to."""
    base = load_base(model, **how)
    pipeline = EmuVideoPipeline(base, load_stack(reference.save(state, tmp_path / "checkpoint.safetensors")))
    return pipeline, decoded_latents(base)


def test_three_samplings_are_diffusers_free_init(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole run on the same weights, with the noise that diffusers' generator gives."""
    base = load_base(model, dtype=DOUBLE)
    adapter = reference.motion_adapter(base.unet, mid=True)
    pipeline, latents = pipeline_with(model, adapter, tmp_path, dtype=DOUBLE)
    generator = stream(3)
    noises = [torch.randn(1, 4, 6, 8, 8, generator=generator)[0].movedim(0, 1) for _ in range(3)]
    coming = iter(noises)
    monkeypatch.setattr(module, "window_noise", lambda *_: next(coming))
    told: list[tuple[int, int]] = []
    settings = Settings(frames=6, freeinit=3, **FEW)
    pipeline.video(None, PROMPT, settings, progress=lambda _, done, steps: told.append((done, steps)))
    assert told == [(done, 12) for done in range(1, 13)]
    adapter = torch.nn.Module.to(adapter, DOUBLE)
    parts = {"vae": copy.deepcopy(base.vae), "unet": copy.deepcopy(base.unet), "motion_adapter": adapter}
    pipe = AnimateDiffPipeline(**parts, scheduler=build_scheduler("ddim", LINEAR), text_encoder=None, tokenizer=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.enable_free_init(num_iters=3)
    generator = stream(3)
    first = torch.randn(1, 4, 6, 8, 8, generator=generator).to(DOUBLE)
    texts = {"prompt_embeds": base.encode_text([PROMPT]).hidden, "negative_prompt_embeds": base.encode_text([""]).hidden}
    how = {"num_frames": 6, "guidance_scale": 4.0, "num_inference_steps": 4, "height": 64, "width": 64, "output_type": "latent"}
    wanted = rearrange(pipe(**texts, **how, latents=first, generator=generator).frames, "1 c f h w -> f c h w")
    difference = (latents[0] - wanted).abs().max() / wanted.abs().max().clamp(min=1)
    assert wanted.std() > 0.1
    assert difference <= 1e-5, float(difference)


def test_each_sampling_has_noise_of_its_own_and_may_be_stopped(model: Path, tmp_path: Path) -> None:
    pipeline, latents = pipeline_with(model, reference.motion_adapter(load_base(model).unet, mid=False), tmp_path)

    settings = Settings(**FEW | {"steps": 2, "text_guidance": 1.0}, frames=5, window=3, overlap=1, seed=4)

    def video(progress: Any = None, **changes: Any) -> torch.Tensor:
        pipeline.video(None, PROMPT, replace(settings, **changes), (), progress)
        return latents[-1]

    plain = video()
    assert torch.equal(plain, video(freeinit=1))
    found = [plain, video(freenoise=True), video(freeinit=2), video(freeinit=3), video(freeinit=2, freenoise=True)]
    found += [video(freeinit=2, freeinit_filter="gaussian"), *(video(sampler="euler_ancestral", freeinit=n) for n in (1, 2))]
    assert not [1 for i, a in enumerate(found) for b in found[:i] if torch.allclose(a, b, atol=1e-2)]
    assert torch.equal(found[-1], video(sampler="euler_ancestral", freeinit=2))
    assert torch.equal(video(freenoise=True, window=5), video(window=5))

    class Stop(Exception):
        pass

    def stop(stage: str, done: int, steps: int) -> None:
        assert steps == 6
        if done == 3:
            raise Stop

    made = len(latents)
    with pytest.raises(Stop):
        video(stop, freeinit=3)
    assert len(latents) == made


def test_at_zero_snr_nothing_of_the_video_is_left() -> None:
    """diffusers' own form then gives noise that knows nothing of the video."""
    schedule = ScheduleConfig(beta_schedule="linear")
    noise, fresh = drawn(2, 6, 2, 8, 8), drawn(3, 6, 2, 8, 8)
    found = [begin_again(drawn(seed, 6, 2, 8, 8), noise, fresh, schedule) for seed in (4, 5)]
    assert torch.equal(*found)
    theirs = build_scheduler("ddim", schedule).add_noise(drawn(4, 1, 2, 6, 8, 8), as_diffusers(noise), torch.tensor([999]))
    torch.testing.assert_close(theirs, as_diffusers(noise), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"freenoise": True}, "freenoise is for windows that slide over a video, and there are none"),
        ({"freenoise": True, "window": 4}, "smaller overlap, found 4 and 4"),
        ({"freeinit": 0}, "freeinit must be 1 to 20 samplings in all, found 0"),
        ({"freeinit": 21}, "freeinit must be 1 to 20 samplings in all, found 21"),
        (
            {"freeinit": 2, "freeinit_filter": "box"},
            "unknown freeinit_filter 'box': expected one of butterworth, gaussian, ideal",
        ),
        ({"freeinit_filter": "ideal"}, "say how often to sample with freeinit"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Settings(**settings).check()


def test_free_init_is_refused_for_zero_snr() -> None:
    with pytest.raises(ValueError, match="schedule of this emu stack leaves nothing there"):
        EmuVideoPipeline.from_files().video(None, PROMPT, Settings(freeinit=2))
