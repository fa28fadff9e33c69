"""Public families at small and full width: image U-Nets, and checkpoints in their exact key layouts, made by diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
from safetensors.torch import save_file

from tests.core.filled import fill

SMALL_SD15: dict[str, Any] = {"block_out_channels": (32, 64, 64, 64), "layers_per_block": 2, "cross_attention_dim": 32}
SMALL_SD15 |= {"attention_head_dim": 8, "sample_size": 8}
FULL_SD15: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
SMALL_MODELSCOPE: dict[str, Any] = {"block_out_channels": (64, 128, 128, 128), "cross_attention_dim": 32}
SMALL_MODELSCOPE |= {"attention_head_dim": 64, "sample_size": 8}


def filled(module: torch.nn.Module) -> torch.nn.Module:
    """Every weight as `fill` gives it; tables of positions stay."""
    state = {k: v if k.endswith(".pe") else fill(k, v.shape) for k, v in module.state_dict().items()}
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def image_unet(**settings: Any) -> Any:
    return filled(UNet2DConditionModel(**settings))


def motion_adapter(unet: Any, mid: bool, conv_in: bool = False, length: int = 32) -> Any:
    """diffusers' MotionAdapter for a U-Net: AnimateDiff v2 (with a middle module), v3 (without), PIA (with conv_in)."""
    config = unet.config
    sizes = {"block_out_channels": config.block_out_channels, "motion_layers_per_block": config.layers_per_block}
    usual = {"motion_num_attention_heads": 8, "motion_norm_num_groups": 32, "motion_max_seq_length": length}
    return filled(
        MotionAdapter(
            **sizes, **usual, use_motion_mid_block=mid, conv_in_channels=2 * config.in_channels + 1 if conv_in else None
        )
    )


def motion_unet(unet: Any, adapter: Any) -> Any:
    return UNetMotionModel.from_unet2d(unet, adapter).eval().requires_grad_(False)


def save(module_or_state: Any, path: Path) -> Path:
    state = module_or_state if isinstance(module_or_state, dict) else module_or_state.state_dict()
    save_file({k: v.clone().contiguous() for k, v in state.items()}, path)
    return path


def modelscope_unet(**settings: Any) -> Any:
    return filled(UNet3DConditionModel(**settings))


def modelscope_image_unet(whole: Any) -> Any:
    """The image model inside a ModelScope U-Net."""
    from emu_core.interop.modelscope import spatial_weights

    config = whole.config
    same = ("block_out_channels", "layers_per_block", "cross_attention_dim", "sample_size")
    settings = {name: config[name] for name in same}
    for name in ("down_block_types", "up_block_types"):
        settings[name] = [kind.replace("3D", "2D") for kind in config[name]]
    heads = [width // config.attention_head_dim for width in config.block_out_channels]
    unet = UNet2DConditionModel(**settings, attention_head_dim=heads, use_linear_projection=True)
    unet.load_state_dict(spatial_weights(whole.state_dict()))
    return unet.eval().requires_grad_(False)


def original_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A MotionAdapter's weights under the names that AnimateDiff's own program gives them."""
    result = {}
    for name, value in state.items():
        if ".motion_modules." not in name:
            result[name] = value
            continue
        place, rest = name.split(".motion_modules.")
        number, inside = rest.split(".", 1)
        prefix = f"{place}.motion_modules.{number}.temporal_transformer."
        if inside.endswith("pos_embed.pe"):
            block = inside.removesuffix("pos_embed.pe")
            for n in range(2):
                result[f"{prefix}{block}attention_blocks.{n}.pos_encoder.pe"] = value
            continue
        for n in (1, 2):
            inside = inside.replace(f"attn{n}.", f"attention_blocks.{n - 1}.").replace(f"norm{n}.", f"norms.{n - 1}.")
        inside = inside.replace("norm3.", "ff_norm.")
        result[prefix + inside] = value
    return result


def fancyvideo_state(unet: Any) -> dict[str, torch.Tensor]:
    """A FancyVideo checkpoint with random weights."""
    width = unet.config.block_out_channels[0]
    state = original_layout(motion_adapter(unet, mid=True, conv_in=True).state_dict())
    state.pop("conv_in.bias", None)
    for name in ("fps_embedding", "motion_embedding"):
        for kind, shape in (("weight", (4 * width, width)), ("bias", (4 * width,))):
            state[f"{name}.linear.{kind}"] = fill(f"{name}.linear.{kind}", shape)
    return state


def hotshot_state(unet: Any) -> dict[str, torch.Tensor]:
    """Hotshot-XL's temporal layers with random weights."""
    state = original_layout(motion_adapter(unet, mid=False, length=24).state_dict())
    renamed = {name.replace("motion_modules", "temporal_attentions"): value for name, value in state.items()}
    renamed = {name.replace(".temporal_transformer.", "."): value for name, value in renamed.items()}
    return {name.replace("pos_encoder.pe", "pos_encoder.positional_encoding"): value for name, value in renamed.items()}
