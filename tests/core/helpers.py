"""Tiny U-Nets of the real layouts with random weights, inputs for them, and stacks that are not the identity."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from emu_core.base import architectures
from emu_core.model.stack import Attachment, Run, TemporalStack

TEXT, TOKENS, SECOND_TEXT, POOLED, TIME = 32, 5, 48, 16, 8
HEAD = 16
# What two ways of computing the same must agree in: it rounds at 1e-16 of a value and assert_close allows 1e-7 there, so no order
# of sums, whichever kernel, batch, number of threads or machine it comes from, makes a difference.
DOUBLE = torch.float64
FOUR: dict[str, Any] = {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": TEXT}
SMALL: dict[str, dict[str, Any]] = {
    "tiny": {"block_out_channels": (32, 64), "cross_attention_dim": TEXT, "in_channels": 4, "out_channels": 4},
    "shallow": {"in_channels": 4, "out_channels": 4, **architectures.levels((32,), (True,)), "cross_attention_dim": TEXT},
    "sd15": {**FOUR, "attention_head_dim": 4},
    "sd21": {**FOUR, "attention_head_dim": (2, 4, 4, 4)},
    "sdxl": {"block_out_channels": (32, 64, 64), "cross_attention_dim": TEXT, "attention_head_dim": (2, 4, 4)},
    "emu": {**FOUR, "attention_head_dim": (2, 4, 4, 4), "layers_per_block": (1, 2, 2, 2)},
}
SMALL["sdxl"] |= {"transformer_layers_per_block": (1, 1, 2), "addition_time_embed_dim": TIME}
SMALL["sdxl"] |= {"projection_class_embeddings_input_dim": POOLED + 6 * TIME}


@cache
def _built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = architectures.EMU_SECOND_CONTEXT
        architectures.EMU_SECOND_CONTEXT = SECOND_TEXT
        try:
            layout = "tiny" if name == "shallow" else name
            return architectures.build_unet(layout, "cpu", **SMALL[name]).eval().requires_grad_(False)
        finally:
            architectures.EMU_SECOND_CONTEXT = whole


@cache
def meta_unet(name: str) -> Any:
    """A U-Net in its true size, without weights. Shared: look, do not touch."""
    return architectures.build_unet(name)


def meta_stack(name: str, **settings: Any) -> TemporalStack:
    with torch.device("meta"):
        return TemporalStack.for_unet(meta_unet(name), base=name, **settings)


def small_unet(name: str = "tiny", dtype: torch.dtype = torch.float32) -> Any:
    """A frozen U-Net of its own, the same weights every time."""
    unet = copy.deepcopy(_built(name))
    return nn.Module.to(unet, dtype)  # diffusers' own `to` warns of what does not concern these


def new_stack(unet: nn.Module, base: str = "tiny", **settings: Any) -> TemporalStack:
    """The identity, in the U-Net's precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return TemporalStack.for_unet(unet, base=base, **{"head_dim": HEAD, **settings}).to(next(unet.parameters()).dtype)


def random_stack(unet: nn.Module, base: str = "tiny", seed: int = 2, **settings: Any) -> TemporalStack:
    return randomise(new_stack(unet, base, **settings), seed)


def randomise(stack: TemporalStack, seed: int = 2, scale: float = 0.1) -> TemporalStack:
    """Every parameter far from its start, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return stack


@dataclass
class Inputs:
    """Of `b` videos of `f` frames: latents (b f, C, h, w), t (b f,), text (b, tokens, width), conditioning (b f, C+1, h, w)."""

    latents: torch.Tensor
    t: torch.Tensor
    text: torch.Tensor
    conditioning: torch.Tensor
    added: dict[str, torch.Tensor]  # (b, ...)
    frames: int

    @property
    def texts(self) -> tuple[torch.Tensor, ...]:
        return self.text.split((TEXT, SECOND_TEXT), -1) if self.text.shape[-1] == TEXT + SECOND_TEXT else (self.text,)


def inputs(name: str = "tiny", b: int = 2, f: int = 4, size: int = 8, dtype: torch.dtype = torch.float32) -> Inputs:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    channels, width = (8, TEXT + SECOND_TEXT) if name == "emu" else (4, TEXT)
    t = torch.tensor([17, 612])[:b].repeat_interleave(f)
    added = {"text_embeds": normal(b, POOLED), "time_ids": normal(b, 6)} if name == "sdxl" else {}
    latents = normal(b * f, channels, size, size)
    return Inputs(latents, t, normal(b, TOKENS, width), normal(b * f, channels + 1, size, size), added, f)


def plain(unet: Any, x: Inputs) -> torch.Tensor:
    """The U-Net called as it is, every frame a picture of its own."""
    added = {name: value.repeat_interleave(x.frames, 0) for name, value in x.added.items()}
    text = x.text.repeat_interleave(x.frames, 0)
    return unet(x.latents, x.t, text, added_cond_kwargs=added or None, return_dict=False)[0]


def as_run(x: Inputs, conditioned: bool = False, strength: float = 1.0) -> Run:
    return Run(x.frames, x.texts, x.conditioning if conditioned else None, strength)


def video(attachment: Attachment, x: Inputs, conditioned: bool = False, strength: float = 1.0) -> torch.Tensor:
    """The U-Net called as a video model."""
    with attachment.run(as_run(x, conditioned, strength)):
        return plain(attachment.unet, x)


@contextmanager
def attached(stack: TemporalStack, unet: nn.Module) -> Iterator[Attachment]:
    attachment = stack.attach(unet)
    try:
        yield attachment
    finally:
        attachment.detach()


def hook_count(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(inner, kind)) for inner in module.modules() for kind in kinds)


def decoded_latents(base: Any) -> list[torch.Tensor]:
    """A list that takes copies of all latents which this base decodes from now on."""
    latents: list[torch.Tensor] = []
    decode = base.decode_latents
    base.decode_latents = lambda x: (latents.append(x.clone()), decode(x))[1]
    return latents
