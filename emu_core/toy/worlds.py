"""The procedural worlds by the name that a recipe gives them: `shapes`, which the bundled model is of, and `little`."""

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


KINDS = {
    "shapes": Kind(shapes.clips, anything.mixed, lambda clip: clip, lambda clip, index: clip, shapes.vocabulary, shapes.PALETTE),
    "little": Kind(world.clips, nature.mixed, world.posed, world.turning, world.vocabulary, world.PALETTE),
}


def kind_of(recipe_world: World) -> Kind:
    """The world that a recipe names."""
    return KINDS[recipe_world.kind]
