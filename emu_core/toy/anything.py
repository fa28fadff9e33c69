"""Clips of things without a name, so that pictures the world of `shapes` never draws can be animated too.

A random figure (one to three overlapping parts, any colour, edges sharp to blurred) moves over a random gradient. The caption
says the motion alone. Shapes and units are those of `shapes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from . import shapes

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """One part of a figure: shape name, place from the figure's centre, radius, stretch of x (all pixels but the last)."""

    shape: str
    offset: tuple[float, float]
    radius: float
    stretch: float


@dataclass(frozen=True)
class Anything(shapes.Moving):
    """A clip of a nameless figure. Colours are -1..1; `angle` (radians) is the gradient's, `blur` the edge's width in pixels."""

    figure: tuple[Part, ...]
    colour: Colour
    corners: tuple[Colour, Colour]
    angle: float
    blur: float
    direction: str
    speed: str
    start: tuple[float, float]

    def draw(self, times: torch.Tensor, palette: shapes.Palette) -> torch.Tensor:
        """See `Moving`."""
        grid, offset, inside = shapes.pixel_grid(), self.offsets(times), []
        across = torch.tensor([self.angle]).cos() * (grid[..., 0] - 32) + torch.tensor([self.angle]).sin() * (grid[..., 1] - 32)
        share = (across / 80 + 0.5).clamp(0, 1)
        first, second = (torch.tensor(corner).view(3, 1, 1) for corner in self.corners)
        ground = first + share * (second - first)
        for part in self.figure:
            local = (offset - torch.tensor(part.offset)) * torch.tensor([1 / part.stretch, 1.0])
            inside.append(shapes.signed_distance(part.shape, local, part.radius))
        alpha = (0.5 - torch.stack(inside).amin(0) / self.blur).clamp(0, 1)[:, None]
        return ground + alpha * (torch.tensor(self.colour).view(3, 1, 1) - ground)


def clip(seed: int, index: int) -> Anything:
    """The figure number `index` of the world `seed`; the same everywhere."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index + 2**40) & (2**62 - 1))
    number = torch.rand(24, generator=generator).tolist()

    def colour(first: int) -> Colour:
        return (2 * number[first] - 1, 2 * number[first + 1] - 1, 2 * number[first + 2] - 1)

    ground = colour(0)
    other = ground if number[3] < 0.4 else colour(4)  # two in five are plain
    parts = []
    for i in range(1 + int(3 * number[7])):
        place = torch.rand(4, generator=generator).tolist()
        reach = 0.0 if i == 0 else 11.0
        offset = (reach * (2 * place[0] - 1), reach * (2 * place[1] - 1))
        parts.append(Part(shapes.SHAPES[int(place[2] * 4)], offset, 5 + 11 * place[3], 0.6 + 0.8 * number[8 + i]))
    low, high = shapes.START_RANGE
    start = (low + (high - low) * number[12], low + (high - low) * number[13])
    direction = tuple(shapes.DIRECTIONS)[int(number[14] * len(shapes.DIRECTIONS))]
    speed = tuple(shapes.SPEED)[int(number[15] * len(shapes.SPEED))] if direction != "still" else ""
    blur = 1.0 if number[16] < 0.6 else 1 + 11 * number[17]
    return Anything(tuple(parts), colour(18), (ground, other), 6.2832 * number[21], blur, direction, speed, start)


def mixed(seed: int, indices: Sequence[int], share: float) -> list[shapes.Moving]:
    """Clips of the named world, with a fixed `share` 0..1 of nameless figures among them, spread evenly over the indices."""
    return [clip(seed, int(i)) if int((i + 1) * share) > int(i * share) else shapes.clip(seed, int(i)) for i in indices]
