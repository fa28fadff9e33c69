"""Whole sampling loops against diffusers' own pipelines on the same weights and noise; long videos; what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AnimateDiffPipeline, EulerDiscreteScheduler, PIAPipeline
from einops import rearrange

from emu_core.base import Base, load_base
from emu_core.checkpoint import load_stack
from emu_core.interop.animatediff import LINEAR
from emu_core.model.sampling import build_scheduler
from emu_core.model.schedule import frame_noise
from emu_core.model.windows import sliding_windows, window_weights
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings
from tests.core import reference
from tests.core.helpers import DOUBLE, decoded_latents
from tests.core.saved import model_of_four_channels

PROMPT = "a big red circle moves right on a white background"
FRAMES = 6
NOISE = frame_noise((FRAMES, 4, 8, 8), torch.Generator().manual_seed(3))
IMAGE = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """In float64, so that what two programs differ in is no matter of kernels."""
    return load_base(model_of_four_channels(tmp_path_factory.mktemp("model") / "base"), dtype=DOUBLE)


def pipeline_with(base: Base, state: Any, tmp_path: Path) -> tuple[EmuVideoPipeline, list[torch.Tensor]]:
    """Our pipeline with a checkpoint, and the list that its latents go to."""
    base = copy.copy(base)
    stack = load_stack(reference.save(state, tmp_path / "checkpoint.safetensors"))
    return EmuVideoPipeline(base, stack), decoded_latents(base)


def components(base: Base, adapter: Any) -> dict[str, Any]:
    vae = copy.deepcopy(base.vae)
    half = vae.quant_conv.bias.shape[0] // 2  # an encoder without noise: its logarithm of the variance at diffusers' least
    vae.quant_conv.weight.data[half:], vae.quant_conv.bias.data[half:] = 0, -30
    parts = {
        "vae": vae,
        "unet": copy.deepcopy(base.unet),
        "motion_adapter": torch.nn.Module.to(adapter, DOUBLE),
        "scheduler": build_scheduler("ddim", LINEAR),
    }
    return {**parts, "text_encoder": None, "tokenizer": None}


def called(pipe: Any, base: Base, noise: torch.Tensor, **changes: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    texts = {True: base.encode_text([PROMPT]).hidden, False: base.encode_text([""]).hidden}
    result = pipe(
        prompt_embeds=texts[True],
        negative_prompt_embeds=texts[False],
        num_frames=FRAMES,
        latents=rearrange(noise, "f c h w -> 1 c f h w").to(DOUBLE),
        output_type="latent",
        **{"num_inference_steps": 10, **changes},
    )
    return rearrange(result.frames, "1 c f h w -> f c h w")


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std() > 0.1
    difference = (found - expected).abs().max() / expected.abs().max().clamp(min=1)
    assert difference <= 1e-5, float(difference)  # the samplers' own arithmetic is float32, element by element


def test_animatediff_samples_as_diffusers_does(base: Base, tmp_path: Path) -> None:
    adapter = reference.motion_adapter(base.unet, mid=True)
    pipeline, latents = pipeline_with(base, adapter, tmp_path)
    settings = Settings(frames=FRAMES, steps=10, seed=3, size=(64, 64), text_guidance=4.0)
    pipeline.video(None, PROMPT, settings)
    pipe = AnimateDiffPipeline(**components(base, adapter))
    expected = called(pipe, base, NOISE, guidance_scale=4.0, height=64, width=64)
    close(latents[0], expected)


def test_animatediff_lightning_samples_as_its_model_card_says(base: Base, tmp_path: Path) -> None:
    """Told by its name alone: Euler, trailing, four steps, no guidance."""
    adapter = reference.motion_adapter(base.unet, mid=True)
    path = reference.save(adapter, tmp_path / "animatediff_lightning_4step_diffusers.safetensors")
    mine = copy.copy(base)
    pipeline, latents = EmuVideoPipeline(mine, load_stack(path)), decoded_latents(mine)
    pipeline.video(None, PROMPT, Settings(frames=FRAMES, seed=3, size=(64, 64)))
    parts = components(base, adapter)
    parts["scheduler"] = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", timestep_spacing="trailing"
    )
    how = {"guidance_scale": 1.0, "num_inference_steps": 4, "height": 64, "width": 64}
    close(latents[0], called(AnimateDiffPipeline(**parts), base, NOISE, **how))


@pytest.mark.parametrize(("motion", "scale"), [("small", 0), ("large", 2), ("moderate, loop", 4), ("large, style", 8)])
def test_pia_samples_as_diffusers_does(base: Base, tmp_path: Path, motion: str, scale: int) -> None:
    """diffusers' motion scale 8 is the large style table, 6 the small one; in PIA's own program the two are exchanged."""
    adapter = reference.motion_adapter(base.unet, mid=False, conv_in=True)
    pipeline, latents = pipeline_with(base, adapter, tmp_path)
    settings = Settings(frames=FRAMES, steps=10, seed=3, size=(64, 64), text_guidance=4.0, image_guidance=1.0, motion=motion)
    pipeline.video(IMAGE, PROMPT, settings)
    pipe = PIAPipeline(**components(base, adapter))
    expected = called(pipe, base, NOISE, image=IMAGE.movedim(-1, 1), guidance_scale=4.0, motion_scale=scale, height=64, width=64)
    close(latents[0], expected)


def test_pia_takes_its_frame_anywhere_and_three_guidances(base: Base, tmp_path: Path) -> None:
    adapter = reference.motion_adapter(base.unet, mid=False, conv_in=True)
    pipeline, latents = pipeline_with(base, adapter, tmp_path)
    settings = Settings(frames=FRAMES, steps=3, size=(64, 64), image_guidance=2.0)
    for position in (0, 3, -1):
        pipeline.video(IMAGE, PROMPT, settings, (position,))
    assert not torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[1], latents[2])
    with pytest.raises(ValueError, match="one given frame.*found 2"):
        pipeline.video(IMAGE.repeat(2, 1, 1, 1), PROMPT, settings, (0, 1))


def test_fancyvideo_is_told_rate_and_motion(base: Base, tmp_path: Path) -> None:
    pipeline, latents = pipeline_with(base, reference.fancyvideo_state(base.unet), tmp_path)
    for told in ({}, {"cond_fps": 25.0, "motion_score": 3.0}, {"cond_fps": 8.0}, {"motion_score": 6.0}):
        pipeline.video(IMAGE, PROMPT, Settings(frames=4, steps=3, size=(64, 64), **told))
    assert torch.equal(latents[0], latents[1])  # 25 and 3 are the defaults
    assert not torch.allclose(latents[0], latents[2])
    assert not torch.allclose(latents[0], latents[3])


@pytest.mark.slow  # 32 frames; the nodes and test_conditioning have the masks of several given frames
def test_fancyvideo_extends_and_backtracks(base: Base, tmp_path: Path) -> None:
    """The first or the last 16 of 32 frames are given."""
    pipeline, latents = pipeline_with(base, reference.fancyvideo_state(base.unet), tmp_path)
    images = torch.rand(16, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    for positions in (range(16), range(16, 32)):
        video = pipeline.video(images, PROMPT, Settings(frames=32, steps=2, size=(64, 64)), positions)
        assert video.shape == (32, 64, 64, 3)
    assert not torch.equal(latents[0], latents[1])


def test_a_stack_without_image_makes_the_video_from_text_alone(base: Base, tmp_path: Path) -> None:
    pipeline, _ = pipeline_with(base, reference.motion_adapter(base.unet, mid=False), tmp_path)
    settings = Settings(frames=4, steps=2, size=(64, 64))
    stages: list[str] = []
    result = pipeline(PROMPT, settings, interpolate=False, progress=lambda stage, *_: stages.append(stage))
    assert set(stages) == {"video"}
    assert torch.equal(result.starting_frame, result.video[:1])
    assert result.fps == 8
    picture = torch.zeros(1, 64, 64, 3)
    for action in (lambda: pipeline(PROMPT, settings, picture, False), lambda: pipeline.video(picture, PROMPT, settings)):
        with pytest.raises(ValueError, match="family animatediff makes videos from the text alone"):
            action()


def test_longer_than_the_positions_allow_takes_a_window(base: Base, tmp_path: Path) -> None:
    pipeline, latents = pipeline_with(base, reference.motion_adapter(base.unet, mid=False, length=8), tmp_path)
    settings = {"steps": 2, "size": (64, 64), "text_guidance": 1.0}
    with pytest.raises(ValueError, match=r"animatediff stack has positions for 8 frames, found 12 frames.*--window"):
        pipeline.video(None, PROMPT, Settings(frames=12, **settings))
    with pytest.raises(ValueError, match="positions for 8 frames, found a window of 10 frames"):
        pipeline.video(None, PROMPT, Settings(frames=12, window=10, **settings))
    pipeline.video(None, PROMPT, Settings(frames=12, window=8, **settings))
    pipeline.video(None, PROMPT, Settings(frames=8, **settings))
    pipeline.video(None, PROMPT, Settings(frames=8, window=8, **settings))
    assert latents[0].shape[0] == 12
    assert torch.equal(latents[1], latents[2])  # a window of the whole video changes nothing


def test_windows_cover_the_video_and_end_with_it() -> None:
    assert sliding_windows(16, 16, 4) == [list(range(16))]
    assert sliding_windows(20, 8, 4) == [list(range(s, s + 8)) for s in (0, 4, 8, 12)]
    assert (sliding_windows(21, 8, 4)[-1], window_weights(5).tolist()) == (list(range(13, 21)), [1, 2, 3, 2, 1])
    assert window_weights(4).tolist() == [1, 2, 2, 1]
    for frames in range(1, 40):
        assert {i for window in sliding_windows(frames, 7, 3) for i in window} == set(range(frames))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"motion": "large"}, "motion is for stacks of family pia, found animatediff"),
        ({"cond_fps": 8.0}, "cond_fps is for stacks of family fancyvideo, found animatediff"),
        ({"motion_score": 2.0}, "motion_score is for stacks of family fancyvideo"),
    ],
)
def test_what_a_stack_does_not_understand_is_refused(base: Base, tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    pipeline, _ = pipeline_with(base, reference.motion_adapter(base.unet, mid=False), tmp_path)
    with pytest.raises(ValueError, match=words):
        pipeline.video(None, PROMPT, Settings(frames=4, steps=1, size=(64, 64), **settings))
