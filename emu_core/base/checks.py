"""Checks on files and structures that need no weights, so that what does not fit is refused at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..limits import json_of
from ..model.schedule import ScheduleConfig


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. ValueError for a file that holds none."""
    try:
        content = json_of(path.read_bytes())
    except (ValueError, OSError):
        raise UserError(f"{path}: expected a JSON file, found none that can be read: restore it from its source") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}: restore it from its source")
    return content


def family_of(unet: Mapping[str, Any]) -> str:
    """The family by the U-Net's structure; a file's name says nothing."""
    width = unet["cross_attention_dim"]
    known = {2048: "sdxl"} if unet.get("addition_embed_type") == "text_time" else {768: "sd15", 1024: "sd21", 128: "tiny"}
    return known.get(width, f"other-{width}")


def check_structure(path: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse what is not a text-to-image U-Net with a fitting VAE and text encoders."""
    unet, vae = configs["unet"], configs["vae"]
    channels, latent, text = unet["in_channels"], vae["latent_channels"], unet["cross_attention_dim"]
    added = unet.get("addition_embed_type")
    classes = unet.get("class_embed_type") or ("class labels" if unet.get("num_class_embeds") else None)
    widths = [c["hidden_size"] for name, c in configs.items() if name.startswith("text_encoder")]
    trouble = None
    if channels != latent:
        kind = " as an inpainting model has" if channels == 2 * latent + 1 else ""
        trouble = f"a U-Net with {latent} input channels, like its VAE's latents, found {channels}{kind}: use the plain model"
    elif unet.get("out_channels", channels) != latent:
        trouble = f"{latent} output channels, found {unet['out_channels']}: use a text-to-image model"
    elif added not in (None, "text_time") or classes:
        trouble = f"a U-Net conditioned on text and time, found one on {added or classes} too: use a text-to-image model"
    elif vae.get("latents_mean") is not None or vae.get("latents_std") is not None:
        trouble = "a VAE with one scaling factor, found a mean and deviation per channel: use another base"
    elif sum(widths) != text:
        found = " + ".join(map(str, widths))
        trouble = f"text states of width {text}, as the U-Net reads, found text encoders of width {found}: use parts of one model"
    if trouble:
        raise UserError(f"{path}: expected {trouble}")


def schedule_of(path: Path, values: Mapping[str, Any], prediction_type: str | None) -> ScheduleConfig:
    """The schedule with these `values`, or with the user's `prediction_type` instead of theirs."""
    try:
        return ScheduleConfig(**{**values, **({} if prediction_type is None else {"prediction": prediction_type})})
    except ValueError as error:
        raise UserError(f"{path}: {error}: correct the model's settings or pass another prediction_type=") from None
