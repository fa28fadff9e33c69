"""The procedural worlds by the name that a recipe gives them: `shapes`, which the first bundled model was of, `little`, which the
present one is of, and two parts of it for the laboratory: `lab`, of its videos, and `lab_images`, which know more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..training.recipes import World
from . import anything, nature, shapes, world


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


KINDS = {
    "shapes": Kind(shapes.clips, anything.mixed, lambda clip: clip, lambda clip, index: clip, shapes.vocabulary, shapes.PALETTE),
    "little": Kind(world.clips, nature.mixed, world.posed, world.turning, world.vocabulary, world.PALETTE),
    "lab": _of_part(LAB),
    "lab_images": _of_part(LAB_IMAGES),
}


def kind_of(recipe_world: World) -> Kind:
    """The world that a recipe names."""
    return KINDS[recipe_world.kind]
