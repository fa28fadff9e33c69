"""Motion LoRAs in real ComfyUI: the checks of inside/motion_loras.py, and the same numbers as the standalone pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from emu_core.base import load_base
from emu_core.checkpoint import load_stack, merge_motion_loras, save_stack

from ..core import reference
from ..core.test_motion_lora import guoyww, lora_state, peft
from .conftest import outcome
from .test_video_model import checks

pytestmark = pytest.mark.newest
TWO = [("animatediff_motion_lora/zoom.safetensors", 0.6), ("emu_video/pan.ckpt", 0.4)]


@pytest.fixture(scope="session")
def ran(inside: Callable[..., Any], narrow: Path) -> dict[str, Any]:
    def prepare(out: Path) -> None:
        own, stacks, loras = (out / "models" / name for name in ("emu_video", "animatediff_models", "animatediff_motion_lora"))
        elsewhere = out / "elsewhere"
        for folder in (stacks / "sub", loras, elsewhere):
            folder.mkdir(parents=True)
        adapter = reference.motion_adapter(load_base(narrow).unet, mid=True)
        reference.save(reference.original_layout(adapter.state_dict()), own / "animatediff_tiny.safetensors")
        state = lora_state(adapter.state_dict(), guoyww)
        reference.save(state, loras / "zoom.safetensors")
        reference.save(state, own / "zoom.safetensors")
        other = {name: value.flip(0) for name, value in lora_state(adapter.state_dict(), peft, rank=2).items()}
        alphas = {name.replace("lora_A.weight", "alpha"): torch.tensor(1.5) for name in other if "lora_A" in name}
        torch.save({"state_dict": other | alphas}, own / "pan.ckpt")
        for name, given in {"merged": [(loras / "zoom.safetensors", 0.7)], "merged two": TWO}.items():
            stack = load_stack(own / "animatediff_tiny.safetensors")
            merge_motion_loras(stack, [(out / "models" / file, strength) for file, strength in given])
            save_stack(stack, own / f"{name}.safetensors", torch.float32)
        torch.save(state, elsewhere / "tilt.ckpt")
        small = reference.motion_adapter(reference.image_unet(**reference.SMALL_SD15), mid=True)
        reference.save(lora_state(small.state_dict(), guoyww), loras / "sd15.safetensors")
        name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight"
        reference.save({name: torch.zeros(2, 2)}, loras / "spatial.safetensors")
        (loras / "readme.txt").write_text("words")
        torch.save(reference.original_layout(adapter.state_dict()), stacks / "mm_sd_v15_v2.ckpt")
        for place in (stacks / "sub" / "mm.safetensors", stacks / "both.safetensors", own / "both.safetensors"):
            reference.save(adapter, place)

    return inside("motion_loras", prepare)


@pytest.mark.parametrize("check", checks("motion_loras"))
def test_motion_loras(check: str, ran: dict[str, Any]) -> None:
    outcome(ran, check)
