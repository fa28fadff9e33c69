"""The twelve figures of the little world, as distances from outlines that are drawn here by hand.

Places are in units of a figure's radius, x to the right and y downwards; all of a figure lies within about 1.1 of its centre.
What has a front looks to the right. A figure is its outline, and details on it that are light or dark whatever its colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

Points = Sequence[tuple[float, float]]
REACH = 1.5  # of the tables, in radii
_SIDE = 241  # places along a table's side

FIGURES = (
    "circle", "square", "triangle", "cross", "fish", "dolphin", "bird", "boat", "car", "rocket", "balloon", "unicorn",
)  # fmt: skip
PLAIN = FIGURES[:4]  # one flat colour, and no front
SYMMETRY = {"circle": 0.0, "square": 90.0, "cross": 90.0, "triangle": 120.0}
"""Degrees after which a turned figure looks as before; 0: always; 360 for those that are not here."""


def ellipse(x: float, y: float, a: float, b: float, place: Tensor) -> Tensor:
    """Distance from an ellipse with half axes a and b, exact at its edge to first order."""
    offset = place - torch.tensor([x, y])
    axes = torch.tensor([a, b])
    inner = (offset / axes).norm(dim=-1)
    return inner * (inner - 1) / (offset / axes.square()).norm(dim=-1).clamp(min=1e-6)


def polygon(points: Points, place: Tensor) -> Tensor:
    """Distance from a closed polygon, negative inside: to the nearest of its sides, the sign by the even-odd rule."""
    corners = torch.tensor(points)
    nearest = torch.full(place.shape[:-1], torch.inf)
    inside = torch.zeros(place.shape[:-1], dtype=torch.bool)
    for a, b in zip(corners, corners.roll(-1, 0), strict=True):
        side, offset = b - a, place - a
        share = ((offset * side).sum(-1) / side.square().sum()).clamp(0, 1)
        nearest = torch.minimum(nearest, (offset - share[..., None] * side).norm(dim=-1))
        if a[1] != b[1]:
            crosses = (place[..., 1] < a[1]) != (place[..., 1] < b[1])
            inside ^= crosses & (place[..., 0] < a[0] + (place[..., 1] - a[1]) / (b[1] - a[1]) * (b[0] - a[0]))
    return torch.where(inside, -nearest, nearest)


def box(left: float, top: float, right: float, bottom: float, place: Tensor) -> Tensor:
    """Distance from an upright rectangle."""
    return polygon([(left, top), (right, top), (right, bottom), (left, bottom)], place)


def _union(*parts: Tensor) -> Tensor:
    return torch.stack(parts).amin(0)


def _circle(p: Tensor) -> tuple[Tensor, ...]:
    return (p.norm(dim=-1) - 1,)


def _square(p: Tensor) -> tuple[Tensor, ...]:
    return (box(-0.9, -0.9, 0.9, 0.9, p),)


def _triangle(p: Tensor) -> tuple[Tensor, ...]:  # upright and equilateral
    return (polygon([(0, -1.2), (1.0392, 0.6), (-1.0392, 0.6)], p),)


def _cross(p: Tensor) -> tuple[Tensor, ...]:
    return (_union(box(-1, -0.36, 1, 0.36, p), box(-0.36, -1, 0.36, 1, p)),)


def _fish(p: Tensor) -> tuple[Tensor, ...]:
    tail = polygon([(-0.42, 0.0), (-1.05, -0.62), (-0.88, 0.0), (-1.05, 0.62)], p)
    fin = polygon([(-0.25, -0.45), (0.05, -0.85), (0.45, -0.42)], p)
    stripes = _union(box(-0.2, -0.36, -0.02, 0.36, p), box(0.16, -0.36, 0.34, 0.36, p))
    return _union(ellipse(0.2, 0, 0.82, 0.55, p), tail, fin), stripes, ellipse(0.66, -0.12, 0.11, 0.11, p)


def _dolphin(p: Tensor) -> tuple[Tensor, ...]:
    back = [(1.08, 0.19), (0.8, 0.02), (0.66, -0.24), (0.36, -0.44), (0.12, -0.5), (-0.12, -0.96), (-0.26, -0.42), (-0.6, -0.16)]
    belly = [(-0.8, -0.05), (-1.08, -0.5), (-1.0, 0.02), (-1.08, 0.54), (-0.74, 0.24), (-0.4, 0.42), (0.02, 0.52)]
    front = [(-0.1, 0.96), (0.32, 0.5), (0.68, 0.35)]
    return polygon(back + belly + front, p), ellipse(0.2, 0.3, 0.42, 0.14, p), ellipse(0.6, -0.07, 0.1, 0.1, p)


def _bird(p: Tensor) -> tuple[Tensor, ...]:
    wing = polygon([(-0.3, 0.1), (-0.62, -0.95), (-0.1, -0.8), (0.36, -0.05)], p)
    tail = polygon([(-0.45, 0.02), (-1.08, -0.12), (-1.05, 0.36), (-0.45, 0.34)], p)
    beak = polygon([(0.74, -0.34), (1.12, -0.12), (0.74, 0.0)], p)
    body = _union(ellipse(0, 0.2, 0.66, 0.44, p), ellipse(0.58, -0.18, 0.32, 0.32, p))
    return _union(body, wing, tail, beak), ellipse(0.1, 0.38, 0.36, 0.18, p), ellipse(0.64, -0.24, 0.09, 0.09, p)


def _boat(p: Tensor) -> tuple[Tensor, ...]:
    hull = polygon([(-1.05, 0.28), (1.05, 0.28), (0.7, 0.85), (-0.7, 0.85)], p)
    mast, main = box(-0.1, -1.05, 0.04, 0.3, p), polygon([(0.0, -1.05), (0.85, 0.12), (0.0, 0.12)], p)
    jib = polygon([(-0.08, -0.8), (-0.08, 0.12), (-0.75, 0.12)], p)
    return _union(hull, mast, main, jib), jib + 0.02, box(-0.8, 0.44, 0.8, 0.56, p)


def _car(p: Tensor) -> tuple[Tensor, ...]:
    roof = [(-0.62, -0.16), (-0.36, -0.62), (0.34, -0.62), (0.64, -0.16)]
    body = polygon([(-1.05, 0.36), (-1.05, -0.08), *roof, (1.0, -0.06), (1.08, 0.36)], p)
    wheels = _union(ellipse(-0.55, 0.36, 0.27, 0.27, p), ellipse(0.55, 0.36, 0.27, 0.27, p))
    panes = polygon([(-0.45, -0.18), (-0.28, -0.48), (-0.04, -0.48), (-0.04, -0.18)], p)
    windscreen = polygon([(0.08, -0.18), (0.08, -0.48), (0.28, -0.48), (0.46, -0.18)], p)
    return _union(body, wheels), _union(panes, windscreen), wheels + 0.04


def _rocket(p: Tensor) -> tuple[Tensor, ...]:
    right = [(0, -1.1), (0.26, -0.74), (0.36, -0.3), (0.36, 0.3), (0.78, 0.92), (0.3, 0.74)]
    hull = polygon(right + [(-x, y) for x, y in reversed(right[1:])], p)
    return hull, ellipse(0, -0.32, 0.2, 0.2, p), box(-0.36, 0.22, 0.36, 0.4, p)


def _balloon(p: Tensor) -> tuple[Tensor, ...]:
    cone, basket = polygon([(-0.6, 0.05), (0.6, 0.05), (0.22, 0.66), (-0.22, 0.66)], p), box(-0.24, 0.62, 0.24, 1.0, p)
    envelope = ellipse(0, -0.3, 0.74, 0.74, p)
    stripe = torch.maximum(ellipse(0, -0.3, 0.24, 0.74, p), envelope + 0.06)
    return _union(envelope, cone, basket), stripe, basket + 0.02


def _unicorn(p: Tensor) -> tuple[Tensor, ...]:
    legs = [box(x, 0.1, x + 0.21, 1.0, p) for x in (-0.66, -0.38, 0.08, 0.36)]
    neck = polygon([(0.08, 0.1), (0.3, -0.55), (0.62, -0.55), (0.58, 0.1)], p)
    head = polygon([(0.3, -0.62), (0.66, -0.66), (1.08, -0.3), (0.98, -0.06), (0.56, -0.26)], p)
    tail = polygon([(-0.6, -0.12), (-1.08, 0.0), (-1.02, 0.62), (-0.84, 0.58), (-0.62, 0.16)], p)
    horn, mane = (
        polygon([(0.46, -0.6), (0.7, -1.18), (0.68, -0.6)], p),
        polygon([(0.02, 0.0), (0.26, -0.6), (0.4, -0.56), (0.24, 0.0)], p),
    )
    body = _union(ellipse(-0.06, 0.12, 0.66, 0.36, p), neck, head, tail, horn, *legs)
    return body, horn, _union(ellipse(0.68, -0.42, 0.08, 0.08, p), mane)


_DRAWN = dict(
    zip(
        FIGURES,
        (_circle, _square, _triangle, _cross, _fish, _dolphin, _bird, _boat, _car, _rocket, _balloon, _unicorn),
        strict=True,
    )
)


@cache
def tables() -> Tensor:
    """Distances (12, 3, side, side) in radii at places -REACH..REACH: from each figure's outline, its light and its dark details;
    far from all where it has none."""
    axis = torch.linspace(-REACH, REACH, _SIDE)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    every = [_DRAWN[name](grid) for name in FIGURES]
    return torch.stack([torch.stack([*parts, *[torch.full_like(parts[0], REACH)] * (3 - len(parts))]) for parts in every])
