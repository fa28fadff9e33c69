"""What `generate`, `animate` and `interpolate` share once they run: settings, models, and the video with what made it."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .. import media
from .options import choose_device

if TYPE_CHECKING:
    from ..pipeline import EmuVideoPipeline, Settings

logger = logging.getLogger(__name__)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`WxH` or one number for a square -> (height, width) in pixels."""
    if text is None:
        return None
    parts = text.lower().split("x")
    try:
        width, height = (int(parts[0]), int(parts[-1])) if len(parts) <= 2 else (0, 0)
    except ValueError:
        width = height = 0
    if min(width, height) <= 0:
        raise ValueError(f"--size should be WIDTHxHEIGHT in pixels, such as 512x512, found {text!r}")
    return height, width


def read_settings(options: Namespace) -> Settings:
    from ..pipeline import Settings

    settings = Settings(
        size=parse_size(options.size),
        frames=getattr(options, "frames", None),
        fps=options.fps,
        steps=options.steps,
        sampler=options.sampler,
        text_guidance=options.text_guidance,
        image_guidance=options.image_guidance,
        t2i_guidance=getattr(options, "t2i_guidance", None),
        seed=options.seed,
        window=getattr(options, "window", None),
        overlap=getattr(options, "overlap", 4),
        motion=getattr(options, "motion", None),
        cond_fps=getattr(options, "cond_fps", None),
        motion_score=getattr(options, "motion_score", None),
        stitch=getattr(options, "stitch", "continuous"),
    )
    settings.check()
    return settings


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]


def load_pipeline(options: Namespace) -> EmuVideoPipeline:
    from ..pipeline import EmuVideoPipeline

    device = choose_device(options.device)
    return EmuVideoPipeline.from_files(
        options.model,
        options.stack,
        options.interpolation_stack,
        options.tokenizer,
        device,
        choose_dtype(options.dtype, device),
        options.attention,
    )


def check_files(options: Namespace, settings: Settings | None = None) -> None:
    """Look at every file that is named before anything is loaded: models, stacks, places to write to. `settings` of a video
    are held against its stack."""
    from ..base import inspect_base
    from ..checkpoint import read_config
    from ..pipeline import BUNDLED

    media.check_output(options.out)
    for picture in (options.sheet, getattr(options, "starting_frame", None)):
        if picture:
            media.check_output(picture, "image")
    family = inspect_base(options.model or BUNDLED).family
    for stack, role in ((options.stack, "F"), (options.interpolation_stack, "I")):
        config = read_config(stack) if stack else None
        if config is not None and config.unet.base not in (family, "custom"):
            raise ValueError(
                f"{stack} is a temporal stack for {config.unet.base!r}, the model is {family!r}: choose two that fit"
            )
        if config is not None and config.role != role:
            raise ValueError(f"{stack} should be of role {role}, found {config.role}: exchange --stack and --interpolation-stack")
        if config is not None and role == "F" and settings is not None:
            settings.check_stack(config)
            if options.command == "animate" and not config.takes_image:
                raise ValueError(f"{stack} is of family {config.origin.family}, which knows no image: use it with `generate`")


def _interpolates(options: Namespace, settings: Settings, pipeline: EmuVideoPipeline) -> bool:
    """Whether to raise the frame rate: unless told not to, or a public checkpoint is used, for which there is no such stack."""
    video = pipeline.models.get("F")
    alone = video is not None and video.stack.config.origin.family != "emu" and "I" not in pipeline.models
    if alone and not options.no_interpolate:
        logger.warning("the video keeps its frame rate, since no interpolation stack (--interpolation-stack) was named")
    return not options.no_interpolate and not alone and settings.frames != 1


def _metadata(options: Namespace, pipeline: EmuVideoPipeline, settings: Settings) -> dict[str, str]:
    """What a person needs to make the video again."""
    from .. import __version__

    stacks = {
        f"stack_{role}": model.stack.config.origin.stage
        for role, model in pipeline.models.items()
        if model.stack.config.origin.stage
    }
    given = {name: value for name, value in vars(settings).items() if value is not None}
    values = {
        "software": f"ComfyUI-EmuVideo {__version__}",
        "command": options.command,
        "prompt": options.prompt,
        "model": Path(options.model).name if options.model else "bundled tiny model",
        "dtype": str(pipeline.base.dtype).removeprefix("torch."),
        **stacks,
        **given,
    }
    return {name: json.dumps(value) if isinstance(value, tuple) else str(value) for name, value in values.items()}


def _write(
    options: Namespace,
    pipeline: EmuVideoPipeline,
    settings: Settings,
    frames: torch.Tensor,
    fps: float,
    candidates: Sequence[float] = (),
) -> None:
    media.write_video(options.out, frames, fps, _metadata(options, pipeline, settings))
    if options.sheet:
        media.write_image(options.sheet, media.contact_sheet(frames), _metadata(options, pipeline, settings))
    made = {
        "output": str(options.out),
        "frames": len(frames),
        "fps": fps,
        "seconds": round(len(frames) / fps, 4),
        "height": frames.shape[1],
        "width": frames.shape[2],
        "seed": settings.seed,
    }
    if options.json:
        print(json.dumps(made | ({"candidates": list(candidates)} if candidates else {})))
    else:
        if candidates:
            marked = [f"{score:.4f}{' (taken)' if score == max(candidates) else ''}" for score in candidates]
            print(f"starting frames by CLIP, from seed {settings.seed}: {', '.join(marked)}")
        print(
            f"{options.out}: {len(frames)} frames of {frames.shape[2]} x {frames.shape[1]} at {fps:g} a second, "
            f"seed {settings.seed}"
        )
