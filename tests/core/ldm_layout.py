"""Writes diffusers models in the original layout of Stable Diffusion, as ComfyUI and single model files name weights.

The original U-Net numbers its blocks through (`input_blocks.0` is the first convolution, then every residual block,
with its attention, and every downsampler has a number of its own), where diffusers numbers levels and blocks within.
The original VAE counts the decoder's levels from the finest. OpenCLIP keeps query, key and value in one matrix.
The functions only rename and reshape, so that they work on tensors of the meta device too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Layout = Literal["sd1", "sd2", "sdxl"]

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIXES: dict[Layout, tuple[str, ...]] = {
    "sd1": ("cond_stage_model.transformer.",),
    "sd2": ("cond_stage_model.model.",),
    "sdxl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
}

UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
UNET_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
UNET_RESNET |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP_LAYER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
OPEN_CLIP_LAYER |= {"self_attn.out_proj": "attn.out_proj"}


def _unet_block(name: str, config: Mapping[str, Any]) -> tuple[str, str]:
    """The original name of the block that holds the weight `name`, and the rest of the name."""
    for ours, theirs in UNET_ENDS.items():
        if name.startswith(ours + "."):
            return theirs, name[len(ours) + 1 :]
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    assert match, f"{name} has no place in the original layout"
    side, level, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    layers = config["layers_per_block"]
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * (layers + 1)}.0.op", rest.removeprefix("conv.")
    if kind == "upsamplers":  # stands behind the level's last residual block, and behind its attention where it has one
        place = 2 if "CrossAttn" in config["up_block_types"][level] else 1
        return f"output_blocks.{level * (layers + 1) + layers}.{place}.conv", rest.removeprefix("conv.")
    number = level * (layers + 1) + index
    block = f"input_blocks.{1 + number}" if side == "down" else f"output_blocks.{number}"
    return f"{block}.{0 if kind == 'resnets' else 1}", rest


def unet_to_ldm(state: State, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a UNet2DConditionModel of the SD 1.x, SD 2.x or SDXL kind, without a prefix."""
    result = {}
    for name, value in state.items():
        block, rest = _unet_block(name, config)
        part, _, end = rest.rpartition(".")
        rest = f"{UNET_RESNET[part]}.{end}" if part in UNET_RESNET else rest
        result[f"{block}.{rest}"] = value
    return result


def vae_to_ldm(state: State, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of an AutoencoderKL, without a prefix."""
    levels = len(config["block_out_channels"])
    result = {}
    for name, value in state.items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", new)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", new)
        match = re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", new)
        if match:
            new = f"{match[1]}.mid.attn_1.{VAE_ATTENTION[match[2]]}.{match[3]}"
            value = value[:, :, None, None] if value.ndim == 2 else value  # the original's are 1 x 1 convolutions
        result[new] = value
    return result


def text_to_ldm(state: State, kind: Literal["clip", "open_clip"]) -> dict[str, Tensor]:
    """The weights of a CLIPTextModel(WithProjection), named with or without `text_model.`, without a prefix."""
    bare = {k.removeprefix("text_model."): v for k, v in state.items()}
    if kind == "clip":
        return {k if k.startswith("text_projection") else f"text_model.{k}": v for k, v in bare.items()}
    result = {
        "token_embedding.weight": bare.pop("embeddings.token_embedding.weight"),
        "positional_embedding": bare.pop("embeddings.position_embedding.weight"),
        "ln_final.weight": bare.pop("final_layer_norm.weight"),
        "ln_final.bias": bare.pop("final_layer_norm.bias"),
    }
    if "text_projection.weight" in bare:  # a bare matrix there, multiplied from the other side
        result["text_projection"] = bare.pop("text_projection.weight").T.contiguous()
    for name, value in bare.items():
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        assert match, f"{name} has no place in OpenCLIP's layout"
        block, part, end = f"transformer.resblocks.{match[1]}", match[2], match[3]
        if part in OPEN_CLIP_LAYER:
            result[f"{block}.{OPEN_CLIP_LAYER[part]}.{end}"] = value
        elif part == "self_attn.q_proj":
            parts = [bare[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            result[f"{block}.attn.in_proj_{end}"] = torch.cat(parts)
    return result


def checkpoint(layout: Layout, unet: Any, vae: Any, text_encoders: list[Any]) -> dict[str, Tensor]:
    """A whole model in the original layout, from diffusers' and transformers' models; tensors are shared, not copied."""
    kinds: Any = {"sd1": ("clip",), "sd2": ("open_clip",), "sdxl": ("clip", "open_clip")}
    result = {UNET_PREFIX + k: v for k, v in unet_to_ldm(unet.state_dict(), unet.config).items()}
    result |= {VAE_PREFIX + k: v for k, v in vae_to_ldm(vae.state_dict(), vae.config).items()}
    for prefix, kind, encoder in zip(TEXT_PREFIXES[layout], kinds[layout], text_encoders, strict=True):
        result |= {prefix + k: v for k, v in text_to_ldm(encoder.state_dict(), kind).items()}
    return result
