"""Checks of one stack on several U-Nets and of the clones that ComfyUI makes and throws away. See harness.py."""

from __future__ import annotations

import gc
import inspect
from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import parts
import torch
from harness import NotHere


def video_parts(pack: Any) -> tuple[Any, Any, Any, Any, torch.Tensor]:
    """The plain MODEL, the video MODEL, and what to sample it with."""
    model, clip, vae = pack.run("EmuVideoTinyModel")
    positive, _, negative, latent = parts.conditioning(pack, clip, vae)
    return model, parts.apply(pack, model), positive, negative, latent["samples"]


def check_dynamic_vram_is_what_it_says(pack: Any) -> dict[str, Any]:
    """With the emulation every patcher of the pack is of the class that ComfyUI uses for its own models."""
    model, clip, vae = pack.run("EmuVideoTinyModel")
    video = parts.apply(pack, model)
    wanted = parts.patcher_class()
    patchers = [model, clip.patcher, vae.patcher, video, *video.get_additional_models()]
    # on a card what stays on the CPU, a text encoder in float32 say, has no dynamic VRAM
    kinds = {type(patcher) for patcher in patchers if patcher.load_device.type != "cpu" or pack.device == "cpu"}
    assert kinds == {wanted}, kinds
    assert (wanted is not comfy.model_patcher.ModelPatcher) == pack.dynamic
    return {"dynamic": pack.dynamic}


def check_a_plain_model_has_a_plain_stack(pack: Any) -> None:
    """Whatever came first, the stack or the clone without dynamic VRAM."""
    model, video, positive, negative, latent = video_parts(pack)
    expected = parts.ksample(video, positive, negative, latent)
    if "disable_dynamic" not in inspect.signature(model.clone).parameters:
        raise NotHere("this ComfyUI has no dynamic VRAM")
    for plain in (parts.apply(pack, model.clone(disable_dynamic=True)), video.clone(disable_dynamic=True)):
        kinds = {type(patcher) for one in (plain, plain.clone()) for patcher in (one, *one.get_additional_models())}
        assert kinds == {comfy.model_patcher.ModelPatcher}, kinds
        assert parts.same(parts.ksample(plain, positive, negative, latent), expected)


def check_sigmas_stay_their_own(pack: Any) -> None:
    """Each MODEL keeps its schedule however the loads follow one another: 14.61 and 4518.8 are the last of the closed forms."""
    model, video, positive, negative, latent = video_parts(pack)
    other = model.clone()
    schedule = pack.module("emu_core.model.schedule").ScheduleConfig(prediction="epsilon", zero_snr=False)
    other.add_object_patch("model_sampling", pack.module("nodes.adapter.sampling").VideoModelSampling(schedule))
    abar = pack.module("emu_core.model.schedule").abar(schedule)
    lasts = {"plain": 4518.75, "video": 4518.75, "other": float(((1 - abar[-1]) / abar[-1]).sqrt())}
    assert abs(lasts["other"] - 14.6146) < 1e-3
    models = {"plain": model, "video": video, "other": other}
    whole = {name: one.get_model_object("model_sampling").sigmas.cpu().clone() for name, one in models.items()}
    for name in ("plain", "video", "other", "video", "plain", "other", "plain", "video"):
        parts.ksample(models[name], positive, negative, latent, steps=1)
        sampling = models[name].get_model_object("model_sampling")
        assert abs(float(sampling.sigmas[-1]) - lasts[name]) < 0.02, (name, sampling.sigmas[-1])
        assert all(
            parts.same(one.get_model_object("model_sampling").sigmas.cpu(), whole[kind])
            for kind, one in models.items()
        )  # fmt: skip


def another_unet(pack: Any, video: Any) -> Any:
    """A clone with a U-Net of its own, as torch.compile and LoRA hooks make one under dynamic VRAM."""
    if "model_override" not in inspect.signature(video.clone).parameters:
        raise NotHere("a clone always has the U-Net of its origin in this ComfyUI")
    return video.clone(model_override=pack.run("EmuVideoTinyModel")[0].get_clone_model_override())


def check_two_unets_both_loaded(pack: Any) -> None:
    _, video, positive, negative, latent = video_parts(pack)
    expected = parts.ksample(video, positive, negative, latent)
    second = another_unet(pack, video)
    assert second.model is not video.model
    comfy.model_management.load_models_gpu([video, second, *video.get_additional_models(), *second.get_additional_models()])
    assert parts.hooks(video) > 20 and parts.hooks(second) > 20
    for one in (second, video, second, video):
        assert parts.same(parts.ksample(one, positive, negative, latent), expected)
    del second
    gc.collect()
    assert parts.same(parts.ksample(video, positive, negative, latent), expected)


def check_a_clone_freed_in_the_middle_of_a_step(pack: Any) -> None:
    """Between two steps, and while the U-Net is at work."""
    _, video, positive, negative, latent = video_parts(pack)
    expected = parts.ksample(video, positive, negative, latent)
    freed = []

    def free_a_clone(*_: Any) -> None:
        clone = video.clone()
        assert clone.is_injected
        del clone
        gc.collect()
        freed.append(1)

    assert parts.same(parts.ksample(video, positive, negative, latent, callback=free_a_clone), expected)
    assert len(freed) == 3
    hook = video.model.diffusion_model.input_blocks[0][0].register_forward_hook(free_a_clone)
    try:
        assert parts.same(parts.ksample(video, positive, negative, latent), expected)
    finally:
        hook.remove()
    assert len(freed) >= 6


def check_a_clone_outlives_its_origin(pack: Any) -> None:
    _, video, positive, negative, latent = video_parts(pack)
    expected = parts.ksample(video, positive, negative, latent)
    clone = video.clone()
    del video
    gc.collect()
    assert parts.same(parts.ksample(clone, positive, negative, latent), expected)
    assert parts.hooks(clone) > 20
    model = clone.model
    del clone
    gc.collect()
    parts.forget()
    assert sum(len(module._forward_hooks) for module in model.modules()) == 0


def check_the_same_stack_on_two_checkpoints(pack: Any) -> None:
    """Two image models, one file: each video is what it is alone, in whatever order they run."""
    _, first, positive, negative, latent = video_parts(pack)
    other = pack.run("EmuVideoTinyModel")[0]
    with torch.no_grad():
        for weight in other.model.diffusion_model.parameters():
            weight.mul_(1.01)
    second = parts.apply(pack, other)
    wanted = []
    for one in (first, second):
        parts.forget()
        wanted.append(parts.ksample(one, positive, negative, latent))
    assert not parts.same(*wanted)
    comfy.model_management.load_models_gpu([first, second, *first.get_additional_models(), *second.get_additional_models()])
    for one, expected in ((first, wanted[0]), (second, wanted[1]), (first, wanted[0])):
        assert parts.same(parts.ksample(one, positive, negative, latent), expected)


def check_lora_hooks_on_the_conditioning(pack: Any) -> None:
    """A LoRA that acts through the conditioning is the LoRA on the MODEL."""
    model, clip, vae = pack.run("EmuVideoTinyModel")
    positive, _, negative, latent = parts.conditioning(pack, clip, vae)
    video = parts.apply(pack, model)
    without = parts.ksample(video, positive, negative, latent["samples"])
    expected = parts.ksample(parts.random_lora(video, clip), positive, negative, latent["samples"])
    hooked = parts.random_lora_hook(model)
    conditions = [comfy.hooks.set_hooks_for_conditioning(c, hooked) for c in (positive, negative)]
    found = parts.ksample(video, *conditions, latent["samples"])
    assert not parts.same(found, without), "the hook does nothing"
    # the same products, perhaps added in another order: a thousandth of what the LoRA does
    assert (found - expected).abs().max() < 1e-3 * (without - expected).abs().max()
    assert parts.same(parts.ksample(video, positive, negative, latent["samples"]), without)
    # on one of the two alone: hooks go on and off within a step
    one = parts.ksample(video, conditions[0], negative, latent["samples"])
    assert torch.isfinite(one).all() and not parts.same(one, found) and not parts.same(one, without)


def check_several_gpus(pack: Any) -> None:
    """MultiGPU CFG Split: a U-Net and a stack of its own for each device. "cpu" and "cpu:0" are two devices to ComfyUI."""
    try:
        import comfy.multigpu
    except ImportError:
        raise NotHere("this ComfyUI knows one GPU") from None
    management = comfy.model_management
    if pack.device != "cpu":
        raise NotHere("a second device is made of the CPU alone")
    _, video, positive, negative, latent = video_parts(pack)
    kept, memory = management.get_all_torch_devices, type(video.model).memory_required
    management.get_all_torch_devices = lambda exclude_current=False: [torch.device("cpu"), torch.device("cpu", 0)]
    type(video.model).memory_required = lambda *_, **__: 1e15  # one conditioning a call, as each device gets one
    try:
        expected = parts.ksample(video, positive, negative, latent)
        split = comfy.multigpu.create_multigpu_deepclones(video, 2, reuse_loaded=True)
        clones = split.get_additional_models_with_key("multigpu")
        assert [clone.load_device for clone in clones] == [torch.device("cpu", 0)]
        stacks = [one.get_additional_models_with_key("emu_video")[0].model for one in (split, *clones)]
        assert clones[0].model is not split.model and stacks[0] is not stacks[1]
        calls = []
        for unet in (split.model.diffusion_model, clones[0].model.diffusion_model):
            unet.register_forward_hook(lambda module, args, output: calls.append(id(module)))
        for _ in range(2):
            assert parts.same(parts.ksample(split, positive, negative, latent), expected)
        assert len(set(calls)) == 2
    finally:
        management.get_all_torch_devices, type(video.model).memory_required = kept, memory


def check_select_model_device(pack: Any) -> None:
    """Select Model, CLIP and VAE Device on the tiny ones, before and after the stack is applied."""
    try:
        import comfy_extras.nodes_multigpu as nodes
    except ImportError:
        raise NotHere("this ComfyUI has no node to choose a device") from None
    model, clip, vae = pack.run("EmuVideoTinyModel")
    positive, _, negative, latent = parts.conditioning(pack, clip, vae)
    expected = parts.ksample(parts.apply(pack, model), positive, negative, latent["samples"])

    def same(video: Any) -> bool:
        """ComfyUI's node leaves weights where an earlier run put them, so they are let go of."""
        parts.forget()
        found = parts.ksample(video, positive, negative, latent["samples"])
        return parts.same(found, expected)

    for device in ("cpu", "default"):
        chosen = nodes.SelectModelDeviceNode.execute(model, device).result[0]
        assert same(parts.apply(pack, chosen))
        after = nodes.SelectModelDeviceNode.execute(parts.apply(pack, model), device).result[0]
        if device == "cpu":
            kinds = {type(patcher) for patcher in (after, *after.get_additional_models())}
            assert kinds == {comfy.model_patcher.ModelPatcher}, kinds
        assert same(after)
        text = nodes.SelectCLIPDeviceNode.execute(clip, device).result[0]
        pictures = nodes.SelectVAEDeviceNode.execute(vae, device).result[0]
        again, _, _, _ = parts.conditioning(pack, text, pictures)
        torch.testing.assert_close(again[0][0].cpu(), positive[0][0].cpu(), atol=1e-4 if pack.device != "cpu" else 0, rtol=0)
    for patcher in (model, clip.patcher, vae.patcher, *parts.apply(pack, model).get_additional_models()):
        elsewhere = patcher.deepclone_multigpu(new_load_device=torch.device("cpu", 0))
        assert elsewhere.model is not patcher.model and elsewhere.load_device == torch.device("cpu", 0)
        pairs = zip(patcher.model.state_dict().items(), elsewhere.model.state_dict().items(), strict=True)
        assert all(name == other and parts.same(one, two) for (name, one), (other, two) in pairs)
