"""Hotshot-XL: motion modules for SDXL, trained on 8 frames, no image."""

from __future__ import annotations

from ..config import StackConfig
from ..motion_module import MotionModuleConfig
from .animatediff import LINEAR
from .layout import HOTSHOT, Plan, Shapes, base_of, read_modules


def matches(shapes: Shapes) -> bool:
    return bool(HOTSHOT.find(shapes))


def plan(shapes: Shapes) -> Plan:
    modules = read_modules(shapes, HOTSHOT, length=24)
    base, text_width = base_of(modules.widths)
    config = StackConfig(
        base=base,
        text_width=text_width,
        latent_channels=4,
        input_width=modules.widths[0] if modules.widths else 0,
        sites=modules.sites,
        frames=8,
        fps=8.0,
        size=(512, 512),
        schedule=LINEAR,
        channel_order=(),
        # its residual blocks' group norms take five dimensions, and so run over all frames
        motion=MotionModuleConfig(blocks=modules.blocks, positions=modules.positions, norm="frame", image_norms="video"),
        text_guidance=7.5,
        image_guidance=1.0,
        steps=25,
        family="hotshot-xl",
    )
    return Plan(config, modules.sources, modules.changes)
