"""Clips for training: at a given rate, length and size, from shards, in an order that is a function of a position."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ..errors import Stopped, UserError
from ..media import Unreadable, fit
from ..media.decoding import Decoder, Pixels, Source, opened
from .order import ClipOrder, fraction
from .shards import Shards, captions_of

SLACK = 1e-6
"""Seconds by which a duration may fall short through rounding."""
_START, _CHOICE, _CAPTION = 0x53544152, 0x43484F49, 0x43415054
logger = logging.getLogger(__name__)


def eligible(shards: Shards, fps: float, frames: int) -> np.ndarray:
    """The selected rows whose videos last at least (frames - 1) / fps seconds, ascending."""
    rows = shards.rows
    return rows[shards.column("duration")[rows] >= (frames - 1) / fps - SLACK]


class ClipDataset(Dataset[dict[str, Any]]):
    """`dataset[position]` -> dict(position, row, key, caption, start in seconds, frames uint8 (frames, 3, H, W)).

    Frames lie 1 / fps apart in time, whatever the video's rate. The start is uniform over what the video's length allows and a
    function of (seed, position). fixed_starts: at most so many different starts for each clip, so that what is computed from
    them can be kept, by (row, start). Of several captions each epoch has the next one (`said`). order: videos that are too short
    are taken out of it, with a warning; None makes one with `seed`. len() is the number of clips in an epoch; positions go on
    beyond it.

    Raises ValueError where nothing is left, or the numbers make no clip.
    """

    def __init__(
        self,
        shards: Shards,
        order: ClipOrder | None,
        fps: float,
        frames: int,
        size: tuple[int, int],
        seed: int,
        fixed_starts: int | None = None,
    ) -> None:
        if not 0 < fps < math.inf or min(frames, *size, 1 if fixed_starts is None else fixed_starts) < 1:
            found = f"fps {fps}, frames {frames}, size {size}, fixed_starts {fixed_starts}"
            raise UserError(f"clips: expected fps above 0, at least 1 frame, 1 px and 1 start, found {found}.")
        self.shards, self.fps, self.frames, self.size = shards, fps, frames, size
        self.seed, self.fixed_starts = seed, fixed_starts
        rows = eligible(shards, fps, frames)
        if not len(rows):
            longest = float(np.nanmax(shards.column("duration")[shards.rows]))
            expected = f"videos of at least {self.span:.2f} s for {frames} frames at {fps:g} a second"
            found = f"none, the longest of {len(shards)} lasts {longest:.2f} s"
            raise UserError(f"{shards.address}: expected {expected}, found {found}; take fewer frames or a higher rate.")
        if len(rows) < len(shards):
            left_out = "%d of %d clips are left out: shorter than the %.2f s of %d frames at %g a second."
            logger.warning(left_out, len(shards) - len(rows), len(shards), self.span, frames, fps)
        self.order = ClipOrder(shards.counts(rows), seed, rows=rows) if order is None else order.keep(rows)

    @property
    def span(self) -> float:
        """Seconds from the first frame to the last."""
        return (self.frames - 1) / self.fps

    def __len__(self) -> int:
        return len(self.order)

    def choice(self, position: int) -> int:
        """Which of the fixed starts the clip of this position has."""
        return int(fraction(position, self.seed, _CHOICE) * (self.fixed_starts or 1))

    def said(self, position: int, row: int, count: int) -> int:
        """Which of a row's `count` captions its clip at this position has: one after the other in the epochs that follow each
        other, so that each comes equally often, from a beginning that is a function of (seed, row)."""
        return (int(fraction(row, self.seed, _CAPTION) * count) + int(position) // len(self)) % count

    def start(self, position: int, row: int, duration: float) -> float:
        """Where the clip of this position begins, in seconds from the video's first frame."""
        if self.fixed_starts is None:
            return fraction(position, self.seed, _START) * max(0.0, duration - self.span)
        return self.fixed_start(row, self.choice(position), duration)

    def fixed_start(self, row: int, choice: int, duration: float) -> float:
        """The start number `choice` of a row's video, in seconds."""
        return fraction(row, self.seed, choice, _START) * max(0.0, duration - self.span)

    def __getitem__(self, position: int) -> dict[str, Any]:
        row = self.order[position]
        facts = self.shards.facts(row)
        clip = self._clip(row, facts, self.start(position, row, facts["duration"]))
        captions = captions_of(facts)
        return {"position": int(position), **clip, "caption": captions[self.said(position, row, len(captions))]}

    def clip(self, row: int, choice: int) -> dict[str, Any]:
        """A row's clip at one of its fixed starts, whatever the order: as dataset[position], without the position."""
        facts = self.shards.facts(row)
        return self._clip(row, facts, self.fixed_start(row, choice, facts["duration"]))

    def _clip(self, row: int, facts: dict[str, Any], start: float) -> dict[str, Any]:
        times = [start + index / self.fps for index in range(self.frames)]
        with self.shards.open_video(row) as file:
            pictures = read_at_times(file, times, facts["key"])
        told = {name: facts[name] for name in ("key", "caption")}
        return {"row": row, **told, "start": start, "frames": fitted(pictures, self.size)}


def read_at_times(file: Source, times: Sequence[float], name: str) -> list[Pixels]:
    """The frames (h, w, 3) uint8 in view at ascending times, in seconds from the first frame; only what is needed is decoded.

    Raises ValueError for a video that cannot be decoded.
    """
    with opened(file, name, threads="NONE") as video:
        wanted = [video.start + int((time + SLACK) / video.base) for time in times]
        found: list[Pixels] = []
        if wanted[0] > video.start:
            video.seek(wanted[0])
            found = _pick(video, wanted, strict=True)
            if not found:
                video.seek(video.start)  # the key frame was said to lie earlier than it does
        found = found or _pick(video, wanted, strict=False)
    if not found:
        raise Unreadable(f"{name}: expected frames to decode, found none; curate the source again.")
    return found


def _pick(video: Decoder, wanted: Sequence[int], strict: bool) -> list[Pixels]:
    """For each wanted time the last frame that began by then. strict: nothing if the first frame comes later than that."""
    pictures: list[Pixels] = []
    shown = None
    for frame in video.frames():
        if frame.pts is None:
            continue
        if shown is None and strict and frame.pts > wanted[0]:
            return []
        due = bisect_left(wanted, frame.pts)
        if shown is not None and due > len(pictures):
            pictures += [video.pixels(shown)] * (due - len(pictures))
            if due == len(wanted):
                return pictures
        shown = frame
    if shown is not None:
        pictures += [video.pixels(shown)] * (len(wanted) - len(pictures))
    return pictures


def fitted(pictures: Sequence[np.ndarray], size: tuple[int, int]) -> Tensor:
    """Frames (h, w, 3) uint8 -> (f, 3, H, W) uint8: centre crop, box filter, bicubic, as `media.fit` does."""
    planes = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    if tuple(planes.shape[2:]) == tuple(size):
        return planes
    # Planes in memory, pixels in shape: pooling is several times faster so.
    frames = fit(planes.float().div_(255).permute(0, 2, 3, 1), *size)
    return frames.permute(0, 3, 1, 2).mul(255).round_().byte().contiguous()


# -- loading


class _Guarded(Dataset[Any]):
    """Gives the sentence of an error in a worker instead of its traceback."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, position: int) -> Any:
        try:
            return self.dataset[position]
        except (ValueError, OSError) as problem:
            return f"clip at position {position}: {problem}"


def _collate(clips: Sequence[Any]) -> Any:
    return next((clip for clip in clips if isinstance(clip, str)), None) or default_collate(list(clips))


def loader(dataset: ClipDataset, positions: Iterable[Sequence[int]], workers: int) -> Iterator[dict[str, Any]]:
    """One batch for each sequence of positions, in order, read ahead by `workers` processes (0: by this one).

    A batch is a dict: frames (b, f, 3, H, W) uint8, position and row (b,) int64, start (b,) float64, key and caption lists.
    positions may be endless. Raises ValueError for a clip that cannot be read, Stopped if a worker dies.
    """
    batches: Any = DataLoader(_Guarded(dataset), batch_sampler=map(list, positions), num_workers=workers, collate_fn=_collate)
    try:
        for batch in batches:
            if isinstance(batch, str):
                raise UserError(batch)
            yield batch
    except RuntimeError as problem:
        if "exited unexpectedly" not in str(problem) and "killed by signal" not in str(problem):
            raise
        died = f"a process that reads clips died ({str(problem).splitlines()[0]}), often for want of memory"
        raise Stopped(f"{died}; use fewer workers than {workers} or smaller clips, and resume.") from problem
