"""`emu-video convert`: a public checkpoint -> a temporal stack in this program's format, and the image model beside it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError
from .options import PRECISIONS, VARIANT_HELP, add_command


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

    from ..checkpoint import load_stack, save_stack
    from ..interop import bare, modelscope
    from ..weights import open_weights, save_tensors

    for target in filter(None, (options.out, options.image_model)):
        if Path(target).suffix != ".safetensors":
            raise UserError(f"{target} should end in .safetensors: choose such a name")
        if not Path(target).absolute().parent.is_dir():
            raise UserError(f"{target} cannot be written, since its folder does not exist: make the folder first")
    precision = {} if options.dtype == "auto" else {"dtype": getattr(torch, options.dtype)}
    stack = load_stack(options.file, variant=options.variant, **precision)
    weights = next(iter(stack.parameters())).dtype
    spatial = modelscope.spatial_weights(bare(open_weights(options.file)).read()) if options.image_model else {}
    if options.image_model and "conv_out.weight" not in spatial:
        raise UserError(f"{options.file} holds no image model beside the temporal layers: leave --image-model out")
    save_stack(stack, options.out, weights)
    print(f"{options.out}: temporal stack of family {stack.config.origin.family} for {stack.config.unet.base}, {weights}")
    if spatial:
        save_tensors(spatial, Path(options.image_model))
        print(f"{options.image_model}: its image model's U-Net, in diffusers' layout")
