"""AnimateDiff v1, v2, v3 and its relatives of the same layout, for SD 1.5 and SDXL: motion modules, no image."""

from __future__ import annotations

from ..errors import UserError
from ..model.config import ClipShape, Origin, SamplingConfig, StackConfig, UNetShape
from ..model.schedule import ScheduleConfig
from .layers import MotionModules, NormOver
from .layout import DIFFUSERS, ORIGINAL, Modules, Naming, Plan, Shapes, read_modules

LINEAR = ScheduleConfig(beta_schedule="linear", zero_snr=False, prediction="epsilon")
"""guoyww/AnimateDiff, configs/inference/inference-v1.yaml, -v2, -v3; diffusers' names of the two (LDM calls it sqrt_linear)."""
SDXL_BETA = ScheduleConfig(beta_end=2.0e-2, zero_snr=False, prediction="epsilon")
"""guoyww/AnimateDiff, branch sdxl, configs/inference/inference.yaml: scaled_linear (LDM's linear), to another end than SDXL's."""
BASES = {(320, 640, 1280, 1280): ("sd15", 768), (320, 640, 1280): ("sdxl", 2048)}
"""Names of the image models that modules of these widths are for, and the width of the text states that they read."""


def naming_of(shapes: Shapes) -> Naming | None:
    """The layout of a file's motion modules, if it has any."""
    return next((naming for naming in (ORIGINAL, DIFFUSERS) if naming.find(shapes)), None)


def matches(shapes: Shapes) -> bool:
    """Motion modules, and no input channels beside the latents."""
    return naming_of(shapes) is not None and not has_image_channels(shapes)


def has_image_channels(shapes: Shapes) -> bool:
    """Whether a file's conv_in takes more than noisy latents: a picture's as well and a mask, which makes their number odd."""
    shape = shapes.get("conv_in.weight", ())
    return len(shape) == 4 and shape[1] % 2 == 1


def plan(shapes: Shapes) -> Plan:
    """See `recognise.import_plan`; its relatives with input channels build on it. The version follows from the layout, the middle
    module and the table of positions."""
    naming = naming_of(shapes)
    assert naming is not None
    modules = read_modules(shapes, naming)
    kernel, sd = shapes.get("conv_in.weight", ()), modules.widths in BASES
    if any(name.startswith("conv_in.") for name in shapes) and (len(kernel) != 4 or (sd and kernel[1] not in (4, 9))):
        raise UserError(f"is damaged, for its conv_in.weight should have 4 or 9 channels, found shape {kernel}: copy it again")
    extra = has_image_channels(shapes)
    latents = (kernel[1] // 2 if extra else kernel[1]) if kernel else None
    original = naming is ORIGINAL
    first = original and not modules.has_mid and modules.positions <= 24
    # version 1's own program lets the image model's group norms run over all frames; later ones, and diffusers, do not
    config = text_to_video(modules, "frame" if original else "video", "video" if first else "frame", latents)
    config = config.changed(frames=16, source="original layout" if original else "diffusers' layout")
    if config.unet.base == "sdxl":
        sdxl = {"schedule": SDXL_BETA, "size": (1024, 1024), "steps": 100, "text_guidance": 8.5, "sampler": "euler"}
        config = config.changed(stage="SDXL", **sdxl)
    else:
        config = config.changed(stage="v1" if first else "v2" if modules.has_mid else "v3")
    if extra:  # of (width, C + extra, 3, 3) the first C are the image model's own
        modules.sources["conv_in.weight"] = "conv_in.weight"
        modules.changes["conv_in.weight"] = lambda kernel: kernel[:, latents:]
    return Plan(config, modules.sources, modules.changes)


def text_to_video(modules: Modules, norm: NormOver, image_norms: NormOver, latents: int | None = None) -> StackConfig:
    """The settings that AnimateDiff and Hotshot-XL share. `latents`: channels of an image model that is none of the BASES."""
    base, text_width = BASES.get(modules.widths, ("custom", None))
    return StackConfig(
        unet=UNetShape(base, 4 if modules.widths in BASES else latents, modules.widths[0] if modules.widths else 0, text_width),
        sites=modules.sites,
        layers=MotionModules(blocks=modules.blocks, positions=modules.positions, norm=norm, image_norms=image_norms),
        channel_order=(),
        clip=ClipShape(fps=8.0),
        schedule=LINEAR,
        sampling=SamplingConfig(steps=25, text_guidance=8.0, image_guidance=1.0),
        origin=Origin("animatediff"),
    )
