"""A VAE of Stable Diffusion's true size through Load VAE. See harness.py; test_prompts.py puts the files there."""

from __future__ import annotations

from typing import Any

import folder_paths
import parts
import torch
from safetensors.torch import load_file

import nodes


def check_load_vae(pack: Any) -> dict[str, torch.Tensor]:
    """The VAE in the original layout's names and in diffusers', decoding latents and encoding a picture."""
    folder_paths.add_model_folder_path("vae", str(pack.folder))
    latents, result = load_file(pack.folder / "latents.safetensors")["latents"], {}
    for name in ("vae", "vae_diffusers"):
        vae = nodes.VAELoader().load_vae(f"{name}.safetensors")[0]
        result |= {f"{name} decoded": vae.decode(latents / 0.18215), f"{name} encoded": vae.encode(parts.picture()) * 0.18215}
    return result
