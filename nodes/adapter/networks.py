"""Networks that measure, under ComfyUI's memory management and kept between runs.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0, there with dynamic VRAM too: load_models_gpu, text_encoder_device.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import comfy.model_management as management
import comfy.model_patcher
import torch

from ...emu_core.networks import Clip, used_files
from .patchers import manage

KEPT = 2
"""Networks that stay in memory between runs."""


def load_clip(folder: Path) -> Clip:
    """The CLIP of a transformers folder, on the device where ComfyUI runs text encoders; read anew only if its files changed.

    To be asked for before each use, since ComfyUI may have moved it away. Raises ValueError for what cannot be loaded.
    """
    files = [(file, file.stat()) for file in used_files(folder)]
    clip, patcher = _kept(folder, tuple((file.name, status.st_mtime_ns, status.st_size) for file, status in files))
    # wholly: layers that are not ComfyUI's own cannot be cast as they are used
    management.load_models_gpu([patcher], force_full_load=True)
    return clip


@lru_cache(maxsize=KEPT)
def _kept(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> tuple[Clip, comfy.model_patcher.ModelPatcher]:
    return _managed(folder)


def _managed(folder: Path, disable_dynamic: bool = False) -> tuple[Clip, comfy.model_patcher.ModelPatcher]:
    clip = Clip(folder)
    model = torch.nn.ModuleList([clip.module])  # ComfyUI sets `device`, which transformers' own model does not let it
    devices = management.text_encoder_device(), management.text_encoder_offload_device()
    return clip, manage(model, *devices, (_patcher, (folder,)), disable_dynamic)


def _patcher(folder: Path, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return _managed(folder, disable_dynamic)[1]
