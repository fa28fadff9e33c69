"""What the commands of `emu-video` do. Each takes the parsed options and raises ValueError for what the user can mend."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import media
from ..evaluation.candidates import MOST_CANDIDATES
from ..weights import save_tensors

if TYPE_CHECKING:
    from ..networks import Clip
    from ..pipeline import EmuVideoPipeline, Progress, Settings


logger = logging.getLogger(__name__)

# -- options


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


def choose_device(name: str) -> torch.device:
    if name == "auto":
        return (
            torch.accelerator.current_accelerator() or torch.device("cpu")
            if torch.accelerator.is_available()
            else torch.device("cpu")
        )
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--device {name} cannot be used here ({reason}): use auto or cpu") from error
    return device


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


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar for each stage, on standard error."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            bars[stage] = tqdm(total=total, desc=stage, leave=True)
        bars[stage].update(done - bars[stage].n)

    try:
        yield report
    finally:
        for bar in bars.values():
            bar.close()


# -- making videos


def generate(options: Namespace) -> None:
    from ..pipeline import check_prompt

    prompt = check_prompt(options.prompt)
    settings = read_settings(options)
    _check_candidates(options)
    check_files(options, settings)
    clip = open_clip(options) if options.candidates > 1 else None
    pipeline = load_pipeline(options)
    interpolates = _interpolates(options, settings, pipeline)
    scores: list[float] = []
    with progress_bar() as progress:
        image = None
        if clip is not None:
            image, scores = best_starting_frame(pipeline, prompt, settings, options.candidates, clip, progress)
        result = pipeline(prompt, settings, image, interpolate=interpolates, progress=progress)
    if options.starting_frame:
        media.write_image(options.starting_frame, result.starting_frame[0], _metadata(options, pipeline, settings))
    _write(options, pipeline, settings, *result.final, candidates=scores)


def _check_candidates(options: Namespace) -> None:
    if not 1 <= options.candidates <= MOST_CANDIDATES:
        raise ValueError(f"--candidates must be 1 to {MOST_CANDIDATES}, found {options.candidates}")
    if options.candidates > 1 and not options.clip:
        raise ValueError("--candidates needs a CLIP that judges them: name its folder with --clip")
    if options.candidates == 1 and options.clip:
        raise ValueError("--clip judges several starting frames, and there is one: say how many with --candidates")


def open_clip(options: Namespace) -> Clip:
    from ..networks import Clip

    return Clip(options.clip, choose_device(options.device))


def best_starting_frame(
    pipeline: EmuVideoPipeline, prompt: str, settings: Settings, count: int, clip: Clip, progress: Progress | None = None
) -> tuple[torch.Tensor, list[float]]:
    """The best (1, H, W, 3) of `count` starting frames by CLIP, and the score of each; they are made from the seeds that follow
    the given one."""
    from ..evaluation.candidates import best, rank

    if not pipeline.models["F"].stack.config.takes_image:
        raise ValueError(
            "--candidates chooses a starting frame, and this stack takes none: leave it out, or choose another stack"
        )
    frames = [pipeline.starting_frame(prompt, replace(settings, seed=settings.seed + i), progress) for i in range(count)]
    scores = rank(torch.cat(frames), prompt, clip)
    return frames[best(scores)], scores


def animate(options: Namespace) -> None:
    from ..pipeline import check_prompt

    prompt = check_prompt(options.prompt)
    settings = read_settings(options)
    image = media.read_image(options.image)[None]
    check_files(options, settings)
    pipeline = load_pipeline(options)
    interpolates = _interpolates(options, settings, pipeline)
    with progress_bar() as progress:
        result = pipeline(prompt, settings, image, interpolate=interpolates, progress=progress, position=options.position)
    _write(options, pipeline, settings, *result.final)


def interpolate(options: Namespace) -> None:
    from ..model.conditioning import FACTOR, MAX_FRAMES
    from ..pipeline import check_prompt

    prompt = check_prompt(options.prompt)
    settings = read_settings(options)
    video = media.read_video(options.video, settings.fps)
    if len(video.frames) < 2:
        raise ValueError(f"{options.video} should have 2 or more frames to interpolate between, found {len(video.frames)}")
    if len(video.frames) > MAX_FRAMES:
        raise ValueError(f"{options.video} should have at most {MAX_FRAMES} frames, found {len(video.frames)}: cut it into parts")
    check_files(options)
    pipeline = load_pipeline(options)
    with progress_bar() as progress:
        frames = pipeline.interpolate(video.frames, prompt, settings, progress)
    _write(options, pipeline, settings, frames, FACTOR * (settings.fps or video.fps))


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


# -- looking at things


def info(options: Namespace) -> None:
    from .description import as_text, describe_architecture, describe_file

    if options.config and options.file:
        raise ValueError("info takes a file or --config, found both: leave one out")
    facts = describe_architecture(options.config) if options.config else describe_file(options.file)
    print(json.dumps(facts, indent=2) if options.json else as_text(facts))


def convert(options: Namespace) -> None:
    """A public checkpoint as a stack of our own format, and the image model that may be in the same file."""
    from ..checkpoint import load_stack, save_stack
    from ..interop import modelscope, open_weights

    for target in filter(None, (options.out, options.image_model)):
        if Path(target).suffix != ".safetensors":
            raise ValueError(f"{target} should end in .safetensors: choose such a name")
        if not Path(target).absolute().parent.is_dir():
            raise ValueError(f"{target} cannot be written, since its folder does not exist: make the folder first")
    dtype = None if options.dtype == "auto" else choose_dtype(options.dtype, torch.device("cpu"))
    stack = load_stack(options.file) if dtype is None else load_stack(options.file, dtype=dtype)
    weights = next(iter(stack.parameters())).dtype
    spatial = {}
    if options.image_model:
        spatial = modelscope.spatial_weights(open_weights(options.file).read())
        if "conv_out.weight" not in spatial:
            raise ValueError(f"{options.file} holds no image model beside the temporal layers: leave --image-model out")
    save_stack(stack, options.out, weights)
    print(f"{options.out}: temporal stack of family {stack.config.origin.family} for {stack.config.unet.base}, {weights}")
    if spatial:
        save_tensors(spatial, Path(options.image_model))
        print(f"{options.image_model}: its image model's U-Net, in diffusers' layout")


# -- training and measuring


def evaluate(options: Namespace) -> None:
    from ..toy.judge import evaluate as evaluate_toy
    from ..toy.judge import evaluate_folder

    if options.prompts < 1:
        raise ValueError(f"--prompts must be 1 or more, found {options.prompts}")
    settings = read_settings(options)
    out = Path(options.out) if options.out else None
    if options.videos:
        figures = evaluate_folder(Path(options.videos), out)
    else:
        figures = evaluate_toy(load_pipeline(options), options.prompts, settings, not options.no_interpolate, out)
    print(json.dumps(figures, indent=2) if options.json else _table(figures))


def _table(figures: dict[str, Any]) -> str:
    width = max(map(len, figures))
    return "\n".join(f"{name:<{width}}  {value:.4g}" for name, value in figures.items())
