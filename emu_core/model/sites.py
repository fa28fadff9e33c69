"""The sites of a U-Net: the places where a temporal layer can act, found from the network's structure.

A site's name does not depend on how an implementation lays out its modules. `{side}` is `down`, `mid` or `up`;
`i` counts resolutions (the finest is 0 on the way down and last on the way up), `j` blocks within one:

    conv_in  conv_out                                   conv
    {side}.{i}.resnet.{j}.conv1 | conv2 | shortcut      conv      (mid: `mid.resnet.{j}...`)
    {side}.{i}.downsample | upsample                    conv
    {side}.{i}.resnet.{j}                               resnet
    {side}.{i}.attention.{j}                            attention
    {side}.{i}.layer.{j}                                layer     (the end of resnet j, or of the attention behind it)
    {side}.{i}.resnet.{j}.norm1 | norm2  norm_out       norm
    mid                                                 block
    time_embedding                                      embedding

The 1 x 1 convolutions that some attention blocks have at their entrance and exit belong to the block and are no sites.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from ..errors import UserError

SiteKind = Literal["conv", "resnet", "attention", "layer", "norm", "block", "embedding"]


@dataclass(frozen=True)
class Site:
    """`channels` of the output. For attention, `contexts` are the widths of the text states of its transformer layers."""

    name: str
    kind: SiteKind
    channels: int
    contexts: tuple[int, ...] = ()


Found = dict[str, tuple[Site, Any]]


def find_sites(unet: nn.Module) -> Found:
    """Every site of a U-Net with the module whose output it is, block by block in the order of the computation.

    Both layouts are read: diffusers' UNet2DConditionModel, and the original one of latent diffusion, which ComfyUI uses.
    """
    sites = _ldm_sites if hasattr(unet, "input_blocks") else _diffusers_sites
    try:
        return {site.name: (site, module) for site, module in sites(unet)}
    except (AttributeError, IndexError, TypeError) as error:  # a relative of other parts, such as a U-Net without text
        known = "diffusers' UNet2DConditionModel or that of an SD 1.5, SD 2.1 or SDXL checkpoint"
        raise UserError(f"{type(unet).__name__} is no U-Net that can be read ({error}): expected {known}") from error


def _diffusers_sites(unet: Any) -> Iterator[tuple[Site, nn.Module]]:
    yield Site("time_embedding", "embedding", unet.time_embedding.linear_2.out_features), unet.time_embedding
    yield _conv("conv_in", unet.conv_in)
    for i, block in enumerate(unet.down_blocks):
        yield from _block_sites(f"down.{i}", block)
    if unet.mid_block is not None:
        yield from _block_sites("mid", unet.mid_block)
        yield Site("mid", "block", unet.mid_block.resnets[-1].conv2.out_channels), unet.mid_block
    for i, block in enumerate(unet.up_blocks):
        yield from _block_sites(f"up.{i}", block)
    yield _norm("norm_out", unet.conv_norm_out)
    yield _conv("conv_out", unet.conv_out)


def _block_sites(prefix: str, block: Any) -> Iterator[tuple[Site, nn.Module]]:
    attentions = tuple(getattr(block, "attentions", None) or ())
    for j, resnet in enumerate(block.resnets):
        convs = resnet.conv1, resnet.conv2, resnet.conv_shortcut
        yield from _resnet_sites(f"{prefix}.resnet.{j}", resnet, (resnet.norm1, resnet.norm2), convs)
    for j, attention in enumerate(attentions):
        contexts = tuple(layer.attn2.to_k.in_features for layer in attention.transformer_blocks)
        yield Site(f"{prefix}.attention.{j}", "attention", attention.norm.num_channels, contexts), attention
    for j, resnet in enumerate(block.resnets):
        last = attentions[j] if j < len(attentions) else resnet
        yield Site(f"{prefix}.layer.{j}", "layer", resnet.conv2.out_channels), last
    for name in ("downsample", "upsample"):
        for sampler in getattr(block, f"{name}rs", None) or ():
            yield _conv(f"{prefix}.{name}", sampler.conv)


def _ldm_sites(unet: Any) -> Iterator[tuple[Site, nn.Module]]:
    """The original layout: one flat list of blocks on either way, each a residual block with what follows it."""
    first, *down = unet.input_blocks
    yield Site("time_embedding", "embedding", unet.time_embed[-1].out_features), unet.time_embed
    yield _conv("conv_in", first[0])
    yield from _ldm_side("down", down)
    if unet.middle_block is not None:
        yield from _ldm_side("mid", [unet.middle_block])
        yield Site("mid", "block", unet.middle_block[-1].out_layers[-1].out_channels), unet.middle_block
    yield from _ldm_side("up", unet.output_blocks)
    yield _norm("norm_out", unet.out[0])
    yield _conv("conv_out", unet.out[-1])


def _ldm_side(side: str, blocks: Iterable[Any]) -> Iterator[tuple[Site, nn.Module]]:
    """Residual blocks and attentions are counted within a resolution, which ends where the size changes."""
    level = resnets = attentions = 0
    layers: dict[str, tuple[Site, nn.Module]] = {}
    for module in (module for block in blocks for module in block):
        prefix = side if side == "mid" else f"{side}.{level}"
        if hasattr(module, "transformer_blocks"):
            contexts = tuple(layer.attn2.to_k.in_features for layer in module.transformer_blocks)
            yield Site(f"{prefix}.attention.{attentions}", "attention", module.norm.num_channels, contexts), module
            attentions += 1
            name = f"{prefix}.layer.{resnets - 1}"
            layers[name] = (layers[name][0], module)
        elif hasattr(module, "in_layers"):
            convs = module.in_layers[-1], module.out_layers[-1], module.skip_connection
            yield from _resnet_sites(f"{prefix}.resnet.{resnets}", module, (module.in_layers[0], module.out_layers[0]), convs)
            name = f"{prefix}.layer.{resnets}"
            layers[name] = (Site(name, "layer", module.out_layers[-1].out_channels), module)
            resnets += 1
        else:
            yield from layers.values()
            layers.clear()
            name, sampler = ("downsample", module.op) if side == "down" else ("upsample", module.conv)
            yield _conv(f"{prefix}.{name}", sampler)
            level, resnets, attentions = level + 1, 0, 0
    yield from layers.values()


def _resnet_sites(name: str, module: nn.Module, norms: Iterable[Any], convs: Iterable[Any]) -> Iterator[tuple[Site, nn.Module]]:
    """`convs` are the two and the shortcut, which may be none or the identity."""
    first, second, shortcut = convs
    for i, norm in enumerate(norms, 1):
        yield _norm(f"{name}.norm{i}", norm)
    yield _conv(f"{name}.conv1", first)
    yield _conv(f"{name}.conv2", second)
    if shortcut is not None and not isinstance(shortcut, nn.Identity):
        yield _conv(f"{name}.shortcut", shortcut)
    yield Site(name, "resnet", second.out_channels), module


def _conv(name: str, module: nn.Conv2d) -> tuple[Site, nn.Module]:
    return Site(name, "conv", module.out_channels), module


def _norm(name: str, module: nn.GroupNorm) -> tuple[Site, nn.Module]:
    return Site(name, "norm", module.num_channels), module
