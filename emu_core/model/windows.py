"""Videos longer than a stack's positions allow: a window slides over the frames, and what it says of a frame is averaged.

The windows and weights are those of ComfyUI's context windows ("standard static", fused as a "pyramid").
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..errors import UserError
from .config import StackConfig


def sliding_windows(frames: int, length: int, overlap: int) -> list[list[int]]:
    """Frame numbers of each window of `length`; neighbours share `overlap`, and the last is moved back to end with the video."""
    if frames <= length:
        return [list(range(frames))]
    if not 0 <= overlap < length:
        raise UserError(f"windows must overlap by less than their length, found {overlap} of {length} frames")
    starts = [*range(0, frames - length, length - overlap), frames - length]
    return [list(range(start, start + length)) for start in starts]


def window_weights(length: int) -> torch.Tensor:
    """(length,): how much each place of a window counts, 1 at its ends and rising by 1 towards its middle."""
    places = torch.arange(length)
    return torch.minimum(places, length - 1 - places).float() + 1


def over_windows(call: Callable[[list[int]], torch.Tensor], frames: int, length: int, overlap: int) -> torch.Tensor:
    """The weighted mean (b, f, ...) of what `call` says of each window's frames."""
    plan = sliding_windows(frames, length, overlap)
    if len(plan) == 1:
        return call(plan[0])
    total, weights, weight = torch.tensor(0.0), window_weights(length), torch.zeros(frames)
    for window in plan:
        output = call(window)
        if not total.dim():
            total = output.new_zeros(output.shape[0], frames, *output.shape[2:])
        total[:, window] += output * _along_frames(weights, output)
        weight[window] += weights
    return total / _along_frames(weight, total)


def _along_frames(weights: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return weights.to(like.device, like.dtype).view(1, -1, *[1] * (like.dim() - 2))


def check_frames(config: StackConfig, frames: int, window: int | None, advice: str) -> None:
    """Refuse a clip, or a window of it, that is longer than the stack's positions allow."""
    limit = config.layers.max_frames
    if limit is not None and min(frames, window or frames) > limit:
        what = f"a window of {window} frames" if window and window < frames else f"{frames} frames"
        stack = f"this {config.origin.family} stack"
        raise UserError(f"{stack} has positions for {limit} frames, found {what}: make at most {limit}, or {advice}")
