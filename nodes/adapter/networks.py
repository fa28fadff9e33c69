"""Networks of the pack's own under ComfyUI's memory management; those that measure are kept between runs.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0, there with dynamic VRAM too; read further, up to about 0.38. CoreModelPatcher: 0.12
and newer, replaced at start-up, so it is looked up at each call. cached_patcher_init: 0.15 and newer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.model_patcher
import torch
from comfy.model_patcher import ModelPatcher

from ...emu_core.networks import ClipNetwork, used_files

Reload = tuple[Callable[..., ModelPatcher], tuple[Any, ...]]


def manage(
    model: torch.nn.Module, load_device: torch.device, offload_device: torch.device, reload: Reload, disable_dynamic: bool = False
) -> ModelPatcher:
    """A patcher of this model, which ComfyUI (2026) makes anew by `reload`, (function, arguments): for another device, or with a
    further disable_dynamic=True for what cannot run under dynamic VRAM. Under that (ComfyUI 0.16 and newer) it must be of the
    dynamic class: beside a plain one ComfyUI makes room by estimates, and unloads what need not go."""
    kind = ModelPatcher if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)
    patcher = kind(model, load_device, offload_device)
    patcher.cached_patcher_init = reload
    return patcher


def load_clip(folder: Path) -> ClipNetwork:
    """The CLIP of a transformers folder, on the device where ComfyUI runs text encoders; read anew only if its files changed. To
    be asked for before each use: ComfyUI may have moved it away. ValueError for what cannot be loaded."""
    files = [(file.name, file.stat()) for file in used_files(folder)]
    patcher = _kept(folder, tuple((name, status.st_mtime_ns, status.st_size) for name, status in files))
    # wholly: layers that are not ComfyUI's own cannot be cast as they are used
    management.load_models_gpu([patcher], force_full_load=True)
    return patcher.model.clip


@lru_cache(maxsize=2)  # so many stay in memory between runs
def _kept(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> ModelPatcher:
    return _patcher(folder)


def _patcher(folder: Path, disable_dynamic: bool = False) -> ModelPatcher:
    clip = ClipNetwork(folder)
    model = torch.nn.ModuleList([clip.module])  # ComfyUI sets `device`, which transformers' own model does not let it
    model.clip = clip
    devices = management.text_encoder_device(), management.text_encoder_offload_device()
    return manage(model, *devices, (_patcher, (folder,)), disable_dynamic)
