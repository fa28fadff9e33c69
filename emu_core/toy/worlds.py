"""The procedural worlds by the name that a recipe gives them: `shapes`, which the first bundled model was of, `little`, which the
present one is of, and parts of it for the laboratory: `lab`, of its videos, `lab_images`, which know more, and `lab_best`, the
best few of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, islice
from typing import Any

from ..training.recipes import World
from . import anything, grounds, nature, shapes, world


@dataclass(frozen=True)
class Kind:
    """What training asks of a world. `clips(seed, indices, held_out)` are its named clips, `mixed(seed, indices, share)` such as
    are trained on, with a share of nameless ones; `posed(clip)` is one as somebody would have taken a picture of it,
    `turning(clip, index)` one in which now and then something else happened before."""

    clips: Callable[..., list[Any]]
    mixed: Callable[[int, Sequence[int], float], list[Any]]
    posed: Callable[[Any], Any]
    turning: Callable[[Any, int], Any]
    vocabulary: Callable[[], list[str]]
    palette: shapes.Palette


LAB = world.Part(
    ("circle", "square", "triangle", "cross", "fish", "boat"),
    ("red", "green", "blue", "yellow", "purple", "orange"),
    ("white", "black", "sea", "meadow"),
    (*world.DIRECTIONS, "still", "jumps"),
)
"""Small enough for a stack to learn in minutes."""
LAB_IMAGES = world.Part((*LAB.figures, "car", "rocket"), (*LAB.colours, "cyan", "pink"), LAB.grounds, LAB.motions)
"""Pictures show figures and colours that no video does."""


def _of_part(part: world.Part) -> Kind:
    def clips(seed: int, indices: Sequence[int], held_out: bool = False) -> list[Any]:
        return world.clips(seed, indices, held_out, part)

    def mixed(seed: int, indices: Sequence[int], share: float) -> list[Any]:
        return clips(seed, indices)

    return Kind(clips, mixed, world.posed, lambda clip, index: clip, world.vocabulary, world.PALETTE)


BEST = 300
MIDDLE = 3.0  # pixels


def is_best(clip: world.Clip) -> bool:
    """Whether its picture is one of the best, by a rule that is exact: the figure big, in the middle, so whole, and over a ground
    with a texture."""
    away = max(abs(place - world.SIZE / 2) for place in world.posed(clip).start)
    return clip.size == "big" and clip.ground in grounds.PLACES and away <= MIDDLE


@cache
def best_numbers(seed: int) -> tuple[int, ...]:
    """The numbers of the first BEST clips of LAB_IMAGES that are `is_best`, about one in sixteen."""
    return tuple(islice((i for i in count() if is_best(world.clip(seed, i, part=LAB_IMAGES))), BEST))


def _best() -> Kind:
    def mixed(seed: int, indices: Sequence[int], share: float) -> list[Any]:
        numbers = best_numbers(seed)
        return world.clips(seed, [numbers[i % BEST] for i in indices], part=LAB_IMAGES)

    return replace(_of_part(LAB_IMAGES), mixed=mixed)


KINDS = {
    "shapes": Kind(shapes.clips, anything.mixed, lambda clip: clip, lambda clip, index: clip, shapes.vocabulary, shapes.PALETTE),
    "little": Kind(world.clips, nature.mixed, world.posed, world.turning, world.vocabulary, world.PALETTE),
    "lab": _of_part(LAB),
    "lab_images": _of_part(LAB_IMAGES),
    "lab_best": _best(),
}


def kind_of(recipe_world: World) -> Kind:
    """The world that a recipe names."""
    return KINDS[recipe_world.kind]
