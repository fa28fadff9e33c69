"""AnimateDiff v1, v2, v3 and its relatives of the same layout, for SD 1.5 and SDXL: motion modules, no image."""

from __future__ import annotations

from dataclasses import replace

from ..model.config import StackConfig
from ..model.motion_module import MotionModuleConfig, NormOver
from ..model.schedule import ScheduleConfig
from .layout import DIFFUSERS, ORIGINAL, Modules, Naming, Plan, Shapes, base_of, read_modules

LINEAR = ScheduleConfig(beta_schedule="linear", zero_snr=False, prediction="epsilon")


def naming_of(shapes: Shapes) -> Naming | None:
    """The layout of a file's motion modules, if it has any."""
    return next((naming for naming in (ORIGINAL, DIFFUSERS) if naming.find(shapes)), None)


def matches(shapes: Shapes) -> bool:
    return naming_of(shapes) is not None and not has_image_channels(shapes)


def has_image_channels(shapes: Shapes) -> bool:
    """Whether a file's conv_in takes more than noisy latents."""
    shape = shapes.get("conv_in.weight", ())
    return len(shape) == 4 and shape[1] != 4


def plan(shapes: Shapes) -> Plan:
    naming = naming_of(shapes)
    assert naming is not None
    modules = read_modules(shapes, naming)
    original = naming is ORIGINAL
    first = original and not modules.has_mid and modules.positions <= 24
    # version 1's own program lets the image model's group norms run over all frames; later ones, and diffusers, do not
    config = text_to_video(modules, norm="frame" if original else "video", image_norms="video" if first else "frame")
    sdxl = config.base == "sdxl"
    config = replace(
        config,
        frames=16,
        size=(1024, 1024) if sdxl else (512, 512),
        stage="v1" if first else "v2" if modules.has_mid else "SDXL" if sdxl else "v3",
        source="original layout" if original else "diffusers' layout",
    )
    return Plan(config, modules.sources, modules.changes)


def text_to_video(modules: Modules, norm: NormOver, image_norms: NormOver) -> StackConfig:
    """The settings that AnimateDiff and Hotshot-XL share."""
    base, text_width = base_of(modules.widths)
    return StackConfig(
        base=base,
        text_width=text_width,
        latent_channels=4,
        input_width=modules.widths[0] if modules.widths else 0,
        sites=modules.sites,
        fps=8.0,
        schedule=LINEAR,
        channel_order=(),
        motion=MotionModuleConfig(blocks=modules.blocks, positions=modules.positions, norm=norm, image_norms=image_norms),
        text_guidance=7.5,
        image_guidance=1.0,
        steps=25,
        family="animatediff",
    )
