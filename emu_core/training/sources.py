"""Where the clips of a stack's training come from: the procedural world, or shards of real videos.

A source is an endless sequence of samples with positions 0, 1, 2, ...; a sample is a function of its position (and the recipe)
alone, whoever asks for it. Shapes: `n` clips, `f` frames, latents (n, f, C, h, w).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..base import Base
from ..data.clips import ClipDataset, eligible, loader
from ..data.order import ClipOrder, mix
from ..data.shards import Shards
from ..model.conditioning import KEYFRAMES, slots
from ..toy.text import caption
from .loop import fingerprint
from .processes import Processes
from .recipes import Clips, Recipe

logger = logging.getLogger(__name__)

KEPT_OUT = 0x4B455054  # salt of the choice of validation clips
MOST_KEPT_OUT = 0.1
FRAMES_AT_ONCE = 8


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


class ShardSource:
    """See `Source`. Which clips measure is a function of their number in the shards, so all stages keep the same out."""

    def __init__(self, recipe: Recipe, base: Base, folder: Path, processes: Processes) -> None:
        self.recipe, self.base, self.processes = recipe, base, processes
        clips = recipe.clips
        self.shards = Shards.open(clips.shards, clips.selection or None)
        rows = eligible(self.shards, clips.fps, clips.frames)
        out = _kept_out(rows, self.shards, clips.validation)
        training = rows[~np.isin(rows, out)]
        seed = recipe.optimisation.seed
        order = ClipOrder(self.shards.counts(training), seed, rows=training) if len(training) else None
        self.dataset = ClipDataset(self.shards, order, clips.fps, clips.frames, clips.size, seed, clips.starts or None)
        self.out_rows = out
        logger.info("%d clips train, %d measure", len(training), len(out))
        self.kept: KeptClips | None = None
        if recipe.compute.cache:
            self.kept = KeptClips(self.dataset, base, folder, processes, clips.workers)
            self.kept.prepare()

    def stream(self, positions: Iterable[Sequence[int]]) -> Iterator[Batch]:
        if self.kept is not None:
            for part in positions:
                yield self.kept(part)
            return
        for found in loader(self.dataset, positions, self.recipe.clips.workers):
            yield Batch(found["position"].tolist(), found["caption"], encode_clips(self.base, found["frames"]))

    def validation(self) -> Batch:
        """Each clip that is kept out, at the first of its starts."""
        found = [self.dataset.clip(int(row), 0) for row in self.out_rows]
        if not found:
            return Batch([], [], torch.empty(0))
        latents = torch.cat([encode_clips(self.base, clip["frames"][None]) for clip in found])
        return Batch([int(row) for row in self.out_rows], [clip["caption"] for clip in found], latents.to(self.processes.device))


def _kept_out(rows: np.ndarray, shards: Shards, count: int) -> np.ndarray:
    """About `count` rows, ascending, of at most a tenth of all clips."""
    everything = len(shards.index)
    share = min(count / max(everything, 1), MOST_KEPT_OUT)
    chosen = mix(rows, KEPT_OUT) < np.uint64(share * (2**64 - 1))
    return rows[chosen][:count]


def encode_clips(base: Base, frames: Tensor) -> Tensor:
    """Frames (n, f, 3, H, W) uint8 -> latents (n, f, C, h, w) float32, on the base's device."""
    images = frames.flatten(0, 1).permute(0, 2, 3, 1).float() / 255
    return base.encode_images(images, FRAMES_AT_ONCE).unflatten(0, frames.shape[:2]).to(base.device)


class KeptClips:
    """Latents and text states of every clip at each of its starts, in files that can be larger than memory.

    The folder's name is a hash of all they depend on: the VAE's and the text encoders' weights, the shards' index and the
    selection, rate, length, size and starts. So a stale one cannot be used. They are kept in float16.
    """

    def __init__(self, dataset: ClipDataset, base: Base, folder: Path, processes: Processes, workers: int) -> None:
        self.dataset, self.base, self.processes, self.workers = dataset, base, processes, workers
        self.rows = np.sort(dataset.order.rows(0, len(dataset)))
        self.starts = dataset.fixed_starts or 1
        self.folder = folder / f"cache-{self.key()}"
        self.arrays: dict[str, np.ndarray] = {}

    def key(self) -> str:
        parts = (self.base.vae, *self.base.text_encoders)
        facts = {
            "weights": fingerprint(parts), "shards": _identity(self.dataset.shards), "fps": self.dataset.fps,
            "rows": hashlib.sha256(self.rows.astype(np.int64).tobytes()).hexdigest(),
            "frames": self.dataset.frames, "size": list(self.dataset.size), "starts": self.starts, "seed": self.dataset.seed,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]

    def _shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        base, dataset = self.base, self.dataset
        height, width = (side // base.pixels_per_latent for side in dataset.size)
        states = base.encode_text([""])
        n = len(self.rows)
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "latents": ((n * self.starts, dataset.frames, base.latent_channels, height, width), np.float16),
            "text": ((n, *states.hidden.shape[1:]), np.float16),
            "done": ((n * self.starts,), np.bool_),
        }
        if states.pooled is not None:
            shapes["pooled"] = ((n, *states.pooled.shape[1:]), np.float16)
        return shapes

    def prepare(self) -> None:
        """Encode what is not there yet, each process its share; what is there after a crash stays."""
        shapes = self._shapes()
        if self.processes.main:
            self._make_files(shapes)
        self.processes.barrier()
        self.arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r+") for name in shapes}
        rank, world = self.processes.rank, self.processes.world
        missing = [int(slot) for slot in np.flatnonzero(~self.arrays["done"]) if slot % world == rank]
        if missing:
            self._encode(missing)
        self.processes.barrier()
        if not self.processes.main:  # what the others wrote
            self.arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in shapes}
        if self.base.device.type != "cpu":  # done with, but for the pictures of a sheet
            for part in (self.base.vae, *self.base.text_encoders):
                torch.nn.Module.to(part, "cpu")

    def _make_files(self, shapes: dict[str, tuple[tuple[int, ...], Any]]) -> None:
        if all((self.folder / f"{name}.npy").is_file() for name in shapes):
            return
        needed = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder.parent).free
        if free < needed:
            raise ValueError(
                f"{self.folder.parent} has {free / 2**30:.1f} GB of free space, and the latents of {len(self.rows)} clips at "
                f"{self.starts} starts need {needed / 2**30:.1f} GB: lower clips.starts, or set compute.cache=false"
            )
        part = self.folder.with_name(self.folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name, (shape, kind) in shapes.items():
            np.lib.format.open_memmap(part / f"{name}.npy", "w+", kind, shape).flush()
        part.rename(self.folder)

    def _encode(self, slots: list[int]) -> None:
        clips = DataLoader(
            _Slots(self, slots), batch_size=None, num_workers=self.workers, prefetch_factor=8 if self.workers else None
        )
        bar = tqdm(
            zip(slots, clips, strict=True), total=len(slots), desc="encoding", disable=not self.processes.main, mininterval=2
        )
        for number, (slot, clip) in enumerate(bar):
            if isinstance(clip, str):
                raise ValueError(clip)
            self.arrays["latents"][slot] = encode_clips(self.base, clip["frames"][None])[0].cpu().numpy()
            if slot % self.starts == 0:
                states = self.base.encode_text([clip["caption"]])
                self.arrays["text"][slot // self.starts] = states.hidden[0].float().cpu().numpy()
                if states.pooled is not None:
                    self.arrays["pooled"][slot // self.starts] = states.pooled[0].float().cpu().numpy()
            self.arrays["done"][slot] = True
            if number % 256 == 255 or number == len(slots) - 1:
                for name in ("latents", "text", "pooled", "done"):  # the marks last
                    if name in self.arrays:
                        self.arrays[name].flush()  # type: ignore[attr-defined]

    def __call__(self, positions: Sequence[int]) -> Batch:
        device = self.processes.device
        rows = [self.dataset.order[p] for p in positions]
        places = np.searchsorted(self.rows, rows)
        slots = [int(place) * self.starts + self.dataset.choice(p) for place, p in zip(places, positions, strict=True)]
        latents = torch.from_numpy(self.arrays["latents"][slots].astype(np.float32)).to(device)
        text = torch.from_numpy(self.arrays["text"][places].astype(np.float32)).to(device)
        pooled = self.arrays.get("pooled")
        pools = None if pooled is None else torch.from_numpy(pooled[places].astype(np.float32)).to(device)
        captions = [self.dataset.shards.caption(row) for row in rows]
        return Batch(list(positions), captions, latents, text, pools)


def _identity(shards: Shards) -> str:
    """A hash of where every clip of the shards lies and how long it is."""
    return hashlib.sha256(np.ascontiguousarray(shards.index).tobytes()).hexdigest()


class _Slots(Dataset[Any]):
    def __init__(self, kept: KeptClips, slots: list[int]) -> None:
        self.dataset, self.rows, self.starts, self.slots = kept.dataset, kept.rows, kept.starts, slots

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, number: int) -> Any:
        place, choice = divmod(self.slots[number], self.starts)
        try:
            return self.dataset.clip(int(self.rows[place]), choice)
        except (ValueError, OSError) as problem:
            return f"clip {int(self.rows[place])} of {self.dataset.shards.address}: {problem}"
