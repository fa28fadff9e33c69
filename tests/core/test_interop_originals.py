"""Imported checkpoints against the families' own programs: outputs that these made of the same weights (see fixtures)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from einops import rearrange
from safetensors import safe_open

from emu_core.checkpoint import load_stack
from emu_core.conditioning import condition
from emu_core.interop import open_weights, recognise
from emu_core.video_model import VideoModel
from tests.core.filled import fill, normal
from tests.core.reference import filled, save

FIXTURES = Path(__file__).parent / "fixtures"
FAMILIES = {
    "animatediff_v1": "animatediff",
    "animatediff_v2": "animatediff",
    "animatediff_v3": "animatediff",
    "pia": "pia",
    "fancyvideo": "fancyvideo",
    "hotshot_xl": "hotshot-xl",
}
B, F, SIZE = 2, 5, 16


def fixture(name: str) -> tuple[torch.Tensor, dict[str, list[int]], dict[str, Any]]:
    with safe_open(FIXTURES / f"{name}.safetensors", framework="pt") as file:
        metadata = file.metadata()
        return file.get_tensor("output"), json.loads(metadata["keys"]), json.loads(metadata["unet"])


def checkpoint(name: str, tmp_path: Path) -> Path:
    _, keys, _ = fixture(name)
    return save({key: fill(key, tuple(shape)) for key, shape in keys.items()}, tmp_path / "any_name.safetensors")


def image_unet(settings: dict[str, Any], nine_channels: bool) -> Any:
    unet = filled(UNet2DConditionModel(**settings))
    if nine_channels:  # the first four channels are the image model's own
        unet.conv_in.weight.data = fill("base.conv_in.weight", unet.conv_in.weight.shape)
    return unet


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_the_original_program(name: str, tmp_path: Path) -> None:
    expected, _, settings = fixture(name)
    stack = load_stack(checkpoint(name, tmp_path))
    assert stack.config.family == FAMILIES[name]
    image = normal("image", B, 1, 4, SIZE, SIZE)
    given = condition(image, (0,), F, stack.config.channel_order, "small") if stack.config.takes_image else None
    added = None
    if name == "hotshot_xl":
        added = {"text_embeds": normal("pooled", B, 16), "time_ids": torch.tensor([[64, 64, 0, 0, 64, 64]] * B)}
    model = VideoModel(image_unet(settings, given is not None), stack)
    x = rearrange(normal("x", B, 4, F, SIZE, SIZE), "b c f h w -> b f c h w")
    with torch.inference_mode():
        found = model(x, torch.tensor([951, 301]), normal("text", B, 7, 32), given, added)
    difference = (found - expected).abs().max() / expected.abs().max()
    assert difference <= 1e-5, float(difference)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_exact_layout_is_recognised(name: str, tmp_path: Path) -> None:
    assert recognise(open_weights(checkpoint(name, tmp_path)).shapes) == FAMILIES[name]
