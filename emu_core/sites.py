"""The sites of a U-Net: the places where a temporal layer can act, found from the network's structure.

A site's name does not depend on how an implementation lays out its modules. `{side}` is `down`, `mid` or `up`;
`i` counts resolutions (the finest is 0 on the way down and last on the way up), `j` blocks within one:

    conv_in  conv_out                                   conv
    {side}.{i}.resnet.{j}.conv1 | conv2 | shortcut      conv      (mid: `mid.resnet.{j}...`)
    {side}.{i}.downsample | upsample                    conv
    {side}.{i}.resnet.{j}                               resnet
    {side}.{i}.attention.{j}                            attention
    mid                                                 block

The 1 x 1 convolutions that some attention blocks have at their entrance and exit belong to the block and are no sites.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

SiteKind = Literal["conv", "resnet", "attention", "block"]


@dataclass(frozen=True)
class Site:
    """`channels` of the output. For attention, `contexts` are the widths of the text states of its transformer layers."""

    name: str
    kind: SiteKind
    channels: int
    contexts: tuple[int, ...] = ()


Found = dict[str, tuple[Site, nn.Module]]


def find_sites(unet: nn.Module) -> Found:
    """Every site of a U-Net with the module whose output it is, block by block in the order of the computation."""
    if not (hasattr(unet, "down_blocks") and hasattr(unet, "up_blocks") and hasattr(unet, "conv_in")):
        raise _unreadable(unet, "with conv_in, down_blocks, mid_block and up_blocks")
    try:
        return {site.name: (site, module) for site, module in _diffusers_sites(unet)}
    except AttributeError as error:  # a relative of other parts, such as a U-Net without text or one for video
        raise _unreadable(unet, f"found other parts: {error}") from error


def _unreadable(unet: nn.Module, why: str) -> ValueError:
    return ValueError(f"{type(unet).__name__} is no U-Net that can be read: expected diffusers' UNet2DConditionModel, {why}")


def _diffusers_sites(unet: Any) -> Iterator[tuple[Site, nn.Module]]:
    yield _conv("conv_in", unet.conv_in)
    for i, block in enumerate(unet.down_blocks):
        yield from _block_sites(f"down.{i}", block)
        for sampler in getattr(block, "downsamplers", None) or ():
            yield _conv(f"down.{i}.downsample", sampler.conv)
    if unet.mid_block is not None:
        yield from _block_sites("mid", unet.mid_block)
        yield Site("mid", "block", unet.mid_block.resnets[-1].conv2.out_channels), unet.mid_block
    for i, block in enumerate(unet.up_blocks):
        yield from _block_sites(f"up.{i}", block)
        for sampler in getattr(block, "upsamplers", None) or ():
            yield _conv(f"up.{i}.upsample", sampler.conv)
    yield _conv("conv_out", unet.conv_out)


def _block_sites(prefix: str, block: Any) -> Iterator[tuple[Site, nn.Module]]:
    for j, resnet in enumerate(block.resnets):
        name = f"{prefix}.resnet.{j}"
        yield _conv(f"{name}.conv1", resnet.conv1)
        yield _conv(f"{name}.conv2", resnet.conv2)
        if resnet.conv_shortcut is not None:
            yield _conv(f"{name}.shortcut", resnet.conv_shortcut)
        yield Site(name, "resnet", resnet.conv2.out_channels), resnet
    for j, attention in enumerate(getattr(block, "attentions", None) or ()):
        contexts = tuple(layer.attn2.to_k.in_features for layer in attention.transformer_blocks)
        yield Site(f"{prefix}.attention.{j}", "attention", attention.norm.num_channels, contexts), attention


def _conv(name: str, module: nn.Conv2d) -> tuple[Site, nn.Module]:
    return Site(name, "conv", module.out_channels), module
