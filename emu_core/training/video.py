"""Training of a temporal stack, F or I, on a frozen image model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from einops import rearrange
from torch import nn

from ..architectures import STACK_SETTINGS
from ..bases import Base, load_base
from ..checkpoint import load_stack, save_stack
from ..conditioning import augment, condition, slot_count, slots
from ..data import shapes
from ..evaluation.detect import direction_of, read_frames
from ..guidance import calls, combine
from ..sampling import sample
from ..schedule import ScheduleConfig, add_noise, stratified_timesteps, target
from ..stack import TemporalStack
from ..video_model import VideoModel
from .autoencoder import decode, encode
from .latents import LatentSource
from .recipes import Recipe
from .sheets import save_grid
from .tiny_text import caption

FPS = {"F": 4.0, "I": 16.0}
KEYFRAMES = 8
SHEET_STEPS = 10
RECOMMENDED = {
    "F": {"text_guidance": 3.0, "image_guidance": 1.0, "steps": 20},
    "I": {"text_guidance": 1.0, "image_guidance": 1.0, "steps": 10},  # between keyframes there is little left to decide
}


def frame_times(role: str) -> torch.Tensor:
    """Seconds of each frame: F's 8 at 4 fps from 0; I's 37 at 16 fps, whose first keyframe (slot 4) is at 0."""
    if role == "F":
        return torch.arange(KEYFRAMES) / FPS["F"]
    return (torch.arange(slot_count(KEYFRAMES)) - slots(KEYFRAMES)[0]) / FPS["I"]


def draw_positions(frames: int, generator: torch.Generator) -> list[int]:
    """Which frames of a training clip are given: mostly the first alone; else first and last, the first few, the last few,
    or any one. (None is the recipe's image_drop.)"""
    kind, size, place = torch.rand(3, generator=generator).tolist()
    if kind < 0.7:
        return [0]
    if kind < 0.8:
        return [0, frames - 1]
    if kind < 0.87:
        return list(range(1 + int(size * (frames - 1))))
    if kind < 0.94:
        return list(range(frames - 1 - int(size * (frames - 1)), frames))
    return [int(place * frames)]


class _Module(nn.Module):
    """Loss of a stack; the frozen parts are kept out of reach of `parameters()` and of distributed wrappers."""

    def __init__(self, recipe: Recipe, model: VideoModel, source: LatentSource, base: Base) -> None:
        super().__init__()
        self.recipe, self.model, self.source = recipe, model, source
        self._base = [base]

    def forward(self, indices: range, generator: torch.Generator, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        config, recipe = self.model.stack.config, self.recipe
        clips, x0 = self.source(indices)
        x0 = x0.float()
        text = self._base[0].encode_text([caption(c, generator, recipe.text_drop, keep_motion=True) for c in clips]).hidden
        given = torch.stack([self.given(video, generator) for video in x0])
        uniform = stratified_timesteps(config.schedule, len(x0), generator)
        t = ((uniform + 0.5) / config.schedule.steps).pow(recipe.t_power).mul(config.schedule.steps).long()
        noise = torch.randn(x0.shape, generator=generator)
        output = self.model(add_noise(config.schedule, x0, noise, t), t, text, given)
        errors = (output - target(config.schedule, x0, noise, t)).square().flatten(1).mean(1)
        late = errors[t >= 0.7 * config.schedule.steps]
        return errors.mean(), {"loss_high_noise": late.mean().item()} if len(late) else {}

    def given(self, video: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Conditioning channels (f, C+1, h, w) of one training clip (f, C, h, w)."""
        config, recipe = self.model.stack.config, self.recipe
        frames = len(video)
        places = slots(KEYFRAMES) if config.role == "I" else draw_positions(frames, generator)
        level = int(torch.randint(recipe.image_noise + 1, (1,), generator=generator))
        latents = video[places][None]
        latents = augment(latents, level, config.schedule, torch.randn(latents.shape, generator=generator))
        dropped = bool(torch.rand(1, generator=generator) < recipe.image_drop)
        channels = condition(latents, places, frames, config.channel_order)[0]
        return torch.zeros_like(channels) if dropped else channels


class VideoTask:
    def __init__(self, recipe: Recipe, folder: Path, accelerator: Accelerator) -> None:
        self.recipe = recipe
        self.base = load_base(recipe.base)
        times = frame_times(recipe.role)
        source = LatentSource(self.base.vae, recipe.world_seed, times, recipe.cache, recipe.anything)
        source.prepare(folder, accelerator)
        torch.manual_seed(recipe.optimisation.seed)
        stack = self.fresh_stack(len(times)).requires_grad_(True).train()
        self.module: nn.Module = _Module(recipe, VideoModel(self.base.unet, stack), source, self.base)

    def fresh_stack(self, frames: int) -> TemporalStack:
        """The identity, or the stack that the recipe starts from, in its new role."""
        role: dict[str, Any] = {
            "role": self.recipe.role,
            "frames": frames,
            "fps": FPS[self.recipe.role],
            "stage": self.recipe.name,
        }
        role |= RECOMMENDED[self.recipe.role]
        if self.recipe.init:
            stack = load_stack(self.recipe.init, dtype=torch.float32)
            stack.config = replace(stack.config, **role, image_noise=self.recipe.image_noise_inference)
            return stack
        return TemporalStack.for_unet(
            self.base.unet,
            base="tiny",
            size=(shapes.SIZE, shapes.SIZE),
            schedule=ScheduleConfig(),
            source="trained from nothing on procedural clips by this project",
            **STACK_SETTINGS["tiny"],
            **role,
        )

    @property
    def model(self) -> VideoModel:
        return self.module.model  # type: ignore[return-value]

    def sheet(self, path: Path, count: int = 32) -> dict[str, float]:
        """Videos of held-out prompts from their true given frames; how many move as asked, and how still the still are."""
        config = self.model.stack.config
        count = count if config.role == "F" else 4
        clips = shapes.clips(30_000, range(count), held_out=True)
        truth = self.encode(clips)
        places = slots(KEYFRAMES) if config.role == "I" else [0]
        generator = torch.Generator().manual_seed(0)
        latents = truth[:, places]
        latents = augment(latents, config.image_noise, config.schedule, torch.randn(latents.shape, generator=generator))
        given = condition(latents, places, truth.shape[1], config.channel_order)
        videos = decode(self.base.vae, self.sample(clips, given, generator))
        rows = videos[:8] if config.role == "F" else videos[:, ::3]
        save_grid(rearrange(rows, "n f c h w -> (n f) c h w"), path, columns=rows.shape[1])
        return judge(clips, videos, frame_times(config.role))

    def encode(self, clips: list[shapes.Clip]) -> torch.Tensor:
        """Clean latents (n, f, 4, 8, 8)."""
        return encode(self.base.vae, shapes.render(clips, frame_times(self.model.stack.config.role)))

    def sample(self, clips: list[shapes.Clip], given: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Latents (n, f, 4, 8, 8) at the stack's own recommended guidance, in few steps."""
        config = self.model.stack.config
        plan = calls(config.image_guidance, config.text_guidance)
        prompts = {True: [c.caption for c in clips], False: [""] * len(clips)}
        texts = {text: self.base.encode_text(said).hidden for text, said in prompts.items()}
        images = {True: given, False: torch.zeros_like(given)}
        b, f = given.shape[:2]

        def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            video = rearrange(x, "(b f) c h w -> b f c h w", f=f)
            outputs = [self.model(video, t, texts[call.text], images[call.image]) for call in plan]
            return combine(outputs, [call.weight for call in plan]).flatten(0, 1)

        noise = torch.randn(b * f, config.latent_channels, *given.shape[-2:], generator=generator)
        return rearrange(sample(denoise, noise, config.schedule, SHEET_STEPS), "(b f) c h w -> b f c h w", f=f)

    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_stack(self.model.stack, folder / f"stack_{self.model.stack.config.role}.safetensors")


def judge(clips: list[shapes.Clip], videos: torch.Tensor, times: torch.Tensor) -> dict[str, float]:
    """Direction right, drift of the still in pixels, distance from the true path in pixels."""
    n, f = videos.shape[:2]
    readings = read_frames(videos.flatten(0, 1))
    path = torch.tensor([r.centre for r in readings]).view(n, f, 2)
    move = path[:, -1] - path[:, 0]
    right = [direction_of(*m.tolist()) == c.direction for m, c in zip(move, clips, strict=True)]
    still = [float(m.norm()) for m, c in zip(move, clips, strict=True) if c.direction == "still"]
    error = (path - shapes.positions(clips, times)).norm(dim=-1).nan_to_num(nan=32.0)
    figures = {"direction": sum(right) / n, "path_error_px": float(error.mean())}
    return figures | ({"still_drift_px": sum(still) / len(still)} if still else {})
