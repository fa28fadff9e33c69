"""Where the clips of a stack's training come from: the procedural world, or shards of real videos.

A source is an endless sequence of samples with positions 0, 1, 2, ...; a sample is a function of its position (and the recipe)
alone, whoever asks for it. Shapes: `n` clips, `f` frames, latents (n, f, C, h, w).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from ..base import Base
from ..model.conditioning import KEYFRAMES, slots
from ..toy import anything, shapes
from ..toy.autoencoder import encode
from ..toy.latents import LatentSource
from ..toy.text import caption
from .processes import Processes
from .recipes import Clips, Recipe

HELD_OUT_SEED = 30_000  # of the world's validation clips


@dataclass
class Batch:
    """Some samples. `captions` are words, or clips of the procedural world that know theirs; `text` are the words' states where
    they are kept: `text[i]` (tokens, width) and, for SDXL, `pooled[i]`."""

    positions: Sequence[int]
    captions: Sequence[Any]
    latents: torch.Tensor
    text: torch.Tensor | None = None
    pooled: torch.Tensor | None = None

    def to_save(self) -> dict[str, Any]:
        """For the file that is left when the loss is no number."""
        said = [getattr(c, "caption", c) for c in self.captions]
        return {"positions": list(self.positions), "captions": said, "latents": self.latents.cpu()}

    def says(self, index: int, generator: torch.Generator, drop: float) -> str:
        """A caption as training uses it: now and then empty."""
        said = self.captions[index]
        if not isinstance(said, str):
            return caption(said, generator, drop, keep_motion=True)
        return "" if torch.rand(1, generator=generator).item() < drop else said


class Source(Protocol):
    def stream(self, positions: Iterable[Sequence[int]]) -> Iterator[Batch]: ...

    def validation(self) -> Batch:
        """The clips that are kept out of training."""
        ...


def frame_times(clips: Clips, role: str) -> torch.Tensor:
    """Seconds of each frame: F's from 0; I's so that its first keyframe is at 0."""
    first = slots(KEYFRAMES)[0] if role == "I" else 0
    return (torch.arange(clips.frames) - first) / clips.fps


class WorldSource:
    """Clips of the procedural world, which are endless and need no files."""

    def __init__(self, recipe: Recipe, base: Base, folder: Path, processes: Processes) -> None:
        self.recipe, self.base = recipe, base
        self.times = frame_times(recipe.clips, recipe.role)
        height, width = recipe.clips.size
        if height != width or shapes.SIZE % height:
            raise ValueError(
                f"the procedural world draws {shapes.SIZE} x {shapes.SIZE} pixels or a whole part of it, found clips.size="
                f"{height},{width}: choose {shapes.SIZE // 2},{shapes.SIZE // 2}, or give clips.shards"
            )
        self.shrink = shapes.SIZE // height
        self.device = processes.device
        self.latents = _WorldLatents(base.vae, recipe.world_seed, self.times, recipe.cache, recipe.anything)
        self.latents.shrink = self.shrink
        self.latents.prepare(folder, processes)

    def stream(self, positions: Iterable[Sequence[int]]) -> Iterator[Batch]:
        for part in positions:
            clips, latents = self.latents(part)
            yield Batch(part, clips, latents.float().to(self.device))

    def held_out(self, count: int) -> tuple[list[shapes.Clip], torch.Tensor]:
        """Clips of combinations that are never trained on, and their latents."""
        clips = shapes.clips(HELD_OUT_SEED, range(count), held_out=True)
        return clips, self.latents.encode_clips(clips)

    def validation(self) -> Batch:
        clips, latents = self.held_out(self.recipe.clips.validation)
        return Batch(range(len(clips)), [c.caption for c in clips], latents.float().to(self.device))


class _WorldLatents(LatentSource):
    shrink = 1

    def key(self) -> str:
        own = super().key()
        return own if self.shrink == 1 else hashlib.sha256(f"{own} {self.shrink}".encode()).hexdigest()[:24]

    def encode(self, indices: Iterable[int]) -> torch.Tensor:
        return self.encode_clips(self.clips(indices))

    def encode_clips(self, clips: Sequence[shapes.Clip | anything.Anything]) -> torch.Tensor:
        images = anything.render_mixed(clips, self.times)
        if self.shrink > 1:
            images = F.avg_pool2d(images.flatten(0, 1), self.shrink).unflatten(0, images.shape[:2])
        return encode(self.vae, images.to(self.vae.device)).cpu()


def build_source(recipe: Recipe, base: Base, folder: Path, processes: Processes) -> Source:
    if not recipe.clips.shards:
        return WorldSource(recipe, base, folder, processes)
    from .shard_source import ShardSource

    return ShardSource(recipe, base, folder, processes)
