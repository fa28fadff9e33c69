"""`emu-video convert`: a public checkpoint -> a temporal stack in this program's format, and the image model beside it."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..weights import save_tensors
from .making import choose_dtype
from .options import add_command

if TYPE_CHECKING:
    pass


def add(commands: argparse._SubParsersAction) -> None:
    parser = add_command(
        commands, "convert", "a public checkpoint -> a temporal stack in this program's format", "emu_core.cli.convert:convert"
    )
    parser.add_argument(
        "file", help="file of AnimateDiff, Hotshot-XL, PIA, FancyVideo or ModelScope (.safetensors, .ckpt, .pt ...)"
    )
    parser.add_argument("--out", required=True, metavar="STACK.safetensors", help="where to write the stack")
    parser.add_argument(
        "--image-model", metavar="UNET.safetensors", help="also write the image model's U-Net that is in the file (ModelScope)"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "float16", "bfloat16"),
        help="precision of the weights; auto: as in the file",
    )


def convert(options: Namespace) -> None:
    """A public checkpoint as a stack of our own format, and the image model that may be in the same file."""
    from ..checkpoint import load_stack, save_stack
    from ..interop import modelscope, open_weights

    for target in filter(None, (options.out, options.image_model)):
        if Path(target).suffix != ".safetensors":
            raise ValueError(f"{target} should end in .safetensors: choose such a name")
        if not Path(target).absolute().parent.is_dir():
            raise ValueError(f"{target} cannot be written, since its folder does not exist: make the folder first")
    dtype = None if options.dtype == "auto" else choose_dtype(options.dtype, torch.device("cpu"))
    stack = load_stack(options.file) if dtype is None else load_stack(options.file, dtype=dtype)
    weights = next(iter(stack.parameters())).dtype
    spatial = {}
    if options.image_model:
        spatial = modelscope.spatial_weights(open_weights(options.file).read())
        if "conv_out.weight" not in spatial:
            raise ValueError(f"{options.file} holds no image model beside the temporal layers: leave --image-model out")
    save_stack(stack, options.out, weights)
    print(f"{options.out}: temporal stack of family {stack.config.origin.family} for {stack.config.unet.base}, {weights}")
    if spatial:
        save_tensors(spatial, Path(options.image_model))
        print(f"{options.image_model}: its image model's U-Net, in diffusers' layout")
