"""The U-Nets that stacks are made for."""

from __future__ import annotations

import pytest
import torch

from emu_core.base.architectures import CONFIGS, build_unet
from emu_core.model.stack import TemporalStack

from .helpers import SECOND_TEXT, TEXT, TOKENS, inputs, meta_unet, plain, small_unet


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_is_allocated_for_a_true_size(name: str) -> None:
    unet = meta_unet(name)
    assert {p.device.type for p in unet.parameters()} == {"meta"}
    with torch.device("meta"):
        TemporalStack.for_unet(unet, base=name, head_dim=32 if name == "tiny" else 64).attach(unet).detach()


@pytest.mark.parametrize("name", CONFIGS)
def test_small_widths_run_on_the_cpu(name: str) -> None:
    x = inputs(name, b=1, f=2)
    with torch.no_grad():
        y = plain(small_unet(name), x)
    assert y.shape == x.latents.shape
    assert torch.isfinite(y).all()


def test_emu_is_the_papers_table() -> None:
    """Base width 384, multipliers 1, 2, 4, 4; 3, 4, 4, 4 res blocks; heads of 64; 8 latent channels; texts of 768 and 2048."""
    unet = meta_unet("emu")
    assert [block.resnets[0].conv2.out_channels // 384 for block in unet.down_blocks] == [1, 2, 4, 4]
    assert [len(block.resnets) for block in unet.down_blocks] == [3, 4, 4, 4]
    assert [hasattr(block, "attentions") for block in unet.down_blocks] == [True, True, True, False]
    assert (unet.conv_in.in_channels, unet.conv_out.out_channels) == (8, 8)
    for block in (*unet.down_blocks[:3], unet.mid_block, *unet.up_blocks[1:]):
        for attention in block.attentions:
            first, second = attention.transformer_blocks
            assert [layer.attn2.to_k.in_features for layer in (first, second)] == [768, 2048]
            assert first.attn1.inner_dim // first.attn1.heads == 64


@torch.no_grad()
def test_each_layer_of_emu_reads_its_own_part_of_the_joined_text() -> None:
    unet, x, seen = small_unet("emu"), inputs("emu", b=1, f=1), []
    block = unet.mid_block.attentions[0]
    for layer in block.transformer_blocks:
        layer.attn2.to_k.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    plain(unet, x)
    assert [part.shape for part in seen] == [(1, TOKENS, TEXT), (1, TOKENS, SECOND_TEXT)]
    assert torch.equal(torch.cat(seen, -1), x.text)


def test_unknown_architecture_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'sd3': expected one of tiny, sd15, sd21, sdxl, emu"):
        build_unet("sd3")
