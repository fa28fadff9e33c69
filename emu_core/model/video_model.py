"""The video model: a frozen U-Net with a stack attached, called on whole videos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange, repeat
from torch import nn

from .compiled import CompiledUNet
from .conditioning import keep_given
from .kernels import Attend, sdpa
from .layers import Run
from .schedule import signal_noise
from .stack import TemporalStack


class VideoModel(nn.Module):
    """(noisy latents, timestep, text, given frames) of videos -> the network's output, frame 0 included.

    The stack is a submodule; the U-Net is not, since it is frozen and belongs to the caller. So `parameters()` are the
    stack's alone, for an optimiser or a distributed wrapper.
    """

    def __init__(self, unet: nn.Module, stack: TemporalStack, attend: Attend = sdpa) -> None:
        super().__init__()
        self.stack = stack
        self.attend = attend
        self.attachment = stack.attach(unet)
        self.compiled: CompiledUNet | None = None  # called in the U-Net's place

    def forward(
        self,
        latents: torch.Tensor,
        t: torch.Tensor,
        text: torch.Tensor,
        conditioning: torch.Tensor | None = None,
        added: dict[str, torch.Tensor] | None = None,
        strength: float = 1.0,
        values: Mapping[str, float] | None = None,
    ) -> torch.Tensor:
        """`latents` (b, f, C, h, w), `t` (b,) or (), `text` (b, tokens, width), `conditioning` (b, f, C+1, h, w) or None,
        `added` SDXL's further conditions (b, ...), `values` numbers for the time embedding -> (b, f, C, h, w)."""
        b, f = latents.shape[:2]
        given = None if conditioning is None else conditioning.flatten(0, 1)
        run = Run(f, self.attachment.texts(text), given, strength, self.attend, values or {})
        each: dict[str, Any] = {name: _each_frame(value, f) for name, value in (added or {}).items()}
        call = latents.flatten(0, 1), _each_frame(t.expand(b), f), _each_frame(text, f)
        with self.attachment.run(run):
            output = (self.compiled or self.attachment.unet)(*call, added_cond_kwargs=each or None, return_dict=False)[0]
        output, config = rearrange(output, "(b f) c h w -> b f c h w", f=f), self.stack.config
        if conditioning is None or not config.sampling.keeps_given:
            return output
        return keep_given(output, latents, conditioning, config, *signal_noise(config.schedule, t.expand(b).long(), 5))


def _each_frame(value: torch.Tensor, frames: int) -> torch.Tensor:
    """(b, ...) -> (b f, ...), frames fastest."""
    return repeat(value, "b ... -> (b f) ...", f=frames)
