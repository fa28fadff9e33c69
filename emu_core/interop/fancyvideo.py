"""FancyVideo: AnimateDiff v2's modules, Emu Video's own conditioning, and embeddings of the rate and of a motion score.

Its variants for extending and for backtracking a video have the same layout; they want the first or the last 16 of 32 frames
given. Its own video autoencoder makes about four frames of each latent, so that 25 frames a second are 6.25 latents a second.
"""

from __future__ import annotations

from ..errors import UserError
from ..model.schedule import ScheduleConfig
from . import animatediff
from .layout import ORIGINAL, Plan, Shapes

SCHEDULE = ScheduleConfig(beta_schedule="linear", zero_snr=True, prediction="v_prediction")
VALUES = (("fps", 25.0, "fps_embedding"), ("motion_score", 3.0, "motion_embedding"))
MARKER = "FancyVideo"


def matches(shapes: Shapes) -> bool:
    """AnimateDiff's modules in the original layout with the embeddings or the marker, or with a conv_in and a middle module."""
    if not ORIGINAL.find(shapes):
        return False
    told = MARKER in shapes or any(f"{name}.linear.weight" in shapes for _, _, name in VALUES)
    mid = any(name.startswith("mid_block.motion_modules.") for name in shapes)
    return told or (mid and animatediff.has_image_channels(shapes))


def plan(shapes: Shapes) -> Plan:
    """See `recognise.import_plan`. ValueError for a variant with cross-frame text modules."""
    if any(".ctm_" in name or "_text_modules." in name for name in shapes):
        raise UserError("is a FancyVideo checkpoint with cross-frame text modules, not known here: take a released checkpoint")
    result = animatediff.plan(shapes)
    if not animatediff.has_image_channels(shapes):
        raise UserError("is half a checkpoint of family fancyvideo, without its conv_in.weight of 9 channels: copy it again")
    told = [value for value in VALUES if f"{value[2]}.linear.weight" in shapes]
    if len(told) == 1:
        raise UserError(f"is half a checkpoint of family fancyvideo, with {told[0][2]} and not the other: copy it again")
    for name, _, theirs in told:
        result.sources |= {f"embeddings.{name}.linear.{kind}": f"{theirs}.linear.{kind}" for kind in ("weight", "bias")}
    result.config = result.config.changed(
        family="fancyvideo",
        channel_order=("image", "mask"),
        image_norms="frame",
        values=tuple((name, default) for name, default, _ in told),
        fps=6.25,
        size=(768, 768),
        schedule=SCHEDULE,
        steps=50,
        text_guidance=7.5,
        stage="",
    )
    return result
