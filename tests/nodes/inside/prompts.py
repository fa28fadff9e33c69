"""Weights and lengths of prompts, negative prompts, LoRAs and VAEs, by ComfyUI's own nodes. See harness.py; test_prompts.py puts
the models, the prompts and the LoRAs there."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import folder_paths
import parts
import torch

import nodes

LAYOUTS = ("sd1", "sdxl")
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {
        "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": [2, 2], "transformer_depth": [1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 0, 0, 0], "transformer_depth_middle": 1, "context_dim": 64,
        "use_linear_in_transformer": False,
    },
    "sdxl": {
        "model_channels": 32, "channel_mult": [1, 2, 4], "num_res_blocks": [1, 1, 1], "transformer_depth": [0, 1, 2],
        "transformer_depth_output": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": 2, "context_dim": 192,
        "use_linear_in_transformer": True, "adm_in_channels": 128 + 6 * 256, "num_classes": "sequential",
    },
}  # fmt: skip
COMMON = {"image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "legacy": False}
TEXTS = {
    "clip_l": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 1},
    "clip_g": {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2},
}
VAE: dict[str, Any] = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 1, 1, 1],
    "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
SAMPLING = {"seed": 11, "steps": 2, "sampler_name": "euler"}


def weights(pack: Any, name: str) -> dict[str, torch.Tensor]:
    return comfy.utils.load_torch_file(str(pack.folder / f"{name}.safetensors"))


def model(pack: Any, layout: str) -> Any:
    family = {"sd1": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[layout]({**COMMON, **UNETS[layout]})
    family.set_inference_dtype(torch.float32, None)
    made = family.get_model({}, "", device=torch.device("cpu"))
    parts.make_weights(made)
    prefix = "model.diffusion_model."
    state = {k.removeprefix(prefix): v for k, v in weights(pack, layout).items() if k.startswith(prefix)}
    made.diffusion_model.load_state_dict(state)
    return parts.patcher_class()(made, comfy.model_management.get_torch_device(), torch.device("cpu"))


def clip(pack: Any, layout: str) -> Any:
    kinds = {
        "sd1": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
        "sdxl": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel),
    }
    options = {"dtype": torch.float32, **{f"{name}_model_config": sizes for name, sizes in TEXTS.items()}}
    target = comfy.supported_models_base.ClipTarget(*kinds[layout])
    made = comfy.sd.CLIP(target, embedding_directory=folder_paths.get_folder_paths("embeddings"), model_options=options)
    for name in ("clip_l", "clip_g")[: 1 if layout == "sd1" else 2]:
        getattr(made.cond_stage_model, name).load_sd(weights(pack, f"{layout}_{name}"))
    return made


def vae(pack: Any, name: str) -> Any:
    prefix = "first_stage_model."
    state = {k.removeprefix(prefix): v for k, v in weights(pack, name).items() if k.startswith(prefix) or name == "vae"}
    return comfy.sd.VAE(state, config={"params": {"ddconfig": VAE, "embed_dim": 4}}, dtype=torch.float32)


@cache
def settings(folder: Any) -> dict[str, Any]:
    folder_paths.add_model_folder_path("loras", str(folder / "loras"))
    return json.loads((folder / "prompts.json").read_text())


def with_lora(pack: Any, both: tuple[Any, Any], name: str, strength: float) -> tuple[Any, Any]:
    settings(pack.folder)
    return nodes.LoraLoader().load_lora(*both, f"{name}.safetensors", strength, strength)


def check_tokens(pack: Any) -> dict[str, Any]:
    """Every text as numbers of tokens and weights, by the two tokenizers of SDXL and by the bundled model's."""
    told, found = settings(pack.folder), {}
    for name, made in (("sdxl", clip(pack, "sdxl")), ("tiny", pack.run("EmuVideoTinyModel")[1])):
        found[name] = [made.tokenize(text) for text in told["texts"]]
    return found


def check_states(pack: Any) -> dict[str, torch.Tensor]:
    """What CLIPTextEncode gives for each prompt."""
    told, result = settings(pack.folder), {}
    made = {layout: clip(pack, layout) for layout in LAYOUTS} | {"tiny": pack.run("EmuVideoTinyModel")[1]}
    for layout, encoder in made.items():
        for number, prompt in enumerate(told["prompts"]):
            [[states, more]] = nodes.CLIPTextEncode().encode(encoder, prompt)[0]
            result[f"{layout} {number}"] = states
            if layout == "sdxl":
                result[f"{layout} {number} pooled"] = more["pooled_output"]
    return result


def check_loras(pack: Any) -> dict[str, torch.Tensor]:
    """A picture with each LoRA, of the U-Net and the text encoders."""
    told, result = settings(pack.folder), {}
    for layout in LAYOUTS:
        both, own = (model(pack, layout), clip(pack, layout)), vae(pack, layout)
        for name in ["none", *told["loras"][layout]]:
            patched = both if name == "none" else with_lora(pack, both, name, told["strength"])
            result[f"{layout} {name}"] = picture(pack, patched, own, told["prompts"][0], "")
    return result


def picture(pack: Any, both: tuple[Any, Any], own: Any, prompt: str, negative: str) -> torch.Tensor:
    made = {"model": both[0], "clip": both[1], "vae": own, "prompt": prompt, "negative_prompt": negative}
    return pack.run("EmuVideoStartingFrame", **made, **parts.SIZE, text_guidance=3.0, **SAMPLING)[0]


def check_whole_runs(pack: Any) -> dict[str, torch.Tensor]:
    """Text to video with all of it at once."""
    told, result = settings(pack.folder), {}
    for layout in LAYOUTS:
        result |= whole(pack, told, layout, (model(pack, layout), clip(pack, layout)), vae(pack, "vae"), told["both"][layout])
    bundled = pack.bundled()  # which a LoRA of its own comes with
    made, text, own = bundled.run("EmuVideoTinyModel")
    return result | whole(bundled, told, "tiny", (made, text), own, told["both"]["tiny"])


def whole(
    pack: Any, told: dict[str, Any], name: str, both: tuple[Any, Any], own: Any, loras: list[list[Any]]
) -> dict[str, torch.Tensor]:
    for lora, strength in loras:
        both = with_lora(pack, both, lora, strength)
    if name == "tiny":
        both = (parts.on_the_same_schedule(pack, both[0], zero_snr=False), both[1])
    prompt, negative = told["run"][name]
    frame = picture(pack, both, own, prompt, negative)
    texts = {key: nodes.CLIPTextEncode().encode(both[1], text)[0] for key, text in (("positive", prompt), ("negative", negative))}
    given = {**parts.SIZE, "length": 4, "videos": 1, "positions": "0", "resize": "none", "image": frame}
    positive, image_only, none, latent = pack.run("EmuVideoConditioning", vae=own, **texts, **given)
    video_model = parts.apply(pack, both[0], f"{name}_F.safetensors")
    inputs = {"model": video_model, "positive": positive, "image_only": image_only, "negative": none, "latent": latent}
    latents = pack.run("EmuVideoSampler", **inputs, text_guidance=4.0, image_guidance=1.5, **SAMPLING)[0]["samples"]
    result = {"frame": frame, "latents": latents, "video": own.decode(latents)}
    if name == "tiny":
        stack = parts.apply(pack, both[0], "tiny_I.safetensors")
        inputs = {"model": stack, **texts, "vae": own, "images": result["video"], "stitch": "continuous"}
        result["finer"] = pack.run("EmuVideoInterpolate", **inputs, text_guidance=2.0, image_guidance=1.0, **SAMPLING)[0]
    return {f"{name} {key}": value for key, value in result.items()}
