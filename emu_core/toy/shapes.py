"""The procedural world of the bundled model: one coloured shape on a plain background, moving or not.

Everything is a closed form of a clip's index, so the data are endless, need no files, and the truth
(colour, shape, size, position of every frame) is known exactly. One frame says nothing of the motion:
the place at time 0 is drawn independently of direction and speed.

Shapes: `n` clips, `f` frames, images `(n, f, 3, 64, 64)` float32 in -1..1. Lengths are pixels, times seconds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from ..errors import UserError

SIZE = 64
Palette = Mapping[str, tuple[int, int, int]]
PALETTE: Palette = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 70, 220),
    "yellow": (240, 210, 40),
    "purple": (160, 50, 200),
    "cyan": (40, 200, 220),
}
BACKGROUNDS: Palette = {"white": (245, 245, 245), "gray": (128, 128, 128), "black": (12, 12, 12)}
SHAPES = ("circle", "square", "triangle", "cross")
RADIUS = {"small": 11.0, "big": 18.0}
DIRECTIONS: dict[str, tuple[int, int]] = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1), "still": (0, 0)}
SPEED = {"slowly": 4.0, "": 8.0}
"""Pixels a second; the empty word is the ordinary speed."""
START_RANGE = (22.0, 42.0)
"""Where the centre is at time 0, in pixels, on both axes."""


class Moving(ABC):
    """Something that starts at a place (x, y) in pixels and moves, or not, in a direction at a speed."""

    direction: str
    speed: str
    start: tuple[float, float]

    @property
    def velocity(self) -> tuple[float, float]:
        """Pixels a second, (x, y); y grows downwards."""
        dx, dy = DIRECTIONS[self.direction]
        return dx * SPEED[self.speed], dy * SPEED[self.speed]

    @property
    def motion(self) -> str:
        """The part of a caption that says the motion."""
        return "stays still" if self.direction == "still" else " ".join(w for w in ("moves", self.speed, self.direction) if w)

    @property
    def caption(self) -> str:
        """All that happens, in words; here the motion alone."""
        return self.motion

    def said(self, generator: torch.Generator, drop: float, keep_motion: bool = True) -> str:
        """The caption as somebody might type it: empty in a share `drop`. Of the others a quarter lack one of the `parts`."""
        roll, part = torch.rand(2, generator=generator).tolist()
        parts = self.parts(keep_motion)
        lacks = bool(parts) and roll > drop + 0.75 * (1 - drop)
        text = self.caption.replace(parts[int(part * len(parts))], "", 1) if lacks else self.caption
        return "" if roll < drop else text

    def parts(self, keep_motion: bool) -> tuple[str, ...]:
        """What a caption may lack, so that short prompts work."""
        return ()

    @abstractmethod
    def draw(self, times: torch.Tensor, palette: Palette) -> torch.Tensor:
        """Pictures (f, 3, 64, 64) in -1..1 at `times` (f,) seconds. `palette`: what the names of colours mean."""

    def offsets(self, times: torch.Tensor) -> torch.Tensor:
        """From where it is at `times` (f,) seconds to each pixel, (f, 64, 64, 2) as (x, y)."""
        return pixel_grid() - positions([self], times)[0, :, None, None]


@dataclass(frozen=True)
class Clip(Moving):
    """What happens in one clip. `start` is the centre (x, y) in pixels at time 0."""

    shape: str
    colour: str
    background: str
    size: str
    direction: str
    speed: str
    start: tuple[float, float]

    @property
    def caption(self) -> str:
        """All that happens, in words."""
        return f"a {self.size} {self.colour} {self.shape} {self.motion} on a {self.background} background"

    def parts(self, keep_motion: bool) -> tuple[str, ...]:
        """Size, background, and the colour or the motion."""
        return f"{self.size} ", f" on a {self.background} background", f"{self.colour} " if keep_motion else f" {self.motion}"

    def draw(self, times: torch.Tensor, palette: Palette) -> torch.Tensor:
        """See `Moving`."""
        alpha = coverage(self.shape, self.offsets(times), RADIUS[self.size])[:, None]
        ground, colour = rgb(BACKGROUNDS[self.background]).view(3, 1, 1), rgb(palette[self.colour]).view(3, 1, 1)
        return ground + alpha * (colour - ground)


def read_caption(text: str) -> Clip | None:
    """The clip that a caption of this world describes, its start unknown (nan); None for any other text."""
    words = set(text.lower().replace(".", " ").replace(",", " ").split())
    found = [words.intersection(options) for options in (SHAPES, PALETTE, BACKGROUNDS, RADIUS, DIRECTIONS)]
    if any(len(one) != 1 for one in found):
        return None
    shape, colour, background, size, direction = (one.pop() for one in found)
    speed = "slowly" if "slowly" in words and direction != "still" else ""
    return Clip(shape, colour, background, size, direction, speed, (float("nan"), float("nan")))


def combinations(held_out: bool) -> list[tuple[str, str, str]]:
    """All (shape, colour, direction) of one side of the split: the fifth that no training ever sees, or the others. Each pair of
    shape and colour misses exactly one direction, and each direction is missed equally often."""
    every = product(enumerate(SHAPES), enumerate(PALETTE), enumerate(DIRECTIONS))
    return [(s, c, d) for (i, s), (j, c), (k, d) in every if ((i + j + k) % len(DIRECTIONS) == 0) == held_out]


def vocabulary() -> list[str]:
    """Every word a caption can contain, sorted."""
    words = {"a", "on", "background", "moves", "stays", "still"}
    words |= {w for w in SPEED if w} | set(SHAPES) | set(PALETTE) | set(BACKGROUNDS) | set(RADIUS) | set(DIRECTIONS)
    return sorted(words)


def clip(seed: int, index: int, held_out: bool = False) -> Clip:
    """The clip number `index` of the world `seed`; the same on every machine and in every process."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) & (2**62 - 1))

    def pick(options: Sequence) -> Any:
        return options[int(torch.randint(len(options), (1,), generator=generator))]

    shape, colour, direction = pick(_SPLIT[held_out])
    low, high = START_RANGE
    x, y = (low + (high - low) * torch.rand(2, generator=generator)).tolist()
    background, size, speed = pick(tuple(BACKGROUNDS)), pick(tuple(RADIUS)), pick(tuple(SPEED))
    return Clip(shape, colour, background, size, direction, speed if direction != "still" else "", (x, y))


_SPLIT = {side: combinations(side) for side in (False, True)}


def clips(seed: int, indices: Sequence[int], held_out: bool = False) -> list[Clip]:
    """The clips of these numbers, of combinations that are trained on, or of the others."""
    return [clip(seed, int(i), held_out) for i in indices]


def positions(batch: Sequence[Moving], times: torch.Tensor) -> torch.Tensor:
    """Centres (n, f, 2) in pixels at `times` (f,) seconds."""
    start = torch.tensor([c.start for c in batch])
    velocity = torch.tensor([c.velocity for c in batch])
    return start[:, None] + velocity[:, None] * times[None, :, None]


def signed_distance(shape: str, offset: torch.Tensor, radius: float | torch.Tensor) -> torch.Tensor:
    """Distance in pixels from a shape's edge, negative inside. `offset` (..., 2) is the place from the centre."""
    x, y = offset.unbind(-1)
    if shape == "circle":
        return (x * x + y * y).sqrt() - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.9 * radius
    if shape == "triangle":  # upright and equilateral: three half planes at 0.6 of the radius from its centre
        return torch.maximum(y, 0.8660254 * x.abs() - 0.5 * y) - 0.6 * radius
    if shape == "cross":
        ax, ay = x.abs(), y.abs()
        bar = torch.maximum(ax - radius, ay - 0.36 * radius)
        return torch.minimum(bar, torch.maximum(ay - radius, ax - 0.36 * radius))
    raise UserError(f"unknown shape {shape!r}: expected one of {', '.join(SHAPES)}")


def coverage(shape: str, offset: torch.Tensor, radius: float | torch.Tensor) -> torch.Tensor:
    """Share of each pixel that the shape covers, 0..1: an edge one pixel wide."""
    return (0.5 - signed_distance(shape, offset, radius)).clamp(0, 1)


def pixel_grid(size: int = SIZE) -> torch.Tensor:
    """Centres of the pixels, (size, size, 2) as (x, y)."""
    axis = torch.arange(size, dtype=torch.float32) + 0.5
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)


def rgb(colour: tuple[int, int, int]) -> torch.Tensor:
    """A colour as three floats in -1..1."""
    return torch.tensor(colour, dtype=torch.float32) / 127.5 - 1


def render(batch: Sequence[Moving], times: torch.Tensor, palette: Palette = PALETTE) -> torch.Tensor:
    """Draw clips at `times` (f,) seconds -> (n, f, 3, 64, 64) in -1..1. `palette`: what the names of colours mean."""
    return torch.stack([c.draw(times, palette) for c in batch])
