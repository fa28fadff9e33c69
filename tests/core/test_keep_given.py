"""Stacks that keep the frames that they are given, whatever the network says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from emu_core.checkpoint import read_config, save_stack, settings_of
from emu_core.errors import UserError
from emu_core.model.conditioning import condition, keep_given
from emu_core.model.config import SamplingConfig, StackConfig
from emu_core.model.sampling import sample
from emu_core.model.schedule import ScheduleConfig, add_noise, denoised, signal_noise, target
from emu_core.model.video_model import VideoModel
from emu_core.training.checks import check_recipe
from emu_core.training.recipes import Given, Method, Optimisation, Recipe
from tests.core.helpers import random_stack, small_unet

EPSILON = ScheduleConfig(zero_snr=False, prediction="epsilon")


def kept(schedule: ScheduleConfig = ScheduleConfig(), order: Any = ("image", "mask")) -> tuple[VideoModel, StackConfig]:
    unet = small_unet()
    stack = random_stack(unet)
    stack.config = stack.config.changed(keeps_given=True, schedule=schedule, channel_order=order)
    return VideoModel(unet, stack), stack.config


@pytest.mark.parametrize("schedule", [ScheduleConfig(), EPSILON])
@pytest.mark.parametrize("order", [("image", "mask"), ("mask", "image")])
def test_the_output_for_given_frames_is_the_target(schedule: ScheduleConfig, order: Any) -> None:
    """At any timestep, the last one of zero SNR too; that of the other frames is the network's."""
    torch.manual_seed(0)
    model, config = kept(schedule, order)
    x0, noise, t = torch.randn(2, 8, 4, 8, 8), torch.randn(2, 8, 4, 8, 8), torch.tensor([999, 0])
    channels = condition(x0[:, [0, 5]], (0, 5), 8, order)
    levels = signal_noise(schedule, t, 5)
    found = keep_given(torch.zeros_like(x0), add_noise(schedule, x0, noise, t), channels, config, *levels)
    torch.testing.assert_close(found[:, [0, 5]], target(schedule, x0, noise, t)[:, [0, 5]], rtol=1e-4, atol=1e-4)
    assert not found[:, [1, 2, 3, 4, 6, 7]].any()
    with torch.inference_mode():
        noisy = add_noise(schedule, x0, noise, t)
        whole = model(noisy, t, torch.randn(2, 5, 32), channels)
    torch.testing.assert_close(denoised(schedule, noisy, whole, t)[:, [0, 5]], x0[:, [0, 5]], rtol=1e-3, atol=1e-3)


def test_a_video_begins_with_the_frame_that_was_given() -> None:
    """However bad the network is: random temporal layers, three steps from noise alone."""
    torch.manual_seed(0)
    model, config = kept()
    frame, text = torch.randn(1, 1, 4, 8, 8), torch.randn(1, 5, 32)
    channels = condition(frame, (0,), 8)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return model(x, t, text, channels)

    with torch.inference_mode():
        video = sample(denoise, torch.randn(1, 8, 4, 8, 8), config.schedule, 3)
    torch.testing.assert_close(video[:, :1], frame, rtol=1e-4, atol=1e-4)
    assert (video[:, 1:] - frame).abs().max() > 0.1


def test_it_is_said_in_the_file_and_only_where_it_is_so(tmp_path: Path) -> None:
    model, config = kept()
    save_stack(model.stack, tmp_path / "kept.safetensors")
    assert read_config(tmp_path / "kept.safetensors").sampling.keeps_given
    assert settings_of(config)["keeps_given"] is True
    assert "keeps_given" not in settings_of(config.changed(keeps_given=False))  # older versions read those


def test_what_cannot_be_kept_is_refused() -> None:
    with pytest.raises(UserError, match="found image_noise 20"):
        SamplingConfig(keeps_given=True, image_noise=20)
    _, config = kept()
    with pytest.raises(UserError, match="a mask of those that are given"):
        config.changed(channel_order=("affinity", "image"))
    recipe = Recipe("mine", "video", Optimisation(10, 4, 1e-3), method=Method(keep_given=True), given=Given(image_noise=100))
    with pytest.raises(UserError, match=r"found given.image_noise=100"):
        check_recipe(recipe)
    with pytest.raises(UserError, match=r"found method.image=false"):
        check_recipe(replace(recipe, given=Given(), method=Method(keep_given=True, image=False)))
