"""Where the clips of a stack's training come from: here shards of real videos; the procedural world brings a source of its own.

A source is an endless sequence of samples with positions 0, 1, 2, ...; a sample is a function of its position (and the recipe)
alone, whoever asks for it. Shapes: `n` clips, `f` frames, latents (n, f, C, h, w).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from .folder import check_folder
from .processes import Processes, fingerprint
from .recipes import Recipe

logger = logging.getLogger(__name__)

KEPT_OUT = 0x4B455054  # salt of the choice of validation clips
MOST_KEPT_OUT = 0.1
FRAMES_AT_ONCE = 8
EXAMPLES = 4


class Described(Protocol):
    """What words its own caption."""

    def said(self, generator: torch.Generator, drop: float) -> str:
        """The caption as training uses it: a share `drop` empty, others perhaps shortened."""
        ...


@dataclass
class Batch:
    """Some samples. `clips`: what words the captions for training, where it is not the captions themselves; `text`: the words'
    states where they are kept, `text[i]` (tokens, width) and, for SDXL, `pooled[i]`."""

    positions: Sequence[int]
    captions: Sequence[str]
    latents: Tensor
    text: Tensor | None = None
    pooled: Tensor | None = None
    clips: Sequence[Described] = ()

    def to_save(self) -> dict[str, Any]:
        """For the file that is left when the loss is no number."""
        return {"positions": list(self.positions), "captions": list(self.captions), "latents": self.latents.cpu()}

    def says(self, index: int, generator: torch.Generator, drop: float) -> str:
        """A caption as training uses it: now and then empty."""
        if self.clips:
            return self.clips[index].said(generator, drop)
        return "" if torch.rand(1, generator=generator).item() < drop else self.captions[index]


class Source(Protocol):
    """Samples to train on, others that measure, and some to make pictures of."""

    def stream(self, positions: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """For each group of positions its samples."""
        ...

    @property
    def kept_out(self) -> Batch:
        """The clips that are kept out of training; none where the recipe asks for none."""
        ...

    def examples(self, count: int) -> Batch:
        """Up to `count` clips for a sheet, kept out of training too, in main memory, float32."""
        ...

    def judge(self, videos: Tensor) -> dict[str, float]:
        """Figures of videos (n, f, 3, H, W) in -1..1 that were made for the first n examples, where there is a truth to compare
        with."""
        ...


SourceFactory = Callable[[Recipe, Base, Path, Processes], Source]


class ShardSource:
    """See `Source`. Clips are decoded by worker processes and encoded as they come, or encoded once and kept. Which clips measure
    is a function of their number in the shards, so all stages keep the same out."""

    def __init__(self, recipe: Recipe, base: Base, folder: Path, processes: Processes) -> None:
        self.recipe, self.base, self.processes = recipe, base, processes
        clips, seed = recipe.clips, recipe.optimisation.seed
        self.shards = Shards.open(clips.shards, clips.selection or None)
        rows = eligible(self.shards, clips.fps, clips.frames)
        self.out_rows = _kept_out(rows, self.shards, clips.validation)
        training = rows[~np.isin(rows, self.out_rows)]
        order = ClipOrder(self.shards.counts(training), seed, rows=training) if len(training) else None
        self.dataset = ClipDataset(self.shards, order, clips.fps, clips.frames, clips.size, seed, clips.starts or None)
        logger.info("%d clips train, %d measure", len(training), len(self.out_rows))
        self.kept = KeptClips(self.dataset, base, folder, processes, clips.workers) if recipe.compute.cache else None

    def stream(self, positions: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """See `Source`."""
        if self.kept is not None:
            yield from map(self.kept, positions)
            return
        for found in loader(self.dataset, positions, self.recipe.clips.workers):
            yield Batch(found["position"].tolist(), found["caption"], encode_clips(self.base, found["frames"]))

    @cached_property
    def kept_out(self) -> Batch:
        """Each clip that is kept out, at the first of its starts."""
        found = [self.dataset.clip(int(row), 0) for row in self.out_rows]
        latents = [encode_clips(self.base, clip["frames"][None]) for clip in found] or [torch.empty(0)]
        captions = [clip["caption"] for clip in found]
        return Batch([int(row) for row in self.out_rows], captions, torch.cat(latents).to(self.processes.device))

    def examples(self, count: int) -> Batch:
        """The first few that are kept out."""
        batch, few = self.kept_out, slice(min(count, EXAMPLES))
        return Batch(batch.positions[few], batch.captions[few], batch.latents[few].cpu().float())

    def judge(self, videos: Tensor) -> dict[str, float]:
        """Nothing: nobody knows what is right."""
        return {}


def _kept_out(rows: np.ndarray, shards: Shards, count: int) -> np.ndarray:
    """About `count` rows, ascending, of at most a tenth of all clips."""
    share = min(count / max(len(shards.index), 1), MOST_KEPT_OUT)
    return rows[mix(rows, KEPT_OUT) < np.uint64(share * (2**64 - 1))][:count]


def encode_clips(base: Base, frames: Tensor) -> Tensor:
    """Frames (n, f, 3, H, W) uint8 -> latents (n, f, C, h, w) float32, on the base's device."""
    images = frames.flatten(0, 1).permute(0, 2, 3, 1).float() / 255
    return base.encode_images(images, FRAMES_AT_ONCE).unflatten(0, frames.shape[:2]).to(base.device)


class KeptClips:
    """Latents and text states of every clip at each of its starts, in files that can be larger than memory.

    The folder's name is a hash of all they depend on: the VAE's and the text encoders' weights, the shards' index and the
    selection, rate, length, size and starts. So a stale one cannot be used. They are kept in float16. Called with positions, it
    gives their `Batch`.
    """

    def __init__(self, dataset: ClipDataset, base: Base, folder: Path, processes: Processes, workers: int) -> None:
        self.dataset, self.base, self.processes, self.workers = dataset, base, processes, workers
        self.rows = np.sort(dataset.order.rows(0, len(dataset)))
        self.starts = dataset.fixed_starts or 1
        self.folder = folder / f"cache-{self._key()}"
        self.arrays: dict[str, np.ndarray] = {}
        self._prepare()

    def _key(self) -> str:
        parts, dataset = (self.base.vae, *self.base.text_encoders), self.dataset
        facts = {
            "weights": fingerprint(parts), "shards": _hash(dataset.shards.index), "fps": dataset.fps,
            "rows": _hash(self.rows.astype(np.int64)), "frames": dataset.frames, "size": list(dataset.size),
            "starts": self.starts, "seed": dataset.seed,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]

    def _shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        base, dataset, n = self.base, self.dataset, len(self.rows)
        height, width = (side // base.pixels_per_latent for side in dataset.size)
        states = base.encode_text([""])
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "latents": ((n * self.starts, dataset.frames, base.latent_channels, height, width), np.float16),
            "text": ((n, *states.hidden.shape[1:]), np.float16),
            "done": ((n * self.starts,), np.bool_),
        }
        if states.pooled is not None:
            shapes["pooled"] = ((n, *states.pooled.shape[1:]), np.float16)
        return shapes

    def _prepare(self) -> None:
        """Encode what is not there yet, each process its share; what is there after a crash stays."""
        shapes, here = self._shapes(), self.processes
        if here.main:
            self._make_files(shapes)
        here.barrier()
        self.arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r+") for name in shapes}
        missing = [int(slot) for slot in np.flatnonzero(~self.arrays["done"]) if slot % here.world == here.rank]
        if missing:
            self._encode(missing)
        here.barrier()
        if not here.main:  # what the others wrote
            self.arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in shapes}
        if self.base.device.type != "cpu":  # done with, but for the pictures of a sheet
            for part in (self.base.vae, *self.base.text_encoders):
                torch.nn.Module.to(part, "cpu")

    def _make_files(self, shapes: dict[str, tuple[tuple[int, ...], Any]]) -> None:
        if all((self.folder / f"{name}.npy").is_file() for name in shapes):
            return
        needed = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())
        what = f"the latents of {len(self.rows)} clips at {self.starts} starts"
        check_folder(self.folder.parent, needed, what, "lower clips.starts, or set compute.cache=false")
        part = self.folder.with_name(self.folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name, (shape, kind) in shapes.items():
            np.lib.format.open_memmap(part / f"{name}.npy", "w+", kind, shape).flush()
        part.rename(self.folder)

    def _encode(self, slots: list[int]) -> None:
        ahead = 8 if self.workers else None
        clips = DataLoader(_Slots(self, slots), batch_size=None, num_workers=self.workers, prefetch_factor=ahead)
        bar = tqdm(clips, total=len(slots), desc="encoding", disable=not self.processes.main, mininterval=2)
        for number, (slot, clip) in enumerate(zip(slots, bar, strict=True)):
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
                for name in sorted(self.arrays, key="done".__eq__):  # the marks last
                    self.arrays[name].flush()  # type: ignore[attr-defined]

    def __call__(self, positions: Sequence[int]) -> Batch:
        rows = [self.dataset.order[p] for p in positions]
        places = np.searchsorted(self.rows, rows)
        slots = [int(place) * self.starts + self.dataset.choice(p) for place, p in zip(places, positions, strict=True)]
        captions = [self.dataset.shards.caption(row) for row in rows]
        pooled = self._read("pooled", places) if "pooled" in self.arrays else None
        return Batch(list(positions), captions, self._read("latents", slots), self._read("text", places), pooled)

    def _read(self, name: str, places: Any) -> Tensor:
        return torch.from_numpy(self.arrays[name][places].astype(np.float32)).to(self.processes.device)


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


class _Slots(Dataset[Any]):
    """Decoded clips by slot, or what is wrong with one as text, since a worker's exception would lose its name."""

    def __init__(self, kept: KeptClips, slots: list[int]) -> None:
        self.dataset, self.rows, self.starts, self.slots = kept.dataset, kept.rows, kept.starts, slots

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, number: int) -> Any:
        place, choice = divmod(self.slots[number], self.starts)
        row = int(self.rows[place])
        try:
            return self.dataset.clip(row, choice)
        except (ValueError, OSError) as problem:
            return f"clip {row} of {self.dataset.shards.address}: {problem}"
