"""Pictures in and out of ComfyUI's VAE.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; read further, up to 0.38: the VAE's calls. common_upscale: 0.33.0.
"""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch

from ...emu_core.errors import UserError
from ...emu_core.media import fit

RESIZE = ("center crop", "stretch", "none")


def prepare(images: torch.Tensor, height: int, width: int, resize: str) -> torch.Tensor:
    """Images (k, H', W', 3 or 4) 0..1 -> (k, height, width, 3), as `resize` says."""
    images = images[..., :3]
    if images.shape[1:3] == (height, width):
        return images
    if resize == "center crop":
        return fit(images.cpu().float(), height, width)
    if resize == "stretch":
        return comfy.utils.common_upscale(images.movedim(-1, 1), width, height, "area", "disabled").movedim(1, -1)
    sizes = f"the image is {images.shape[2]} x {images.shape[1]}, the video {width} x {height}"
    raise UserError(f"{sizes}: give one of that size, or set resize to center crop or stretch")


def pixels_per_latent(vae: Any) -> int:
    """How many pixels wide one latent position is."""
    ratio = getattr(vae, "downscale_ratio", 8)
    if not isinstance(ratio, int) or getattr(vae, "latent_dim", 2) != 2:
        raise UserError("expected the VAE of a text-to-image model (SD 1.5, SD 2.1, SDXL), found one for video or sound")
    return ratio


def latent_size(vae: Any, height: int, width: int) -> tuple[int, int, int]:
    """Channels, height and width of the latents of a picture."""
    ratio = pixels_per_latent(vae)
    if height % ratio or width % ratio:
        raise UserError(f"width and height should be multiples of {ratio}, found {width} x {height}")
    return vae.latent_channels, height // ratio, width // ratio


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents (k, C, h, w) -> images (k, H, W, 3) 0..1."""
    images = vae.decode(latents)
    return images.reshape(-1, *images.shape[-3:])
