"""Pictures for a person to look at while training runs."""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from PIL import Image


def save_grid(images: torch.Tensor, path: Path | None, columns: int) -> None:
    """Save images (n, 3, H, W) in -1..1, n a multiple of `columns`, as one PNG, row by row. No path: nothing is saved."""
    if path is None:
        return
    grid = rearrange(images, "(r c) k h w -> (r h) (c w) k", c=columns)
    Image.fromarray(((grid.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()).save(path)
