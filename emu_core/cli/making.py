"""What `generate`, `animate` and `interpolate` share once they run: settings, models, and the video with what made it."""

from __future__ import annotations

import json
import logging
import math
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__, media
from ..base import inspect_base
from ..checkpoint import check_motion_lora, read_config
from ..errors import UserError
from ..media.files import real_target
from ..media.writing import MAX_FPS, MIN_FPS
from ..model.conditioning import FACTOR, checked_positions
from ..model.config import StackConfig
from ..model_folder import (
    BUNDLED,
    DEFAULTS_FILE,
    advises_fast,
    few_steps_lora,
    has_fast,
    missing_stack,
    read_defaults,
    recommended_with,
    stack_files,
)
from ..pipeline import EmuVideoPipeline
from ..settings import Settings, check_prompt
from .options import choose_device, is_there, wrote
from .said import tell

logger = logging.getLogger(__name__)

SHOWN = 384
"""Pixels of the longer side up to which a recommended scale enlarges: it is meant for small pictures."""
OF_PICTURES = ("animate", "extend", "loop", "between", "fill")
"""Commands that are given pictures."""
LEAST_PRESERVED = 22.0
"""dB below which a warning is given: values are off by 20 of 255 levels (root mean square). Of photographs of 256 px Stable
Diffusion's own autoencoder keeps 23.4 dB in the mean, by its makers' table; of more pixels it keeps more."""


def parse_size(text: str) -> tuple[int, int]:
    """`WxH` or one number for a square -> (height, width) in pixels."""
    found = re.fullmatch(r"0*([1-9]\d*)(?:x0*([1-9]\d*))?", text.lower().replace(" ", ""))
    if found is None:
        raise UserError(f"--size should be WIDTHxHEIGHT in pixels, such as 512x512, found {text!r}")
    return int(found[2] or found[1]), int(found[1])


def parse_lora(text: str, option: str) -> tuple[Path, float]:
    """FILE or FILE:STRENGTH of `option` -> (file, strength). What is a file as it stands is one, colons and all, and a drive's
    colon belongs to its name. ValueError for a strength that is no finite number."""
    file, colon, strength = text.rpartition(":")
    if not colon or Path(text).is_file():
        return Path(text), 1.0
    try:
        number = float(strength)
    except ValueError:
        if not Path(file).is_file():  # the colon is a drive's, or of a name that is not there
            return Path(text), 1.0
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{option} {text}: expected a number as the strength of {file}, found {strength!r}")
    return Path(file), number


def read_loras(options: Namespace) -> list[tuple[Path, float]]:
    """Those of --lora, in their order."""
    return [parse_lora(text, "--lora") for text in options.lora or ()]


def read_motion_loras(options: Namespace) -> list[tuple[Path, float]]:
    """Those of a command's --motion-lora, in their order; none for a command without it."""
    return [parse_lora(text, "--motion-lora") for text in getattr(options, "motion_lora", None) or ()]


def read_request(options: Namespace) -> tuple[str, Settings]:
    """The prompt and the settings, once every file that is named has been looked at, before anything is loaded: models, stacks
    (that of the video with the settings), and places to write to.

    ValueError for an empty prompt, for what no model can do, and for the first file that cannot be used.
    """
    prompt, settings = check_prompt(options.prompt), read_settings(options)
    check_scale(options, settings)
    _check_outputs(options)
    check_models(options, settings)
    return prompt, settings


def check_models(options: Namespace, settings: Settings) -> None:
    """ValueError for the first file of the models that cannot be used, and for what they cannot do, from headers alone."""
    stacks = read_stacks(options)
    for role, config in stacks.items():
        if "taken for" in config.origin.source and not options.variant and config.origin.family != "animatediff":
            named = options.stack if role == "F" else options.interpolation_stack
            logger.warning("%s: %s; --variant says otherwise", named, config.origin.source)
    if options.command != "interpolate":
        _check_video(options, settings, stacks)
    elif "I" not in stacks:
        raise UserError(f"{options.model} comes with no interpolation stack (role I): name one with --interpolation-stack")
    for lora, _ in read_motion_loras(options) if "F" in stacks else ():  # where there is none, the pipeline says so
        check_motion_lora(lora, stacks["F"])


def _check_outputs(options: Namespace) -> None:
    """Places to write to that can be written, each its own."""
    media.check_output(options.out)
    pictures = [picture for picture in (options.sheet, getattr(options, "starting_frame", None)) if picture]
    for picture in pictures:
        media.check_output(picture, "image")
    places = [real_target(place) for place in (options.out, *pictures)]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise UserError(f"{twice} is named for two things to write: give each a name of its own")


def fast_for(options: Namespace) -> bool:
    """Whether to take what the model's folder holds for few calls: as --fast or --no-fast say, or else as the model's maker
    does, where nothing is named that is for other stacks. ValueError for --fast where there is nothing."""
    if options.fast is None:
        named = [getattr(options, name, None) for name in ("steps", "sampler", "text_guidance", "image_guidance", "t2i_guidance")]
        return advises_fast(options.model) and all(value is None for value in named)
    if options.fast and not has_fast(options.model):
        what = f"{options.model or 'the bundled model'} holds nothing for few calls"
        raise UserError(f"--fast: {what}: make it with `emu-video train distil` and `distil-image`, or leave --fast out")
    return options.fast


def read_stacks(options: Namespace) -> dict[str, StackConfig]:
    """What the stacks are that would be loaded, by role, from their headers. ValueError for one that does not fit the model."""
    if options.variant and not options.stack:
        raise UserError(f"--variant {options.variant} says what the file of --stack is, found no --stack: name it")
    fast = fast_for(options)
    few_steps = few_steps_lora(Path(options.model or BUNDLED)) if fast else None
    if few_steps is not None:
        recommended_with(few_steps)
    loras = [*read_loras(options), *([] if few_steps is None else [(few_steps, 1.0)])]
    family = inspect_base(options.model or BUNDLED, vae=options.vae, loras=loras).family
    stacks: dict[str, StackConfig] = {}
    for role, path in stack_files(options.model, options.stack, options.interpolation_stack, fast).items():
        if path is None:
            continue
        config = stacks[role] = read_config(path, options.variant if role == "F" and options.stack else None)
        if config.unet.base not in (family, "custom"):
            wrong = f"{path} is a temporal stack for {config.unet.base!r}, the model is {family!r}"
            raise UserError(f"{wrong}: choose two that fit")
        if config.role != role:
            raise UserError(f"{path} should be of role {role}, found {config.role}: exchange --stack and --interpolation-stack")
    return stacks


def _check_video(options: Namespace, settings: Settings, stacks: dict[str, StackConfig]) -> None:
    """Refuse what the video stack cannot do, and rates that no file has."""
    if "F" not in stacks:
        raise missing_stack(options.model, "F")
    config, family = stacks["F"], stacks["F"].origin.family
    settings.check_stack(config)
    usual = config.clip.frames
    if config.takes_image and (settings.frames or usual) > usual and not settings.window:
        told = f"this stack was trained on {usual} frames, and --frames {settings.frames} asks for more in one call"
        logger.warning("%s: what moves may stop after %d; generate --length and extend go on from there", told, usual)
    if options.command == "animate" and not config.takes_image and settings.denoise is None:
        raise UserError(f"{options.stack} is of family {family}, which knows no image: use it with `generate`")
    if options.command == "animate" and settings.denoise is None:  # a video's own length says how many there are
        checked_positions((options.position,), 1, settings.frames or config.clip.frames)
    if getattr(options, "candidates", 1) > 1 and not config.takes_image:
        raise UserError("--candidates chooses a starting frame, and this stack takes none: leave it out, or choose another stack")
    third = _third_step(options, settings, stacks)
    if third and "I" not in stacks:
        raise missing_stack(options.model or "the bundled model", "I")
    check_rate((FACTOR if third else 1) * (settings.fps or config.clip.fps))


def check_stacks(options: Namespace, settings: Settings, interpolation: bool) -> None:
    """Refuse, from the headers alone, stacks that are lacking, do not fit, or cannot do what `settings` say."""
    stacks = read_stacks(options)
    for role in "FI" if interpolation else "F":
        if role not in stacks:
            raise missing_stack(options.model or "the bundled model", role)
    settings.check_stack(stacks["F"])


def check_rate(fps: float) -> None:
    """Refuse a rate of the finished video that no file has."""
    if not MIN_FPS <= fps <= MAX_FPS:
        raise UserError(
            f"the video would have {fps:g} frames a second, expected {MIN_FPS} to {MAX_FPS:.0f}: choose another --fps"
        )


def read_settings(options: Namespace) -> Settings:
    """The settings among a command's options, by their names. ValueError for what no model can do."""
    given = {field.name: getattr(options, field.name) for field in fields(Settings) if hasattr(options, field.name)}
    settings = Settings(**given | {"size": None if options.size is None else parse_size(options.size)})
    settings.check()
    return settings


def scale_for(options: Namespace) -> media.Scale:
    """How much larger the video is written: as --scale says, or else as the model's maker recommends. ValueError for what is no
    scale."""
    if options.scale is not None:
        return media.parse_scale(options.scale)
    folder = Path(options.model or BUNDLED)
    usual = read_defaults(folder).get("scale", 1)
    try:
        return replace(media.parse_scale(str(usual)), within=SHOWN)
    except UserError as problem:
        raise UserError(f"{folder / DEFAULTS_FILE}: {problem}; mend it there, or give --scale") from problem


def keep_scale(options: Namespace, video: media.VideoReader) -> None:
    """What is made of a video and has its size is written as large as that is, unless --scale says otherwise. ValueError for a
    --scale that makes too much of it."""
    options.scale = str(video.scale.factor) if options.scale is None else options.scale
    scale_for(options).check(video.facts.height, video.facts.width)


def check_scale(options: Namespace, settings: Settings) -> None:
    """ValueError for a --scale that is none, or makes too much of --size."""
    scale_for(options).check(*settings.size or (1, 1))


def load_pipeline(options: Namespace) -> EmuVideoPipeline:
    """The models that the options name, on their device and in their precision."""
    device = choose_device(options.device)
    usual = "float32" if device.type == "cpu" else "float16"
    dtype = getattr(torch, usual if options.dtype == "auto" else options.dtype)
    stacks = options.stack, options.interpolation_stack
    how: dict[str, Any] = {name: getattr(options, name) for name in ("attention", "variant", "vae", "vae_tiling", "batch_calls")}
    how |= {"dtype": dtype, "compiled": options.compile, "fast": fast_for(options)}
    how["starting_frames"] = options.command not in (*OF_PICTURES, "interpolate")
    how |= {"motion_loras": read_motion_loras(options), "loras": read_loras(options)}
    pipeline = EmuVideoPipeline.from_files(options.model, *stacks, options.tokenizer, device, **how)
    if options.command in OF_PICTURES:
        pipeline.tell_preserved = say_preserved
    return pipeline


def say_preserved(found: Sequence[float]) -> None:
    """Say how many dB the autoencoder keeps of given pictures (`found`, of each), with a warning where that is little."""
    low, high = f"{min(found):.1f}", f"{max(found):.1f}"
    kept = f"{low} dB of the given picture" if low == high else f"{low} to {high} dB of the given pictures"
    below = sum(each < LEAST_PRESERVED for each in found)
    if not below:
        tell(f"the autoencoder keeps {kept}")
        return
    of_many = f" of {below} of {len(found)}" if below < len(found) else ""
    logger.warning(
        "the autoencoder keeps %s, less than %g dB%s: the model starts from something that looks different; %s",
        kept, LEAST_PRESERVED, of_many, "choose a model or --vae that knows such pictures",
    )  # fmt: skip


def interpolates(options: Namespace, settings: Settings) -> bool:
    """Whether to raise the frame rate: unless told not to, or a public checkpoint is used, for which there is no such stack."""
    stacks = read_stacks(options)
    third = _third_step(options, settings, stacks)
    if not third and not options.no_interpolate and settings.frames != 1:
        logger.warning("the video keeps its frame rate, since no interpolation stack (--interpolation-stack) was named")
    return third


def _third_step(options: Namespace, settings: Settings, stacks: dict[str, StackConfig]) -> bool:
    alone = stacks["F"].origin.family != "emu" and "I" not in stacks
    return not options.no_interpolate and not alone and settings.frames != 1


def what_made_it(options: Namespace, settings: Settings, pipeline: EmuVideoPipeline) -> dict[str, str]:
    """What a file tells of how it was made: all that a person needs to make it again."""
    stages = {f"stack_{role}": model.stack.config.origin.stage for role, model in pipeline.models.items()}
    named = {"motion_loras": read_motion_loras(options), "loras": read_loras(options)}
    loras = {name: ", ".join(f"{file.name}:{strength:g}" for file, strength in each) for name, each in named.items() if each}
    values = {
        "software": f"ComfyUI-EmuVideo {__version__}",
        "command": options.command,
        "prompt": options.prompt,
        "model": Path(options.model).name if options.model else "bundled tiny model",
        "dtype": str(pipeline.base.dtype).removeprefix("torch."),
        **{role: stage for role, stage in stages.items() if stage},
        **loras,
        **({"vae": Path(options.vae).name} if options.vae else {}),
        **({"vae_tiling": True} if options.vae_tiling else {}),
        **({} if pipeline.fast is None else {"fast": pipeline.fast}),
        **{name: value for name, value in vars(settings).items() if value is not False and value not in (None, "")},
    }
    return {name: json.dumps(value) if isinstance(value, tuple) else str(value) for name, value in values.items()}


def write(
    options: Namespace,
    settings: Settings,
    pipeline: EmuVideoPipeline,
    parts: Iterable[torch.Tensor],
    count: int,
    fps: float,
    first: torch.Tensor | None = None,
    scores: Sequence[float] = (),
    sound: str | None = None,
    late: float = 0.0,
) -> None:
    """Write a video of `count` frames at `fps`, which come in parts (k, H, W, 3), and, where wanted, its starting frame `first`
    (H, W, 3) and its contact sheet, all with what a person needs to make them again; then say what was made. `scores`: those of
    the starting frames that `first` was chosen from. `sound`: a video whose sound is kept, and `late`, how many seconds after
    the beginning its first picture comes."""
    told = what_made_it(options, settings, pipeline)
    replaced = is_there(options.out)
    if first is not None and options.starting_frame:
        media.write_image(options.starting_frame, first, told)
    sheet = _Sheet(parts, count, bool(options.sheet))
    scale = scale_for(options)
    media.write_parts(options.out, sheet, count, fps, told, sound, late, scale)
    if options.sheet:
        media.write_image(options.sheet, media.contact_sheet(torch.cat(sheet.shown)), told)
    height, width = (scale.of(*sheet.size).factor * side for side in sheet.size)
    compiled = round(pipeline.compiled.seconds, 1) if pipeline.compiled else 0.0
    if options.json:
        made = {"output": str(options.out), "frames": count, "fps": fps, "seconds": round(count / fps, 4)}
        made |= {"height": height, "width": width, "seed": settings.seed, "replaced": replaced}
        made |= {"compiled_seconds": compiled} if compiled else {}
        print(json.dumps(made | ({"candidates": list(scores)} if scores else {})))
        return
    if scores:
        marked = [f"{score:.4f}{' (taken)' if score == max(scores) else ''}" for score in scores]
        print(f"starting frames by CLIP, from seed {settings.seed}: {', '.join(marked)}")
    took = f"; torch.compile took {compiled:g} s of it" if compiled else ""
    size = f"{width} x {height} at {fps:g} a second"
    print(f"{wrote(options.out, replaced)}: {count} frames of {size}, seed {settings.seed}{took}")


class _Sheet:
    """Passes parts of a video on; keeps their `size` and the frames that go onto a contact sheet."""

    def __init__(self, parts: Iterable[torch.Tensor], count: int, wanted: bool) -> None:
        self.size, self.shown = (0, 0), list[torch.Tensor]()
        self._parts, self._count, self._passed, self._wanted = parts, count, 0, wanted

    def __iter__(self) -> Iterator[torch.Tensor]:
        for part in self._parts:
            self.size = part.shape[1], part.shape[2]
            every = media.shown_every(self._count, *self.size)
            if self._wanted:
                self.shown.append(part[-self._passed % every :: every].clone())
            self._passed += len(part)
            yield part
