"""Inspecting and loading a base, whichever of the two kinds it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models import UNet2DConditionModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from . import folder, lora, single_file, vocabulary
from . import vae as vaes
from .base import Base, BaseInfo, empty_text_encoder
from .checks import check_structure
from .lora import Lora

ENCODERS = ("text_encoder", "text_encoder_2")


def inspect_base(
    path: str | Path, *, prediction_type: str | None = None, vae: str | Path | None = None, loras: Sequence[Lora] = ()
) -> BaseInfo:
    """What a base is and whether it is complete, without reading its weights; with `vae` and `loras` as `load_base` takes them.

    ValueError, in one sentence, on everything that `load_base` would refuse and that can be known so far.
    """
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        info = folder.inspect(path, prediction_type)
    elif path.is_file():
        info = single_file.inspect(path, prediction_type)
    else:
        raise UserError(f"{path}: expected a diffusers folder or a .safetensors file, found nothing there: check the path")
    if vae is not None:
        configs = {**info.configs, "vae": vaes.inspect(vae, info.configs["vae"]).config}
        check_structure(Path(vae), configs)
        info = replace(info, configs=configs, vae=Path(vae))
    if loras:
        encoders = [empty_text_encoder(info.configs[name], name == ENCODERS[1]) for name in ENCODERS if name in info.configs]
        lora.check(loras, _parts(outline(info), encoders), info.family)
    return info


def outline(info: BaseInfo) -> UNet2DConditionModel:
    """The U-Net of a base without weights, on the meta device."""
    with torch.device("meta"):
        return cast(UNet2DConditionModel, UNet2DConditionModel.from_config(info.configs["unet"]))


def _parts(unet: nn.Module, encoders: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """What LoRAs change, by the names of the parts."""
    return {"unet": unet, **dict(zip(ENCODERS, encoders, strict=False))}


def check_base(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    vae: str | Path | None = None,
    loras: Sequence[Lora] = (),
) -> BaseInfo:
    """As `inspect_base`, and its vocabularies too, as `load_base` takes them: no weights are read."""
    info = inspect_base(path, prediction_type=prediction_type, vae=vae, loras=loras)
    _tokenizers(info, tokenizer)
    return info


def load_base(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    vae: str | Path | None = None,
    loras: Sequence[Lora] = (),
) -> Base:
    """The frozen text-to-image model at `path`, a diffusers folder or one .safetensors file in the original layout.

    tokenizer: for a single file, where to find CLIP's vocabulary (see `vocabulary.find_clip_tokenizer`). A folder
        brings its own, and refuses this.
    prediction_type: epsilon or v_prediction instead of what the model says. A single file of SD 2.x often does not
        say; it is then taken for v_prediction.
    dtype: of all parts, but for a VAE that float16 would overflow.
    vae: a file or a diffusers folder to take the VAE from; the latents are scaled as the model's own.
    loras: (file, strength) each, added to the weights of the U-Net and the text encoders.
    """
    info = inspect_base(path, prediction_type=prediction_type, vae=vae, loras=loras)
    kind, tokenizers = _kind(info), _tokenizers(info, tokenizer)
    unet, encoders = kind.load_unet(info, dtype), kind.load_text_encoders(info, dtype)
    loaded = kind.load_vae(info, dtype) if vae is None else vaes.load(vaes.inspect(vae, info.configs["vae"]), dtype)
    lora.merge(loras, _parts(unet, encoders), info.family)
    return Base(info.family, str(info.path), unet, loaded, encoders, tokenizers, info.schedule).to(device=device)


def _kind(info: BaseInfo) -> Any:
    return folder if info.kind == "folder" else single_file


def _tokenizers(info: BaseInfo, given: str | Path | None) -> list[PreTrainedTokenizerBase]:
    """One for each text encoder; ValueError for one that knows other tokens than it."""
    tokenizers: list[PreTrainedTokenizerBase] = _kind(info).load_tokenizers(info, given)
    names = [name for name in ENCODERS if name in info.configs]
    for name, tok in zip(names, tokenizers, strict=True):
        vocabulary.check_vocabulary(tok, info.configs[name]["vocab_size"], info.kind == "single", f"{info.path}, {name}")
    return tokenizers
