"""`emu-video convert`: a public checkpoint -> a temporal stack in this program's format, and the image model beside it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..errors import UserError
from .options import PRECISIONS, VARIANT_HELP, add_command, check_file, is_there, wrote


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "a public checkpoint -> a temporal stack in this program's format"
    parser = add_command(commands, "convert", summary, f"{__name__}:convert")
    file = "file of AnimateDiff, Hotshot-XL, PIA, FancyVideo or ModelScope (.safetensors, .ckpt, .pt ...)"
    unet = "also write the image model's U-Net that is in the file (ModelScope)"
    parser.add_argument("file", help=file)
    parser.add_argument("--out", required=True, metavar="STACK.safetensors", help="where to write the stack")
    parser.add_argument("--image-model", metavar="UNET.safetensors", help=unet)
    parser.add_argument("--variant", metavar="NAME", help=VARIANT_HELP)
    parser.add_argument("--dtype", default="auto", choices=PRECISIONS, help="precision of the weights; auto: as in the file")


def convert(options: argparse.Namespace) -> None:
    """Write the stack, and the image model's U-Net if it is wanted; ValueError when the file holds none."""
    import torch  # here: it takes seconds, and help does not wait for it

    from ..checkpoint import load_stack, read_config, save_stack
    from ..interop import bare, modelscope
    from ..weights import open_weights, save_tensors

    check_file("--out", options.out, ".safetensors")
    check_file("--image-model", options.image_model, ".safetensors")
    if options.image_model and os.path.realpath(options.out) == os.path.realpath(options.image_model):
        raise UserError(f"{options.out} is named for two things to write: give each a name of its own")
    precision = {} if options.dtype == "auto" else {"dtype": getattr(torch, options.dtype)}
    read_config(options.file, options.variant)  # from the head alone, before the weights
    opened = bare(open_weights(options.file))
    if options.image_model and not any(modelscope.is_spatial(name) and name == "conv_out.weight" for name in opened.shapes):
        raise UserError(f"{options.file} holds no image model beside the temporal layers: leave --image-model out")
    stack = load_stack(options.file, variant=options.variant, **precision)
    config, weights = stack.config, next(iter(stack.parameters())).dtype
    spatial = modelscope.spatial_weights(opened.read()) if options.image_model else {}
    replaced = [is_there(path) for path in (options.out, options.image_model or "")]
    save_stack(stack, options.out, weights)
    print(f"{wrote(options.out, replaced[0])}: temporal stack of family {config.origin.family} for {config.unet.base}, {weights}")
    if spatial:
        save_tensors(spatial, Path(options.image_model))
        print(f"{wrote(options.image_model, replaced[1])}: its image model's U-Net, in diffusers' layout")
