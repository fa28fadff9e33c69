"""Models of the pack's own in the class that ComfyUI manages its own models with.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; read further, up to about 0.38. CoreModelPatcher: 0.12 and newer, replaced
at start-up, so it is looked up at each call. cached_patcher_init: 0.15 and newer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import torch

Reload = tuple[Callable[..., comfy.model_patcher.ModelPatcher], tuple[Any, ...]]


def manage(
    model: torch.nn.Module, load_device: torch.device, offload_device: torch.device, reload: Reload, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """A patcher of this model, which ComfyUI (2026) makes anew by `reload`, (function, arguments): for another device, or with a
    further disable_dynamic=True for what cannot run under dynamic VRAM. Under that (ComfyUI 0.16 and newer) it must be of the
    dynamic class: beside a plain one ComfyUI makes room by estimates, and unloads what need not go."""
    plain = comfy.model_patcher.ModelPatcher
    kind = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    patcher = kind(model, load_device, offload_device)
    patcher.cached_patcher_init = reload
    return patcher
