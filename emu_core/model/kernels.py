"""Dense attention behind one function, by the kernel that runs on the device at hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal, get_args

import torch
from torch.nn import functional as F

from ..errors import UserError

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""q (n, heads, tokens, dim), k and v (n, heads, others, dim) -> (n, heads, tokens, dim)."""

Backend = Literal["auto", "sdpa", "xformers"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

_MAX_GRID = 65_535  # batch x heads that older CUDA kernels take; temporal attention has a row per pixel


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool = False) -> torch.Tensor:
    """torch's scaled dot-product attention, in parts when batch x heads is beyond what CUDA kernels take."""
    rows = max(1, _MAX_GRID // q.shape[1])
    if len(q) <= rows:
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    parts = zip(q.split(rows), k.split(rows), v.split(rows), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part, is_causal=is_causal) for part in parts])


causal: Attend = partial(sdpa, is_causal=True)
"""The same where no token attends to one that comes after it."""


def xformers(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """xformers' memory-efficient attention; it wants (n, tokens, heads, dim)."""
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


@lru_cache(maxsize=16)
def _xformers_trouble(device: str, dtype: torch.dtype) -> str:
    """Empty when xformers attends on this device; else why not. That it imports says nothing."""
    try:
        probe = torch.zeros(1, 1, 8, 32, device=device, dtype=dtype)
        xformers(probe, probe, probe)
    except Exception as error:  # xformers raises what its broken builds raise: ImportError, OSError, NotImplementedError ...
        return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), 'no message')}"
    return ""


def choose(backend: Backend, device: torch.device | str, dtype: torch.dtype) -> Attend:
    """The attention function for a device. `auto` is torch's own; `xformers` is refused where it does not run."""
    if backend not in BACKENDS:
        raise UserError(f"attention must be one of {', '.join(BACKENDS)}, found {backend!r}")
    if backend != "xformers":
        return sdpa
    if trouble := _xformers_trouble(str(device), dtype):
        raise UserError(f"xformers does not run on {device} in {dtype} ({trouble}): use --attention auto")
    return xformers
