"""The U-Nets that a stack can be made for, by name, built without weights (on the meta device when asked)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

ATTENTION_DOWN, PLAIN_DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
ATTENTION_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"

_SD: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (ATTENTION_DOWN, ATTENTION_DOWN, ATTENTION_DOWN, PLAIN_DOWN),
    "up_block_types": (PLAIN_UP, ATTENTION_UP, ATTENTION_UP, ATTENTION_UP),
    "layers_per_block": 2,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": {
        "sample_size": 8,
        "block_out_channels": (64, 128),
        "down_block_types": (ATTENTION_DOWN, ATTENTION_DOWN),
        "up_block_types": (ATTENTION_UP, ATTENTION_UP),
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
        "block_out_channels": (320, 640, 1280),
        "down_block_types": (PLAIN_DOWN, ATTENTION_DOWN, ATTENTION_DOWN),
        "up_block_types": (ATTENTION_UP, ATTENTION_UP, PLAIN_UP),
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
        "block_out_channels": (384, 768, 1536, 1536),
        "down_block_types": (ATTENTION_DOWN, ATTENTION_DOWN, ATTENTION_DOWN, PLAIN_DOWN),
        "up_block_types": (PLAIN_UP, ATTENTION_UP, ATTENTION_UP, ATTENTION_UP),
        "layers_per_block": (3, 4, 4, 4),
        "transformer_layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": (6, 12, 24, 24),
        "use_linear_projection": True,
    },
}
EMU_SECOND_CONTEXT = 2048
STACK_SETTINGS: dict[str, dict[str, Any]] = {
    # small enough to ship: the whole model within 20 MB
    "tiny": {"head_dim": 32, "mlp_ratio": 2, "positions": ("rotary", "sinusoidal"), "without": ("shortcut",)},
}
"""Where an architecture's stack differs from the paper's form, which is `TemporalStack.for_unet`'s default."""
SLIM: dict[str, Any] = {"attentions": ("self",), "mlp_ratio": 1, "without": ("shortcut", "conv2")}
"""A stack of less than half the parameters: no attention to the text, no wide MLPs, one convolution a residual block."""


def build_unet(name: str, device: str = "meta", **changes: Any) -> nn.Module:
    """A diffusers UNet2DConditionModel of architecture `name`; `changes` replace entries, for instance narrower widths.

    The second transformer layer of each of `emu`'s sites attends to text states of their own width (T5-XL); its U-Net takes
    both texts as one tensor, joined along the width.
    """
    from diffusers.models import UNet2DConditionModel

    if name not in CONFIGS:
        raise ValueError(f"unknown architecture {name!r}: expected one of {', '.join(CONFIGS)}")
    with torch.device(device):
        unet = UNet2DConditionModel(**{**CONFIGS[name], **changes})
        if name == "emu":
            _second_context(unet, changes.get("cross_attention_dim", CONFIGS[name]["cross_attention_dim"]), EMU_SECOND_CONTEXT)
    return unet


def _second_context(unet: nn.Module, first: int, second: int) -> None:
    """Give each site's second transformer layer a text of another width, and each layer its part of the joined text."""
    for module in unet.modules():
        for i, layer in enumerate(getattr(module, "transformer_blocks", ())):
            part = slice(0, first) if i == 0 else slice(first, first + second)
            if i:
                for name in ("to_k", "to_v"):
                    old = getattr(layer.attn2, name)
                    setattr(layer.attn2, name, nn.Linear(second, old.out_features, bias=False))
            layer.attn2.register_forward_pre_hook(_take(part), with_kwargs=True)


def _take(part: slice) -> Any:
    def pre_hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, {**kwargs, "encoder_hidden_states": kwargs["encoder_hidden_states"][..., part]}

    return pre_hook
