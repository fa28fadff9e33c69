"""Latents of the procedural world: encoded once and kept, or encoded as they come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from diffusers.models import AutoencoderKL
from safetensors import safe_open
from torch.nn import functional as F
from tqdm import tqdm

from ..base import Base
from ..training.processes import Processes
from ..training.recipes import Recipe
from ..training.sources import Batch, frame_times
from ..weights import save_tensors
from . import anything, shapes
from .autoencoder import encode

HELD_OUT_SEED = 30_000  # of the world's validation clips


class LatentSource:
    """Latents (n, f, 4, 8, 8) of clips at fixed times. With `count`, clips 0..count-1 are encoded once, shared between
    processes, and kept in `folder`, under a key of everything that they depend on."""

    def __init__(self, vae: AutoencoderKL, world_seed: int, times: torch.Tensor, count: int = 0, nameless: float = 0.0) -> None:
        self.vae, self.world_seed, self.times, self.count, self.nameless = vae, world_seed, times, count, nameless
        self.cached: torch.Tensor | None = None

    def key(self) -> str:
        digest = hashlib.sha256(f"{self.world_seed} {self.times.tolist()} {self.count} {self.nameless} {shapes.RADIUS}".encode())
        for name, value in sorted(self.vae.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:24]

    def prepare(self, folder: Path, processes: Processes) -> None:
        """Encode the cache, each process its share, or read it when its key fits."""
        if not self.count:
            return
        path = folder / f"latents-{self.key()}.safetensors"
        processes.barrier()
        if not path.is_file():
            rank, ranks = processes.rank, processes.world
            own = torch.cat([self.encode(part) for part in _progress(range(rank, self.count, ranks), rank)])
            own = torch.nn.functional.pad(own, [0] * (2 * own.dim() - 1) + [-(-self.count // ranks) - len(own)])
            together = processes.gather(own.to(processes.device)).cpu().unflatten(0, (ranks, -1))
            if processes.main:
                folder.mkdir(parents=True, exist_ok=True)
                whole = together.transpose(0, 1).flatten(0, 1)[: self.count]
                save_tensors({"latents": whole}, path)
            processes.barrier()
        with safe_open(path, framework="pt") as file:
            self.cached = file.get_tensor("latents")

    def encode(self, indices: Iterable[int]) -> torch.Tensor:
        return encode(self.vae, anything.render_mixed(self.clips(indices), self.times))

    def clips(self, indices: Iterable[int]) -> list[shapes.Clip | anything.Anything]:
        return anything.mixed(self.world_seed, list(indices), self.nameless)

    def __call__(self, indices: Iterable[int]) -> tuple[list[shapes.Clip | anything.Anything], torch.Tensor]:
        """Clips and latents of samples `indices`; beyond the cache's size they come round again, in another order."""
        if self.cached is None:
            indices = list(indices)
            return self.clips(indices), self.encode(indices)
        places = [_shuffled(int(i), self.count) for i in indices]
        return self.clips(places), self.cached[places]


def _shuffled(index: int, count: int) -> int:
    """A different order each time round: multiply by a number coprime to `count`, which is a permutation."""
    lap, place = divmod(index, count)
    step = 2 * lap + 1
    while torch.gcd(torch.tensor(step), torch.tensor(count)) != 1:
        step += 2
    return (place * step + 7919 * lap) % count


def _progress(indices: range, rank: int) -> Iterable[range]:
    parts = [indices[i : i + 64] for i in range(0, len(indices), 64)]
    return tqdm(parts, desc="encoding", disable=rank != 0, mininterval=2)


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
