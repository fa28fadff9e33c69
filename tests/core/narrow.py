"""The bundled model at narrow widths with random weights, for tests of all that does not depend on what its weights have learned:
a call of its networks costs a third of the bundled one's. Not for single pictures below 32 px: their coarsest level has too few
channels for a norm of 32 groups, and the bundled one costs no more there."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from diffusers.models import AutoencoderKL
from torch import nn

from emu_core.base.architectures import STACK_SETTINGS, build_unet, levels
from emu_core.checkpoint import load_stack, save_stack
from emu_core.model.stack import TemporalStack
from emu_core.model_folder import BUNDLED

from .filled import fill
from .helpers import randomise

ROOT = Path(__file__).parents[2]
UNET, VAE = levels((32, 64), (True, True)), (32, 32, 64, 64)


@cache
def narrow_folder() -> Path:
    """One such model for all tests of a process, gone at its end; what changes it copies it."""
    folder = Path(tempfile.mkdtemp(prefix="emu-video-narrow-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_narrow(folder / "model")


def write_narrow(folder: Path) -> Path:
    """A model's folder with the bundled one's tokenizer, text encoder, settings and recommendations, a U-Net and a VAE of its
    layouts, and stacks F and I of its settings."""
    shutil.copytree(BUNDLED, folder, ignore=shutil.ignore_patterns("unet", "vae", "stack_*"))
    unet = _filled(build_unet("tiny", "cpu", **UNET))
    unet.half().save_pretrained(folder / "unet")
    settings = {**AutoencoderKL.load_config(BUNDLED / "vae"), "block_out_channels": VAE}
    _filled(AutoencoderKL.from_config(settings)).half().save_pretrained(folder / "vae")
    for role in "FI":
        config = load_stack(BUNDLED / f"stack_{role}.safetensors").config
        own = TemporalStack.for_unet(unet, base="tiny", **STACK_SETTINGS["tiny"]).config
        stack = TemporalStack(replace(config, sites=own.sites, unet=own.unet))
        save_stack(randomise(stack, seed=ord(role), scale=0.05), folder / f"stack_{role}.safetensors")
    return folder


def write_pack(folder: Path, model: Path) -> Path:
    """This pack with that model in the bundled one's place; all else are links."""
    assets = folder / "emu_core" / "assets"
    for inner, own in ((folder, "emu_core"), (folder / "emu_core", "assets"), (assets, "tiny")):
        inner.mkdir(parents=True)
        for path in (ROOT / inner.relative_to(folder)).iterdir():
            if path.name != own and not path.name.startswith("."):
                (inner / path.name).symlink_to(path)
    (assets / "tiny").symlink_to(model)
    return folder


def _filled(network: nn.Module) -> nn.Module:
    """What ends a branch is small, as after training: else float32's rounding grows from call to call."""
    ends = ("to_out.0.weight", "net.2.weight", "conv2.weight", "proj_out.weight", "conv_out.weight")
    values = {name: fill(name, value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict({name: value / 4 if name.endswith(ends) else value for name, value in values.items()})
    return network
