"""A VAE of its own for the image model: one file, in the original layout's names or in diffusers', or a diffusers folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import single_file_utils as convert
from diffusers.models import AutoencoderKL
from torch import Tensor

from ..errors import UserError
from ..weights import WeightFile, open_weights
from . import folder, ldm_configs
from .base import build, vae_dtype

PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")  # a file may bring the training loss along
_FIRST = "decoder.conv_in.weight"
_MOVED = {"decoder.post_quant_conv.": "post_quant_conv.", "encoder.quant_conv.": "quant_conv."}
_OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_ORIGINAL = {"down_blocks.": "down.", "resnets.": "block.", "mid_block.attentions.0.to_q": "mid.attn_1.q"}
_OTHERS = {
    r"^(taesd_)?(decoder|encoder)\.(layers\.)?\d+\.(weight|conv)|^[01]\.weight$": "TAESD, which only previews",
    r"lora_|hada_|lokr_": "a LoRA; name it with --lora",
}
_PER_CHANNEL = ("scaling_factor", "shift_factor")


@dataclass(frozen=True)
class VaeSource:
    """Where a VAE is read from, and its configuration in diffusers' words. `prefix` stands before its names in a file."""

    path: Path
    config: dict[str, Any]
    file: WeightFile | None = None
    prefix: str = ""


def inspect(path: str | Path, model: Mapping[str, Any]) -> VaeSource:
    """What a VAE is, without reading its weights. Its latents are scaled as those of `model`, the configuration of the VAE that
    it replaces. ValueError for what is no VAE, or one of other latents."""
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        source = _folder(path)
    elif path.is_file():
        source = _file(path)
    else:
        raise UserError(f"{path}: expected a VAE, a file or a diffusers folder, found nothing there: check the path")
    wanted, found = (_latents(config) for config in (model, source.config))
    if found != wanted:
        shown = [f"{channels} channels, {pixels} pixels wide each" for channels, pixels in (wanted, found)]
        raise UserError(f"{path}: expected a VAE with latents of {shown[0]}, as the model's, found {shown[1]}: take its family's")
    said = source.config.get("scaling_factor")
    if source.file is None and said != model["scaling_factor"]:
        what = f"latents scaled by {model['scaling_factor']}, as the model's, found {said}"
        raise UserError(f"{path}: expected a VAE with {what}: take one of the model's family")
    config = {**source.config, **{name: model[name] for name in _PER_CHANNEL}}
    return replace(source, config=config)


def _latents(config: Mapping[str, Any]) -> tuple[int, int]:
    """Channels, and pixels that one position is wide."""
    return int(config["latent_channels"]), 2 ** (len(config["block_out_channels"]) - 1)


def _folder(path: Path) -> VaeSource:
    """The folder of a VAE, or that of a whole model."""
    place = (path / "vae" if (path / "vae" / "config.json").is_file() else path).resolve()
    if not (place / "config.json").is_file():
        raise UserError(f"{path}: expected a VAE's folder, with its config.json, found none: give that folder or one file")
    config = folder.part_config(place.parent, place.name, AutoencoderKL)
    folder.weights(place, "diffusion_pytorch_model")
    return VaeSource(place, config)


def _file(path: Path) -> VaeSource:
    file = open_weights(path)
    prefix = min((n.removesuffix(_FIRST) for n in file.shapes if n.endswith(_FIRST)), key=len, default=None)
    if prefix is None or f"{prefix}encoder.conv_in.weight" not in file.shapes:
        some = ", ".join(list(file.shapes)[:3]) or "nothing"
        what = f"{len(file.shapes)} tensors such as {some}"
        if known := next((kind for pattern, kind in _OTHERS.items() if any(re.search(pattern, n) for n in file.shapes)), None):
            what = known
        elif prefix is not None:
            what = "half a VAE, a decoder alone"
        raise UserError(f"{path}: expected a VAE (encoder.conv_in ..., {_FIRST.removesuffix('.weight')} ...), found {what}")
    own = [name for name in file.shapes if name.removeprefix(prefix).startswith(PARTS) and name.startswith(prefix)]
    file.check_precision("a VAE", own)
    shapes = {_renamed(name.removeprefix(prefix)): file.shapes[name] for name in own}
    if len(shapes[_FIRST]) != 4:
        raise UserError(f"{path}: expected a VAE of pictures, found one of videos: take one of the model's family")
    for diffusers, original in _ORIGINAL.items():
        shapes = {name.replace(diffusers, original): shape for name, shape in shapes.items()}
    try:
        config = ldm_configs.vae_config(shapes, "sd1")
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"{path}: expected a VAE of Stable Diffusion, found another structure ({error})") from None
    return VaeSource(path, config, file, prefix)


def _renamed(name: str) -> str:
    """A name without the differences between versions of one layout."""
    for old, new in {**_MOVED, **(_OLD if ".attentions." in name else {})}.items():
        name = name.replace(old, new)
    return name


def load(source: VaeSource, dtype: torch.dtype) -> AutoencoderKL:
    """The VAE on the CPU; in float32 where `dtype` would overflow."""
    kind = vae_dtype(dtype, source.config)
    if source.file is None:
        vae = folder.load_part(source.path, AutoencoderKL, folder.weights(source.path, "diffusion_pytorch_model")[1], kind)
        vae.register_to_config(**{name: source.config[name] for name in _PER_CHANNEL})
        return vae
    state: dict[str, Tensor] = {}
    for name, value in source.file.read(source.prefix, kind).items():
        bare = name.removeprefix(source.prefix)
        if bare.startswith(PARTS):
            state[_renamed(bare)] = value
    if not any(".down_blocks." in name for name in state):
        state = convert.convert_ldm_vae_checkpoint(state, source.config)
    with torch.device("meta"):
        empty = AutoencoderKL(**source.config)
    return build(empty, state, f"{source.path}, VAE")
