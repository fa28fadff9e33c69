"""The temporal layers of public checkpoints: the motion module of AnimateDiff and its relatives, and ModelScope's convolutions.

Shapes: `b` videos, `f` frames, `c` channels, `h w` height and width. Layers take `(b f) c h w`, frames fastest. They follow
AnimateDiff (Guo et al., arXiv 2307.04725) and ModelScope (Wang et al., arXiv 2308.06571).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from ..errors import UserError
from ..model.kernels import Attend
from ..model.layers import GEGLU, TORCH_LAYERS, AttentionKind, Layers, LayerTypes, Run, TemporalAttention, TemporalModule, zero_
from ..model.sites import Site

NormOver = Literal["frame", "video"]
GROUPS = 32


@dataclass(frozen=True)
class MotionModules(Layers):
    """The shape of motion modules.

    Attentions have `heads` heads, or heads of `head_dim` where that is not 0. `positions`: rows of the table of positions,
    which is the longest clip; 0 for none, and no limit. `norm`: whether the group norm at a module's entrance takes a frame or a
    whole video at a time, where implementations differ; `image_norms`: the same of the group norms of the image model's residual
    blocks, which some originals change. `entrance` is the inner width of the module behind conv_in (ModelScope), which has 8
    heads; 0 where there is none.
    """

    heads: int = 8
    head_dim: int = 0
    blocks: int = 1
    attentions: int = 2
    positions: int = 32
    norm: NormOver = "frame"
    image_norms: NormOver = "frame"
    entrance: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("norm", "image_norms"):
            if getattr(self, name) not in ("frame", "video"):
                raise UserError(f"{name} must be frame or video, found {getattr(self, name)!r}")
        if min(self.heads, self.blocks, self.attentions) < 1 or min(self.positions, self.head_dim, self.entrance) < 0:
            raise UserError(f"heads, blocks and attentions of a motion module must be 1 or more, found {self}")

    @property
    def kinds(self) -> tuple[AttentionKind, ...]:
        """Self-attentions alone; motion modules read no text."""
        return tuple("self" for _ in range(self.attentions))

    @property
    def max_frames(self) -> int | None:
        """The rows of the table of positions; None without one."""
        return self.positions or None

    @property
    def norms_over_video(self) -> bool:
        """As `image_norms` says."""
        return self.image_norms == "video"

    def build(self, site: Site, types: LayerTypes, **factory: Any) -> TemporalModule:
        """ModelScope's convolutions for a `resnet` site; a motion module for a `layer` or `attention` site and for conv_in."""
        if site.kind == "resnet":
            return ConvStack(site.channels, types, **factory)
        if site.kind in ("layer", "attention") or site.name == "conv_in":
            return MotionModule(site.channels, self, types, self.entrance if site.name == "conv_in" else None, **factory)
        return super().build(site, types, **factory)

    def embed(self, width: int, types: LayerTypes, **factory: Any) -> nn.Module:
        """FancyVideo's way."""
        return ValueEmbedding(width, 4 * width, types, **factory)


class Positions(nn.Module):
    """A table of codes (length, c), one for each frame's number. In a module of its own, so that it is moved like any weight."""

    def __init__(self, length: int, channels: int, **factory: Any) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(length, channels, **factory))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., f, c) with the code of each frame added."""
        return x + self.table[: x.shape[-2]].to(x.device, x.dtype)


class MotionAttention(nn.Module):
    """Self-attention of each pixel's frames, behind a layer norm and with the frames' positions."""

    def __init__(self, channels: int, heads: int, positions: int, types: LayerTypes, **factory: Any) -> None:
        super().__init__()
        self.norm = types.layer_norm(channels, **factory)
        self.positions = Positions(positions, channels, **factory) if positions else None
        self.attention = TemporalAttention(channels, channels // heads, None, types, **factory)

    def forward(self, x: torch.Tensor, attend: Attend) -> torch.Tensor:
        """(b, p, f, c) -> what is to be added."""
        y = self.norm(x) if self.positions is None else self.positions(self.norm(x))
        return self.attention.to_frames(y, None, attend)


class MotionBlock(nn.Module):
    """Self-attentions over the frames, then a gated MLP, each residual."""

    def __init__(self, channels: int, heads: int, config: MotionModules, types: LayerTypes, **factory: Any) -> None:
        super().__init__()
        attentions = (MotionAttention(channels, heads, config.positions, types, **factory) for _ in range(config.attentions))
        self.attentions = nn.ModuleList(attentions)
        self.mlp_norm = types.layer_norm(channels, **factory)
        self.mlp = GEGLU(channels, 4, types, **factory)

    def forward(self, x: torch.Tensor, attend: Attend) -> torch.Tensor:
        """(b, p, f, c) -> the same."""
        for attention in self.attentions:
            x = x + attention(x, attend)
        return x + self.mlp(self.mlp_norm(x))


class MotionModule(TemporalModule):
    """Group norm, projection, blocks, projection; zero at the start. `inner` is the width between the projections."""

    def __init__(
        self, channels: int, config: MotionModules, types: LayerTypes = TORCH_LAYERS, inner: int | None = None, **factory: Any
    ) -> None:
        super().__init__()
        heads = config.heads if inner is not None or not config.head_dim else channels // config.head_dim
        inner = channels if inner is None else inner
        if channels % GROUPS:
            raise UserError(f"a motion module needs a multiple of {GROUPS} channels, found {channels}")
        if heads < 1 or inner % heads:
            raise UserError(f"a width of {inner} does not split into {heads} heads")
        self.over_video = config.norm == "video"
        self.norm = types.group_norm(GROUPS, channels, eps=1e-6, **factory)
        self.proj_in = types.linear(channels, inner, **factory)
        self.blocks = nn.ModuleList(MotionBlock(inner, heads, config, types, **factory) for _ in range(config.blocks))
        self.proj_out = types.linear(inner, channels, **factory)
        zero_(self.proj_out)

    def change(self, x: torch.Tensor, run: Run) -> torch.Tensor:
        """(b f) c h w -> what is to be added, same shape."""
        height, frames = x.shape[2], run.frames
        if self.over_video:
            y = rearrange(self.norm(rearrange(x, "(b f) c h w -> b c f (h w)", f=frames)), "b c f p -> b p f c")
        else:
            y = rearrange(self.norm(x), "(b f) c h w -> b (h w) f c", f=frames)
        y = self.proj_in(y)
        for block in self.blocks:
            y = block(y, run.attend)
        return rearrange(self.proj_out(y), "b (h w) f c -> (b f) c h w", h=height)


class ConvStack(TemporalModule):
    """Four times group norm, SiLU and a convolution over three frames; the last one zero at the start (ModelScope)."""

    def __init__(self, channels: int, types: LayerTypes = TORCH_LAYERS, **factory: Any) -> None:
        super().__init__()
        if channels % GROUPS:
            raise UserError(f"a temporal convolution of this kind needs a multiple of {GROUPS} channels, found {channels}")
        self.norms = nn.ModuleList(types.group_norm(GROUPS, channels, **factory) for _ in range(4))
        self.convs = nn.ModuleList(types.conv2d(channels, channels, (3, 1), padding=(1, 0), **factory) for _ in range(4))
        zero_(self.convs[-1])

    def change(self, x: torch.Tensor, run: Run) -> torch.Tensor:
        """(b f) c h w -> what is to be added, same shape."""
        height = x.shape[2]
        y = rearrange(x, "(b f) c h w -> b c f (h w)", f=run.frames)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(F.silu(norm(y)))
        return rearrange(y, "b c f (h w) -> (b f) c h w", h=height)


class ValueEmbedding(nn.Module):
    """A number, such as a rate of frames, as an addition to the time embedding: SiLU(Linear(sinusoids)) (FancyVideo)."""

    def __init__(self, width: int, embedding: int, types: LayerTypes = TORCH_LAYERS, **factory: Any) -> None:
        super().__init__()
        self.width = width
        self.linear = types.linear(width, embedding, **factory)
        zero_(self.linear)

    def forward(self, value: float, like: torch.Tensor) -> torch.Tensor:
        """(1, embedding) on the device of `like`."""
        half = self.width // 2
        angles = value * 10_000.0 ** -(torch.arange(half, dtype=torch.float32) / half)
        code = torch.cat([angles.cos(), angles.sin()])[None]  # cosines first, as for the timestep
        return F.silu(self.linear(code.to(like.device, self.linear.weight.dtype)))
