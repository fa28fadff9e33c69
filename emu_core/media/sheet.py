"""Frames side by side on one picture, for a person to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import UserError
from .images import check_frames, to_bytes

if TYPE_CHECKING:
    from torch import Tensor

MIN_SHOWN_SIDE = 128
MAX_DEFAULT_COLUMNS = 8
GAP = 4
FONT_SIZE = 12
LABEL_HEIGHT = 18
BACKGROUND = (40, 40, 40)
INK = (240, 240, 240)
MAX_HEIGHT, MAX_PIXELS = 16_000, 2**26
"""Of a sheet of a long video: what every format of pictures takes, and what other programs open without a question."""


def contact_sheet(
    frames: Tensor, columns: int | None = None, labels: Sequence[str] | None = None, scale: int | None = None
) -> Tensor:
    """Frames (f, H, W, 3) in rows on one picture (H', W', 3), float32 0..1.

    columns: frames per row, up to 8 if not given. labels: one per frame, written below it. scale: each pixel becomes
    scale x scale pixels; if not given, the smallest whole number that makes the shorter side at least 128 px.
    """
    import torch  # late, as in images

    check_frames(frames)
    count, height, width = frames.shape[:3]
    if labels is not None and len(labels) != count:
        raise UserError(f"labels: expected one for each of the {count} frames, found {len(labels)}; give as many or none.")
    columns = min(count, MAX_DEFAULT_COLUMNS) if columns is None else columns
    scale = max(1, math.ceil(MIN_SHOWN_SIDE / min(height, width))) if scale is None else scale
    if columns < 1 or scale < 1:
        raise UserError(f"columns and scale: expected at least 1, found {columns} and {scale}; give larger ones.")
    cell_h, cell_w = height * scale + (LABEL_HEIGHT if labels else 0) + GAP, width * scale + GAP
    rows = math.ceil(count / columns)
    sheet = Image.new("RGB", (min(columns, count) * cell_w + GAP, rows * cell_h + GAP), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for index, pixels in enumerate(to_bytes(frames)):
        left, top = GAP + index % columns * cell_w, GAP + index // columns * cell_h
        frame = Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        sheet.paste(frame, (left, top))
        if labels:
            text = _shorten(draw, font, labels[index], width * scale)
            draw.text((left, top + height * scale + 2), text, fill=INK, font=font)
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)


def shown_every(count: int, height: int, width: int) -> int:
    """Of so many frames of a size, every how manieth goes onto a sheet that is to stay below MAX_HEIGHT and MAX_PIXELS."""
    scale = max(1, math.ceil(MIN_SHOWN_SIDE / min(height, width)))
    rows = max(1, MAX_HEIGHT // (height * scale + GAP))
    most = max(1, min(rows * MAX_DEFAULT_COLUMNS, MAX_PIXELS // (height * width * scale**2)))
    return math.ceil(count / most)


def _shorten(draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, text: str, width: int) -> str:
    """The text on one line, cut with dots where it is wider than the frame, so that it does not run into the next label."""
    line = " ".join(text.split())
    if draw.textlength(line, font=font) <= width:
        return line
    while line and draw.textlength(line + "...", font=font) > width:
        line = line[:-1]
    return line + "..."
