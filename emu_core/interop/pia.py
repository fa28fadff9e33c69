"""PIA: AnimateDiff's modules and five input channels, an affinity to the given frame and that frame itself, for every frame."""

from __future__ import annotations

from . import animatediff
from .layout import ORIGINAL, Plan, Shapes, read_modules


def matches(shapes: Shapes) -> bool:
    """AnimateDiff's modules without one in the middle, and a conv_in. FancyVideo has one in the middle."""
    naming = animatediff.naming_of(shapes)
    return naming is not None and animatediff.has_image_channels(shapes) and not read_modules(shapes, naming).has_mid


def plan(shapes: Shapes) -> Plan:
    """See `recognise.import_plan`."""
    result = animatediff.plan(shapes)
    # PIA's own program lets the image model's group norms run over all frames, diffusers does not
    norms = "video" if animatediff.naming_of(shapes) is ORIGINAL else "frame"
    order, guidance = ("affinity", "image"), 7.5  # open-mmlab/PIA, animatediff/pipelines/i2v_pipeline.py
    changes = {"family": "pia", "channel_order": order, "image_norms": norms, "text_guidance": guidance, "stage": ""}
    result.config = result.config.changed(**changes)
    return result
