"""The temporal layers against closed forms, torch's own layers and diffusers' blocks with the same weights."""

from __future__ import annotations

import math
from typing import TypeVar

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from emu_core.model.kernels import sdpa
from emu_core.model.layers import (
    GEGLU,
    ROTARY_BASE,
    AttentionKind,
    LayerShape,
    PositionKind,
    Run,
    TemporalAttention,
    TemporalConv,
    TemporalLayer,
    TemporalTransformer,
    rotary_angles,
    rotate,
    sinusoids,
)

M = TypeVar("M", bound=nn.Module)
DOUBLE = torch.float64
SETTINGS: list[tuple[AttentionKind, ...]] = [("self",), ("self", "self"), ("self", "text")]


def shaken(module: M, seed: int = 0) -> M:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return module


def normal(*shape: int, seed: int = 1, dtype: torch.dtype = DOUBLE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def new_transformer(attentions: tuple[AttentionKind, ...], contexts: tuple[int, ...] = (12, 12)) -> TemporalTransformer:
    return TemporalTransformer(16, LayerShape(attentions, head_dim=8), contexts, dtype=DOUBLE)


# -- convolution


def as_conv1d(layer: TemporalConv, x: torch.Tensor, frames: int, weight: torch.Tensor) -> torch.Tensor:
    """The same layer as the paper says it: a 1-D convolution over time, one row for each pixel."""
    b, h = len(x) // frames, x.shape[2]
    rows = rearrange(x, "(b f) c h w -> (b h w) c f", f=frames)
    y = F.conv1d(rows, weight, layer.conv.bias, padding=weight.shape[-1] // 2)
    return rearrange(y, "(b h w) c f -> (b f) c h w", b=b, h=h)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("frames", [1, 2, 8])
def test_conv_is_a_dirac_initialised_conv1d_over_time(kernel: int, frames: int) -> None:
    layer = shaken(TemporalConv(6, kernel, dtype=DOUBLE))
    dirac = nn.init.dirac_(torch.empty(6, 6, kernel, dtype=DOUBLE))
    x = normal(2 * frames, 6, 3, 5)
    torch.testing.assert_close(layer(x, Run(frames)), as_conv1d(layer, x, frames, dirac + layer.conv.weight[..., 0]))


def test_conv_trains_as_a_dirac_initialised_conv1d_does() -> None:
    layer = TemporalConv(6, 3, dtype=DOUBLE)
    explicit = nn.init.dirac_(torch.empty(6, 6, 3, dtype=DOUBLE)).requires_grad_()
    x, wish = normal(8, 6, 3, 5), normal(8, 6, 3, 5, seed=9)
    (layer(x, Run(4)) - wish).square().sum().backward()
    (as_conv1d(layer, x, 4, explicit) - wish).square().sum().backward()
    assert explicit.grad is not None
    assert explicit.grad.abs().max() > 1
    torch.testing.assert_close(layer.conv.weight.grad[..., 0], explicit.grad)


# -- the identity at the start


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_new_layers_change_nothing(dtype: torch.dtype) -> None:
    x, text = normal(6, 16, 2, 3, dtype=dtype), normal(2, 5, 12, dtype=dtype)
    assert torch.equal(TemporalConv(16, dtype=dtype)(x, Run(3)), x)
    for attentions in SETTINGS:
        block = TemporalTransformer(16, LayerShape(attentions, head_dim=8), (12, 12), dtype=dtype)
        assert torch.equal(block(x, Run(3, (text,))), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_layer_of_lower_precision_rounds_what_it_adds_and_not_what_it_gets(dtype: torch.dtype) -> None:
    """A small change of a large input: rounded with it, most of the change would be lost."""
    layer, x, run = TemporalConv(16), 5 * normal(6, 16, 2, 3, dtype=torch.float32), Run(3)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.002, generator=torch.Generator().manual_seed(1))
    wanted = layer(x, run) - x
    found = layer.to(dtype)(x.to(dtype), run, onto=x) - x
    assert (found - wanted).abs().mean() < 0.05 * wanted.abs().mean()


# -- rotary positions


def test_rotation_turns_pairs_of_coordinates_as_complex_numbers_do() -> None:
    x, angles = normal(3, 7, 8), rotary_angles(7, 8, "cpu").double()
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(rotate(x, angles), torch.cat([turned.real, turned.imag], -1))


def test_rotation_rates_are_those_of_the_paper_with_base_100() -> None:
    angles = rotary_angles(3, 8, "cpu")
    assert ROTARY_BASE == 100
    expected = [[frame * 100 ** (-2 * i / 8) for i in range(4)] for frame in range(3)]
    torch.testing.assert_close(angles, torch.tensor(expected))


def test_scores_depend_on_the_distance_of_two_frames_alone() -> None:
    """<rotated q at m, rotated k at n> = sum of Re(q conj(k) exp(i rate (m - n))) over the pairs."""
    q, k, rates = normal(8), normal(8, seed=2), 100 ** (-torch.arange(0, 8, 2, dtype=DOUBLE) / 8)
    angles = torch.arange(12, dtype=DOUBLE)[:, None] * rates
    scores = rotate(q.expand(12, 8), angles) @ rotate(k.expand(12, 8), angles).T
    product = torch.complex(q[:4], q[4:]) * torch.complex(k[:4], k[4:]).conj()
    distance = torch.arange(12)[:, None] - torch.arange(12)
    closed = (product * torch.exp(1j * rates * distance[..., None])).real.sum(-1)
    torch.testing.assert_close(scores, closed)


def test_attention_does_not_know_where_the_clip_begins() -> None:
    layer = shaken(TemporalAttention(16, 8, dtype=DOUBLE))
    x, rates = normal(1, 4, 9, 16), 100 ** (-torch.arange(0, 8, 2, dtype=DOUBLE) / 8)
    angles = torch.arange(9 + 20, dtype=DOUBLE)[:, None] * rates
    torch.testing.assert_close(layer.to_frames(x, angles[20:], sdpa), layer.to_frames(x, angles[:9], sdpa))
    assert not torch.allclose(layer.to_frames(x, 2 * angles[:9], sdpa), layer.to_frames(x, angles[:9], sdpa))


def test_attention_knows_the_order_of_the_frames() -> None:
    layer = shaken(TemporalAttention(16, 8, dtype=DOUBLE))
    x, angles = normal(1, 4, 9, 16), rotary_angles(9, 8, "cpu").double()
    order = torch.tensor([2, 0, 1, 3, 4, 5, 6, 7, 8])
    assert not torch.allclose(layer.to_frames(x[:, :, order], angles, sdpa), layer.to_frames(x, angles, sdpa)[:, :, order])
    still = torch.zeros_like(angles)
    torch.testing.assert_close(layer.to_frames(x[:, :, order], still, sdpa), layer.to_frames(x, still, sdpa)[:, :, order])


# -- sinusoidal positions


@pytest.mark.parametrize("channels", [16, 320])
def test_sinusoids_are_those_of_diffusers(channels: int) -> None:
    """Its module holds the same table that AnimateDiff's motion modules keep as `pe`."""
    table = SinusoidalPositionalEmbedding(channels, max_seq_length=40).pe[0]
    error = 36 * 2 * torch.finfo(torch.float32).eps  # angles of up to 36, each a product of float32's with a rate rounded in it
    torch.testing.assert_close(sinusoids(37, channels, "cpu"), table[:37], atol=error, rtol=0)


@pytest.mark.parametrize("attention", ["self", "text"])
def test_sinusoids_enter_what_each_attention_reads(attention: AttentionKind) -> None:
    """With one constant feature for all frames, only the code can tell them apart."""
    x, text = normal(1, 16, 1, 1).expand(5, 16, 1, 1).contiguous(), normal(1, 4, 12)

    def spread(positions: tuple[PositionKind, ...]) -> float:
        block = shaken(TemporalTransformer(16, LayerShape((attention,), positions, 8), (12,), dtype=DOUBLE))
        return float(block(x, Run(5, (text,))).std(0).max().detach())

    assert spread(("sinusoidal",)) > 1e-2
    assert spread(("rotary",)) < 1e-12  # rotary positions turn queries and keys alike, and the values are all the same
    assert spread(()) < 1e-12
    assert spread(("rotary", "sinusoidal")) > 1e-2


# -- attention and MLP


def test_attention_over_frames_equals_the_formula() -> None:
    layer, frames = shaken(TemporalAttention(16, 8, dtype=DOUBLE)), 5
    x, angles = normal(2, 3, frames, 16), rotary_angles(frames, 8, "cpu").double()
    y = layer.to_frames(x, angles, sdpa)
    for b, p in ((0, 0), (1, 2)):
        heads = []
        for n in range(2):
            part = slice(8 * n, 8 * n + 8)
            q, k, v = (x[b, p] @ m.weight[part].T for m in (layer.to_q, layer.to_k, layer.to_v))
            heads.append((rotate(q, angles) @ rotate(k, angles).T / math.sqrt(8)).softmax(-1) @ v)
        expected = torch.cat(heads, -1) @ layer.to_out.weight.T + layer.to_out.bias
        torch.testing.assert_close(y[b, p], expected)


def test_directed_attention_is_that_of_torch_under_a_mask_and_lets_no_frame_know_a_later_one() -> None:
    """MagicVideo, arXiv 2211.11018: the upper triangle of the frames' matrix is masked."""
    block = shaken(TemporalTransformer(16, LayerShape(("self",), head_dim=8, directed=True), (12,), dtype=DOUBLE))
    x, later = normal(6, 16, 2, 2), normal(6, 16, 2, 2, seed=2)
    later[:4] = x[:4]
    assert torch.equal(block(x, Run(6))[:4], block(later, Run(6))[:4])
    assert not torch.allclose(block(x, Run(6))[4:], block(later, Run(6))[4:])
    undirected = TemporalTransformer(16, LayerShape(("self",), head_dim=8), (12,), dtype=DOUBLE)
    undirected.load_state_dict(block.state_dict())
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    masked = undirected(x, Run(6, attend=lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))
    torch.testing.assert_close(block(x, Run(6)), masked, rtol=1e-12, atol=1e-12)


def test_depthwise_convolution_is_torchs_of_each_channel() -> None:
    layer, x = shaken(TemporalConv(5, 3, depthwise=True, dtype=DOUBLE)), normal(8, 5, 2, 3)
    rows = rearrange(x, "(b f) c h w -> (b h w) c f", f=4)
    for channel in range(5):
        own = F.conv1d(rows[:, channel : channel + 1], layer.conv.weight[channel : channel + 1, :, :, 0], padding=1)
        expected = x[:, channel] + rearrange(own[:, 0] + layer.conv.bias[channel], "(b h w) f -> (b f) h w", b=2, h=2)
        torch.testing.assert_close(layer(x, Run(4))[:, channel], expected, rtol=1e-12, atol=1e-12)


def test_gated_mlp_equals_that_of_diffusers() -> None:
    ours, theirs = shaken(GEGLU(16, 4, dtype=DOUBLE)), FeedForward(16, mult=4, activation_fn="geglu").double()
    theirs.net[0].proj.load_state_dict(ours.proj.state_dict())
    theirs.net[2].load_state_dict(ours.out.state_dict())
    x = normal(3, 7, 16)
    torch.testing.assert_close(ours(x), theirs(x))


def test_layer_equals_diffusers_transformer_block_when_positions_stand_still() -> None:
    ours = shaken(TemporalLayer(16, LayerShape(head_dim=8), 12, dtype=DOUBLE))
    theirs = BasicTransformerBlock(16, 2, 8, cross_attention_dim=12, activation_fn="geglu").double().eval()
    pairs = [(theirs.norm1, ours.norms[0]), (theirs.norm2, ours.norms[1]), (theirs.norm3, ours.mlp_norm)]
    pairs += [(theirs.ff.net[0].proj, ours.mlp.proj), (theirs.ff.net[2], ours.mlp.out)]
    for attention, own in ((theirs.attn1, ours.attentions[0]), (theirs.attn2, ours.attentions[1])):
        pairs += [(attention.to_q, own.to_q), (attention.to_k, own.to_k), (attention.to_v, own.to_v)]
        pairs += [(attention.to_out[0], own.to_out)]
    for module, own in pairs:
        module.load_state_dict(own.state_dict())
    x, text = normal(2, 6, 5, 16), normal(2, 4, 12, seed=5)
    y = theirs(rearrange(x, "b p f c -> (b p) f c"), encoder_hidden_states=text.repeat_interleave(6, 0))
    torch.testing.assert_close(ours(x, None, None, text, sdpa), rearrange(y, "(b p) f c -> b p f c", b=2))


# -- the whole block


@pytest.mark.parametrize("attentions", SETTINGS)
def test_one_block_serves_any_number_of_frames(attentions: tuple[AttentionKind, ...]) -> None:
    block, text = shaken(new_transformer(attentions)), normal(2, 5, 12)
    for frames in (1, 8, 16, 37):
        x = normal(2 * frames, 16, 2, 3)
        y = block(x, Run(frames, (text,)))
        assert y.shape == x.shape
        assert torch.isfinite(y).all()
        torch.testing.assert_close(y[:frames], block(x[:frames], Run(frames, (text[:1],))))


@pytest.mark.parametrize("attentions", SETTINGS)
def test_block_mixes_frames_but_neither_pixels_nor_videos(attentions: tuple[AttentionKind, ...]) -> None:
    block, text, x = shaken(new_transformer(attentions)), normal(2, 5, 12), normal(8, 16, 2, 3)
    other = x.clone()
    other[3, :, 0, 1] += normal(16, seed=8)  # frame 3 of video 0
    changed = (block(x, Run(4, (text,))) - block(other, Run(4, (text,)))).abs().amax(1)
    assert (changed[:4, 0, 1] > 1e-4).all()
    changed[:4, 0, 1] = 0
    assert changed.max() < 1e-12


def test_text_reaches_a_block_only_where_a_layer_attends_to_it() -> None:
    x, text, other = normal(8, 16, 2, 3), normal(2, 5, 12), normal(2, 5, 12, seed=7)
    for attentions in SETTINGS:
        block = shaken(new_transformer(attentions))
        assert torch.equal(block(x, Run(4, (text,))), block(x, Run(4, (other,)))) == ("text" not in attentions)
        if "text" not in attentions:
            assert torch.equal(block(x, Run(4, ())), block(x, Run(4, (text,))))


def test_each_layer_reads_its_own_text() -> None:
    block = shaken(new_transformer(("self", "text"), (12, 20)))
    x, first, second = normal(8, 16, 2, 3), normal(2, 5, 12), normal(2, 5, 20)
    y = block(x, Run(4, (first, second)))
    for texts in ((first + 1, second), (first, second + 1)):
        assert not torch.allclose(block(x, Run(4, texts)), y)
    angles = rotary_angles(4, 8, "cpu")
    inner = rearrange(x, "(b f) c h w -> b (h w) f c", f=4)
    inner = block.layers[1](block.layers[0](inner, angles, None, first, sdpa), angles, None, second, sdpa)
    torch.testing.assert_close(y, rearrange(inner, "b (h w) f c -> (b f) c h w", h=2))


@pytest.mark.parametrize(("channels", "head_dim"), [(16, 12), (15, 5)])
def test_heads_that_do_not_fit_are_refused(channels: int, head_dim: int) -> None:
    with pytest.raises(ValueError, match=f"{channels} channels.*{head_dim}"):
        TemporalAttention(channels, head_dim)
