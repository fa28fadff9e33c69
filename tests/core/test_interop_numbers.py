"""Imported checkpoints against other implementations of the same weights: one call of the U-Net, at small width in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange

from emu_core.checkpoint import load_stack
from emu_core.model.conditioning import condition
from emu_core.model.video_model import VideoModel
from tests.core import reference
from tests.core.filled import normal
from tests.core.helpers import DOUBLE

SIZE = 8
AFFINITY = (1.0, 0.9, 0.85, 0.85, 0.85)
STEPS = torch.tensor([951, 301])


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for rounding: the largest difference against the size of the output."""
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    # float64: far above its rounding. float32, at full width, where memory is dear: what README promises
    assert difference <= (1e-12 if found.dtype == DOUBLE else 1e-5), difference
    assert expected.std() > 0.05


def widths(small: dict[str, Any], full: dict[str, Any]) -> Any:
    """At a small width in float64, and at the true one in float32."""
    true = pytest.param(full, 1, 4, torch.float32, id="full", marks=[pytest.mark.slow, pytest.mark.full_size])
    return pytest.mark.parametrize(("settings", "b", "f", "dtype"), [pytest.param(small, 2, 5, DOUBLE, id="small"), true])


def in_precision(unet: Any, dtype: torch.dtype) -> Any:
    return torch.nn.Module.to(unet, dtype)  # diffusers' own `to` warns of what does not concern these


def call(unet: Any, path: Path, width: int, conditioning: torch.Tensor | None, b: int, f: int) -> torch.Tensor:
    x = rearrange(normal("x", b, 4, f, SIZE, SIZE), "b c f h w -> b f c h w")
    model = VideoModel(unet, load_stack(path, dtype=unet.dtype))
    try:
        with torch.inference_mode():
            given = None if conditioning is None else conditioning.to(unet.dtype)
            return model(x.to(unet.dtype), STEPS[:b], normal("text", b, 7, width).to(unet.dtype), given)
    finally:
        model.attachment.detach()


def call_motion(unet: Any, width: int, extra: torch.Tensor | None, b: int, f: int) -> torch.Tensor:
    x = normal("x", b, 4, f, SIZE, SIZE)
    with torch.inference_mode():
        text = normal("text", b, 7, width).repeat_interleave(f, 0).to(unet.dtype)
        y = unet((x if extra is None else torch.cat([x, extra], 1)).to(unet.dtype), STEPS[:b], text)[0]
    return rearrange(y, "b c f h w -> b f c h w")


@widths(reference.SMALL_SD15, reference.FULL_SD15)
@pytest.mark.parametrize("mid", [True, False], ids=["v2", "v3"])
def test_animatediff_equals_diffusers(tmp_path: Path, mid: bool, settings: Any, b: int, f: int, dtype: torch.dtype) -> None:
    unet = reference.image_unet(**settings)
    adapter = reference.motion_adapter(unet, mid)
    path = reference.save(adapter, tmp_path / "adapter.safetensors")
    width = settings["cross_attention_dim"]
    theirs = in_precision(reference.motion_unet(unet, adapter), dtype)
    close(call(in_precision(unet, dtype), path, width, None, b, f), call_motion(theirs, width, None, b, f))


@widths(reference.SMALL_SD15, reference.FULL_SD15)
def test_pia_equals_diffusers(tmp_path: Path, settings: Any, b: int, f: int, dtype: torch.dtype) -> None:
    unet = reference.image_unet(**settings)
    adapter = reference.motion_adapter(unet, False, conv_in=True)
    path = reference.save(adapter, tmp_path / "pia.safetensors")
    theirs = in_precision(reference.motion_unet(unet, adapter), dtype)
    image = normal("image", b, 4, SIZE, SIZE)
    width = settings["cross_attention_dim"]
    given = condition(image[:, None], (0,), f, ("affinity", "image"), "small")
    found = call(in_precision(unet, dtype), path, width, given, b, f)
    affinity = torch.tensor(AFFINITY)[:f].view(1, 1, f, 1, 1).expand(b, 1, f, SIZE, SIZE)
    extra = torch.cat([affinity, image[:, :, None].expand(b, 4, f, SIZE, SIZE)], 1)
    close(found, call_motion(theirs, width, extra, b, f))


@widths(reference.SMALL_MODELSCOPE, {"cross_attention_dim": 1024, "attention_head_dim": 64, "sample_size": 8})
def test_modelscope_equals_diffusers(tmp_path: Path, settings: Any, b: int, f: int, dtype: torch.dtype) -> None:
    whole = reference.modelscope_unet(**settings)
    path = reference.save(whole, tmp_path / "modelscope.safetensors")
    width = settings["cross_attention_dim"]
    found = call(in_precision(reference.modelscope_image_unet(whole), dtype), path, width, None, b, f)
    x, text = normal("x", b, 4, f, SIZE, SIZE).to(dtype), normal("text", b, 7, width).to(dtype)
    with torch.inference_mode():
        y = in_precision(whole, dtype)(x, STEPS[:b], text)[0]
    close(found, rearrange(y, "b c f h w -> b f c h w"))
