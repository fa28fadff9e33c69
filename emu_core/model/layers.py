"""The temporal layers: convolution and transformer over frames, both the identity at the start.

Shapes: `b` videos, `f` frames, `c` channels, `h w` height and width. Layers take `(b f) c h w`, frames fastest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from .attention import Attend, sdpa

AttentionKind = Literal["self", "text"]
PositionKind = Literal["rotary", "sinusoidal"]
ROTARY_BASE = 100.0
"""Slowest rotation: one turn in 628 frames. Clips have 8 to 64, so the usual 10 000 would leave most pairs still."""


@dataclass(frozen=True)
class LayerTypes:
    """The classes that layers are made of: torch.nn outside ComfyUI, comfy.ops inside it."""

    linear: Any = nn.Linear
    conv2d: Any = nn.Conv2d
    layer_norm: Any = nn.LayerNorm
    group_norm: Any = nn.GroupNorm


TORCH_LAYERS = LayerTypes()


class TemporalConv(nn.Module):
    """Full 1-D convolution over the frames, C -> C, as x + conv(x) with a zero kernel and a zero bias.

    A Dirac kernel is the same function with the same gradients; this form is exact in every precision.
    It is written as a (k, 1) convolution over (frames, pixels), which needs no batch of one row per pixel.
    """

    def __init__(self, channels: int, kernel: int = 3, types: LayerTypes = TORCH_LAYERS, **factory: Any) -> None:
        super().__init__()
        self.conv = types.conv2d(channels, channels, (kernel, 1), padding=(kernel // 2, 0), **factory)
        zero_(self.conv)

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """(b f) c h w -> what is to be added, same shape."""
        height = x.shape[2]
        y = self.conv(rearrange(x, "(b f) c h w -> b c f (h w)", f=frames))
        return rearrange(y, "b c f (h w) -> (b f) c h w", h=height)


class TemporalAttention(nn.Module):
    """Multi-head attention of each pixel's frames, to one another with rotary positions or to the text."""

    def __init__(
        self, channels: int, head_dim: int, context: int | None = None, types: LayerTypes = TORCH_LAYERS, **factory: Any
    ) -> None:
        super().__init__()
        if channels % head_dim or head_dim % 2:
            raise ValueError(f"{channels} channels do not split into even heads of {head_dim}: choose another head_dim")
        self.heads = channels // head_dim
        source = channels if context is None else context
        self.to_q = types.linear(channels, channels, bias=False, **factory)
        self.to_k = types.linear(source, channels, bias=False, **factory)
        self.to_v = types.linear(source, channels, bias=False, **factory)
        self.to_out = types.linear(channels, channels, **factory)
        zero_(self.to_out)

    def to_frames(self, x: torch.Tensor, angles: torch.Tensor | None, attend: Attend) -> torch.Tensor:
        """(b, p, f, c) for p pixels; `angles` (f, head_dim / 2) in radians, or None for no rotary positions."""
        pixels = x.shape[1]
        q, k, v = (rearrange(m(x), "b p f (n d) -> (b p) n f d", n=self.heads) for m in (self.to_q, self.to_k, self.to_v))
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        y = attend(q, k, v)
        return self.to_out(rearrange(y, "(b p) n f d -> b p f (n d)", p=pixels))

    def to_text(self, x: torch.Tensor, text: torch.Tensor, attend: Attend) -> torch.Tensor:
        """(b, p, f, c) to text (b, tokens, context). All pixels of a video share its text, so keys are made once a video."""
        pixels = x.shape[1]
        q = rearrange(self.to_q(x), "b p f (n d) -> b n (p f) d", n=self.heads)
        k, v = (rearrange(m(text), "b t (n d) -> b n t d", n=self.heads) for m in (self.to_k, self.to_v))
        return self.to_out(rearrange(attend(q, k, v), "b n (p f) d -> b p f (n d)", p=pixels))


class GEGLU(nn.Module):
    """Gated MLP (Shazeer, arXiv 2002.05202), c -> 2 x ratio c -> c, its last layer zero."""

    def __init__(self, channels: int, ratio: int = 4, types: LayerTypes = TORCH_LAYERS, **factory: Any) -> None:
        super().__init__()
        self.proj = types.linear(channels, 2 * ratio * channels, **factory)
        self.out = types.linear(ratio * channels, channels, **factory)
        zero_(self.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return self.out(value * F.gelu(gate))


@dataclass(frozen=True)
class Places:
    """What tells frames apart: rotary `angles` (f, head_dim / 2) in radians, and a `code` (f, c) that is added to what the
    attentions read. None for what a transformer does not use."""

    angles: torch.Tensor | None = None
    code: torch.Tensor | None = None


class TemporalLayer(nn.Module):
    """One layer of a temporal transformer: attentions, then the MLP, each residual and zero at the start."""

    def __init__(
        self,
        channels: int,
        head_dim: int,
        attentions: Sequence[AttentionKind],
        context: int,
        mlp_ratio: int = 4,
        types: LayerTypes = TORCH_LAYERS,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.kinds = tuple(attentions)
        contexts = [context if kind == "text" else None for kind in self.kinds]
        self.norms = nn.ModuleList(types.layer_norm(channels, **factory) for _ in self.kinds)
        self.attentions = nn.ModuleList(TemporalAttention(channels, head_dim, c, types, **factory) for c in contexts)
        self.mlp_norm = types.layer_norm(channels, **factory)
        self.mlp = GEGLU(channels, mlp_ratio, types, **factory)

    def forward(self, x: torch.Tensor, places: Places, text: torch.Tensor | None, attend: Attend) -> torch.Tensor:
        """(b, p, f, c) -> the same."""
        attention: Any
        for kind, norm, attention in zip(self.kinds, self.norms, self.attentions, strict=True):
            y = norm(x) if places.code is None else norm(x) + places.code
            if kind == "self":
                x = x + attention.to_frames(y, places.angles, attend)
            else:
                assert text is not None, "a layer that attends to the text was run without it"
                x = x + attention.to_text(y, text, attend)
        return x + self.mlp(self.mlp_norm(x))


class TemporalTransformer(nn.Module):
    """Residual temporal transformer block: `len(contexts)` layers, one for each of the site's spatial transformer layers.

    `contexts` are the widths of the text states that each layer may attend to. `positions`: how a layer tells frames apart;
    rotary positions say how far two frames are from each other, sinusoidal ones which frame it is, to both attentions.
    """

    def __init__(
        self,
        channels: int,
        head_dim: int,
        attentions: Sequence[AttentionKind],
        contexts: Sequence[int],
        mlp_ratio: int = 4,
        types: LayerTypes = TORCH_LAYERS,
        positions: Sequence[PositionKind] = ("rotary",),
        **factory: Any,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.positions = tuple(positions)
        self.layers = nn.ModuleList(
            TemporalLayer(channels, head_dim, attentions, c, mlp_ratio, types, **factory) for c in contexts
        )

    def forward(self, x: torch.Tensor, frames: int, text: Sequence[torch.Tensor], attend: Attend = sdpa) -> torch.Tensor:
        """(b f) c h w -> the same. `text`: one (b, tokens, context) for all layers, or one for each; may be empty."""
        height = x.shape[2]
        places = Places(
            angles=rotary_angles(frames, self.head_dim, x.device) if "rotary" in self.positions else None,
            code=sinusoids(frames, x.shape[1], x.device).to(x.dtype) if "sinusoidal" in self.positions else None,
        )
        y = rearrange(x, "(b f) c h w -> b (h w) f c", f=frames)
        for i, layer in enumerate(self.layers):
            states = text[min(i, len(text) - 1)] if text else None
            y = layer(y, places, states, attend)
        return rearrange(y, "b (h w) f c -> (b f) c h w", h=height)


def rotary_angles(frames: int, head_dim: int, device: torch.device | str) -> torch.Tensor:
    """Angles (f, head_dim / 2) in radians of rotary positions (Su et al., arXiv 2104.09864), base ROTARY_BASE."""
    rates = ROTARY_BASE ** -(torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    return torch.arange(frames, device=device, dtype=torch.float32)[:, None] * rates


def sinusoids(frames: int, channels: int, device: torch.device | str) -> torch.Tensor:
    """Codes (f, c) of the frames' numbers: sine and cosine in turn, as in Vaswani et al. (arXiv 1706.03762, section 3.5)."""
    rates = 10_000.0 ** -(torch.arange(0, channels, 2, device=device, dtype=torch.float32) / channels)
    angles = torch.arange(frames, device=device, dtype=torch.float32)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def rotate(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turn the halves of x (..., f, d) by `angles` (f, d / 2) as pairs of coordinates."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def zero_(module: nn.Module) -> None:
    """Fill a layer's parameters with zeros."""
    for parameter in module.parameters(recurse=False):
        nn.init.zeros_(parameter)
