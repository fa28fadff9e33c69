"""The U-Nets that a stack can be made for, by name, built without weights (on the meta device when asked)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..model.config import StackConfig, StackKind
from ..model.layers import LayerShape


def levels(widths: Sequence[int], attends: Sequence[bool]) -> dict[str, Any]:
    """diffusers' settings for each level, the finest first: its width, and whether it attends to the text."""
    return {
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
    }


_SD = {"sample_size": 64, **levels((320, 640, 1280, 1280), (True, True, True, False)), "layers_per_block": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": {
        "sample_size": 8,
        "in_channels": 16,
        "out_channels": 16,
        **levels((128, 64), (True, True)),
        "layers_per_block": 1,
        "cross_attention_dim": 128,
        "attention_head_dim": 4,
    },
    "sd15": {**_SD, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {
        **_SD,
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        **levels((320, 640, 1280), (False, True, True)),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    # Emu Video, arXiv 2311.10709, table of the U-Net: width 384, multipliers 1,2,4,4, res blocks 3,4,4,4, attention where the
    # latents are 1, 2 and 4 times smaller, heads of 64, two transformer layers a site
    "emu": {
        "sample_size": 64,
        "in_channels": 8,
        "out_channels": 8,
        **levels((384, 768, 1536, 1536), (True, True, True, False)),
        "layers_per_block": (3, 4, 4, 4),
        "transformer_layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": (6, 12, 24, 24),
        "use_linear_projection": True,
    },
}
EMU_SECOND_CONTEXT = 2048
STACK_SETTINGS: dict[str, dict[str, Any]] = {
    # small enough to ship: the whole model within 25 MB
    "tiny": {"head_dim": 32, "mlp_ratio": 2, "positions": ("rotary", "sinusoidal"), "without": ("shortcut",)}
}
"""Where an architecture's stack differs from the paper's form, which is `TemporalStack.for_unet`'s default."""
SLIM: dict[str, Any] = {"attentions": ("self",), "mlp_ratio": 1, "without": ("shortcut", "conv2")}
"""A stack of less than half the parameters: no attention to the text, no wide MLPs, one convolution a residual block."""
STACKS: dict[StackKind, dict[str, Any]] = {
    "full": {},
    "slim": SLIM,
    "convolutions": {"kinds": ("conv",)},
    "attention": {"kinds": ("attention",)},
    "depthwise": {"depthwise": True},
    "directed": {"directed": True},
    "textless": {"attentions": ("self",)},
}
"""What a recipe may make of the temporal layers: the paper's, or others in what these say."""


def stack_kind(config: StackConfig) -> StackKind:
    """Which of STACKS a stack of this project is."""
    layers, carried = config.layers, {site.kind for site in config.sites}
    if len(carried) == 1:
        return "convolutions" if carried == {"conv"} else "attention"
    if isinstance(layers, LayerShape) and "text" not in layers.attentions:
        return "slim" if layers.mlp_ratio == SLIM["mlp_ratio"] else "textless"
    if isinstance(layers, LayerShape) and layers.depthwise:
        return "depthwise"
    return "directed" if isinstance(layers, LayerShape) and layers.directed else "full"


def build_unet(name: str, device: str = "meta", **changes: Any) -> nn.Module:
    """A diffusers UNet2DConditionModel of architecture `name`; `changes` replace entries, for instance narrower widths.

    The second transformer layer of each of `emu`'s sites attends to text states of their own width (T5-XL); its U-Net takes
    both texts as one tensor, joined along the width.
    """
    from diffusers.models import UNet2DConditionModel

    if name not in CONFIGS:
        raise UserError(f"unknown architecture {name!r}: expected one of {', '.join(CONFIGS)}")
    config = {**CONFIGS[name], **changes}
    with torch.device(device):
        unet = UNet2DConditionModel(**config)
        if name == "emu":
            _give_second_text(unet, config["cross_attention_dim"])
    return unet


def _give_second_text(unet: nn.Module, first: int) -> None:
    for module in unet.modules():
        for i, layer in enumerate(getattr(module, "transformer_blocks", ())):
            part = slice(0, first) if i == 0 else slice(first, first + EMU_SECOND_CONTEXT)
            for name in ("to_k", "to_v") if i else ():
                old = getattr(layer.attn2, name)
                setattr(layer.attn2, name, nn.Linear(EMU_SECOND_CONTEXT, old.out_features, bias=False))
            layer.attn2.register_forward_pre_hook(partial(_read_part, part), with_kwargs=True)


def _read_part(part: slice, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    return args, {**kwargs, "encoder_hidden_states": kwargs["encoder_hidden_states"][..., part]}
