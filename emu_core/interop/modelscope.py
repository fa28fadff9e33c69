"""ModelScope's text-to-video and ZeroScope, in diffusers' layout: convolutions and attentions over the frames.

They were trained together with the image model in the same file, which is of SD 2.1's shape; on another one they make no
sense. `spatial_weights` takes that image model out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch

from ..model.config import ClipShape, Origin, SamplingConfig, StackConfig, UNetShape
from ..model.schedule import ScheduleConfig
from ..model.sites import Site
from .layers import MotionModules
from .layout import DIFFUSERS, Change, Plan, Shapes, is_spatial

_MODULE = re.compile(r"^(?:(down_blocks|up_blocks)\.(\d+)|mid_block)\.(temp_attentions|temp_convs)\.(\d+)\.")
HEAD = 64


def matches(shapes: Shapes) -> bool:
    """Temporal convolutions or attentions in diffusers' names."""
    return any(_MODULE.match(name) for name in shapes)


def plan(shapes: Shapes) -> Plan:
    """See `recognise.import_plan`."""
    sources: dict[str, str] = {}
    changes: dict[str, Change] = {}
    sites: dict[str, Site] = {}
    for prefix, site in _modules(shapes):
        sites[site.name] = site
        key = f"layers.{site.name.replace('.', '-')}."
        if site.kind == "resnet":
            for i in range(4):
                for kind in ("weight", "bias"):
                    sources[f"{key}norms.{i}.{kind}"] = f"{prefix}conv{i + 1}.0.{kind}"
                    sources[f"{key}convs.{i}.{kind}"] = f"{prefix}conv{i + 1}.{3 if i else 2}.{kind}"
                changes[f"{key}convs.{i}.weight"] = lambda kernel: kernel[..., 0]  # of (c, c, 3, 1, 1)
        else:
            sources |= {key + ours: prefix + theirs for theirs, ours in DIFFUSERS.names(1, False)}
    text = shapes.get("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", (0, 0))[1]
    width = shapes.get("conv_in.weight", (0,))[0]
    entrance = shapes.get("transformer_in.proj_in.weight", (0,))[0]
    config = StackConfig(
        unet=UNetShape("sd21" if (width, text) == (320, 1024) else "custom", 4, width, text or None),
        sites=tuple(sites.values()),
        layers=MotionModules(head_dim=HEAD, positions=0, norm="video", entrance=entrance),
        channel_order=(),
        clip=ClipShape(16, 8.0, (256, 256)),
        schedule=ScheduleConfig(zero_snr=False, prediction="epsilon"),
        sampling=SamplingConfig(steps=50, text_guidance=9.0, image_guidance=1.0),
        origin=Origin("modelscope", source="with the image model of its own file"),
    )
    return Plan(config, sources, changes)


def spatial_weights(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The image model's part of a file, as weights of a UNet2DConditionModel."""
    return {name: value for name, value in tensors.items() if is_spatial(name)}


def _modules(shapes: Shapes) -> Iterator[tuple[str, Site]]:
    if "transformer_in.norm.weight" in shapes:
        yield "transformer_in.", Site("conv_in", "conv", shapes["transformer_in.norm.weight"][0])
    for prefix, match in {match.group(0): match for name in shapes if (match := _MODULE.match(name))}.items():
        side, level, folder, j = match.groups()
        place = "mid" if side is None else f"{side.removesuffix('_blocks')}.{level}"
        if folder == "temp_convs":
            yield prefix, Site(f"{place}.resnet.{j}", "resnet", shapes.get(f"{prefix}conv1.0.weight", (0,))[0])
        else:
            yield prefix, Site(f"{place}.attention.{j}", "attention", shapes.get(f"{prefix}norm.weight", (0,))[0])
