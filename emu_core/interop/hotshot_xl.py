"""Hotshot-XL: motion modules for SDXL, trained on 8 frames, no image."""

from __future__ import annotations

from ..model.schedule import ScheduleConfig
from .animatediff import text_to_video
from .layout import HOTSHOT, Plan, Shapes, read_modules

SCHEDULE = ScheduleConfig(zero_snr=False, prediction="epsilon")
"""SDXL's own: hotshotco/Hotshot-XL's fine_tune.py and inference.py take the scheduler of the image model."""


def matches(shapes: Shapes) -> bool:
    """Motion modules under the name of temporal attentions."""
    return bool(HOTSHOT.find(shapes))


def plan(shapes: Shapes) -> Plan:
    """See `recognise.import_plan`."""
    modules = read_modules(shapes, HOTSHOT, length=24)
    # its residual blocks' group norms take five dimensions, and so run over all frames
    theirs = {"steps": 30, "text_guidance": 5.0, "sampler": "euler_ancestral"}  # inference.py and its pipeline
    config = text_to_video(modules, "frame", "video").changed(family="hotshot-xl", frames=8, schedule=SCHEDULE, **theirs)
    return Plan(config, modules.sources, modules.changes)
