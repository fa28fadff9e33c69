"""The little world of the bundled model: a figure on a ground, one of them or the camera moving, or neither.

Everything is a closed form of a clip's index, so the data are endless, need no files, and the truth (what is seen, and where, in
every frame) is known exactly. One frame says nothing of the motion: all that it shows is drawn independently of it.

Shapes: `n` clips, `f` frames, images `(n, f, 3, 64, 64)` float32 in -1..1. Lengths are pixels, times seconds, angles degrees.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from . import grounds, shapes
from .figures import FIGURES, PLAIN, REACH, SYMMETRY, tables

SIZE = shapes.SIZE
PALETTE: shapes.Palette = {**shapes.PALETTE, "orange": (245, 130, 30), "pink": (250, 130, 190)}
RADIUS = {"small": 13.0, "big": 19.0}
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
SPEED = 8.0  # pixels a second, of figures and of the camera
SLOWLY = 0.5  # times it
JUMP, JUMP_SECONDS = 14.0, 2.0  # how high, and from ground to ground; then the next one
TURN = 40.0  # degrees a second, clockwise
GROWTH = 1.2  # a second, of what grows; what shrinks is divided by it
ZOOM = 1.16  # a second
PANS = tuple(f"pans {direction}" for direction in DIRECTIONS)
CAMERA = (*PANS, "zooms in", "zooms out")
MOTIONS = (*DIRECTIONS, "still", "jumps", "turns", "grows", "shrinks", *CAMERA)
"""What happens in a clip: a direction in which the figure moves, what else it does, or what the camera does."""
VERBS = {"fish": "swims", "dolphin": "swims", "bird": "flies", "boat": "sails", "car": "drives", "rocket": "flies",
         "balloon": "floats", "unicorn": "runs"}  # fmt: skip
POSED = 6.0  # pixels from the middle, at most, of a figure that somebody took a picture of


@dataclass(frozen=True)
class Path:
    """Where things are at f times. `centre` (f, 2) is the figure's in the world, `angle` (f,) how far it has turned clockwise,
    `scale` (f,) times its size at time 0; `camera` (f, 2) is how far the camera has gone, `zoom` (f,) how near it has come."""

    centre: Tensor
    angle: Tensor
    scale: Tensor
    camera: Tensor
    zoom: Tensor

    @property
    def seen(self) -> Tensor:
        """The figure's centre in the frame, (f, 2)."""
        return (self.centre - self.camera - SIZE / 2) * self.zoom[:, None] + SIZE / 2

    def world(self) -> Tensor:
        """Places in the world that the pixels of each frame show, (f, 64, 64, 2)."""
        middle = shapes.pixel_grid() - SIZE / 2
        return middle / self.zoom[:, None, None, None] + SIZE / 2 + self.camera[:, None, None]


def path(motion: str, slowly: bool, start: tuple[float, float], times: Tensor) -> Path:
    """The closed form of a motion at `times` (f,) seconds, which may be before 0."""
    still, one = torch.zeros(len(times), 2), torch.ones(len(times))
    rate = SPEED * (SLOWLY if slowly else 1.0)
    centre, angle, scale, camera, zoom = torch.tensor(start) + still, 0 * one, one, still, one
    if motion in DIRECTIONS:
        centre = centre + rate * times[:, None] * torch.tensor(DIRECTIONS[motion], dtype=torch.float32)
    elif motion == "jumps":
        share = (times / JUMP_SECONDS) % 1
        centre = centre - torch.stack([0 * share, JUMP * 4 * share * (1 - share)], -1)
    elif motion == "turns":
        angle = TURN * times
    elif motion in ("grows", "shrinks"):
        scale = (GROWTH if motion == "grows" else 1 / GROWTH) ** times
    elif motion in PANS:
        camera = rate * times[:, None] * torch.tensor(DIRECTIONS[motion.split()[1]], dtype=torch.float32)
    elif motion in CAMERA:
        zoom = (ZOOM if motion == "zooms in" else 1 / ZOOM) ** times
    return Path(centre, angle, scale, camera, zoom)


@dataclass(frozen=True)
class Before:
    """What happened up to a time, of which the caption says nothing: the video goes on from frames that show it."""

    motion: str
    slowly: bool
    until: float


class Moving(ABC):
    """What a clip shows, and how it or the camera moves."""

    motion: str
    slowly: bool
    start: tuple[float, float]
    before: Before | None = None

    def path(self, times: Tensor) -> Path:
        """Where all is at `times` (f,) seconds."""
        if self.before is None:
            return path(self.motion, self.slowly, self.start, times)
        until = self.before.until
        first = path(self.before.motion, self.before.slowly, self.start, times.clamp(max=until))
        then = path(self.motion, self.slowly, (0.0, 0.0), (times - until).clamp(min=0))
        centre, camera = first.centre + then.centre, first.camera + then.camera
        return Path(centre, first.angle + then.angle, first.scale * then.scale, camera, first.zoom * then.zoom)

    @property
    def caption(self) -> str:
        """All that happens, in words; here the motion alone."""
        return motion_words(self.motion, self.slowly)

    def said(self, generator: torch.Generator, drop: float, keep_motion: bool = True) -> str:
        """The caption as somebody might type it: in a share `drop` not at all, and in a quarter of the others without a part."""
        return "" if torch.rand(1, generator=generator).item() < drop else self.caption

    @abstractmethod
    def draw(self, times: Tensor, palette: shapes.Palette) -> Tensor:
        """Pictures (f, 3, 64, 64) in -1..1 at `times` (f,) seconds. `palette`: what the names of colours mean."""


def motion_words(motion: str, slowly: bool, verb: str = "moves") -> str:
    """A motion in words, such as `moves slowly right` or `the camera zooms in`."""
    if motion in DIRECTIONS:
        return f"{verb} slowly {motion}" if slowly else f"{verb} {motion}"
    return "stays still" if motion == "still" else f"the camera {motion}" if motion in CAMERA else motion


@dataclass(frozen=True)
class Clip(Moving):
    """What happens in one clip. `start`: the figure's centre (x, y) at time 0. `mirrored`: it looks to the left. `corner`: the
    place of the ground's texture at the frame's upper left. `wording`: which of the ways to say it its caption is."""

    figure: str
    colour: str
    ground: str
    size: str
    motion: str
    slowly: bool = False
    start: tuple[float, float] = (SIZE / 2, SIZE / 2)
    mirrored: bool = False
    corner: tuple[float, float] = (0.0, 0.0)
    wording: int = 0
    before: Before | None = None

    @property
    def place(self) -> str:
        """The part of a caption that says the ground."""
        ways = grounds.PLACES.get(self.ground, (f"on a {self.ground} background",))
        return ways[self.wording % len(ways)]

    def words(self, size: bool = True, colour: bool = True, motion: bool = True, place: bool = True) -> str:
        """The caption, with or without its parts."""
        verb = VERBS.get(self.figure, "moves") if self.wording & 2 else "moves"
        kinds = [self.size if size else "", self.colour if colour else "", self.figure]
        thing = " ".join(["an" if not size and colour and self.colour[0] in "aeiou" else "a", *filter(None, kinds)])
        moves = motion_words(self.motion, self.slowly, verb) if motion else ""
        if place and self.wording & 4 and self.motion not in CAMERA:
            return " ".join(filter(None, [f"{self.place}", thing, moves]))
        where = self.place if place else ""
        if self.motion in CAMERA and motion:
            return " ".join(filter(None, [thing, where])) + f", {moves}"
        return " ".join(filter(None, [thing, moves, where]))

    @property
    def caption(self) -> str:
        """All that happens, in words."""
        return self.words()

    def said(self, generator: torch.Generator, drop: float, keep_motion: bool = True) -> str:
        """See `Moving`: it may lack its size, its colour, its ground or, where it is of a still image, its motion; and a
        direction in which the figure looks."""
        roll, part, more = torch.rand(3, generator=generator).tolist()
        if roll < drop:
            return ""
        if roll < drop + 0.72 * (1 - drop):
            return self.words()
        if not keep_motion and part < 0.3:
            return self.words(motion=False, size=more < 0.6)
        if part < 0.5:
            text = self.words(size=False, colour=more < 0.5)
        elif part < 0.75:
            text = self.words(place=False, size=more < 0.7)
        else:
            text = self.words(colour=False, size=more < 0.5)
        ahead = self.figure not in PLAIN and not self.slowly and self.motion == ("left" if self.mirrored else "right")
        return text.replace(f" {self.motion}", "", 1) if ahead and more > 0.5 and self.wording & 2 else text

    def draw(self, times: Tensor, palette: shapes.Palette = PALETTE) -> Tensor:
        """See `Moving`."""
        where = self.path(times)
        world = where.world()
        return self.figure_over(ground_at(self.ground, world + torch.tensor(self.corner)), where, world, palette)

    def coverage(self, times: Tensor) -> Tensor:
        """How much of each pixel the figure covers, its details with it, (f, 64, 64) in 0..1."""
        where = self.path(times)
        return self._layers(where, where.world())[0][:, 0]

    def figure_over(self, ground: Tensor, where: Path, world: Tensor, palette: shapes.Palette) -> Tensor:
        """The figure over pictures of its ground (f, 3, 64, 64)."""
        layers, local = self._layers(where, world)
        colour = shapes.rgb(palette[self.colour]).view(3, 1, 1)
        if self.figure not in PLAIN:
            colour = (colour + 1) * (1.04 - 0.13 * local[..., 1].clamp(-1, 1))[:, None] - 1  # lighter above
        light, dark = torch.tensor(0.9), torch.tensor(-0.8)
        body = colour.clamp(-1, 1) + layers[:, 1:2] * (light - colour)
        body = body + layers[:, 2:3] * (dark - body)
        return ground + layers[:, :1] * (body - ground)

    def _layers(self, where: Path, world: Tensor) -> tuple[Tensor, Tensor]:
        """Coverage by the figure, its light and its dark details (f, 3, 64, 64), and places in the figure in radii."""
        radius = RADIUS[self.size] * where.scale[:, None, None, None]
        offset = (world - where.centre[:, None, None]) / radius
        cos, sin = (getattr(torch.deg2rad(where.angle), name)()[:, None, None] for name in ("cos", "sin"))
        x, y = offset.unbind(-1)
        x, y = cos * x + sin * y, cos * y - sin * x
        local = torch.stack([-x if self.mirrored else x, y], -1)
        table = tables()[FIGURES.index(self.figure)].expand(len(local), -1, -1, -1)
        distance = F.grid_sample(table, local / REACH, padding_mode="border", align_corners=True)
        pixels = radius.view(-1, 1, 1, 1) * where.zoom[:, None, None, None]
        return (0.5 - distance * pixels).clamp(0, 1), local


def ground_at(ground: str, places: Tensor) -> Tensor:
    """Colours of a ground at places (f, h, w, 2) in pixels, (f, 3, h, w). The beach's horizon is at HORIZON for a corner of 0."""
    x, y = (places % grounds.TILE).unbind(-1)
    if ground == "beach":
        y = (places[..., 1] + (grounds.TILE / 2 - grounds.HORIZON)).clamp(0, grounds.TILE)
    at = torch.stack([x, y], -1) / (grounds.TILE / 2) - 1
    tile = grounds.texture(ground).expand(len(places), -1, -1, -1)
    return F.grid_sample(tile, at, padding_mode="border", align_corners=True)


@dataclass(frozen=True)
class Part:
    """What clips are made of: all of the world, or less of it."""

    figures: tuple[str, ...] = FIGURES
    colours: tuple[str, ...] = tuple(PALETTE)
    grounds: tuple[str, ...] = grounds.GROUNDS
    motions: tuple[str, ...] = MOTIONS


WHOLE = Part()


@cache
def combinations(held_out: bool, part: Part = WHOLE) -> tuple[tuple[str, str, str], ...]:
    """All (figure, colour, motion) of one side of the split: the fifth that no training ever sees, or the others. A circle never
    turns, since nobody could see it. The split of a part is that of the whole."""
    every = product(enumerate(FIGURES), enumerate(PALETTE), enumerate(MOTIONS))
    return tuple(
        (figure, colour, motion)
        for (i, figure), (j, colour), (k, motion) in every
        if ((i + j + k) % 5 == 0) == held_out
        and not (SYMMETRY.get(figure) == 0 and motion == "turns")
        and figure in part.figures
        and colour in part.colours
        and motion in part.motions
    )


def clip(seed: int, index: int, held_out: bool = False, part: Part = WHOLE) -> Clip:
    """The clip number `index` of the world `seed`; the same on every machine and in every process. Half of the figures begin
    anywhere, the others near the middle. The camera moves over grounds on which that is seen."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) & (2**62 - 1))
    roll = torch.rand(12, generator=generator).tolist()

    def pick(options: Sequence, number: float) -> Any:
        return options[int(number * len(options))]

    figure, colour, motion = pick(combinations(held_out, part), roll[0])
    ground = pick([g for g in part.grounds if motion not in CAMERA or g in grounds.PLACES], roll[1])
    reach = POSED if roll[2] < 0.5 else 22.0
    start = (SIZE / 2 + reach * (2 * roll[3] - 1), SIZE / 2 + reach * (2 * roll[4] - 1))
    corner = (roll[5] * grounds.TILE, (8 * roll[6] - 4) if ground == "beach" else roll[6] * grounds.TILE)
    slowly = motion in DIRECTIONS and roll[7] < 0.4
    size, wording = pick(tuple(RADIUS), roll[8]), int(roll[9] * 8)
    return Clip(figure, colour, ground, size, motion, slowly, start, figure not in PLAIN and roll[10] < 0.5, corner, wording)


def clips(seed: int, indices: Sequence[int], held_out: bool = False, part: Part = WHOLE) -> list[Clip]:
    """The clips of these numbers, of combinations that are trained on, or of the others."""
    return [clip(seed, int(i), held_out, part) for i in indices]


Kind = TypeVar("Kind", bound=Moving)


def posed(one: Kind) -> Kind:
    """The same clip with its figure near the middle at time 0, as a picture would be taken, and looking to the right."""
    if not isinstance(one, Clip):
        return one
    x, y = (SIZE / 2 + (place - SIZE / 2 + POSED) % (2 * POSED) - POSED for place in one.start)
    return replace(one, start=(x, y), mirrored=False)


TURNS = 12  # one clip in so many


def turning(one: Kind, index: int) -> Kind:
    """The same clip, or for one in TURNS such that something else happens in its first part, of 0.25 to 1 seconds."""
    if index % TURNS:
        return one
    generator = torch.Generator().manual_seed((index + 2**42) & (2**62 - 1))
    roll = torch.rand(3, generator=generator).tolist()
    motion = (*DIRECTIONS, "still")[int(roll[0] * 5)]
    return replace(one, before=Before(motion, motion != "still" and roll[1] < 0.4, 0.25 * (1 + int(roll[2] * 4))))  # type: ignore[type-var]


_OWN = {word: name for name, ways in grounds.PLACES.items() for word in [name, *(way.split()[-1] for way in ways)]}


def read_caption(text: str) -> Clip | None:
    """The clip that a caption of this world describes, its start unknown (nan); None for any other text. A size, colour or ground
    that is not said makes it any other text too, since nothing could be judged by it."""
    said = text.lower().replace(".", " ").replace(",", " ").split()
    words = set(said)
    ground = {_OWN[word] for word in words & _OWN.keys()} | (words & set(grounds.PLAIN))
    found = [words & set(options) for options in (FIGURES, PALETTE, RADIUS)] + [ground]
    directions = words & set(DIRECTIONS)
    if "camera" in words:
        motions = {m for m in CAMERA if " ".join(m.split()) in " ".join(said)}
    else:
        motions = directions | (words & {"still", "jumps", "turns", "grows", "shrinks"})
    if any(len(one) != 1 for one in (*found, motions)):
        return None
    figure, colour, size, where, motion = (one.pop() for one in (*found, motions))
    return Clip(figure, colour, where, size, motion, "slowly" in words and motion in DIRECTIONS, (math.nan, math.nan))


def vocabulary() -> list[str]:
    """Every word that a caption can contain, sorted."""
    texts = [motion_words(motion, True, verb) for motion in MOTIONS for verb in {"moves", *VERBS.values()}]
    texts += [way for ways in grounds.PLACES.values() for way in ways]
    texts += ["a an on background", *FIGURES, *PALETTE, *RADIUS, *grounds.GROUNDS]
    return sorted({word for text in texts for word in text.split()})


def render(batch: Sequence[Moving], times: Tensor, palette: shapes.Palette = PALETTE) -> Tensor:
    """Draw clips at `times` (f,) seconds -> (n, f, 3, 64, 64) in -1..1. `palette`: what the names of colours mean."""
    return torch.stack([c.draw(times, palette) for c in batch])
