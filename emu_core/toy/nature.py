"""Clips of nameless pictures with the statistics of natural ones, so that photographs can be animated too.

They are dead leaves (Matheron 1968; Lee, Mumford & Huang 2001, doi 10.1023/A:1011109015675): things of all sizes, as many of
each size as its inverse cube, that hide one another. Each has a colour that changes over it, a texture, and an edge sharp to
blurred. The camera moves over them, or a thing before them moves. The caption says the motion alone. Shapes and units are those
of `world`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from . import grounds, shapes, world

LEAVES = 160  # in a picture
PAINTED = 1500  # different pictures, of each of which there are 48 with other sides and colours
_MARGIN = 24  # pixels that are painted around the frame, for the camera
_SMALLEST, _LARGEST = 2.0, 42.0


@dataclass(frozen=True)
class Leaves(world.Moving):
    """A clip of dead leaves. `seed` chooses the picture; `start` is where the middle of the thing that moves is at time 0."""

    seed: int
    motion: str
    slowly: bool
    start: tuple[float, float]
    before: world.Before | None = None

    def draw(self, times: Tensor, palette: shapes.Palette) -> Tensor:
        """See `Moving`."""
        generator = torch.Generator().manual_seed(self.seed)
        behind, thing = chosen(generator), chosen(generator)
        where = self.path(times)
        places = where.world()
        picture = _at(behind, places)
        if self.motion in world.CAMERA and self.seed % 2:
            return picture
        parts = [_outline(generator, 9.0 + 7.0 * k, 4.0 * k) for k in range(2)]
        cos, sin = (getattr(torch.deg2rad(where.angle), name)()[:, None, None] for name in ("cos", "sin"))
        x, y = ((places - where.centre[:, None, None]) / where.scale[:, None, None, None]).unbind(-1)
        local = torch.stack([cos * x + sin * y, cos * y - sin * x], -1)
        distance = torch.stack([part(local) for part in parts]).amin(0) * (where.scale * where.zoom)[:, None, None]
        return picture + (0.5 - distance).clamp(0, 1)[:, None] * (_at(thing, local + shapes.SIZE / 2) - picture)


def chosen(generator: torch.Generator) -> Tensor:
    """One of the PAINTED pictures, turned, mirrored and with its colours exchanged at random."""
    roll = torch.rand(5, generator=generator).tolist()
    picture = _painted(int(roll[0] * PAINTED)).float() / 127.5 - 1
    picture = torch.rot90(picture, int(roll[1] * 4), (1, 2))[list(permutations(range(3)))[int(roll[2] * 6)], :]
    return picture.flip(2) if roll[3] < 0.5 else picture


@lru_cache(PAINTED)
def _painted(number: int) -> Tensor:
    return canvases(1000 + number, 1)[0]


def _at(canvas: Tensor, places: Tensor) -> Tensor:
    """A canvas at places (f, h, w, 2) of the world, (f, 3, h, w); beyond it lies its mirror image."""
    side = canvas.shape[-1]
    at = (places + _MARGIN) * (2 / side) - 1
    return F.grid_sample(canvas.expand(len(places), -1, -1, -1), at, padding_mode="reflection", align_corners=False)


class _outline:
    """A random ellipse or rounded polygon of about `radius` around a place up to `reach` away: distances from its edge."""

    def __init__(self, generator: torch.Generator, radius: float, reach: float) -> None:
        roll = torch.rand(8, generator=generator)
        self.centre = reach * (2 * roll[:2] - 1)
        self.axes = radius * (0.6 + 0.6 * roll[2:4])
        self.angle, self.power = 6.2832 * roll[4], (2.0, 4.0, 1.2)[int(roll[5] * 3)]

    def __call__(self, places: Tensor) -> Tensor:
        x, y = (places - self.centre).unbind(-1)
        x, y = self.angle.cos() * x + self.angle.sin() * y, self.angle.cos() * y - self.angle.sin() * x
        reach = ((x / self.axes[0]).abs() ** self.power + (y / self.axes[1]).abs() ** self.power) ** (1 / self.power)
        return (reach - 1) * self.axes.min()


def paint(generator: torch.Generator, count: int) -> Tensor:
    """One picture of `count` leaves from the back to the front, (3, 112, 112) in -1..1."""
    side = shapes.SIZE + 2 * _MARGIN
    mood = 1.2 * torch.rand(1, generator=generator) - 0.6 + 0.3 * torch.randn(3, generator=generator)  # its colours are kin
    spread = 0.25 + 0.5 * torch.rand(1, generator=generator)
    grid = shapes.pixel_grid(side)
    roll = torch.rand(count, 12, generator=generator)
    low, high = _SMALLEST**-2, _LARGEST**-2
    radius = (low + roll[:, 0] * (high - low)).rsqrt()  # density as the inverse cube
    radius = torch.where(torch.arange(count) < 12, 18 + 30 * roll[:, 0], radius * 1.2)  # the first ones cover all
    centre, stretch, angle = side * roll[:, 1:3], 0.5 + roll[:, 3], 6.2832 * roll[:, 4]
    grey = spread * torch.randn(count, 1, generator=generator)
    colours = (mood + grey + 0.4 * spread * torch.randn(count, 3, generator=generator)).clamp(-1, 1)
    other = (colours + 0.25 * torch.randn(count, 1, generator=generator)).clamp(-1, 1)
    tiles = _textures()
    canvas = mood.view(3, 1, 1).repeat(1, side, side)
    for i in range(count):
        r, (cx, cy) = float(radius[i]), centre[i].tolist()
        reach = r * 1.6 + 3
        x0, x1 = max(0, int(cx - reach)), min(side, int(cx + reach) + 1)
        y0, y1 = max(0, int(cy - reach)), min(side, int(cy + reach) + 1)
        if x0 >= x1 or y0 >= y1:
            continue
        x, y = (grid[y0:y1, x0:x1] - centre[i]).unbind(-1)
        cos, sin = angle[i].cos(), angle[i].sin()
        x, y = (cos * x + sin * y) / r, (cos * y - sin * x) / r / stretch[i]
        kind = roll[i, 5]
        if kind < 0.55:
            distance = (x * x + y * y).sqrt() - 1
        elif kind < 0.8:
            distance = torch.maximum(x.abs(), y.abs()) - 0.85
        else:
            distance = torch.maximum(y, 0.866 * x.abs() - 0.5 * y) - 0.65
        blur = 1.0 if roll[i, 6] < 0.8 else 1.0 + 5 * roll[i, 7]
        share = (0.5 - distance * r / blur).clamp(0, 1)
        shade = (0.5 + 0.5 * x).clamp(0, 1)
        colour = colours[i].view(3, 1, 1) + shade * (other[i] - colours[i]).view(3, 1, 1)
        if roll[i, 8] < 0.6:
            tile = tiles[int(roll[i, 9] * len(tiles))]
            colour = colour + (0.04 + 0.3 * roll[i, 10] ** 2) * tile[y0:y1, x0:x1]
        part = canvas[:, y0:y1, x0:x1]
        canvas[:, y0:y1, x0:x1] = part + share * (colour - part)
    return canvas.clamp(-1, 1)


@cache
def _textures() -> list[Tensor]:
    """Noise of several grains, as large as a canvas."""
    side = shapes.SIZE + 2 * _MARGIN
    kinds = [(2.5, 6, 1.0), (3, 10, 4.0), (4, 16, 1.0), (6, 30, 0.3), (3, 60, 1.0), (8, 60, 1.0)]
    return [grounds.noise(100 + i, *kind)[:side, :side] for i, kind in enumerate(kinds)]


def canvases(seed: int, count: int) -> Tensor:
    """That many pictures with what lies around them, (count, 3, 112, 112) uint8; the same everywhere."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + 2**41) & (2**62 - 1))
    many = range(count) if count < 100 else tqdm(range(count), desc="painting", mininterval=2)
    made = [paint(generator, LEAVES) for _ in many]
    return torch.stack([((one + 1) * 127.5).round().byte() for one in made])


def clip(seed: int, index: int) -> Leaves:
    """The clip number `index` of the world `seed`; the same everywhere. Half of the time the camera moves."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index + 2**40) & (2**62 - 1))
    roll = torch.rand(6, generator=generator).tolist()
    kinds = world.CAMERA if roll[0] < 0.5 else world.MOTIONS[: -len(world.CAMERA)]
    motion = kinds[int(roll[1] * len(kinds))]
    start = (12 + 40 * roll[2], 12 + 40 * roll[3])
    slowly = motion in world.DIRECTIONS and roll[4] < 0.4
    return Leaves(int(torch.randint(2**40, (1,), generator=generator)), motion, slowly, start)


def mixed(seed: int, indices: Sequence[int], share: float) -> list[world.Moving]:
    """Clips of the named world, with a fixed `share` 0..1 of nameless ones among them, spread evenly over the indices."""
    return [clip(seed, int(i)) if int((i + 1) * share) > int(i * share) else world.clip(seed, int(i)) for i in indices]
