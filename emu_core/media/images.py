"""Pictures: read anything, fit to a size, floats to bytes. torch is imported late: curation reads videos without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange
from PIL import Image, ImageOps

from ..errors import UserError
from .budget import picture_of
from .files import PathLike, Unreadable, check_input, reason

if TYPE_CHECKING:
    from torch import Tensor

MIN_SIDE = 8


def read_image(path: PathLike) -> Tensor:
    """A picture as (H, W, 3) float32 in 0..1, upright, transparent parts on white; the first frame of an animation.

    Raises Unreadable, a ValueError, for what is missing, no picture, broken, or has a side below 8 px.
    """
    import torch

    return torch.from_numpy(read_pixels(path))


def read_pixels(path: PathLike) -> np.ndarray:
    """As read_image, as an array."""
    check_input(path, "a picture")
    try:
        with picture_of(path, path) as (picture, budget):
            if picture.format in ("JPEG", "MPO"):
                budget.claim(picture.width, picture.height, _scans(path))
            picture.load()
            budget.claim(picture.width, picture.height)  # of what some kinds have inside
            pixels = _floats(ImageOps.exif_transpose(picture))
    except Unreadable:
        raise
    except Exception as problem:  # decoders of broken files raise nearly anything, from SyntaxError to IndexError
        raise Unreadable(
            f"{path}: expected a picture (PNG, JPEG, WebP, TIFF, ...), found a file that cannot be read as one "
            f"({reason(problem)}); check the file or convert it to PNG."
        ) from problem
    check_sides(path, pixels.shape[0], pixels.shape[1])
    return pixels


def _scans(path: PathLike) -> int:
    """How often a JPEG goes over all of its picture: thousands of times in one that was made to take hours."""
    with open(path, "rb") as file:
        return 1 + sum(part.count(b"\xff\xda") for part in iter(lambda: file.read(1 << 20), b""))


def check_sides(path: PathLike, height: int, width: int) -> None:
    """Raises Unreadable for a side below 8 px."""
    if min(height, width) < MIN_SIDE:
        found = f"{width} x {height} (width x height)"
        raise Unreadable(f"{path}: expected sides of at least {MIN_SIDE} px, found {found}; use a larger picture.")


def _floats(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) float32 in 0..1 of a picture in any of Pillow's modes.

    Of grey of unknown depth, white is the smallest usual level that holds all values. Whole numbers are taken as 16 bit even
    if they are small: a dark picture has to stay dark.
    """
    if picture.mode != "F" and not picture.mode.startswith("I"):
        pixels = np.array(on_white(picture), dtype=np.float32)
        return np.divide(pixels, np.float32(255), out=pixels)
    values = np.asarray(picture)
    levels = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (65535.0,)
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    highest = max(float(values.max()), 0.0)
    white = next((level for level in levels if highest <= level), highest)
    return np.repeat(np.clip(values / white, 0, 1).astype(np.float32)[..., None], 3, axis=2)


def on_white(picture: Image.Image) -> Image.Image:
    """A picture in mode RGB, transparent parts composited on white."""
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")


def fit(frames: Tensor, height: int, width: int) -> Tensor:
    """Frames (f, h, w, 3) as (f, height, width, 3) in 0..1: the largest centred part of that shape, then resized.

    As in the paper: a box filter takes out the whole factors of a reduction, an antialiased bicubic one does the rest. The part
    has that shape up to whole pixels, and is a multiple of the whole factor, so that the box filter covers all of it.
    """
    import torch.nn.functional as F

    check_frames(frames)
    if height < 1 or width < 1:
        raise UserError(f"size: expected a height and a width of at least 1 px, found {height} x {width}; give larger ones.")
    h, w = frames.shape[1:3]
    part_h, part_w = min(h, max(1, round(w * height / width))), min(w, max(1, round(h * width / height)))
    factor = max(1, min(part_h // height, part_w // width))
    part_h, part_w = part_h // factor * factor, part_w // factor * factor
    top, left = (h - part_h) // 2, (w - part_w) // 2
    planes = rearrange(frames[:, top : top + part_h, left : left + part_w], "f h w c -> f c h w").float()
    if factor > 1:
        planes = F.avg_pool2d(planes, factor)
    if planes.shape[2:] != (height, width):
        planes = F.interpolate(planes, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return rearrange(planes, "f c h w -> f h w c").clamp(0, 1).contiguous()


def pad(frames: Tensor, multiple: int) -> Tensor:
    """Frames (f, h, w, 3) with their last row and column repeated below and to the right, up to sides that `multiple` divides;
    the frames themselves where it does already."""
    import torch.nn.functional as F

    check_frames(frames)
    below, right = (-side % multiple for side in frames.shape[1:3])
    if not below and not right:
        return frames
    planes = F.pad(rearrange(frames, "f h w c -> f c h w"), (0, right, 0, below), mode="replicate")
    return rearrange(planes, "f c h w -> f h w c").contiguous()


def check_frames(frames: Tensor) -> None:
    """Raises ValueError for a tensor that is not (frames, height, width, 3), or empty."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        found = tuple(frames.shape)
        raise UserError(f"frames: expected a tensor (frames, height, width, 3), found {found}; permute or stack it.")


def to_bytes(frames: Tensor) -> np.ndarray:
    """Float 0..1 of any device to uint8 of the same shape."""
    return (frames.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
