"""Given frames inside a CONDITIONING: one entry of `model_conds`, which ComfyUI hands to the U-Net's call for each conditioning
by itself, whatever else it does: several at once or one by one, areas, time ranges. On a plain MODEL nothing reads it.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; read further, up to about 0.38: how samplers hand conditionings on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.conds
import torch

from ...emu_core.errors import UserError
from ...emu_core.model.conditioning import condition
from ...emu_core.model.config import StackConfig

CONDITION = "emu_video_given"


@dataclass(frozen=True, eq=False)
class Given:
    """`latents` (k, C, h, w) as the VAE made them, at frames `positions` of a video of `frames`; k may be 0. `scaled`: they are
    already as the U-Net wants them. `area`: (height, width, y, x) of the part of the picture that this conditioning is for, in
    latent positions. `motion`: PIA's table of affinities. `values`: numbers for the time embedding, instead of the stack's.
    `videos`: of how many videos the latents are, k for each in turn; 1: the same for all of a batch."""

    latents: torch.Tensor
    positions: tuple[int, ...]
    frames: int
    scaled: bool = False
    area: tuple[int, ...] | None = None
    motion: str = "moderate"
    values: tuple[tuple[str, float], ...] = ()
    videos: int = 1

    def channels(self, config: StackConfig, latent_format: Any = None) -> torch.Tensor:
        """Conditioning channels (v f, C+1, h, w) of whole videos. ValueError for given frames that the stack does not take."""
        latents = self.latents if self.scaled or latent_format is None else latent_format.process_in(self.latents)
        each = latents.float().reshape(self.videos, len(self.positions), *latents.shape[1:])
        return condition(each, self.positions, self.frames, config.channel_order, self.motion).flatten(0, 1)


class CondGiven(comfy.conds.CONDRegular):
    """Carries a `Given` through ComfyUI's batching."""

    cond: Given

    def process_cond(self, batch_size: int, area: Any = None, **_: Any) -> CondGiven:
        """The same for a part of the picture, (height, width, y, x) in latent positions."""
        return self._copy_with(replace(self.cond, area=None if area is None else tuple(area)))

    def can_concat(self, other: CondGiven) -> bool:
        """Whether one call of the U-Net can have both."""
        return all(getattr(self.cond, name) == getattr(other.cond, name) for name in ("frames", "area", "values"))

    def concat(self, others: Sequence[CondGiven]) -> tuple[Given, ...]:
        """What the U-Net's call gets: one Given for each conditioning of the batch."""
        return tuple(one.cond for one in (self, *others))

    def size(self) -> list[int]:
        """Next to nothing, for ComfyUI's estimate of memory."""
        return [1]


def with_given(conditioning: list[Any], given: Given) -> list[Any]:
    """CONDITIONING with given frames in it."""
    own = {CONDITION: CondGiven(given)}
    return [[text, {**values, "model_conds": {**values.get("model_conds", {}), **own}}] for text, values in conditioning]


def for_each(conditioning: list[Any], videos: int, frames: int) -> list[Any]:
    """CONDITIONING whose entries hold the texts of so many videos in a batch, a row each, with a row for each of their frames;
    entries of one text stay. ValueError for texts of another number of videos."""
    result = []
    for text, values in conditioning:
        rows = len(text)
        if rows == videos > 1:
            each = {k: v.repeat_interleave(frames, 0) if _rows(v) == rows else v for k, v in values.items()}
            result.append([text.repeat_interleave(frames, 0), each])
        elif videos > 1 and rows not in (1, videos * frames):
            raise UserError(f"prompts are given for {rows} videos, and videos is {videos}: make them equal")
        else:
            result.append([text, values])
    return result


def _rows(value: Any) -> int:
    return len(value) if isinstance(value, torch.Tensor) and value.dim() else 0


def find_given(conditioning: list[Any]) -> Given | None:
    """The given frames in a CONDITIONING, or None."""
    found = (values.get("model_conds", {}).get(CONDITION) for _, values in conditioning)
    return next((one.cond for one in found if one is not None), None)


def channels(
    given: Sequence[Given], config: StackConfig, x: torch.Tensor, latent_format: Any, window: Sequence[int] | None = None
) -> torch.Tensor:
    """Conditioning channels (n v f, C+1, h, w) for a batch of latents `x` (n v f, C, h, w), n conditionings in turn. `window`
    names the frames of the video that `x` holds, where it does not hold all of them. ValueError when the sizes differ."""
    parts, batch = [], len(x) // len(given)
    for one in given:
        part = one.channels(config, latent_format)
        height, width, top, left = one.area or (*part.shape[-2:], 0, 0)
        part = part[slice(None) if window is None else list(window), :, top : top + height, left : left + width]
        if batch % len(part) or one.videos not in (1, batch // one.frames):
            raise UserError(
                f"frames are given for {one.videos} videos, and the latent holds {batch} frames, {one.frames} a video: use "
                "the LATENT that the conditioning node gives"
            )
        parts.append(part.repeat(batch // len(part), 1, 1, 1))
    whole = torch.cat(parts)
    if whole.shape[-2:] != x.shape[-2:]:
        (height, width), (found_h, found_w) = whole.shape[-2:], x.shape[-2:]
        raise UserError(
            f"the given frames were encoded for latents of {width} x {height}, and the latent is {found_w} x {found_h}: use the "
            "LATENT that the conditioning node gives"
        )
    return whole.to(x.device, x.dtype)
