"""The same numbers in ComfyUI as in the core: U-Nets of the real layouts with a stack, text states, and the three steps."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from emu_core.base import load_base
from emu_core.checkpoint import load_stack, save_stack
from emu_core.model.schedule import ScheduleConfig
from emu_core.model.sites import find_sites
from emu_core.model.stack import Run, TemporalStack
from emu_core.model_folder import BUNDLED
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings
from emu_core.toy.recipes import TINY
from emu_core.toy.tasks import TASKS
from emu_core.training.distil_image import TARGETS
from emu_core.training.distil_rounds import of_stack, rounds
from emu_core.training.recipes import override
from emu_core.training.run import RunOptions, train

from ..core import helpers
from .conftest import outcome

PROMPT = "a big red circle moves right on a white background"
LAYOUTS = ("sd15", "sd21", "sdxl")
STANDARD = ScheduleConfig(zero_snr=False)
RECORDED = Path(__file__).with_name("recorded.json")
pytestmark = pytest.mark.newest  # workflows are run on the oldest too
NAMES = {"frame": "starting frame", "latents": "video latents", "finer": "interpolated frames"}


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Outputs of diffusers' U-Nets of small widths with random stacks, and what they were made of, in a folder."""
    folder = tmp_path_factory.mktemp("layouts")
    outputs = {}
    for name in LAYOUTS:
        unet = helpers.small_unet(name)
        stack = helpers.random_stack(unet, name)
        x = helpers.inputs(name, b=1, f=3)
        conditioning = torch.randn(3, 5, *x.latents.shape[-2:], generator=torch.Generator().manual_seed(4))
        attachment = stack.attach(unet)
        with torch.no_grad(), attachment.run(Run(3, attachment.texts(x.text[:1]), conditioning)):
            text = x.text[:1].repeat(3, 1, 1)
            outputs[name] = unet(x.latents, x.t[:1].repeat(3), text, added_cond_kwargs=x.added, return_dict=False)[0]
        attachment.detach()
        saved = {"x": x.latents, "t": x.t[:1].float(), "text": x.text[:1], "conditioning": conditioning}
        if x.added:
            times = unet.add_time_proj(x.added["time_ids"][:1].flatten()).reshape(1, -1)
            saved["y"] = torch.cat([x.added["text_embeds"][:1], times], 1)
        save_file({k: v.contiguous() for k, v in saved.items()}, folder / f"{name}_inputs.safetensors")
        save_file({k: v.contiguous() for k, v in unet.state_dict().items()}, folder / f"{name}_unet.safetensors")
        save_stack(stack, folder / f"{name}_stack.safetensors", torch.float32)
    outputs["folder"] = folder  # type: ignore[assignment]
    return outputs


def standard_stack(model: Path, role: str) -> TemporalStack:
    """The model's stack on a schedule that keeps its signal at the end, so that both sides run on exactly the same noise levels;
    with learned weights of its layers and noise that frames share, as ablations have them."""
    stack = load_stack(model / f"stack_{role}.safetensors", dtype=torch.float32)
    config = stack.config.changed(schedule=STANDARD, mixing="learned", shared_noise=0.6)
    other = TemporalStack(config)
    logits = {f"mixes.{key}": torch.full((1,), 3 + 0.1 * i) for i, key in enumerate(other.layers)}
    other.load_state_dict({**stack.state_dict(), **logits})
    return other.requires_grad_(False)


@pytest.fixture(scope="session")
def distilled(narrow: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The narrow model's stack F after one step of its distillation to four calls."""
    folder = tmp_path_factory.mktemp("distilled")
    changes: dict[str, Any] = {"optimisation.steps": 1, "optimisation.batch": 1, "world.cache": 1, "every.validate": 0}
    changes |= {"start.base": str(narrow), "distil.teacher_steps": 8}
    (recipe,) = rounds(override(of_stack(str(narrow / "stack_F.safetensors"), TINY), changes))
    train(recipe, folder, RunOptions(tasks=TASKS))
    return folder / "model" / "stack_F.safetensors"


@pytest.fixture(scope="session")
def ran(inside: Callable[..., Any], narrow: Path, expected: dict[str, Any], distilled: Path) -> dict[str, Any]:
    def prepare(out: Path) -> None:
        (out / "models" / "emu_video" / "distilled_F.safetensors").write_bytes(distilled.read_bytes())
        named = [name for name, _ in load_base(narrow).unet.named_modules() if name.endswith(TARGETS)]
        (out / "lora_names.json").write_text(json.dumps([f"lora_unet_{name.replace('.', '_')}" for name in named]))
        for file in expected["folder"].iterdir():
            (out / file.name).write_bytes(file.read_bytes())
        for role in "FI":
            save_stack(standard_stack(narrow, role), out / "models" / "emu_video" / f"standard_{role}.safetensors", torch.float32)

    return inside("figures", prepare)


@pytest.mark.parametrize("name", LAYOUTS)
def test_both_layouts_have_the_same_sites_and_the_same_output(name: str, ran: dict[str, Any], expected: dict[str, Any]) -> None:
    data = outcome(ran, f"check_layout_{name}")["data"]
    sites = [[s.name, s.kind, s.channels, list(s.contexts)] for s, _ in find_sites(helpers.small_unet(name)).values()]
    assert sorted(data["sites"]) == sorted(sites)
    output = load_file(ran["out"] / f"check_layout_{name}.safetensors")["output"]
    assert (output - expected[name]).abs().max() < 2e-5 * expected[name].std().clamp(min=1)


def test_text_states(ran: dict[str, Any]) -> None:
    outcome(ran, "check_text_states")
    found = load_file(ran["out"] / "check_text_states.safetensors")
    base = load_base(BUNDLED)
    for i, prompt in enumerate([PROMPT, "", "A Small cyan triangle, purple still"]):
        torch.testing.assert_close(found[f"text{i}"], base.encode_text([prompt]).hidden, atol=2e-5, rtol=0)


def core_steps(model: Path, given: dict[str, torch.Tensor], stacks: list[TemporalStack], sampler: str) -> dict[str, torch.Tensor]:
    """The same three steps by the pipeline; each starts from what the nodes made before it, so that errors do not add up."""
    base = load_base(model)
    base.schedule = dataclasses.replace(base.schedule, zero_snr=stacks[0].config.schedule.zero_snr)
    pipeline = EmuVideoPipeline(base, *stacks)
    latents = helpers.decoded_latents(base)
    settings = Settings(seed=11, steps=6, sampler=sampler, text_guidance=4.0, image_guidance=1.5, t2i_guidance=3.0)
    frame = pipeline.starting_frame(PROMPT, settings)
    video = pipeline.video(given["frame"], PROMPT, settings)
    finer_settings = dataclasses.replace(settings, text_guidance=1.0, image_guidance=1.0)
    finer = pipeline.interpolate(torch.cat([given["video"], given["video"][:1]]), PROMPT, finer_settings)
    return {"frame": frame, "latents": latents[1], "video": video, "finer": finer}


def test_three_steps_on_equal_sigmas(ran: dict[str, Any], narrow: Path) -> None:
    """max difference <= 1e-4, frames and latents in float32."""
    outcome(ran, "check_equal_sigmas")
    found = load_file(ran["out"] / "check_equal_sigmas.safetensors")
    wanted = core_steps(narrow, found, [standard_stack(narrow, role) for role in "FI"], "ddim")
    assert wanted["finer"].shape == found["finer"].shape == (41, 64, 64, 3)
    for key, name in NAMES.items():
        assert (found[key] - wanted[key]).abs().max() <= 1e-4, name


def test_interpolated_frames_of_any_size(ran: dict[str, Any], narrow: Path) -> None:
    """max difference <= 1e-4, also where the sides are padded; ComfyUI's euler is ddim here, as in the three steps."""
    outcome(ran, "check_interpolated_sizes")
    found = load_file(ran["out"] / "check_interpolated_sizes.safetensors")
    base = load_base(narrow)
    base.schedule = dataclasses.replace(base.schedule, zero_snr=False)
    pipeline = EmuVideoPipeline(base, interpolation=standard_stack(narrow, "I"))
    settings = Settings(seed=11, steps=3, sampler="ddim", text_guidance=1.0, image_guidance=1.0)
    for height, width in ((64, 128), (65, 91)):
        wanted = pipeline.interpolate(found[f"given_{height}"], PROMPT, settings)
        assert wanted.shape == found[f"finer_{height}"].shape == (41, height, width, 3)
        assert (found[f"finer_{height}"] - wanted).abs().max() <= 1e-4


def test_three_steps_at_zero_terminal_snr(ran: dict[str, Any]) -> None:
    """Of the bundled model. ComfyUI's last alpha_bar is 4.9e-8, not 0: root mean square difference <= 2e-3 of the deviation."""
    outcome(ran, "check_zero_snr")
    found = load_file(ran["out"] / "check_zero_snr.safetensors")
    stacks = [load_stack(BUNDLED / f"stack_{role}.safetensors", dtype=torch.float32) for role in "FI"]
    wanted = core_steps(BUNDLED, found, stacks, "ddim")
    for key, name in NAMES.items():
        difference = (found[key] - wanted[key]).square().mean().sqrt() / wanted[key].std()
        assert difference <= 2e-3, (name, float(difference))


def test_a_distilled_stack_makes_the_same_latents(ran: dict[str, Any], narrow: Path, distilled: Path) -> None:
    """In one call of the U-Net a step, by our node and by ComfyUI's own sampler with the schedule "simple": root mean square
    difference <= 2e-3 of the deviation, as above."""
    data = outcome(ran, "check_distilled")["data"]
    found = load_file(ran["out"] / "check_distilled.safetensors")
    pipeline = EmuVideoPipeline(load_base(narrow), load_stack(distilled, dtype=torch.float32))
    known = pipeline.encode(found["image"])
    wanted = pipeline.video_latents(known, (0,), PROMPT, Settings(seed=11))
    assert data["seen"] == [8] * 4
    for name in ("latents", "own"):
        difference = (found[name] - wanted).square().mean().sqrt() / wanted.std()
        assert difference <= 2e-3, (name, float(difference))
    assert data["names"] > 50
    assert data["unknown"] == []


def test_latents_are_those_recorded(ran: dict[str, Any]) -> None:
    """By the same seed every version of the pack makes the same: to the bit on the machine of the record, nearly on another."""
    data = outcome(ran, "check_zero_snr")["data"]
    found, recorded = load_file(ran["out"] / "check_zero_snr.safetensors"), json.loads(RECORDED.read_text())
    for name, known in recorded["tensors"].items():
        if data["machine"] == recorded["machine"]:
            assert hashlib.sha256(found[name].numpy().tobytes()).hexdigest() == known["sha256"], name
        near = [float(found[name].mean()), float(found[name].std())]
        assert near == pytest.approx([known["mean"], known["std"]], rel=1e-3, abs=1e-3), name


def test_given_frames_are_kept(ran: dict[str, Any]) -> None:
    """By a stack that says so, whatever its weights and whichever sampler: what comes out is what the VAE made of them."""
    outcome(ran, "check_kept_frames")
    for sampler, difference in load_file(ran["out"] / "check_kept_frames.safetensors").items():
        assert difference.abs().max() <= 1e-3, sampler
