"""Given frames -> extra input channels: zero-padded latents, and a mask that is 1 where a frame is given. For PIA: the one
given frame in every place, and an affinity that says how much each frame is to resemble it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ..errors import UserError
from .config import Channel, StackConfig
from .schedule import ScheduleConfig, add_noise

FACTOR = 4
"""The interpolation model's output has this many times the rate of its keyframes."""
KEYFRAMES = 8
"""How many of them it sees at a time (Emu Video, section 3)."""
MAX_FRAMES = 512
"""The longest video that is made; a longer one is a mistake more often than a wish."""

AMOUNTS_OF_MOTION: dict[str, tuple[float, ...]] = {
    "small": (1.0, 0.9, 0.85, 0.85, 0.85, 0.8),
    "moderate": (1.0, 0.8, 0.8, 0.8, 0.79, 0.78, 0.75),
    "large": (1.0, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.5),
    "small, loop": (1.0, 0.9, 0.85, 0.85, 0.85, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.85, 0.85, 0.9, 1.0),
    "moderate, loop": (1.0, 0.8, 0.8, 0.8, 0.79, 0.78, 0.75, 0.75, 0.75, 0.75, 0.75, 0.78, 0.79, 0.8, 0.8, 1.0),
    "large, loop": (1.0, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.5, 0.6, 0.7, 0.7, 0.7, 0.7, 0.8, 1.0),
    "small, style": (0.5, 0.4, 0.4, 0.4, 0.35, 0.3),
    "moderate, style": (0.5, 0.4, 0.4, 0.4, 0.35, 0.35, 0.3, 0.25, 0.2),
    "large, style": (0.5, 0.2),
}
"""PIA's affinity at distance 0, 1, 2, ... from the given frame; the last repeats (Zhang et al., arXiv 2312.13964, and the
tables of its program). Loops come back after 16 frames; the style tables are for an image model of another style."""


def condition(
    given: torch.Tensor,
    positions: Sequence[int],
    frames: int,
    order: Sequence[Channel] = ("image", "mask"),
    motion: str = "moderate",
) -> torch.Tensor:
    """Channels (b, f, C+1, h, w) for clean latents `given` (b, k, C, h, w) at frames `positions` (k numbers, 0 to f-1).

    A negative position counts from the end. No frame given: all zeros. `motion` chooses the affinity, where `order` has one.
    """
    b, k, c, h, w = given.shape
    places = checked_positions(positions, k, frames)
    if not order:
        if k:
            raise UserError("this stack makes videos from text alone and takes no given frame: leave the image out")
        return given.new_zeros(b, frames, 0, h, w)
    image = given.new_zeros(b, frames, c, h, w)
    mask = given.new_zeros(b, frames, 1, h, w)
    if "affinity" in order:
        if k > 1:
            raise UserError(f"PIA takes one given frame, which it resembles throughout, found {k}: give one")
        if k:
            if motion not in AMOUNTS_OF_MOTION:
                raise UserError(f"motion should be one of {'; '.join(AMOUNTS_OF_MOTION)}, found {motion!r}")
            table = AMOUNTS_OF_MOTION[motion]
            affinity = [table[min(abs(i - places[0]), len(table) - 1)] for i in range(frames)]
            image[:], mask[:] = given, mask.new_tensor(affinity).view(frames, 1, 1, 1)
    else:
        image[:, places], mask[:, places] = given, 1
    return torch.cat([image if name == "image" else mask for name in order], 2)


def keep_given(
    output: torch.Tensor, x: torch.Tensor, channels: torch.Tensor, config: StackConfig, signal: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """A network's `output` (..., C, h, w) for noisy latents `x`, in which the frames that `channels` (..., C+1, h, w) give are
    what leads to them exactly: of x = signal x0 + sigma noise with a known x0, v is (signal x - x0) / sigma and the noise
    (x - signal x0) / sigma. `signal` and `sigma` > 0 as they are broadcast against x."""
    count, image_first = x.shape[-3], config.channel_order[0] == "image"
    given = channels.narrow(-3, 0 if image_first else 1, count).float()
    mask, x = channels.narrow(-3, count if image_first else 0, 1), x.float()
    known = x - signal * given if config.schedule.prediction == "epsilon" else signal * x - given
    return torch.where(mask > 0.5, (known / sigma).to(output.dtype), output)


def checked_positions(positions: Sequence[int], given: int, frames: int) -> list[int]:
    """Positions 0 to frames - 1, one for each given frame, none twice."""
    if len(positions) != given:
        raise UserError(f"each given frame needs a position: found {given} frames and {len(positions)} positions")
    for p in positions:
        if not -frames <= p < frames:
            raise UserError(f"position {p} is outside a video of {frames} frames: use 0 to {frames - 1}, or -1 for the last")
    places = [p % frames for p in positions]
    if len(set(places)) < len(places):
        raise UserError(f"two given frames share a position: found {sorted(places)}; give each its own")
    return places


def slot_count(keyframes: int) -> int:
    """Frames that the interpolation model makes of `keyframes`: FACTOR - 1 between neighbours, FACTOR on either side."""
    return FACTOR * (keyframes + 1) + 1


def slots(keyframes: int) -> list[int]:
    """Where keyframe k sits: FACTOR (k + 1), so 4, 8, ..., 32 of 37."""
    return [FACTOR * (k + 1) for k in range(keyframes)]


def augment(latents: torch.Tensor, t: int, schedule: ScheduleConfig, noise: torch.Tensor) -> torch.Tensor:
    """Noise augmentation of given latents (b, k, C, h, w) at timestep `t` (Emu Video: 100 at inference); t 0 leaves them."""
    if not 0 <= t < schedule.steps:
        raise UserError(f"the timestep of noise augmentation must be 0 to {schedule.steps - 1}, found {t}")
    if t == 0:
        return latents
    return add_noise(schedule, latents, noise, torch.full((len(latents),), t))


Stitch = Literal["continuous", "paper"]


@dataclass(frozen=True)
class Window:
    """One call of the interpolation model: keyframes `first` to `first + given - 1`, the last repeated up to `size`.

    Its output's frames `start` to `stop - 1` enter the video.
    """

    first: int
    given: int
    size: int
    start: int
    stop: int

    @property
    def keyframes(self) -> list[int]:
        """Which keyframes fill the window's `size` places."""
        return [self.first + min(i, self.given - 1) for i in range(self.size)]


def windows(keyframes: int, size: int = 8, stitch: Stitch = "continuous") -> list[Window]:
    """Windows of `size` keyframes that share none, and what each contributes.

    `continuous`: a window's first frame lies where the last keyframe of the one before does. That keyframe is kept, and the
    next window goes on behind it, so that slot_count(n) frames come out and no keyframe or moment is lost.
    `paper`: drops the last 5 frames of a window and the first 4 of the next (65 frames of two windows), a jump in time.
    """
    if keyframes < 2:
        raise UserError(f"interpolation needs 2 or more keyframes, found {keyframes}")
    if size < 1:
        raise UserError(f"a window needs 1 or more keyframes, found {size}")
    if stitch not in ("continuous", "paper"):
        raise UserError(f"stitching must be continuous or paper, found {stitch!r}")
    result = []
    for first in range(0, keyframes, size):
        given = min(size, keyframes - first)
        last = first + size >= keyframes
        start, stop = (FACTOR, FACTOR * size) if stitch == "paper" else (1, FACTOR * size + 1)
        result.append(Window(first, given, size, start if first else 0, slot_count(given) if last else stop))
    return result
