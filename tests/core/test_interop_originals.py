"""Imported checkpoints against the families' own programs: outputs that these made of the same weights (see fixtures)."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from einops import rearrange
from safetensors import safe_open

from emu_core.checkpoint import load_stack
from emu_core.model.conditioning import condition
from emu_core.model.video_model import VideoModel
from tests.core.filled import fill, normal
from tests.core.helpers import DOUBLE
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
SIZE = 16
STEPS = torch.tensor([951, 301])


def fixture(name: str) -> tuple[torch.Tensor, dict[str, list[int]], dict[str, Any]]:
    with safe_open(FIXTURES / f"{name}.safetensors", framework="pt") as file:
        metadata = file.metadata()
        return (
            file.get_tensor("output"),
            json.loads(zlib.decompress(base64.b64decode(metadata["keys"]))),
            json.loads(metadata["unet"]),
        )


def checkpoint(name: str, tmp_path: Path) -> Path:
    _, keys, _ = fixture(name)
    return save({key: fill(key, tuple(shape)) for key, shape in keys.items()}, tmp_path / "any_name.safetensors")


def image_unet(settings: dict[str, Any], nine_channels: bool) -> Any:
    unet: Any = filled(UNet2DConditionModel(**settings))
    if nine_channels:  # the first four channels are the image model's own
        unet.conv_in.weight.data = fill("base.conv_in.weight", unet.conv_in.weight.shape)
    return unet


FULL = [pytest.param(f"full_{name}", marks=[pytest.mark.slow, pytest.mark.full_size]) for name in FAMILIES]


@pytest.mark.parametrize("name", [*FAMILIES, *FULL])
def test_equals_the_original_program(name: str, tmp_path: Path) -> None:
    """In float64, so that little but the original's own rounding is left, which lies in the fixture. At full width, which is
    SD 1.5's, and SDXL's with fewer transformer layers for Hotshot-XL, in float32."""
    family, dtype = FAMILIES[name.removeprefix("full_")], torch.float32 if name.startswith("full_") else DOUBLE
    expected, _, settings = fixture(name)
    b, f = expected.shape[:2]
    stack = load_stack(checkpoint(name, tmp_path), dtype=dtype)
    assert stack.config.origin.family == family
    image = normal("image", b, 1, 4, SIZE, SIZE)
    given = condition(image, (0,), f, stack.config.channel_order, "small") if stack.config.takes_image else None
    added = None
    if family == "hotshot-xl":
        added = {"text_embeds": normal("pooled", b, 16), "time_ids": torch.tensor([[64, 64, 0, 0, 64, 64]] * b)}
    given = None if given is None else given.to(dtype)
    unet = image_unet(settings, given is not None)
    model = VideoModel(torch.nn.Module.to(unet, dtype), stack)
    x = rearrange(normal("x", b, 4, f, SIZE, SIZE), "b c f h w -> b f c h w").to(dtype)
    with torch.inference_mode():
        found = model(x, STEPS[:b], normal("text", b, 7, settings["cross_attention_dim"]).to(dtype), given, added)
    difference = (found - expected).abs().max() / expected.abs().max()
    assert difference <= 1e-5, float(difference)  # what README promises
