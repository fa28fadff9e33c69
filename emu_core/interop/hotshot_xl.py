"""Hotshot-XL: motion modules for SDXL, trained on 8 frames, no image."""

from __future__ import annotations

from .animatediff import text_to_video
from .layout import HOTSHOT, Plan, Shapes, read_modules


def matches(shapes: Shapes) -> bool:
    """Motion modules under the name of temporal attentions."""
    return bool(HOTSHOT.find(shapes))


def plan(shapes: Shapes) -> Plan:
    """See `recognise.import_plan`."""
    modules = read_modules(shapes, HOTSHOT, length=24)
    # its residual blocks' group norms take five dimensions, and so run over all frames
    config = text_to_video(modules, "frame", "video").changed(family="hotshot-xl", frames=8, size=(512, 512))
    return Plan(config, modules.sources, modules.changes)
