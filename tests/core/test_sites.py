"""The sites of each architecture: names, order, widths, and the paper's parameter counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from diffusers.models import AutoencoderKL, ControlNetModel, UNet2DModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from emu_core.base.architectures import build_unet
from emu_core.model.layers import TemporalConv
from emu_core.model.sites import Found, find_sites
from emu_core.model.stack import TemporalStack, check_fit

from .helpers import hook_count, inputs, meta_stack, meta_unet, new_stack, plain, small_unet

COUNTS = {  # attention blocks, their transformer layers, convolutions
    "tiny": (7, 7, 25),
    "sd15": (16, 16, 66),
    "sd21": (16, 16, 66),
    "sdxl": (11, 70, 51),
    "emu": (26, 52, 101),
}


def of_kind(found: Found, kind: str) -> list[str]:
    return [name for name, (site, _) in found.items() if site.kind == kind]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def conv_parameters(stack: TemporalStack) -> int:
    return sum(parameters(layer) for layer in stack.layers.values() if isinstance(layer, TemporalConv))


@pytest.mark.parametrize("name", COUNTS)
def test_number_of_sites(name: str) -> None:
    found = find_sites(meta_unet(name))
    layers = sum(len(found[attention][0].contexts) for attention in of_kind(found, "attention"))
    assert (len(of_kind(found, "attention")), layers, len(of_kind(found, "conv"))) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_every_convolution_outside_attention_is_a_site_once(name: str) -> None:
    unet = meta_unet(name)
    found = find_sites(unet)
    inside = {id(m) for block in unet.modules() if isinstance(block, Transformer2DModel) for m in block.modules()}
    expected = {id(m) for m in unet.modules() if isinstance(m, nn.Conv2d) and id(m) not in inside}
    modules = [id(found[site][1]) for site in of_kind(found, "conv")]
    assert (len(set(modules)), set(modules)) == (len(modules), expected)
    blocks = {id(m) for m in unet.modules() if isinstance(m, Transformer2DModel)}
    assert {id(found[site][1]) for site in of_kind(found, "attention")} == blocks


def test_names_of_stable_diffusion_sites() -> None:
    found = find_sites(meta_unet("sd15"))
    attention = [f"down.{i}.attention.{j}" for i in (0, 1, 2) for j in (0, 1)] + ["mid.attention.0"]
    attention += [f"up.{i}.attention.{j}" for i in (1, 2, 3) for j in (0, 1, 2)]
    assert of_kind(found, "attention") == attention
    resnets = [f"down.{i}.resnet.{j}" for i in range(4) for j in (0, 1)] + ["mid.resnet.0", "mid.resnet.1"]
    resnets += [f"up.{i}.resnet.{j}" for i in range(4) for j in (0, 1, 2)]
    assert of_kind(found, "resnet") == resnets
    conv = {"conv_in", "conv_out"} | {f"{resnet}.conv{n}" for resnet in resnets for n in (1, 2)}
    conv |= {"down.1.resnet.0.shortcut", "down.2.resnet.0.shortcut"}
    conv |= {f"up.{i}.resnet.{j}.shortcut" for i in range(4) for j in (0, 1, 2)}
    conv |= {f"down.{i}.downsample" for i in (0, 1, 2)} | {f"up.{i}.upsample" for i in (0, 1, 2)}
    assert (set(of_kind(found, "conv")), of_kind(found, "block")) == (conv, ["mid"])


@pytest.mark.parametrize("name", COUNTS)
def test_widths_are_those_of_the_outputs(name: str) -> None:
    unet, x, seen = small_unet(name), inputs(name, b=1, f=1), {}
    found = find_sites(unet)

    def record(site_name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: object) -> None:
            seen[site_name] = (output if isinstance(output, torch.Tensor) else output[0]).shape[1]

        return hook

    handles = [module.register_forward_hook(record(site_name)) for site_name, (_, module) in found.items()]
    plain(unet, x)
    for handle in handles:
        handle.remove()
    assert seen == {site_name: site.channels for site_name, (site, _) in found.items()}


@pytest.mark.parametrize(
    ("name", "site", "contexts"),
    [
        ("sd15", "mid.attention.0", (768,)),
        ("sd21", "up.3.attention.2", (1024,)),
        ("sdxl", "down.1.attention.0", (2048,) * 2),
        ("sdxl", "mid.attention.0", (2048,) * 10),
        ("emu", "down.0.attention.0", (768, 2048)),
    ],
)
def test_text_widths(name: str, site: str, contexts: tuple[int, ...]) -> None:
    assert find_sites(meta_unet(name))[site][0].contexts == contexts


def test_parameter_counts_of_the_paper() -> None:
    """2.7 B spatial and 1.7 B temporal, 4.3 B in all; a temporal convolution after all 101 convolutions is 0.437 B of it."""
    stack = meta_stack("emu")
    assert 2.6e9 < parameters(meta_unet("emu")) < 2.8e9
    assert 1.65e9 < parameters(stack) < 1.75e9
    assert parameters(meta_unet("emu")) + parameters(stack) == pytest.approx(4.3e9, abs=0.05e9)
    assert conv_parameters(stack) == pytest.approx(0.437e9, rel=0.001)


def test_parameter_counts_of_sdxl() -> None:
    assert parameters(meta_unet("sdxl")) == pytest.approx(2.567e9, rel=0.0005)
    stack = meta_stack("sdxl", attentions=("self",))
    attention = parameters(stack) - conv_parameters(stack) - parameters(stack.conv_in)
    assert attention == pytest.approx(1.64e9, rel=0.005)


@pytest.mark.parametrize(
    "other",
    [
        lambda: nn.Linear(4, 4),
        lambda: AutoencoderKL(block_out_channels=(32,), norm_num_groups=32),
        lambda: ControlNetModel(block_out_channels=(32, 32, 32, 32), cross_attention_dim=32, attention_head_dim=4),
        lambda: UNet2DModel(block_out_channels=(32, 32, 32, 32), layers_per_block=1),
    ],
    ids=["Linear", "AutoencoderKL", "ControlNetModel", "UNet2DModel"],
)
def test_what_is_no_text_to_image_unet_is_refused(other: Callable[[], nn.Module], request: pytest.FixtureRequest) -> None:
    module = other()
    with pytest.raises(ValueError, match=rf"{request.node.callspec.id} .*expected diffusers' UNet2DConditionModel"):
        find_sites(module)


@pytest.mark.parametrize(("made_for", "given"), [("sd15", "sd21"), ("sd15", "sdxl"), ("sdxl", "sd15"), ("tiny", "sd15")])
def test_a_stack_of_another_base_is_refused(made_for: str, given: str) -> None:
    stack, unet = meta_stack(made_for, head_dim=32), meta_unet(given)
    with pytest.raises(ValueError, match=f"for '{made_for}'.*load it on a '{made_for}' model") as error:
        stack.attach(unet)
    assert "lacks" in str(error.value) or ("expects" in str(error.value) and "the given U-Net has" in str(error.value))
    assert hook_count(unet) == 0


def test_refusal_names_what_was_expected_and_what_was_found() -> None:
    with pytest.raises(ValueError, match=r"text states of 768.*text states of 1024"):
        meta_stack("sd15", head_dim=32).attach(meta_unet("sd21"))
    with pytest.raises(ValueError, match=r"at conv_in it expects 320 channels.*has 64 channels"):
        meta_stack("sd15").attach(build_unet("sd15", block_out_channels=(64, 64, 64, 64)))


def test_other_input_channels_are_refused() -> None:
    """An inpainting model has every site of its base, but its first layer takes 9 channels."""
    with pytest.raises(ValueError, match=r"expects 4 latent channels.*has 9"):
        meta_stack("sd15").attach(build_unet("sd15", in_channels=9))


def test_a_stack_without_a_layer_at_the_entrance_is_checked_there_too() -> None:
    found = find_sites(meta_unet("sd15"))
    config = dataclasses.replace(new_stack(small_unet("sd15"), "sd15").config, sites=())
    with pytest.raises(ValueError, match=r"a width of 32, the given U-Net has 4 and 320"):
        check_fit(config, found)
