"""A stack on a U-Net: the identity at the start, frames and videos kept apart or mixed, gradients, and no trace left."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from emu_core.model.layers import TemporalTransformer
from emu_core.model.sites import Site
from emu_core.model.stack import Run, TemporalStack
from emu_core.model.video_model import VideoModel

from .helpers import (
    DOUBLE,
    TEXT,
    as_run,
    attached,
    hook_count,
    inputs,
    meta_unet,
    new_stack,
    plain,
    random_stack,
    randomise,
    small_unet,
    video,
)

BASES = ("sd15", "sd21", "sdxl", "emu")


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """The same bits in the same layout, and no NaN, which would hide a difference."""
    return torch.equal(a, b) and a.stride() == b.stride() and a.dtype == b.dtype


# -- the identity


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [8, 16], ids=["inner maps of 1 x 1", "inner maps of 2 x 2"])
@pytest.mark.parametrize("base", BASES)
def test_new_stack_is_the_identity_bit_for_bit(base: str, size: int, channels_last: bool) -> None:
    unet, x = small_unet(base), inputs(base, size=size // 2 if base == "sdxl" else size)
    if channels_last:
        unet.to(memory_format=torch.channels_last)
        x.latents = x.latents.to(memory_format=torch.channels_last)
    expected = plain(unet, x)
    with attached(new_stack(unet, base), unet) as attachment:
        for conditioned, strength in ((False, 1.0), (True, 1.0), (True, 0.3), (False, 0.8), (True, 0.0)):
            assert same(video(attachment, x, conditioned, strength), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("base", ["sd15", "sd21", "sdxl"])
def test_new_stack_is_the_identity_in_half_precision(base: str, dtype: torch.dtype) -> None:
    unet, x = small_unet(base, dtype), inputs(base, f=3, size=4 if base == "sdxl" else 8, dtype=dtype)
    expected = plain(unet, x)
    with attached(new_stack(unet, base), unet) as attachment:
        for conditioned, strength in ((True, 1.0), (True, 0.7)):
            assert same(video(attachment, x, conditioned, strength), expected)


@pytest.mark.parametrize("stacks", [torch.float16, torch.bfloat16, torch.float64])
def test_new_stack_is_the_identity_in_another_precision_than_the_unet(stacks: torch.dtype) -> None:
    unet, x = small_unet(), inputs()
    with attached(new_stack(unet).to(stacks), unet) as attachment:
        assert same(video(attachment, x, conditioned=True), plain(unet, x))


def test_a_stack_of_lower_precision_rounds_its_own_part_alone() -> None:
    unet, x = small_unet(), inputs()
    stack = randomise(new_stack(unet), scale=0.02)
    with attached(stack, unet) as attachment:
        full = video(attachment, x, conditioned=True)
    with attached(stack.to(torch.bfloat16), unet) as attachment:
        low = video(attachment, x, conditioned=True)
    # bfloat16 rounds by up to 2^-9 of a value: of n layers, each this way or that, a sum like sqrt(n), and three times it
    assert (low - full).abs().max() < 3 * 2**-9 * len(stack.config.sites) ** 0.5 * full.abs().max()


@pytest.mark.parametrize("base", BASES)
def test_strength_zero_of_a_trained_stack_is_the_plain_unet(base: str) -> None:
    unet, x = small_unet(base), inputs(base)
    with attached(random_stack(unet, base), unet) as attachment:
        assert same(video(attachment, x, strength=0.0), plain(unet, x))
        assert not torch.allclose(video(attachment, x, strength=0.0, conditioned=True), plain(unet, x), atol=1e-3)


def test_strength_zero_does_not_so_much_as_run_the_layers() -> None:
    unet, x, stack = small_unet(), inputs(), new_stack(small_unet())
    with attached(stack, unet) as attachment:
        for parameter in stack.layers.parameters():
            parameter.fill_(torch.nan)
        assert same(video(attachment, x, conditioned=True, strength=0.0), plain(unet, x))
        assert video(attachment, x, strength=0.5).isnan().any()


def test_strength_scales_each_layers_change() -> None:
    """With a layer at one site alone, what leaves that site moves in proportion."""
    unet, x, config = small_unet(dtype=DOUBLE), inputs(dtype=DOUBLE), new_stack(small_unet()).config
    modules = {"mid.resnet.0.conv1": unet.mid_block.resnets[0].conv1, "mid.attention.0": unet.mid_block.attentions[0]}
    for name, module in modules.items():
        seen: list[torch.Tensor] = []
        site = next(site for site in config.sites if site.name == name)
        with attached(randomise(TemporalStack(replace(config, sites=(site,)))).to(DOUBLE), unet) as attachment:
            note = lambda m, a, out, seen=seen: seen.append(out if torch.is_tensor(out) else out[0])  # noqa: E731
            handle = module.register_forward_hook(note)
            for strength in (0.0, 1.0, 0.25, 2.0):
                video(attachment, x, strength=strength)
            handle.remove()
        off, full, quarter, double = seen
        assert (full - off).abs().max() > 0.01
        torch.testing.assert_close(quarter - off, 0.25 * (full - off))
        torch.testing.assert_close(double - off, 2 * (full - off))


# -- no trace


def weights(unet: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in unet.state_dict().items()}


@pytest.mark.parametrize("base", ["tiny", "emu"])
def test_detached_unet_is_what_it_was(base: str) -> None:
    unet, x = small_unet(base), inputs(base)
    expected, before, modules = plain(unet, x), weights(unet), dict(unet.named_modules())
    own = (hook_count(unet), {name: dict(module.__dict__) for name, module in modules.items()})
    attachment = random_stack(unet, base).attach(unet)
    attachment.enable_gradient_checkpointing()
    assert not torch.allclose(video(attachment, x), expected)
    assert (unet.state_dict().keys(), dict(unet.named_modules())) == (before.keys(), modules)
    attachment.detach()
    assert (hook_count(unet), {name: dict(module.__dict__) for name, module in unet.named_modules()}) == own
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    assert unet.state_dict().keys() == before.keys()
    assert same(video(attachment, x), expected)  # a run of what is detached does nothing


def test_attached_unet_outside_a_run_is_the_plain_unet() -> None:
    unet, x = small_unet(), inputs()
    expected = plain(unet, x)
    with attached(random_stack(unet), unet):
        assert same(plain(unet, x), expected)


def test_attaching_twice_acts_once() -> None:
    unet, x = small_unet(), inputs()
    stack = random_stack(unet)
    with attached(stack, unet) as attachment:
        expected = video(attachment, x, conditioned=True)
    assert not torch.allclose(expected, plain(unet, x), atol=1e-3)
    with attached(stack, unet) as first, attached(stack, unet) as second:
        assert same(video(first, x, conditioned=True), expected)
        assert same(video(second, x, conditioned=True), expected)
        second.detach()
        second.detach()
        assert same(video(first, x, conditioned=True), expected)
    assert hook_count(unet) == 0


def test_two_stacks_on_one_unet_act_in_their_own_runs() -> None:
    unet, x = small_unet(), inputs()
    stacks = {role: random_stack(unet, seed=seed, role=role) for role, seed in (("F", 2), ("I", 5))}
    alone = {}
    for role, stack in stacks.items():
        with attached(stack, unet) as attachment:
            alone[role] = video(attachment, x, conditioned=True)
    assert not torch.allclose(alone["F"], alone["I"], atol=1e-3)
    with attached(stacks["F"], unet) as first, attached(stacks["I"], unet) as second:
        assert same(video(first, x, conditioned=True), alone["F"])
        assert same(video(second, x, conditioned=True), alone["I"])
        first.detach()
        assert same(video(second, x, conditioned=True), alone["I"])


def test_stacks_on_two_unets_do_not_meet() -> None:
    unets, x = (small_unet(), small_unet()), inputs()
    expected = plain(unets[0], x)
    with attached(random_stack(unets[0]), unets[0]) as first, attached(random_stack(unets[1], seed=5), unets[1]):
        with first.run(as_run(x)):
            assert same(plain(unets[1], x), expected)
            assert not torch.allclose(plain(unets[0], x), expected, atol=1e-3)
        assert same(plain(unets[0], x), expected)


def test_a_failed_run_leaves_no_state() -> None:
    unet, x = small_unet(), inputs()
    expected = plain(unet, x)
    with attached(random_stack(unet), unet) as attachment:
        with pytest.raises(RuntimeError, match="stop"), attachment.run(as_run(x)):
            raise RuntimeError("stop")
        with pytest.raises(Exception, match="[Ss]hape"):
            _run_with(attachment, x, Run(3, x.texts))  # 8 pictures are no videos of 3 frames
        assert attachment.current is None
        assert same(plain(unet, x), expected)


def _run_with(attachment: Any, x: Any, run: Run) -> torch.Tensor:
    with attachment.run(run):
        return plain(attachment.unet, x)


def test_nested_runs_end_one_by_one() -> None:
    unet, x = small_unet(), inputs()
    with attached(random_stack(unet), unet) as attachment:
        expected = video(attachment, x, conditioned=True)
        with attachment.run(as_run(x, conditioned=True)):
            assert not torch.allclose(video(attachment, x, strength=0.5), expected, atol=1e-4)
            assert same(plain(unet, x), expected)
        assert attachment.current is None


def test_attention_sites_alone_are_enough() -> None:
    """A stack may carry layers at a part of the sites, and none at the entrance: the given frames enter all the same."""
    unet, x = small_unet(), inputs()
    stack = random_stack(unet, without=("conv1", "conv2", "shortcut", "sample", "conv_in", "conv_out"))
    assert {site.kind for site in stack.config.sites} == {"attention"}
    with attached(stack, unet) as attachment:
        assert not torch.allclose(video(attachment, x, conditioned=True), video(attachment, x), atol=1e-3)
    assert hook_count(unet) == 0


def test_a_site_of_another_kind_is_refused() -> None:
    unet = small_unet()
    config = new_stack(unet).config
    with pytest.raises(ValueError, match="site mid is of kind 'block'"):
        TemporalStack(replace(config, sites=(Site("mid", "block", 64),)))


# -- frames and videos


def changed_frames(before: torch.Tensor, after: torch.Tensor, b: int = 2) -> torch.Tensor:
    """(b, f): how much each frame of the output moved."""
    return (before - after).abs().flatten(1).amax(1).view(b, -1)


def test_a_frame_reaches_the_others_of_its_video_only_through_the_stack() -> None:
    unet, x, other = small_unet(), inputs(), inputs()
    other.latents = other.latents.clone()
    other.latents[3] += 1  # frame 3 of video 0
    apart = changed_frames(plain(unet, x), plain(unet, other))
    assert apart[0, 3] > 1e-3
    assert apart.sum() == apart[0, 3]
    with attached(random_stack(unet), unet) as attachment:
        moved = changed_frames(video(attachment, x), video(attachment, other))
    assert (moved[0] > 1e-4).all()
    assert not moved[1].any()


def test_given_frames_and_text_reach_their_own_video_alone() -> None:
    unet, x = small_unet(), inputs()
    with attached(random_stack(unet), unet) as attachment:
        expected = video(attachment, x, conditioned=True)
        for name in ("conditioning", "text"):
            other = inputs()
            value = getattr(other, name).clone()
            value[-1] += 1  # of video 1
            setattr(other, name, value)
            moved = changed_frames(expected, video(attachment, other, conditioned=True))
            assert not moved[0].any(), name
            assert (moved[1] > 1e-4).all(), name


def test_text_acts_directly_on_the_temporal_layers() -> None:
    unet, x = small_unet(), inputs()
    with attached(random_stack(unet), unet) as attachment:
        moved = _run_with(attachment, x, Run(4, (x.text + 1,)))
        assert not torch.allclose(moved, _run_with(attachment, x, Run(4, (x.text,))), atol=1e-4)
    with attached(random_stack(unet, attentions=("self", "self")), unet) as attachment:
        assert same(_run_with(attachment, x, Run(4)), _run_with(attachment, x, Run(4, (x.text,))))


def test_videos_in_a_batch_are_as_they_are_alone() -> None:
    unet, x = small_unet(dtype=DOUBLE), inputs(dtype=DOUBLE)
    with attached(random_stack(unet), unet) as attachment:
        both = video(attachment, x, conditioned=True)
        one = inputs(b=1, dtype=DOUBLE)
        one.latents, one.t, one.text, one.conditioning = x.latents[4:], x.t[4:], x.text[1:], x.conditioning[4:]
        torch.testing.assert_close(video(attachment, one, conditioned=True), both[4:])


# -- the video model


@pytest.mark.parametrize("base", ["sdxl", "emu"])
def test_video_model_is_the_frozen_unet_frame_by_frame(base: str) -> None:
    unet, x, b, f = small_unet(base, torch.float64), inputs(base, dtype=torch.float64), 2, 4
    model = VideoModel(unet, new_stack(unet, base))
    latents, conditioning = (v.unflatten(0, (b, f)) for v in (x.latents, x.conditioning))
    y = model(latents, x.t[::f], x.text, conditioning, x.added)
    assert torch.equal(y, plain(unet, x).unflatten(0, (b, f)))
    for frame in range(f):  # one frame after the other, as pictures
        t, added = x.t[::f], x.added or None
        picture = unet(latents[:, frame], t, x.text, added_cond_kwargs=added, return_dict=False)[0]
        torch.testing.assert_close(y[:, frame], picture)


def test_video_model_gives_the_joined_texts_to_their_layers() -> None:
    unet, x = small_unet("emu"), inputs("emu", size=4)
    model = VideoModel(unet, random_stack(unet, "emu"))
    latents = x.latents.unflatten(0, (2, 4))
    y = model(latents, x.t[::4], x.text)
    assert torch.equal(y.flatten(0, 1), video(model.attachment, x))
    assert [part.shape[-1] for part in model.attachment.texts(x.text)] == [TEXT, x.text.shape[-1] - TEXT]
    spatial = plain(unet, x)
    for part in (slice(0, TEXT), slice(TEXT, None)):
        other = inputs("emu", size=4)
        other.text = other.text.clone()
        other.text[..., part] += 1
        assert not torch.allclose(plain(unet, other), spatial, atol=1e-5)
        assert not torch.allclose(model(latents, x.t[::4], other.text).flatten(0, 1), y.flatten(0, 1), atol=1e-5)
        hidden = model.attachment.run(Run(4, model.attachment.texts(other.text)))
        with hidden:
            assert not torch.allclose(plain(unet, x), y.flatten(0, 1), atol=1e-5)  # the temporal layers read both parts too


def test_video_model_has_the_stacks_parameters_alone() -> None:
    unet = small_unet()
    model = VideoModel(unet, new_stack(unet))
    assert {id(p) for p in model.parameters()} == {id(p) for p in model.stack.parameters()}
    model.attachment.detach()
    assert hook_count(unet) == 0


# -- training


def loss_of(attachment: Any, x: Any) -> torch.Tensor:
    y = video(attachment, x, conditioned=True)
    return y.to(torch.promote_types(y.dtype, torch.float32)).square().mean()


def gradients(stack: TemporalStack) -> dict[str, torch.Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in stack.named_parameters()}


@pytest.mark.parametrize("base", ["sd15", "sdxl", "emu"])
def test_gradients_reach_every_weight_of_the_stack_and_none_of_the_unet(base: str) -> None:
    unet, x = small_unet(base), inputs(base, size=8)
    stack = random_stack(unet, base)
    with torch.enable_grad(), attached(stack, unet) as attachment:
        loss_of(attachment, x).backward()
    for name, gradient in gradients(stack).items():
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name
    assert all(p.grad is None for p in unet.parameters())


def test_new_stack_has_gradients_where_training_begins() -> None:
    """Zero layers get gradients at once: the last of each residual branch, the convolutions, the extra kernel."""
    unet, x = small_unet(), inputs()
    stack = new_stack(unet)
    with torch.enable_grad(), attached(stack, unet) as attachment:
        loss_of(attachment, x).backward()
    moving = {name for name, gradient in gradients(stack).items() if gradient is not None and gradient.any()}
    zero = {name for name, value in stack.named_parameters() if not value.any() and "norm" not in name}
    assert moving == zero


def test_gradient_checkpointing_changes_neither_loss_nor_gradients() -> None:
    unet, x = small_unet(dtype=DOUBLE), inputs(dtype=DOUBLE)
    stack = random_stack(unet)
    calls = []
    counted = unet.down_blocks[0].resnets[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    results = []
    for recompute in (False, True):
        stack.zero_grad()
        calls.clear()
        with torch.enable_grad(), attached(stack, unet) as attachment:
            if recompute:
                attachment.enable_gradient_checkpointing()
            loss = loss_of(attachment, x)
            assert attachment.current is None  # the backward pass comes after the run
            loss.backward()
            assert attachment.current is None
        results.append((loss.detach(), gradients(stack)))
        assert len(calls) == (2 if recompute else 1)
    counted.remove()
    torch.testing.assert_close(results[1][0], results[0][0])
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, msg=name)


def test_gradient_checkpointing_of_pictures_needs_no_run() -> None:
    unet, x = small_unet(), inputs()
    with torch.enable_grad(), attached(random_stack(unet), unet) as attachment:
        attachment.enable_gradient_checkpointing()
        x.latents.requires_grad_()
        plain(unet, x).square().mean().backward()
    assert x.latents.grad is not None


def test_checkpointing_that_was_on_before_is_on_after() -> None:
    unet = small_unet()
    unet.enable_gradient_checkpointing()
    before = unet.mid_block._gradient_checkpointing_func
    attachment = new_stack(unet).attach(unet)
    attachment.enable_gradient_checkpointing()
    attachment.enable_gradient_checkpointing()
    assert unet.mid_block._gradient_checkpointing_func is not before
    attachment.detach()
    assert unet.mid_block._gradient_checkpointing_func is before
    assert unet.is_gradient_checkpointing


@pytest.mark.parametrize("unets", [torch.float32, torch.bfloat16])
def test_autocast_runs_forward_and_backward(unets: torch.dtype) -> None:
    unet, x = small_unet(dtype=unets), inputs(dtype=unets)
    stack = randomise(new_stack(unet).float(), scale=0.03)
    exact = small_unet()
    with torch.enable_grad(), attached(stack, exact) as attachment:
        reference = loss_of(attachment, inputs())
        reference.backward()
    wanted = gradients(stack)
    stack.zero_grad()
    with torch.enable_grad(), attached(stack, unet) as attachment:
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(attachment, x)
        loss.backward()
    # bfloat16 rounds by up to 2^-9 of a value: of a hundred layers one after another, this way or that, 0.02 of it
    torch.testing.assert_close(loss, reference, rtol=0.05, atol=0)
    for name, gradient in gradients(stack).items():
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
    got = torch.cat([g.flatten() for g in gradients(stack).values() if g is not None])
    direction = torch.cosine_similarity(got, torch.cat([g.flatten() for g in wanted.values() if g is not None]), 0)
    assert direction > 0.95


@pytest.mark.slow
def test_compiled_unet_gives_the_same_video_also_when_the_run_changes() -> None:
    unet = small_unet("shallow", DOUBLE)
    config = new_stack(unet).config
    some = tuple(site for site in config.sites if site.name.startswith(("conv_in", "mid")))  # each further one takes a second
    stack = randomise(TemporalStack(replace(config, sites=some))).to(DOUBLE)
    torch._dynamo.reset()
    with attached(stack, unet) as attachment, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(unet, backend="eager")
        for b, f, conditioned in ((2, 4, True), (1, 8, True)):
            x = inputs(b=b, f=f, size=4, dtype=DOUBLE)
            expected = video(attachment, x, conditioned)
            assert not torch.allclose(expected, plain(unet, x), atol=1e-3)
            with attachment.run(as_run(x, conditioned)):
                y = plain(compiled, x)
            torch.testing.assert_close(y, expected)
        torch.testing.assert_close(plain(compiled, x), plain(unet, x))
    torch._dynamo.reset()


def test_layers_for_true_sizes_are_built_without_memory() -> None:
    with torch.device("meta"):
        stack = TemporalStack.for_unet(meta_unet("sdxl"), base="sdxl")
    depths = [len(layer.layers) for layer in stack.layers.values() if isinstance(layer, TemporalTransformer)]
    assert (sum(depths), max(depths)) == (70, 10)
