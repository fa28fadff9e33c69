"""Given frames inside a CONDITIONING.

They travel as one entry of `model_conds`, which ComfyUI hands to the U-Net's call for each conditioning by itself, whatever
else it does with them: sampling several at once or one by one, areas, time ranges. On a plain MODEL nothing reads it.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; read further, up to about 0.38: node_helpers, and how samplers
hand conditionings on. comfy.conds: 0.33.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.conds
import node_helpers
import torch

from ...emu_core.model.conditioning import condition
from ...emu_core.model.config import StackConfig

CONDITION = "emu_video_given"


@dataclass(frozen=True, eq=False)
class Given:
    """`latents` (k, C, h, w) as the VAE made them, at frames `positions` of a video of `frames`; k may be 0.

    `scaled`: the latents are already scaled as the U-Net wants them. `area`: (height, width, y, x) of the part of the picture
    that this conditioning is for, in latent positions. `motion` is PIA's table of affinities; `values` are numbers for the time
    embedding that differ from the stack's own.
    """

    latents: torch.Tensor
    positions: tuple[int, ...]
    frames: int
    scaled: bool = False
    area: tuple[int, ...] | None = None
    motion: str = "moderate"
    values: tuple[tuple[str, float], ...] = ()


class CondGiven(comfy.conds.CONDRegular):
    """Carries a `Given` through ComfyUI's batching."""

    cond: Any

    def process_cond(self, batch_size: int, area: Any = None, **_: Any) -> CondGiven:
        """The same for a part of the picture, (height, width, y, x) in latent positions."""
        return self._copy_with([replace(given, area=None if area is None else tuple(area)) for given in self.cond])

    def can_concat(self, other: CondGiven) -> bool:
        """Whether one call of the U-Net can have both."""
        mine, others = self.cond[0], other.cond[0]
        return (mine.frames, mine.area, mine.values) == (others.frames, others.area, others.values)

    def concat(self, others: Sequence[CondGiven]) -> tuple[Given, ...]:
        """What the U-Net's call gets: one Given for each conditioning of the batch."""
        return tuple(given for cond in (self, *others) for given in cond.cond)

    def size(self) -> list[int]:
        """Next to nothing, for ComfyUI's estimate of memory."""
        return [1]


def with_given(conditioning: list[Any], given: Given) -> list[Any]:
    """CONDITIONING with given frames in it."""
    result = []
    for item in conditioning:
        known = item[1].get("model_conds", {})
        result += node_helpers.conditioning_set_values([item], {"model_conds": {**known, CONDITION: CondGiven([given])}})
    return result


def find_given(conditioning: list[Any]) -> Given | None:
    """The given frames in a CONDITIONING, or None."""
    for _, values in conditioning:
        if (found := values.get("model_conds", {}).get(CONDITION)) is not None:
            return found.cond[0]
    return None


def check_given(config: StackConfig, given: Given | None) -> None:
    """ValueError, before anything is sampled, for given frames that a stack does not take."""
    if given is not None and len(given.positions):
        condition(given.latents[None].float(), given.positions, given.frames, config.channel_order, given.motion)


def channels(
    given: Sequence[Given], config: StackConfig, x: torch.Tensor, latent_format: Any, window: Sequence[int] | None = None
) -> torch.Tensor:
    """Conditioning channels (n v f, C+1, h, w) for a batch of latents `x` (n v f, C, h, w), n conditionings in turn. `window`
    names the frames of the video that `x` holds, where it does not hold all of them. ValueError when the sizes differ."""
    parts = [_channels_of_one(one, config, latent_format, window) for one in given]
    repeats = len(x) // (len(parts) * len(parts[0]))
    whole = torch.cat([part.repeat(repeats, 1, 1, 1) for part in parts])
    if whole.shape[-2:] != x.shape[-2:]:
        (height, width), (found_h, found_w) = whole.shape[-2:], x.shape[-2:]
        raise ValueError(
            f"the given frames were encoded for latents of {width} x {height}, and the latent is {found_w} x {found_h}: use the "
            "LATENT that the conditioning node gives"
        )
    return whole.to(x.device, x.dtype)


def _channels_of_one(given: Given, config: StackConfig, latent_format: Any, window: Sequence[int] | None) -> torch.Tensor:
    latents = given.latents if given.scaled else latent_format.process_in(given.latents)
    result = condition(latents[None].float(), given.positions, given.frames, config.channel_order, given.motion)[0]
    if window is not None:
        result = result[list(window)]
    if given.area is not None:
        height, width, top, left = given.area
        result = result[..., top : top + height, left : left + width]
    return result
