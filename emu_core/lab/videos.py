"""Videos of an arm for the prompts of all, and what the exact judge says of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..base import Base, TextStates, load_base
from ..checkpoint import load_stack
from ..model.conditioning import augment, condition
from ..model.guidance import Call, GuidedDenoiser, calls
from ..model.sampling import sample
from ..model.schedule import frame_noise
from ..model.streams import stream
from ..model.video_model import VideoModel
from ..toy import measure, world
from ..toy.worlds import LAB, LAB_IMAGES
from ..training.video import guided
from .budget import Budget

SEED = 765_432  # of the prompts, of which no choice was made
TUNING = 40_000  # of those on which choices are made
FPS, FRAMES = 4.0, 8
AT_ONCE = 20
PRECISION = torch.bfloat16
"""Of matrix products, as in training: frames differ from those in float32 by a fifth of a level of 256 in the mean."""
TIMES = torch.arange(FRAMES) / FPS
ONLY_IMAGES = world.Part(
    tuple(f for f in LAB_IMAGES.figures if f not in LAB.figures),
    tuple(c for c in LAB_IMAGES.colours if c not in LAB.colours),
    LAB.grounds,
    LAB.motions,
)
"""What pictures show and no video."""


def prompts(count: int, seed: int = SEED, part: world.Part = LAB) -> list[world.Clip]:
    """Clips whose captions are the prompts: of combinations that are never trained on, their figures near the middle."""
    return [world.posed(clip) for clip in world.clips(seed, range(count), True, part)]


def lab_clips(seed: int, numbers: Sequence[int], held_out: bool = False) -> list[world.Clip]:
    """Clips of the laboratory's part of the world."""
    return world.clips(seed, numbers, held_out, LAB)


def real_videos(clips: Sequence[world.Clip]) -> Tensor:
    """(n, 8, 64, 64, 3) in 0..1, as they are drawn."""
    return world.render(clips, TIMES).movedim(2, -1) / 2 + 0.5


def _texts(base: Base, captions: Sequence[str]) -> dict[bool, TextStates]:
    return {True: base.encode_text(list(captions)), False: base.encode_text([""] * len(captions))}


@torch.no_grad()
@torch.autocast("cpu", PRECISION)
def starting_frames(image_model: Path, captions: Sequence[str], seed: int, steps: int, guidance: float = 3.0) -> Tensor:
    """The image model's pictures (n, 64, 64, 3) in 0..1 of the prompts."""
    base, made = load_base(image_model), []
    for first in tqdm(range(0, len(captions), AT_ONCE), desc="starting frames", leave=False):
        said = captions[first : first + AT_ONCE]
        texts = _texts(base, said)
        denoise = GuidedDenoiser(partial(_picture, base, texts), calls(1.0, guidance, has_image=False))
        noise = torch.stack([_noise(base, 1, seed, first + i)[0] for i in range(len(said))])
        made.append(base.decode_latents(sample(denoise, noise, base.schedule, steps)).float())
    return torch.cat(made)


def _picture(base: Base, texts: Mapping[bool, TextStates], x: Tensor, t: Tensor, part: Sequence[Call]) -> Tensor:
    return base.unet(x, t, texts[part[0].text].hidden).sample


def _noise(base: Base, frames: int, seed: int, number: int, shared: float = 0.0) -> Tensor:
    side = world.SIZE // base.pixels_per_latent
    return frame_noise((frames, base.latent_channels, side, side), stream(seed, "lab", frames, number), shared)


@torch.no_grad()
@torch.autocast("cpu", PRECISION)
def make_videos(
    image_model: Path,
    stack_file: Path,
    captions: Sequence[str],
    starts: Tensor,
    seed: int,
    budget: Budget,
    guidance: tuple[float, float] | None = None,
    reads: bool = True,
) -> Tensor:
    """Videos of a stack (n, 8, 64, 64, 3) in 0..1 of the prompts, from starting frames (n, 64, 64, 3) where it takes any. Noise
    is a function of the seed and the prompt's place alone, the same for all arms. `guidance`: image and text, in place of the
    budget's; `reads`: whether it was trained to read the text."""
    base, stack = load_base(image_model), load_stack(stack_file, dtype=torch.float32)
    model, config = VideoModel(base.unet, stack.eval()), stack.config
    usual = budget.text_guidance if config.takes_image else budget.text_alone_guidance
    image_guidance, text_guidance = guidance or (budget.image_guidance, usual)
    plan, made = calls(image_guidance, text_guidance, config.takes_image, has_text=reads), []

    def network(x: Tensor, t: Tensor, text: TextStates, given: Tensor | None) -> Tensor:
        return model(x, t, text.hidden, given)

    for first in tqdm(range(0, len(captions), AT_ONCE), desc="videos", leave=False):
        part = range(first, min(first + AT_ONCE, len(captions)))
        given = None
        if config.takes_image:
            latents = base.encode_images(starts[first : part.stop])[:, None]
            drawn = torch.stack([torch.randn(latents.shape[1:], generator=stream(seed, "lab", "given", i)) for i in part])
            latents = augment(latents, config.sampling.image_noise, config.schedule, drawn)
            given = condition(latents, [0], FRAMES, config.channel_order)
        noise = torch.stack([_noise(base, FRAMES, seed, i, config.sampling.shared_noise) for i in part])
        denoise = guided(network, plan, _texts(base, [captions[i] for i in part]), given)
        latents = sample(denoise, noise, config.schedule, budget.steps)
        made += [base.decode_latents(video).float() for video in latents]
    return torch.stack(made)


def judged(clips: Sequence[world.Clip], videos: Tensor, starts: Tensor | None = None) -> list[measure.Row]:
    """A row of figures for each video, by the detectors that know nothing of what was asked."""
    samples = [
        measure.Sample(clip, video, FPS, None if starts is None else starts[i][None])
        for i, (clip, video) in enumerate(zip(clips, videos, strict=True))
    ]
    return [measure.row(one) for one in tqdm(samples, desc="reading", leave=False)]
