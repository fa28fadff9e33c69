"""Clips of the procedural world for training: latents encoded once and kept, or as they come. The world is endless and needs no
files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..base import Base
from ..errors import UserError
from ..model.conditioning import KEYFRAMES, slots
from ..training.processes import Processes, fingerprint
from ..training.recipes import Recipe, World
from ..training.sources import Batch, Source
from ..weights import save_tensors
from . import shapes
from .autoencoder import encode
from .judge import judge_clips
from .reading import read, right
from .world import CAMERA, Clip, Moving
from .worlds import kind_of

HELD_OUT_SEED = 30_000  # of the clips that measure
FIRST = torch.zeros(1)  # seconds of the starting frame


@dataclass
class LatentSource:
    """Latents (n, f, C, 8, 8) of clips at fixed times. With `world.cache`, clips 0..cache-1 are encoded once, shared between
    processes, and kept on the device and in `folder`, under a key of everything that they depend on. `shrink`: pixels that become
    one; `palette`: what the names of colours mean, where it is not the world's own; `posed`: figures begin near the middle;
    `turning`: now and then something else happened before."""

    vae: Any
    world: World
    folder: Path
    processes: Processes
    times: Tensor = FIRST
    shrink: int = 1
    palette: shapes.Palette = field(default_factory=dict)
    posed: bool = False
    turning: bool = False

    def __post_init__(self) -> None:
        self.kind = kind_of(self.world)
        self.shares: dict[Any, Tensor] = {}
        self.palette = self.palette or self.kind.palette
        self.cached = self._read_or_encode() if self.world.cache else None

    def key(self) -> str:
        """A name for what is kept."""
        world = self.world
        own = fingerprint([self.vae], f"{world.seed} {self.times.tolist()} {world.cache} {world.anything} {shapes.RADIUS}")[:24]
        own = hashlib.sha256(f"{own} {self.shrink}".encode()).hexdigest()[:24] if self.shrink > 1 else own
        if world.kind != "shapes":  # whatever changes its drawing shows in the first clips
            drawn = shapes.render(self.clips(range(16)), self.times, self.palette)
            return f"{world.kind}-{hashlib.sha256(own.encode() + drawn.numpy().tobytes()).hexdigest()[:24]}"
        return own if self.palette is shapes.PALETTE else f"pastel-{own}"

    def _read_or_encode(self) -> Tensor:
        """What is kept, encoded by each process for its share unless it is there already."""
        count, here = self.world.cache, self.processes
        path = self.folder / f"latents-{self.key()}.safetensors"
        here.barrier()
        if not path.is_file():
            mine = range(here.rank, count, here.world)
            parts = [mine[i : i + 64] for i in range(0, len(mine), 64)]
            bar = tqdm(parts, desc="encoding", disable=not here.main, mininterval=2)
            own = torch.cat([self.encode(self.clips(part)) for part in bar])
            own = F.pad(own, [0] * (2 * own.dim() - 1) + [-(-count // here.world) - len(own)])
            together = here.gather(own.to(here.device)).cpu().unflatten(0, (here.world, -1))
            if here.main:
                self.folder.mkdir(parents=True, exist_ok=True)
                save_tensors({"latents": together.transpose(0, 1).flatten(0, 1)[:count]}, path)
            here.barrier()
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("latents").to(here.device)

    def encode(self, clips: Sequence[shapes.Moving]) -> Tensor:
        """Latents of clips, in main memory."""
        images = shapes.render(clips, self.times, self.palette)
        if self.shrink > 1:
            images = F.avg_pool2d(images.flatten(0, 1), self.shrink).unflatten(0, images.shape[:2])
        return encode(self.vae, images).cpu()

    def clips(self, indices: Sequence[int]) -> list[Any]:
        """The world's clips of these numbers."""
        clips = self.kind.mixed(self.world.seed, list(indices), self.world.anything)
        if self.turning:
            return [self.kind.turning(c, int(i)) for c, i in zip(clips, indices, strict=True)]
        return [self.kind.posed(c) for c in clips] if self.posed else clips

    def __call__(self, indices: Sequence[int]) -> tuple[list[Any], Tensor]:
        """Clips and latents of samples `indices`, on the device; beyond the cache's size they come round again, in another
        order."""
        if self.cached is None:
            clips = self.clips(indices)
            return clips, self.encode(clips).to(self.processes.device)
        places = [_shuffled(int(i), self.world.cache) for i in indices]
        return self.clips(places), self.cached[places]

    def counts(self, clips: Sequence[Any], side: int) -> Tensor | None:
        """How much each place of the latents counts, (n, 1, side, side): more where a figure is in any of the frames, and where
        the camera moves everywhere."""
        if not (self.world.figures or self.world.camera):
            return None
        for clip in clips:
            if clip not in self.shares:
                self.shares[clip] = self._more(clip, side)
        return 1 + torch.stack([self.shares[c] for c in clips])

    def _more(self, clip: Any, side: int) -> Tensor:
        """How many times more each place of a clip counts, (1, side, side)."""
        world = self.world
        if world.camera and isinstance(clip, Moving) and clip.motion in CAMERA:
            return torch.full((1, side, side), world.camera)
        if not isinstance(clip, Clip):
            return torch.zeros(1, side, side)
        share = F.adaptive_avg_pool2d(clip.coverage(self.times).amax(0, keepdim=True), side)
        return world.figures * (2 * share).clamp(max=1)


def _shuffled(index: int, count: int) -> int:
    """A different order each time round: multiply by a number coprime to `count`, which is a permutation."""
    lap, place = divmod(index, count)
    step = 2 * lap + 1
    while math.gcd(step, count) != 1:
        step += 2
    return (place * step + 7919 * lap) % count


class WorldSource(Source):
    """See `training.sources.Source`. Those that measure are combinations that are never trained on."""

    def __init__(self, recipe: Recipe, base: Base, folder: Path, processes: Processes) -> None:
        self.recipe, self.device = recipe, processes.device
        height, width = recipe.clips.size
        if height != width or shapes.SIZE % height:
            size, half = shapes.SIZE, shapes.SIZE // 2
            draws = f"the procedural world draws {size} x {size} pixels or a whole part of it, found clips.size={height},{width}"
            raise UserError(f"{draws}: choose {half},{half}, or give clips.shards")
        first = slots(KEYFRAMES)[0] if recipe.role == "I" else 0  # I's first keyframe is at 0 seconds
        times = (torch.arange(recipe.clips.frames) - first) / recipe.clips.fps
        turning = recipe.role == "F"
        self.latents = LatentSource(base.vae, recipe.world, folder, processes, times, shapes.SIZE // height, turning=turning)

    def stream(self, positions: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """See `Source`; the clips word their captions, which may lack a part."""
        for part in positions:
            clips, latents = self.latents(part)
            before = [getattr(c, "before", None) for c in clips]
            shown = [None if one is None else int((self.latents.times <= one.until).sum()) for one in before]
            counts = self.latents.counts(clips, latents.shape[-1])
            counts = None if counts is None else counts[:, None].to(self.device)
            x0 = latents.float().to(self.device)
            yield Batch(part, [c.caption for c in clips], x0, clips=clips, shown=shown, counts=counts)

    @cached_property
    def kept_out(self) -> Batch:
        """As many as the recipe asks for."""
        return self._held_out(self.recipe.clips.validation, self.device)

    def examples(self, count: int) -> Batch:
        """The first of those that measure; a few of I's longer ones."""
        return self._held_out(count if self.recipe.role == "F" else 4, torch.device("cpu"))

    def judge(self, videos: Tensor) -> dict[str, float]:
        """How many move as asked, and how still the still are, where the detectors can read the pictures."""
        if videos.shape[-1] != shapes.SIZE:
            return {}
        clips = self._clips(len(videos))
        if self.recipe.world.kind == "shapes":
            return judge_clips(clips, videos, self.latents.times)
        return judge_known(clips, videos, self.latents.times)

    def _held_out(self, count: int, device: torch.device) -> Batch:
        clips = self._clips(count)
        latents = self.latents.encode(clips) if clips else torch.empty(0)
        return Batch(range(count), [c.caption for c in clips], latents.to(device))

    def _clips(self, count: int) -> list[Any]:
        """As a model is asked for them."""
        return [self.latents.kind.posed(c) for c in self.latents.kind.clips(HELD_OUT_SEED, range(count), held_out=True)]


def judge_known(clips: Sequence[Clip], videos: Tensor, times: Tensor) -> dict[str, float]:
    """Of videos (n, f, 3, 64, 64) in -1..1 made from real frames of known clips: share of right motions, with their amount, and
    how steady outlines are."""
    seen = [read(video, times, clip) for video, clip in zip(videos, clips, strict=True)]
    rights = [right(one, clip) for one, clip in zip(seen, clips, strict=True)]
    figures = {name: sum(r[name] for r in rights) / len(rights) for name in ("motion", "amount")}
    return figures | {name: sum(getattr(r, name) for r in seen) / len(seen) for name in ("edge_error", "wobble")}
