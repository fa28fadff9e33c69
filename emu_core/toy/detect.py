"""Exact detectors for the procedural world: what a frame shows, without learning.

The background is the median of the border, the colour the nearest of the palette, and shape, size and place those of
the template that overlaps best (intersection over union, to an eighth of a pixel).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..errors import UserError
from . import shapes

_MARGIN = 20  # pixels from a template's centre to its border; more than the largest radius
_FAINT = 0.25  # distance in -1..1 colour space below which nothing stands out from the background
STILL_PX = 3.0  # a move shorter than this is none; the slowest real one is 7


@dataclass(frozen=True)
class Reading:
    """What one frame shows. `centre` (x, y) in pixels."""

    colour: str
    background: str
    shape: str
    size: str
    centre: tuple[float, float]


NOTHING = "nothing"


def read_frames(images: torch.Tensor) -> list[Reading]:
    """Read images (n, 3, 64, 64) in -1..1."""
    if images.shape[1:] != (3, shapes.SIZE, shapes.SIZE):
        raise UserError(f"the detectors read images (n, 3, {shapes.SIZE}, {shapes.SIZE}), found {tuple(images.shape)}")
    return [
        reading for part in zip(*(one.split(64) for one in separate(images.float())), strict=True) for reading in _read(*part)
    ]


def separate(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split images into background colour (n, 3), shape colour (n, 3), coverage (n, 64, 64), and if a shape is seen (n,)."""
    border = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], -1)
    ground = border.median(-1).values
    difference = images - ground[:, :, None, None]
    distance = difference.norm(dim=1)
    strong = distance > 0.6 * distance.flatten(1).quantile(0.99, dim=1).clamp(min=1e-6)[:, None, None]
    pixels = torch.where(strong[:, None], images, torch.nan).flatten(2)
    colour = pixels.nanmedian(-1).values
    axis = colour - ground
    alpha = (difference * axis[:, :, None, None]).sum(1) / axis.square().sum(1).clamp(min=1e-6)[:, None, None]
    return ground, colour, alpha.clamp(0, 1), axis.norm(dim=1) > _FAINT


def nearest(colour: torch.Tensor, palette: shapes.Palette) -> str:
    """The name of a palette's colour that is nearest to `colour` (3,) in -1..1."""
    distances = {name: float((colour - shapes.rgb(value)).norm()) for name, value in palette.items()}
    return min(distances, key=distances.__getitem__)


_KINDS = [(shape, size) for shape in shapes.SHAPES for size in shapes.RADIUS]


def _correlate(images: torch.Tensor, templates: torch.Tensor) -> torch.Tensor:
    """Images (n, 64, 64) against templates (k, 40, 40), centred on every corner of the pixel grid -> (n, k, 65, 65)."""
    reach, side = images.shape[-1] + 1, images.shape[-1] + 2 * _MARGIN
    spectrum = torch.fft.rfft2(F.pad(images, (_MARGIN,) * 4), s=(side, side))
    product = spectrum[:, None] * torch.fft.rfft2(templates, s=(side, side)).conj()
    return torch.fft.irfft2(product, s=(side, side))[..., :reach, :reach]


def _read(ground: torch.Tensor, colour: torch.Tensor, alpha: torch.Tensor, visible: torch.Tensor) -> list[Reading]:
    grid = shapes.pixel_grid(2 * _MARGIN) - _MARGIN
    templates = torch.stack([shapes.coverage(shape, grid, shapes.RADIUS[size]) for shape, size in _KINDS])
    inside, shared = _correlate(torch.ones_like(alpha[:1]), templates), _correlate(alpha, templates)
    overlap = shared / (alpha.sum((1, 2))[:, None, None, None] + inside - shared).clamp(min=1e-6)
    side = overlap.shape[-1]
    best = overlap.flatten(2).max(-1)
    readings = []
    for i in range(len(alpha)):
        background = nearest(ground[i], shapes.BACKGROUNDS)
        if not visible[i]:
            readings.append(Reading(NOTHING, background, NOTHING, NOTHING, (float("nan"), float("nan"))))
            continue
        fits = []
        for kind, (shape, size) in enumerate(_KINDS):  # refine those that are near the best: a whole pixel can decide
            if best.values[i, kind] >= best.values[i].max() - 0.08:
                row, column = divmod(int(best.indices[i, kind]), side)
                fits.append((*_refine(alpha[i], shape, shapes.RADIUS[size], (column, row)), shape, size))
        _, x, y, shape, size = max(fits)
        readings.append(Reading(nearest(colour[i], shapes.PALETTE), background, shape, size, (x, y)))
    return readings


def _refine(alpha: torch.Tensor, shape: str, radius: float, centre: tuple[float, float]) -> tuple[float, float, float]:
    """Best overlap and place (x, y) within about a pixel of `centre`, to an eighth of a pixel."""
    score, place = 0.0, torch.tensor(centre)
    for step, reach in ((0.5, 2), (0.125, 3)):
        steps = torch.arange(-reach, reach + 1) * step
        offsets = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).reshape(-1, 2) + place
        drawn = shapes.coverage(shape, shapes.pixel_grid()[None] - offsets[:, None, None], radius)
        scores = torch.minimum(drawn, alpha).sum((1, 2)) / torch.maximum(drawn, alpha).sum((1, 2)).clamp(min=1e-6)
        top = int(scores.argmax())
        score, place = float(scores[top]), offsets[top]
    return score, float(place[0]), float(place[1])


def direction_of(dx: float, dy: float) -> str:
    """The direction word of a displacement in pixels, y downwards; `still` below STILL_PX."""
    if not (dx * dx + dy * dy) ** 0.5 >= STILL_PX:
        return "still"
    if abs(dx) >= abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"
