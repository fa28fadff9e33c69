"""Inspecting and loading a base, whichever of the two kinds it is."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import UserError
from . import folder, single_file, vocabulary
from .base import Base, BaseInfo


def inspect_base(path: str | Path, *, prediction_type: str | None = None) -> BaseInfo:
    """What a base is and whether it is complete, without reading its weights.

    ValueError, in one sentence, on everything that `load_base` would refuse and that can be known so far.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return folder.inspect(path, prediction_type)
    if not path.is_file():
        raise UserError(f"{path}: expected a diffusers folder or a .safetensors file, found nothing there: check the path")
    return single_file.inspect(path, prediction_type)


def load_base(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Base:
    """The frozen text-to-image model at `path`, a diffusers folder or one .safetensors file in the original layout.

    tokenizer: for a single file, where to find CLIP's vocabulary (see `vocabulary.find_clip_tokenizer`). A folder
        brings its own, and refuses this.
    prediction_type: epsilon or v_prediction instead of what the model says. A single file of SD 2.x often does not
        say; it is then taken for v_prediction.
    dtype: of all parts, but for a VAE that float16 would overflow.
    """
    info = inspect_base(path, prediction_type=prediction_type)
    kind = folder if info.kind == "folder" else single_file
    tokenizers = kind.load_tokenizers(info, tokenizer)
    names = [name for name in ("text_encoder", "text_encoder_2") if name in info.configs]
    for name, tok in zip(names, tokenizers, strict=True):
        vocabulary.check_vocabulary(tok, info.configs[name]["vocab_size"], info.kind == "single", f"{info.path}, {name}")
    unet, vae = kind.load_unet_and_vae(info, dtype)
    encoders = kind.load_text_encoders(info, dtype)
    return Base(info.family, str(info.path), unet, vae, encoders, tokenizers, info.schedule).to(device=device)
