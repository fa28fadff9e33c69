"""Checks of motion LoRAs on a MODEL's stack: strengths, several, clones, other nodes around it, memory. See harness.py."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import folder_paths
import parts
import torch
from harness import NotHere

STACK, LORA, OTHER = "animatediff_tiny.safetensors", "zoom.safetensors", "pan.ckpt"


def video_parts(pack: Any, stack: str = STACK) -> tuple[Any, Any, Any, torch.Tensor]:
    """The video MODEL and what to sample it with."""
    model, clip, vae = pack.run("EmuVideoTinyModel")
    positive, _, negative, latent = parts.conditioning(pack, clip, vae, length=5, image=None)
    return parts.apply(pack, model, stack), positive, negative, latent["samples"]


def with_lora(pack: Any, model: Any, strength: float = 1.0, lora: str = LORA) -> Any:
    return pack.run("EmuVideoMotionLora", model=model, lora=lora, strength=strength)[0]


def sampled(model: Any, *rest: Any) -> torch.Tensor:
    return parts.ksample(model, *rest, steps=1)


def check_strengths(pack: Any) -> None:
    """0 is the identity to the bit; others, and two, are the stacks with the LoRAs merged by the command line's own code; and
    what comes in stays as it was."""
    video, *rest = video_parts(pack)
    plain = sampled(video, *rest)
    assert parts.same(sampled(with_lora(pack, video, 0.0), *rest), plain)
    two = with_lora(pack, with_lora(pack, video, 0.6), 0.4, OTHER)
    for one, merged in ((with_lora(pack, video, 0.7), "merged.safetensors"), (two, "merged two.safetensors")):
        found = sampled(one, *rest)
        wanted = sampled(video_parts(pack, merged)[0], *rest)
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        assert (found - plain).abs().max() > 0.01 * wanted.abs().max()
    assert not parts.same(sampled(with_lora(pack, video, -0.7), *rest), plain)
    assert parts.same(sampled(video, *rest), plain)


def check_clones(pack: Any) -> None:
    """Each MODEL keeps its own LoRA, whichever is sampled before; one that is thrown away takes nothing along."""
    video, *rest = video_parts(pack)
    plain = sampled(video, *rest)
    zoom, pan = with_lora(pack, video), with_lora(pack, video, 0.5, OTHER)
    wanted = [sampled(one, *rest) for one in (zoom, pan)]
    for one, expected in ((zoom, wanted[0]), (video, plain), (pan, wanted[1]), (zoom.clone(), wanted[0]), (video, plain)):
        assert parts.same(sampled(one, *rest), expected)
    if "disable_dynamic" in inspect.signature(zoom.clone).parameters:
        assert parts.same(sampled(zoom.clone(disable_dynamic=True), *rest), wanted[0])
    del zoom, pan
    parts.forget()
    assert parts.same(sampled(video, *rest), plain)
    weights = video.get_additional_models()[0].model.state_dict()
    fresh = parts.apply(pack, pack.run("EmuVideoTinyModel")[0], STACK).get_additional_models()[0].model.state_dict()
    assert all(parts.same(weights[name], value) for name, value in fresh.items())


def check_without_the_stack_nothing_is_left(pack: Any) -> None:
    """A new stack on the MODEL, and the image model alone, know no LoRA of the old one."""
    model, clip, vae = pack.run("EmuVideoTinyModel")
    video, *rest = video_parts(pack)
    again = parts.apply(pack, with_lora(pack, video), STACK)
    assert parts.same(sampled(again, *rest), sampled(video, *rest))
    texts = parts.texts(clip)
    still = parts.empty(model, 1)
    bare = pack.module("nodes.adapter.video_model").without_stack(with_lora(pack, video))
    assert parts.same(sampled(bare, *texts, still), sampled(model, *texts, still))


def check_among_other_nodes(pack: Any) -> None:
    """A LoRA on the image model before the stack, between and behind; and context windows on either side."""
    model, clip, vae = pack.run("EmuVideoTinyModel")
    positive, _, negative, latent = parts.conditioning(pack, clip, vae, length=5, image=None)
    rest = positive, negative, latent["samples"]
    before = with_lora(pack, parts.apply(pack, parts.random_lora(model, clip), STACK))
    between = with_lora(pack, parts.random_lora(parts.apply(pack, model, STACK), clip))
    behind = parts.random_lora(with_lora(pack, parts.apply(pack, model, STACK)), clip)
    found = [sampled(one, *rest) for one in (before, between, behind)]
    assert parts.same(found[0], found[1])
    assert parts.same(found[1], found[2])
    assert not parts.same(found[0], sampled(with_lora(pack, parts.apply(pack, model, STACK)), *rest))


def check_context_windows(pack: Any) -> None:
    """Before and behind, over more frames than the stack has positions for."""
    if not parts.windows_work():
        raise NotHere("context windows over the batch fail in this ComfyUI itself")
    video, *_ = video_parts(pack)
    latent = parts.empty(video, 40)
    texts = parts.texts(pack.run("EmuVideoTinyModel")[1])
    before, behind = parts.windowed(with_lora(pack, video), 16, False), with_lora(pack, parts.windowed(video, 16, False))
    found = [sampled(one, *texts, latent) for one in (before, behind, parts.windowed(video, 16, False))]
    assert parts.same(found[0], found[1])
    assert not parts.same(found[0], found[2])


def check_unloaded_and_loaded_again(pack: Any) -> None:
    """Weights go to the offload device and come back, patched as before; the bits are the same."""
    video, *rest = video_parts(pack)
    zoom = with_lora(pack, video)
    expected = sampled(zoom, *rest)
    comfy.model_management.unload_all_models()
    assert parts.same(sampled(zoom, *rest), expected)
    for own in zoom.get_additional_models():
        own.partially_unload(own.offload_device, 10**9)
    assert parts.same(sampled(zoom, *rest), expected)


def check_little_memory(pack: Any) -> None:
    """As on a card that holds next to nothing: weights stay where they are, and are patched as they are used."""
    video, *rest = video_parts(pack)
    zoom = with_lora(pack, video)
    expected = sampled(zoom, *rest)
    parts.forget()
    (own,) = zoom.get_additional_models()
    if type(own) is not comfy.model_patcher.ModelPatcher:
        raise NotHere("dynamic VRAM does so anyway")
    load = own.load
    own.load = lambda device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False: load(device_to, 1)
    try:
        found = sampled(zoom, *rest)
        used = [module for module in own.model.modules() if getattr(module, "weight_function", None)]
        assert len(used) > 50, len(used)
    finally:
        del own.load
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    parts.forget()
    assert parts.same(sampled(zoom, *rest), expected)


def check_half_precision(pack: Any) -> None:
    """float16, as most run: patched in float32 and rounded once, as the core does."""
    core = pack.module("emu_core.checkpoint")
    video_model = pack.module("nodes.adapter.video_model")
    paths = pack.module("nodes.adapter.paths")
    stack, lora = paths.stack_path(STACK), paths.motion_lora_path(LORA)
    cpu = torch.device("cpu")
    half = core.load_stack(stack, video_model.COMFY_LAYERS, dtype=torch.float16)
    own = comfy.model_patcher.ModelPatcher(half, cpu, cpu)
    video, *_ = video_parts(pack)
    patched = with_lora(pack, video, 0.7).get_additional_models()[0]
    own.patches = {name: list(value) for name, value in patched.patches.items()}
    assert len(own.patches) > 50
    own.patch_model(device_to=cpu)
    wanted = core.load_stack(stack, dtype=torch.float16)
    core.merge_motion_loras(wanted, [(lora, 0.7)])
    found = own.model.state_dict()
    for name, value in wanted.state_dict().items():
        step = torch.finfo(torch.float16).eps * value.float().abs().max()
        assert (found[name].float() - value.float()).abs().max() <= step, name
    own.unpatch_model()
    plain = core.load_stack(stack, dtype=torch.float16).state_dict()
    assert all(parts.same(value, plain[name]) for name, value in own.model.state_dict().items())


def check_refusals(pack: Any) -> None:
    model, _, _ = pack.run("EmuVideoTinyModel")
    assert "connect Apply Temporal Stack" in parts.refusal(lambda: with_lora(pack, model))
    assert "has no motion modules" in parts.refusal(lambda: with_lora(pack, parts.apply(pack, model)))
    video, *_ = video_parts(pack)
    assert "no weight for" in parts.refusal(lambda: with_lora(pack, video, 1.0, "sd15.safetensors"))
    validate = pack.nodes["EmuVideoMotionLora"].validate_inputs
    assert validate(lora=LORA) is True
    assert validate(lora=OTHER) is True
    assert validate(lora=None) is True
    assert "is a spatial LoRA" in validate(lora="spatial.safetensors")
    assert "is a temporal stack of family animatediff" in validate(lora=STACK)
    assert "animatediff_motion_lora" in validate(lora="nowhere.ckpt")


def check_folders(pack: Any) -> None:
    """AnimateDiff-Evolved's folders are listed, whether it registers them, before or after, or extra_model_paths.yaml does."""
    paths = pack.module("nodes.adapter.paths")
    stacks, loras = paths.stack_names(), paths.motion_lora_names()
    assert "mm_sd_v15_v2.ckpt" in stacks
    assert os.path.join("sub", "mm.safetensors") in stacks
    assert not any(name.endswith(".txt") for name in [*stacks, *loras])
    assert stacks.count("both.safetensors") == 1 and loras.count(LORA) == 1 and OTHER in loras
    # a name that two folders have is emu_video's, where it was before this pack looked elsewhere
    assert paths.stack_path("both.safetensors") == pack.folder / "models" / "emu_video" / "both.safetensors"
    assert paths.stack_path("mm_sd_v15_v2.ckpt") == pack.folder / "models" / "animatediff_models" / "mm_sd_v15_v2.ckpt"
    elsewhere = pack.folder / "elsewhere"
    folder_paths.add_model_folder_path("animatediff_motion_lora", str(elsewhere))
    assert "tilt.ckpt" in paths.motion_lora_names()
    assert paths.motion_lora_path("tilt.ckpt") == Path(elsewhere, "tilt.ckpt")
    known = folder_paths.folder_names_and_paths["animatediff_models"][1]
    assert {".ckpt", ".safetensors", ".pt", ".pth", ".bin"} <= known
    model, _, _ = pack.run("EmuVideoTinyModel")
    parts.apply(pack, model, "mm_sd_v15_v2.ckpt")
    schema = pack.nodes["EmuVideoMotionLora"].define_schema()
    assert OTHER in next(one for one in schema.inputs if one.id == "lora").options
