"""Figures for comparison with the core, and the stack on U-Nets of the real layouts. See harness.py."""

from __future__ import annotations

import json
from typing import Any

import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.lora
import comfy.ops
import comfy.utils
import parts
import torch
from safetensors.torch import load_file

SMALL: dict[str, dict[str, Any]] = {
    "sd15": {
        "channel_mult": [1, 2, 2, 2], "num_res_blocks": [2] * 4, "transformer_depth": [1] * 6 + [0] * 2,
        "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1, "num_heads": 4,
    },
    "sd21": {
        "channel_mult": [1, 2, 2, 2], "num_res_blocks": [2] * 4, "transformer_depth": [1] * 6 + [0] * 2,
        "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1, "num_head_channels": 16,
        "use_linear_in_transformer": True,
    },
    "sdxl": {
        "channel_mult": [1, 2, 2], "num_res_blocks": [2] * 3, "transformer_depth": [0, 0, 1, 1, 2, 2],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2], "transformer_depth_middle": 2, "num_head_channels": 16,
        "use_linear_in_transformer": True, "num_classes": "sequential",
    },
}  # fmt: skip


def small_unet(name: str, weights: dict[str, torch.Tensor], adm: int) -> torch.nn.Module:
    """ComfyUI's U-Net with the layout of a family at small widths, and diffusers' weights."""
    config = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "context_dim": 32, "legacy": False,
        "use_spatial_transformer": True, "adm_in_channels": adm or None, **SMALL[name],
    }  # fmt: skip
    unet = openaimodel.UNetModel(**config, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
    names = comfy.utils.unet_to_diffusers(config)
    unet.load_state_dict({names[k]: v for k, v in weights.items()})
    return unet.eval()


def compare_layouts(pack: Any, name: str) -> dict[str, Any]:
    """Sites, and the output of the U-Net with a random stack from a file, with given frames and without."""
    sites, stack_module, checkpoint = (pack.module(f"emu_core.{m}") for m in ("model.sites", "model.stack", "checkpoint"))
    inputs = load_file(pack.folder / f"{name}_inputs.safetensors")
    unet = small_unet(name, load_file(pack.folder / f"{name}_unet.safetensors"), inputs["y"].shape[1] if "y" in inputs else 0)
    found = sites.find_sites(unet)
    layers = pack.module("nodes.adapter.video_model").COMFY_LAYERS
    stack = checkpoint.load_stack(pack.folder / f"{name}_stack.safetensors", layers, dtype=torch.float32)
    attachment = stack.attach(unet)
    f = len(inputs["x"])
    run = stack_module.Run(f, attachment.texts(inputs["text"]), inputs["conditioning"])
    y = inputs["y"].repeat(f, 1) if "y" in inputs else None
    with attachment.run(run):
        output = unet(inputs["x"], inputs["t"].repeat(f), context=inputs["text"].repeat(f, 1, 1), y=y)
    listed = [[s.name, s.kind, s.channels, list(s.contexts)] for s, _ in found.values()]
    return {"sites": listed, "output": output}


def check_layout_sd15(pack: Any) -> dict[str, Any]:
    return compare_layouts(pack, "sd15")


def check_layout_sd21(pack: Any) -> dict[str, Any]:
    return compare_layouts(pack, "sd21")


def check_layout_sdxl(pack: Any) -> dict[str, Any]:
    return compare_layouts(pack, "sdxl")


def three_steps(pack: Any, stacks: tuple[str, str], sampler: str, zero_snr: bool) -> dict[str, torch.Tensor]:
    """The whole chain from seed 11, with 9 frames to interpolate so that two windows are joined."""
    model, clip, vae = pack.run("EmuVideoTinyModel")
    model = parts.on_the_same_schedule(pack, model, zero_snr=zero_snr)
    kwargs = {"seed": 11, "steps": 6, "sampler_name": sampler}
    frame = pack.run(
        "EmuVideoStartingFrame", model=model, clip=clip, vae=vae, prompt=parts.PROMPT, negative_prompt="", **parts.SIZE,
        text_guidance=3.0, **kwargs,
    )[0]  # fmt: skip
    positive, image_only, negative, latent = parts.conditioning(pack, clip, vae, image=frame)
    video_model, interpolation_model = (parts.apply(pack, model, name) for name in stacks)
    latents = pack.run(
        "EmuVideoSampler", model=video_model, positive=positive, image_only=image_only, negative=negative, latent=latent,
        text_guidance=4.0, image_guidance=1.5, **kwargs,
    )[0]["samples"]  # fmt: skip
    video = vae.decode(latents)
    text, empty = parts.texts(clip)
    finer = pack.run(
        "EmuVideoInterpolate", model=interpolation_model, positive=text, negative=empty, vae=vae,
        images=torch.cat([video, video[:1]]), text_guidance=1.0, image_guidance=1.0, stitch="continuous", **kwargs,
    )[0]  # fmt: skip
    return {"frame": frame, "latents": latents, "video": video, "finer": finer, "encoded": vae.encode(frame)}


def check_zero_snr(pack: Any) -> dict[str, Any]:
    machine = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    return {"machine": machine, **three_steps(pack.bundled(), ("tiny F (bundled)", "tiny I (bundled)"), "ddim", True)}


def check_distilled(pack: Any) -> dict[str, Any]:
    """A distilled stack as it recommends itself, and by ComfyUI's own sampler; how many frames the U-Net sees at each call; and
    which names of a LoRA for few steps ComfyUI does not know."""
    model, clip, vae = pack.run("EmuVideoTinyModel")
    known = comfy.lora.model_lora_keys_unet(model.model)
    model = parts.on_the_same_schedule(pack, model, zero_snr=True)
    image = parts.picture(3)
    positive, image_only, negative, latent = parts.conditioning(pack, clip, vae, image=image)
    video, seen = parts.apply(pack, model, "distilled_F.safetensors"), []
    handle = model.model.diffusion_model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    latents = pack.run(
        "EmuVideoSampler", model=video, positive=positive, image_only=image_only, negative=negative, latent=latent, seed=11,
        steps=0, sampler_name="recommended", **parts.RECOMMENDED,
    )[0]["samples"]  # fmt: skip
    handle.remove()
    plain = {"seed": 11, "steps": 4, "scheduler": "simple", "cfg": 1.0}
    own = parts.ksample(video, positive, negative, latent["samples"], **plain)
    names = json.loads((pack.folder / "lora_names.json").read_text())
    unknown = [name for name in names if name not in known]
    return {"image": image, "latents": latents, "own": own, "seen": seen, "names": len(names), "unknown": unknown}


def check_equal_sigmas(pack: Any) -> dict[str, torch.Tensor]:
    """Stacks whose schedule keeps its signal at the end, so that both sides run on exactly the same noise levels."""
    return three_steps(pack, ("standard_F.safetensors", "standard_I.safetensors"), "euler", False)


def check_text_states(pack: Any) -> dict[str, torch.Tensor]:
    _, clip, _ = pack.run("EmuVideoTinyModel")
    prompts = [parts.PROMPT, "", "A Small cyan triangle, purple still"]
    return {f"text{i}": clip.encode_from_tokens_scheduled(clip.tokenize(p))[0][0] for i, p in enumerate(prompts)}


def check_interpolated_sizes(pack: Any) -> dict[str, torch.Tensor]:
    """Wide frames, and frames whose sides 8 does not divide; 9 of them, so that two windows are joined."""
    model, clip, vae = pack.run("EmuVideoTinyModel")
    model = parts.apply(pack, parts.on_the_same_schedule(pack, model), "standard_I.safetensors")
    text, empty = parts.texts(clip)
    found = {}
    for height, width in ((64, 128), (65, 91)):
        images = parts.picture(1, 9, height, width)
        found[f"given_{height}"] = images
        found[f"finer_{height}"] = pack.run(
            "EmuVideoInterpolate", model=model, positive=text, negative=empty, vae=vae, images=images, seed=11, steps=3,
            sampler_name="euler", text_guidance=1.0, image_guidance=1.0, stitch="continuous",
        )[0]  # fmt: skip
    return found


def check_kept_frames(pack: Any) -> dict[str, torch.Tensor]:
    """The difference of given frames from what comes out, with a stack that keeps them and random weights; on timesteps and
    between them. Guidance is by the text, so both of its calls know the frames."""
    model, clip, vae = pack.run("EmuVideoTinyModel")
    name = parts.save_new_stack(pack, model, "kept.safetensors", weights=0.1, keeps_given=True)
    images, found = parts.picture(2, 2), {}
    positive, image_only, _, latent = parts.conditioning(pack, clip, vae, image=images, positions="0, -1")
    encoded, patched = vae.encode(images), parts.apply(pack, model, name)
    for sampler, scheduler in (("euler", "sgm_uniform"), ("dpmpp_2m", "karras"), ("euler_ancestral", "normal")):
        made = parts.ksample(patched, positive, image_only, latent["samples"], sampler_name=sampler, scheduler=scheduler)
        found[sampler] = made[[0, -1]] - encoded
        assert (made[1:-1] - encoded[0]).abs().max() > 0.1
    return found
