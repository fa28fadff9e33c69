"""Weights that are a function of their names alone, so that two programs can fill the same network without exchanging a file."""

from __future__ import annotations

import math
import zlib

import torch


def fill(name: str, shape: tuple[int, ...] | torch.Size) -> torch.Tensor:
    """Random values of a size that keeps activations near 1; tables of positions are the sinusoids that the originals hold."""
    if name.endswith(("pe", "positional_encoding")):
        _, length, channels = shape
        rates = torch.exp(torch.arange(0, channels, 2) * (-math.log(10_000.0) / channels))
        angles = torch.arange(length)[:, None] * rates
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[None]
    values = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if len(shape) == 1:
        return 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
    return values / math.prod(shape[1:]) ** 0.5


def normal(name: str, *shape: int) -> torch.Tensor:
    """An input of unit variance."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
