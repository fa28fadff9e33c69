"""The temporal layers: convolution and transformer over frames, both the identity at the start.

Shapes: `b` videos, `f` frames, `c` channels, `h w` height and width. Layers take `(b f) c h w`, frames fastest, and what the run
brings, and return it with what they add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from ..errors import UserError
from .kernels import Attend, causal, sdpa
from .sites import Site

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


@dataclass(frozen=True)
class Run:
    """What one run of a video U-Net needs, beside the U-Net's own inputs of batch (b f).

    `conditioning` (b f, C+1, h, w) in the stack's channel order, or None for no image. `text`: states (b, tokens, width),
    one for all transformer layers or one for each. `strength` 0 switches the temporal layers off, 1 is as trained; the
    image channels are not scaled by it. `values` are numbers for the time embedding, in place of the stack's own defaults.
    """

    frames: int
    text: Sequence[torch.Tensor] = ()
    conditioning: torch.Tensor | None = None
    strength: float = 1.0
    attend: Attend = sdpa
    values: Mapping[str, float] = field(default_factory=dict)


class TemporalModule(nn.Module):
    """What a stack has at a site. `recomputed`: its activations are worth making again under gradient checkpointing."""

    recomputed = False

    def forward(
        self, x: torch.Tensor, run: Run, strength: float | torch.Tensor = 1.0, onto: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(b f) c h w -> the same with `strength` times its change added. `onto`: x before it was rounded to the layer's
        precision, to which the change is added then."""
        change, onto = self.change(x, run), x if onto is None else onto
        return onto + like(change if is_one(strength) else strength * change, onto)

    def change(self, x: torch.Tensor, run: Run) -> torch.Tensor:
        """(b f) c h w -> what is to be added, same shape."""
        raise NotImplementedError


@dataclass(frozen=True)
class Layers:
    """Which layers a stack has and how they are to be run; `LayerShape` is the paper's. `mixing`: learned gives every layer a
    weight of what it adds, as in Align Your Latents."""

    mixing: Literal["residual", "learned"] = field(default="residual", kw_only=True)

    def __post_init__(self) -> None:
        if self.mixing not in ("residual", "learned"):
            raise UserError(f"mixing must be residual or learned, found {self.mixing!r}")

    @property
    def kinds(self) -> tuple[AttentionKind, ...]:
        """What the attentions of a layer attend to, in their order."""
        return ()

    @property
    def max_frames(self) -> int | None:
        """The longest clip that a table of positions allows; None for no limit."""
        return None

    @property
    def norms_over_video(self) -> bool:
        """Whether the group norms of the image model's residual blocks run over all frames of a video."""
        return False

    def build(self, site: Site, types: LayerTypes, **factory: Any) -> TemporalModule:
        """The layer of a site. ValueError for a kind of site that these layers do not have."""
        raise UserError(f"site {site.name} is of kind {site.kind!r}, for which this kind of stack has no layer")

    def embed(self, width: int, types: LayerTypes, **factory: Any) -> nn.Module:
        """What makes a number into an addition to the time embedding, whose width is four times `width`."""
        raise UserError("stacks of this kind are told no numbers")


@dataclass(frozen=True)
class LayerShape(Layers):
    """The shape of the paper's layers: the attentions of a transformer layer in their order, how it tells frames apart, the width
    of a head, the MLP's inner width over its outer, the convolution's kernel. Not the paper's: `directed`, no frame attends to a
    later one (MagicVideo, arXiv 2211.11018); `depthwise`, each channel is convolved by itself."""

    attentions: tuple[AttentionKind, ...] = ("self", "text")
    positions: tuple[PositionKind, ...] = ("rotary",)
    head_dim: int = 64
    mlp_ratio: int = 4
    kernel: int = 3
    directed: bool = False
    depthwise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if set(self.attentions) - {"self", "text"}:
            raise UserError(f"attentions must be self or text, found {self.attentions}")
        if set(self.positions) - {"rotary", "sinusoidal"}:
            raise UserError(f"positions must be rotary or sinusoidal, found {self.positions}")
        if self.kernel % 2 != 1 or self.kernel < 1:
            raise UserError(f"the temporal kernel must be odd, found {self.kernel}")

    @property
    def kinds(self) -> tuple[AttentionKind, ...]:
        """As `attentions` says."""
        return self.attentions

    def build(self, site: Site, types: LayerTypes, **factory: Any) -> TemporalModule:
        """A convolution for a `conv` site, a transformer for an `attention` site."""
        if site.kind == "conv":
            return TemporalConv(site.channels, self.kernel, types, self.depthwise, **factory)
        if site.kind == "attention":
            return TemporalTransformer(site.channels, self, site.contexts, types, **factory)
        return super().build(site, types, **factory)


class TemporalConv(TemporalModule):
    """Full 1-D convolution over the frames, C -> C, as x + conv(x) with a zero kernel and a zero bias; or `depthwise`.

    A Dirac kernel is the same function with the same gradients; this form is exact in every precision.
    It is written as a (k, 1) convolution over (frames, pixels), which needs no batch of one row per pixel.
    """

    def __init__(
        self, channels: int, kernel: int = 3, types: LayerTypes = TORCH_LAYERS, depthwise: bool = False, **factory: Any
    ) -> None:
        super().__init__()
        groups = channels if depthwise else 1
        self.conv = types.conv2d(channels, channels, (kernel, 1), padding=(kernel // 2, 0), groups=groups, **factory)
        zero_(self.conv)

    def change(self, x: torch.Tensor, run: Run) -> torch.Tensor:
        """(b f) c h w -> what is to be added, same shape."""
        height = x.shape[2]
        y = self.conv(rearrange(x, "(b f) c h w -> b c f (h w)", f=run.frames))
        return rearrange(y, "b c f (h w) -> (b f) c h w", h=height)


class TemporalAttention(nn.Module):
    """Multi-head attention of each pixel's frames, to one another with rotary positions or to the text."""

    def __init__(
        self, channels: int, head_dim: int, context: int | None = None, types: LayerTypes = TORCH_LAYERS, **factory: Any
    ) -> None:
        super().__init__()
        if channels % head_dim or head_dim % 2:
            raise UserError(f"{channels} channels do not split into even heads of {head_dim}: choose another head_dim")
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
        """(..., c) -> the same."""
        value, gate = self.proj(x).chunk(2, -1)
        return self.out(value * F.gelu(gate))


class TemporalLayer(nn.Module):
    """One layer of a temporal transformer: attentions, then the MLP, each residual and zero at the start."""

    def __init__(self, channels: int, shape: LayerShape, context: int, types: LayerTypes = TORCH_LAYERS, **factory: Any) -> None:
        super().__init__()
        self.kinds, self.directed = shape.attentions, shape.directed
        contexts = [context if kind == "text" else None for kind in self.kinds]
        self.norms = nn.ModuleList(types.layer_norm(channels, **factory) for _ in self.kinds)
        self.attentions = nn.ModuleList(TemporalAttention(channels, shape.head_dim, c, types, **factory) for c in contexts)
        self.mlp_norm = types.layer_norm(channels, **factory)
        self.mlp = GEGLU(channels, shape.mlp_ratio, types, **factory)

    def forward(
        self, x: torch.Tensor, angles: torch.Tensor | None, code: torch.Tensor | None, text: torch.Tensor | None, attend: Attend
    ) -> torch.Tensor:
        """(b, p, f, c) -> the same. What tells frames apart, if used: rotary `angles` (f, head_dim / 2) in radians, and a `code`
        (f, c) that is added to what the attentions read."""
        attention: Any
        for kind, norm, attention in zip(self.kinds, self.norms, self.attentions, strict=True):
            y = norm(x) if code is None else norm(x) + code
            if kind == "self":
                x = x + attention.to_frames(y, angles, causal if self.directed else attend)
            else:
                assert text is not None, "a layer that attends to the text was run without it"
                x = x + attention.to_text(y, text, attend)
        return x + self.mlp(self.mlp_norm(x))


class TemporalTransformer(TemporalModule):
    """Residual temporal transformer block: `len(contexts)` layers, one for each of the site's spatial transformer layers.

    `contexts` are the widths of the text states that each layer may attend to. Rotary positions say how far two frames are from
    each other, sinusoidal ones which frame it is, to both attentions.
    """

    recomputed = True

    def __init__(
        self, channels: int, shape: LayerShape, contexts: Sequence[int], types: LayerTypes = TORCH_LAYERS, **factory: Any
    ) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(TemporalLayer(channels, shape, c, types, **factory) for c in contexts)

    def forward(
        self, x: torch.Tensor, run: Run, strength: float | torch.Tensor = 1.0, onto: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `TemporalModule`; it has the sum at hand, which x + change would be but for rounding.

        `run.text`: one (b, tokens, context) for all layers, or one for each; may be empty.
        """
        height, positions = x.shape[2], self.shape.positions
        angles = rotary_angles(run.frames, self.shape.head_dim, x.device) if "rotary" in positions else None
        code = sinusoids(run.frames, x.shape[1], x.device).to(x.dtype) if "sinusoidal" in positions else None
        text = [as_weights(states, next(self.parameters())) for states in run.text]
        y = rearrange(x, "(b f) c h w -> b (h w) f c", f=run.frames)
        for i, layer in enumerate(self.layers):
            y = layer(y, angles, code, text[min(i, len(text) - 1)] if text else None, run.attend)
        y = rearrange(y, "b (h w) f c -> (b f) c h w", h=height)
        if onto is not None:
            x, y = onto, onto + like(y - x, onto)
        if is_one(strength):
            return y
        weight = strength.to(x.dtype) if isinstance(strength, torch.Tensor) else strength
        return torch.lerp(x, like(y, x), weight)


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


def is_one(strength: float | torch.Tensor) -> bool:
    """Whether a layer counts as it was trained: nothing is multiplied then, so that bits stay."""
    return not isinstance(strength, torch.Tensor) and strength == 1


def as_weights(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Cast to the precision of a layer's weight, unless autocast does."""
    return x if x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type) else x.to(weight.dtype)


def like(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`y` in the precision and memory layout of `x`: another layout would choose other kernels further on, and other bits."""
    if y.dtype == x.dtype and y.stride() == x.stride():
        return y
    return torch.empty_like(x).copy_(y)
