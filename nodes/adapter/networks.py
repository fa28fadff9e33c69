"""Networks that measure, under ComfyUI's memory management and kept between runs.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0, there with dynamic VRAM too: load_models_gpu, text_encoder_device.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher

from ...emu_core.networks import Clip, used_files
from .patchers import manage

KEPT = 2
"""Networks that stay in memory between runs."""


def load_clip(folder: Path) -> Clip:
    """The CLIP of a transformers folder, on the device where ComfyUI runs text encoders; read anew only if its files changed.

    To be asked for before each use, since ComfyUI may have moved it away. Raises ValueError for what cannot be loaded.
    """
    files = [(file.name, file.stat()) for file in used_files(folder)]
    patcher = _kept(folder, tuple((name, status.st_mtime_ns, status.st_size) for name, status in files))
    # wholly: layers that are not ComfyUI's own cannot be cast as they are used
    management.load_models_gpu([patcher], force_full_load=True)
    return patcher.model.clip


@lru_cache(maxsize=KEPT)
def _kept(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> ModelPatcher:
    return _patcher(folder)


def _patcher(folder: Path, disable_dynamic: bool = False) -> ModelPatcher:
    clip = Clip(folder)
    model = torch.nn.ModuleList([clip.module])  # ComfyUI sets `device`, which transformers' own model does not let it
    model.clip = clip
    devices = management.text_encoder_device(), management.text_encoder_offload_device()
    return manage(model, *devices, (_patcher, (folder,)), disable_dynamic)
