"""Public checkpoints as stacks in real ComfyUI: the same numbers as the standalone pipeline, and everything else on top."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from emu_core.base import load_base
from emu_core.checkpoint import load_stack
from emu_core.model.video_model import VideoModel
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings

from ..core import filled, helpers, reference
from ..core.ldm_layout import unet_to_ldm
from .conftest import outcome
from .test_video_model import checks

pytestmark = pytest.mark.newest
PROMPT = "a big red circle moves right on a white background"
CHECKED_HERE = {"check_a_call_of_the_unet", "check_whole_loops", "check_three_guidances"}
CHECKED_HERE |= {"check_context_windows_equal_the_pipelines"}


class Bomb:
    """Code in a pickle: it makes a file when it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


def write_files(unet: Any, folder: Path, name: str) -> None:
    """A checkpoint of each family for an image U-Net."""
    state = reference.motion_adapter
    original = reference.original_layout
    made = {
        "animatediff": state(unet, mid=True),
        "animatediff_v1": original(state(unet, mid=False, length=24).state_dict()),
        "hotshot": reference.hotshot_state(unet),
        "pia": state(unet, mid=False, conv_in=True),
        "fancyvideo": reference.fancyvideo_state(unet),
    }
    for family, weights in made.items():
        reference.save(weights, folder / f"{family}_{name}.safetensors")
    if name == "tiny":
        reference.save(made["animatediff"], folder / "animatediff_lightning_2step.safetensors")


@cache
def small_sd15() -> Any:
    return reference.image_unet(**reference.SMALL_SD15)


def unet_inputs() -> dict[str, torch.Tensor]:
    sizes = {"x": (4, 4, 8, 8), "text": (1, 7, 32), "conditioning": (4, 5, 8, 8)}
    return {"t": torch.tensor([301.0]), **{name: filled.normal(name, *size) for name, size in sizes.items()}}


@pytest.fixture(scope="session")
def ran(inside: Callable[..., Any], narrow: Path) -> dict[str, Any]:
    def prepare(out: Path) -> None:
        folder = out / "models" / "emu_video"
        tiny = load_base(narrow).unet
        write_files(tiny, folder, "tiny")
        write_files(small_sd15(), folder, "sd15")
        torch.save({"state_dict": load_file(folder / "pia_tiny.safetensors")}, folder / "pia_tiny.ckpt")
        torch.save({"weight": Bomb(out / "exploded")}, folder / "bomb.ckpt")
        save_file({"lora_unet_down.lora_up.weight": torch.zeros(2, 2)}, folder / "lora.safetensors")
        reference.save(unet_to_ldm(small_sd15().state_dict(), small_sd15().config), out / "unet.safetensors")
        save_file(unet_inputs(), out / "inputs.safetensors")

    return inside("imported", prepare)


@pytest.mark.parametrize("check", [c for c in checks("imported") if c not in CHECKED_HERE])
def test_imported(check: str, ran: dict[str, Any]) -> None:
    outcome(ran, check)


@pytest.mark.parametrize("name", ["animatediff", "animatediff_v1", "pia", "fancyvideo"])
def test_a_call_of_the_unet_equals_the_cores(name: str, ran: dict[str, Any]) -> None:
    outcome(ran, "check_a_call_of_the_unet")
    found = load_file(ran["out"] / "check_a_call_of_the_unet.safetensors")[name]
    x = unet_inputs()
    stack = load_stack(ran["out"] / "models" / "emu_video" / f"{name}_sd15.safetensors")
    model = VideoModel(small_sd15(), stack)
    conditioning = x["conditioning"][None] if stack.config.takes_image else None
    with torch.inference_mode():
        wanted = model(x["x"][None], x["t"], x["text"], conditioning)[0]
    model.attachment.detach()
    assert (found - wanted).abs().max() <= 2e-5 * wanted.abs().max()


def of_the_pipeline(
    model: Path, ran: dict[str, Any], name: str, image: torch.Tensor | None, position: int, **changes: Any
) -> torch.Tensor:
    base = load_base(model)
    pipeline = EmuVideoPipeline(base, load_stack(ran["out"] / "models" / "emu_video" / f"{name}_tiny.safetensors"))
    made = helpers.decoded_latents(base)
    settings = {"frames": 6, "steps": 4, "sampler": "ddim", "seed": 11, "size": (64, 64)}
    settings |= {"text_guidance": 4.0, "image_guidance": 1.0, **changes}
    pipeline.video(image, PROMPT, Settings(**settings), () if image is None else (position,))
    return made[0]


CASES: dict[str, dict[str, Any]] = {
    "animatediff": {},
    "animatediff_v1": {},
    "hotshot": {},
    "pia": {"motion": "large", "position": 2},
    "fancyvideo": {"cond_fps": 8.0, "motion_score": 5.0, "position": 0},
}


@pytest.mark.parametrize("name", CASES)
def test_whole_loops_equal_the_pipelines(name: str, ran: dict[str, Any], narrow: Path) -> None:
    """max difference <= 1e-4 of the latents' size; FancyVideo's zero terminal SNR is nearly zero in ComfyUI (see decisions)."""
    outcome(ran, "check_whole_loops")
    found = load_file(ran["out"] / "check_whole_loops.safetensors")
    changes = dict(CASES[name])
    image = found["image"] if "position" in changes else None
    wanted = of_the_pipeline(narrow, ran, name, image, changes.pop("position", 0), **changes)
    close(found[name], wanted, 1e-4 if name != "fancyvideo" else 2e-2)


def test_three_guidances_equal_the_pipelines(ran: dict[str, Any], narrow: Path) -> None:
    outcome(ran, "check_three_guidances")
    found = load_file(ran["out"] / "check_three_guidances.safetensors")["pia"]
    image = load_file(ran["out"] / "check_whole_loops.safetensors")["image"]
    close(found, of_the_pipeline(narrow, ran, "pia", image, 0, image_guidance=2.0), 1e-4)


def test_context_windows_equal_the_pipelines(ran: dict[str, Any], narrow: Path) -> None:
    outcome(ran, "check_context_windows_equal_the_pipelines")
    found = load_file(ran["out"] / "check_context_windows_equal_the_pipelines.safetensors")
    for free in (False, True):
        wanted = of_the_pipeline(narrow, ran, "animatediff", None, 0, frames=40, window=16, freenoise=free)
        close(found[f"freenoise {free}"], wanted, 1e-4)
    assert torch.equal(found["windowed"], found["freenoise False"])


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    assert wanted.std() > 0.1
    difference = (found - wanted).abs().max() / wanted.abs().max().clamp(min=1)
    assert difference <= tolerance, float(difference)
