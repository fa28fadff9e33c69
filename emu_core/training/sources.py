"""Where the clips of a stack's training come from: here shards of real videos; the procedural world brings a source of its own.

A source is an endless sequence of samples with positions 0, 1, 2, ...; a sample is a function of its position (and the recipe)
alone, whoever asks for it. Shapes: `n` clips, `f` frames, latents (n, f, C, h, w).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..base import Base
from ..data.order import ClipOrder, mix
from ..errors import UserError
from .folder import check_folder
from .processes import Processes, fingerprint
from .recipes import Recipe

if TYPE_CHECKING:
    from ..data.clips import ClipDataset

logger = logging.getLogger(__name__)

KEPT_OUT = 0x4B455054  # salt of the choice of validation clips
MOST_KEPT_OUT = 0.1
FRAMES_AT_ONCE = 8
EXAMPLES = 4
Shapes = dict[str, tuple[tuple[int, ...], Any]]


@dataclass
class Batch:
    """Some samples. `clips`: what words the captions for training (by `said(generator, drop)`), where it is not the captions
    themselves; `text`: the words' states where they are kept, `text[i]` (tokens, width) and, for SDXL, `pooled[i]`; `shown[i]`:
    how many of a sample's first frames are given, where that is not left to chance; `counts` (n, 1, 1, h, w): how much an error
    at each place does, where not all do as much."""

    positions: Sequence[int]
    captions: Sequence[str]
    latents: Tensor
    text: Tensor | None = None
    pooled: Tensor | None = None
    clips: Sequence[Any] = ()
    shown: Sequence[int | None] = ()
    counts: Tensor | None = None

    def to_save(self) -> dict[str, Any]:
        """For the file that is left when the loss is no number."""
        return {"positions": list(self.positions), "captions": list(self.captions), "latents": self.latents.cpu()}

    def says(self, index: int, generator: torch.Generator, drop: float) -> str:
        """A caption as training uses it: now and then empty."""
        if self.clips:
            return self.clips[index].said(generator, drop)
        return "" if torch.rand(1, generator=generator).item() < drop else self.captions[index]


class Source(ABC):
    """Samples to train on, others that measure, and some to make pictures of."""

    @abstractmethod
    def stream(self, positions: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """For each group of positions its samples."""

    @property
    @abstractmethod
    def kept_out(self) -> Batch:
        """The clips that are kept out of training; none where the recipe asks for none."""

    @abstractmethod
    def examples(self, count: int) -> Batch:
        """Up to `count` clips for a sheet, kept out of training too, in main memory, float32."""

    def judge(self, videos: Tensor) -> dict[str, float]:
        """Figures of videos (n, f, 3, H, W) in -1..1 that were made for the first n examples, where there is a truth to compare
        with."""
        return {}


SourceFactory = Callable[[Recipe, Base, Path, Processes], Source]


class ShardSource(Source):
    """See `Source`. Clips are decoded by worker processes and encoded as they come, or encoded once and kept. Which clips measure
    (about as many as asked, at most a tenth) is a function of their number in the shards, so all stages keep the same out."""

    def __init__(self, recipe: Recipe, base: Base, folder: Path, processes: Processes) -> None:
        from ..data.clips import ClipDataset, eligible  # here: they need pyarrow, which other sources do not
        from ..data.shards import Shards

        self.recipe, self.base, self.processes = recipe, base, processes
        clips, seed = recipe.clips, recipe.optimisation.seed
        self.shards = Shards.open(clips.shards, clips.selection or None)
        rows = eligible(self.shards, clips.fps, clips.frames)
        share = min(clips.validation / max(len(self.shards.index), 1), MOST_KEPT_OUT)
        self.out_rows = rows[mix(rows, KEPT_OUT) < np.uint64(share * (2**64 - 1))][: clips.validation]
        training = rows[~np.isin(rows, self.out_rows)]
        order = ClipOrder(self.shards.counts(training), seed, rows=training) if len(training) else None
        self.dataset = ClipDataset(self.shards, order, clips.fps, clips.frames, clips.size, seed, clips.starts or None)
        logger.info("%d clips train, %d measure", len(training), len(self.out_rows))
        self.kept = KeptClips(self.dataset, base, folder, processes, clips.workers) if recipe.compute.cache else None

    def stream(self, positions: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """See `Source`."""
        from ..data.clips import loader

        if self.kept is not None:
            return map(self.kept, positions)
        found = loader(self.dataset, positions, self.recipe.clips.workers)
        return (Batch(f["position"].tolist(), f["caption"], encode_clips(self.base, f["frames"])) for f in found)

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
        self.dataset, self.base, self.processes = dataset, base, processes
        self.rows = np.sort(dataset.order.rows(0, len(dataset)))
        self.starts = dataset.fixed_starts or 1
        self.counts = dataset.shards.caption_counts()[self.rows]
        self.first_texts = np.concatenate([[0], np.cumsum(self.counts)])
        self.folder = folder / f"cache-{self._key()}"
        shapes = self._shapes()
        if processes.main:
            self._make_files(shapes)
        processes.barrier()
        self.arrays = self._open(shapes)
        missing = [int(slot) for slot in np.flatnonzero(~self.arrays["done"]) if slot % processes.world == processes.rank]
        if missing:  # what is there after a crash stays
            self._encode(missing, workers)
        processes.barrier()
        self.arrays = self._open(shapes)  # with what the others wrote
        if base.device.type != "cpu":  # done with, but for the pictures of a sheet
            for part in (base.vae, *base.text_encoders):
                torch.nn.Module.to(part, "cpu")

    def _key(self) -> str:
        parts, dataset = (self.base.vae, *self.base.text_encoders), self.dataset
        facts = {
            "weights": fingerprint(parts), "shards": _hash(dataset.shards.index), "fps": dataset.fps,
            "rows": _hash(self.rows.astype(np.int64)), "frames": dataset.frames, "size": list(dataset.size),
            "starts": self.starts, "seed": dataset.seed,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]

    def _shapes(self) -> Shapes:
        base, dataset, half = self.base, self.dataset, np.float16
        n, texts = len(self.rows), int(self.counts.sum())
        height, width = (side // base.pixels_per_latent for side in dataset.size)
        states, slots = base.encode_text([""]), n * self.starts
        clip, text = (dataset.frames, base.latent_channels, height, width), states.hidden.shape[1:]
        shapes: Shapes = {"latents": ((slots, *clip), half), "text": ((texts, *text), half), "done": ((slots,), np.bool_)}
        return shapes if states.pooled is None else {**shapes, "pooled": ((texts, *states.pooled.shape[1:]), half)}

    def _open(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        return {name: np.load(self.folder / f"{name}.npy", mmap_mode="r+") for name in names}

    def _make_files(self, shapes: Shapes) -> None:
        if all((self.folder / f"{name}.npy").is_file() for name in shapes):
            return
        needed = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())
        what = f"the latents of {len(self.rows)} clips at {self.starts} starts"
        check_folder(self.folder.parent, needed, (what, "lower clips.starts, or set compute.cache=false"))
        part = self.folder.with_name(self.folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name, (shape, kind) in shapes.items():
            np.lib.format.open_memmap(part / f"{name}.npy", "w+", kind, shape).flush()
        part.rename(self.folder)

    def _encode(self, slots: list[int], workers: int) -> None:
        ahead, decode = 8 if workers else None, partial(_decode, self.dataset, self.rows, self.starts)
        data: Any = slots  # a worker gets a slot and gives what is decoded
        clips = DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=ahead, collate_fn=decode)
        bar = tqdm(clips, total=len(slots), desc="encoding", disable=not self.processes.main, mininterval=2)
        for number, (slot, clip) in enumerate(zip(slots, bar, strict=True)):
            if isinstance(clip, str):
                raise UserError(clip)
            self.arrays["latents"][slot] = encode_clips(self.base, clip["frames"][None])[0].cpu().numpy()
            if slot % self.starts == 0:
                self._encode_captions(slot // self.starts)
            self.arrays["done"][slot] = True
            if number % 256 == 255 or number == len(slots) - 1:
                for name in sorted(self.arrays, key="done".__eq__):  # the marks last
                    self.arrays[name].flush()  # type: ignore[attr-defined]

    def _encode_captions(self, place: int) -> None:
        captions = self.dataset.shards.all_captions(int(self.rows[place]))
        for index, caption in enumerate(captions, int(self.first_texts[place])):
            states = self.base.encode_text([caption])
            self.arrays["text"][index] = states.hidden[0].float().cpu().numpy()
            if states.pooled is not None:
                self.arrays["pooled"][index] = states.pooled[0].float().cpu().numpy()

    def __call__(self, positions: Sequence[int]) -> Batch:
        rows = [self.dataset.order[p] for p in positions]
        places = np.searchsorted(self.rows, rows)
        slots = [int(place) * self.starts + self.dataset.choice(p) for place, p in zip(places, positions, strict=True)]
        which = [self.dataset.said(p, r, int(self.counts[place])) for p, r, place in zip(positions, rows, places, strict=True)]
        captions = [self.dataset.shards.all_captions(row)[index] for row, index in zip(rows, which, strict=True)]
        texts = self.first_texts[places] + which
        pooled = self._read("pooled", texts) if "pooled" in self.arrays else None
        return Batch(list(positions), captions, self._read("latents", slots), self._read("text", texts), pooled)

    def _read(self, name: str, places: Any) -> Tensor:
        return torch.from_numpy(self.arrays[name][places].astype(np.float32)).to(self.processes.device)


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _decode(dataset: ClipDataset, rows: np.ndarray, starts: int, slot: int) -> Any:
    """The clip of a slot, or what is wrong with it as text, since a worker's exception would lose its name."""
    row, choice = int(rows[slot // starts]), slot % starts
    try:
        return dataset.clip(row, choice)
    except (ValueError, OSError) as problem:
        return f"clip {row} of {dataset.shards.address}: {problem}"
