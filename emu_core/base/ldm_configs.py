"""diffusers and transformers configurations from the tensor shapes of a model in the original layout.

Only what shapes cannot tell (the number of heads, the activation of the text encoder) is set by the layout: SD 1.x has
8 heads everywhere, SD 2.x and SDXL heads of 64 channels; CLIP uses quick-gelu, OpenCLIP gelu.
Every function takes the shapes of one part, its prefix taken off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from ..errors import UserError
from .architectures import levels

Layout = Literal["sd1", "sd2", "sdxl"]
Shapes = Mapping[str, tuple[int, ...]]

HEAD_CHANNELS = 64
SAMPLE_SIZES = {"sd1": 64, "sd2": 96, "sdxl": 128}  # latent size each was trained at; SD 2.1 base at 64
SCALING_FACTORS = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}
TIME_IDS = 6  # numbers of SDXL's size conditioning, each embedded on its own


def count(shapes: Shapes, pattern: str) -> int:
    """How many different numbers stand in the group of `pattern`, which is matched at the start of the names."""
    return len({m.group(1) for m in map(re.compile(pattern).match, shapes) if m})


def unet_config(shapes: Shapes, layout: Layout, pooled: int | None = None) -> dict[str, Any]:
    """`pooled` is the width of SDXL's pooled text state. ValueError, without the file's name, on an unknown structure."""
    widths, depths, blocks = [0], [0], [0]  # at each level: channels, transformer layers, residual blocks
    for i in range(1, count(shapes, r"input_blocks\.(\d+)\.")):
        name = f"input_blocks.{i}."
        if name + "0.op.weight" in shapes:
            widths, depths, blocks = [*widths, 0], [*depths, 0], [*blocks, 0]
            continue
        widths[-1] = shapes[name + "0.in_layers.2.weight"][0]
        depths[-1] = _depth(shapes, name + "1.")
        blocks[-1] += 1
    if len(set(blocks)) != 1 or not blocks[0]:
        raise UserError(f"expected as many residual blocks at every level, found {blocks}")
    middle = _depth(shapes, "middle_block.1.")
    attention = [bool(d) for d in depths]
    depths = [*(d or 1 for d in depths[:-1]), depths[-1] or middle]  # diffusers takes the middle block's from the last level
    if not middle or depths[-1] != middle:
        raise UserError(f"expected {depths[-1]} transformer layers in the middle block as at the last level, found {middle}")
    config: dict[str, Any] = {
        "sample_size": SAMPLE_SIZES[layout],
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        **levels(widths, attention),
        "layers_per_block": blocks[0],
        "transformer_layers_per_block": depths,
        "cross_attention_dim": next(s[1] for k, s in shapes.items() if k.endswith("attn2.to_k.weight")),
        "attention_head_dim": 8 if layout == "sd1" else [_heads(w) for w in widths],  # diffusers means heads by this name
        "use_linear_projection": next(len(s) == 2 for k, s in shapes.items() if k.endswith("proj_in.weight")),
        "upcast_attention": layout == "sd2",
        "addition_embed_type": None,
        "class_embed_type": None,
    }
    if "label_emb.0.0.weight" in shapes:
        entries = shapes["label_emb.0.0.weight"][1]
        if pooled is None:
            return {**config, "class_embed_type": "projection"}
        config |= {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": entries}
        config["addition_time_embed_dim"] = (entries - pooled) // TIME_IDS
    return config


def _heads(width: int) -> int:
    return max(1, width // HEAD_CHANNELS)


def _depth(shapes: Shapes, block: str) -> int:
    return count(shapes, re.escape(block) + r"transformer_blocks\.(\d+)\.")


def vae_config(shapes: Shapes, layout: Layout) -> dict[str, Any]:
    """The configuration of an AutoencoderKL from its tensors' shapes."""
    levels = count(shapes, r"encoder\.down\.(\d+)\.")
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "block_out_channels": [shapes[f"encoder.down.{i}.block.0.conv2.weight"][0] for i in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in shapes,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "scaling_factor": SCALING_FACTORS[layout],
        "shift_factor": None,
        "force_upcast": True,
    }


def text_config(shapes: Shapes, layout: Layout) -> dict[str, Any]:
    """CLIP's text encoder as transformers names its weights (`text_model.` may stand before the names), or OpenCLIP's as its own
    program does. SD 2.x reads the penultimate layer, normed: its encoder is built without its last layer."""
    shapes = {k.removeprefix("text_model."): s for k, s in shapes.items()}
    open_clip = "token_embedding.weight" in shapes
    if open_clip:
        table, positions = shapes["token_embedding.weight"], shapes["positional_embedding"]
        inner, layers = shapes["transformer.resblocks.0.mlp.c_fc.weight"], count(shapes, r"transformer\.resblocks\.(\d+)\.")
        if layout == "sd2" and layers != 23:  # a file with 23 of ViT-H's 24 was written from a diffusers model
            layers -= 1
    else:
        table, positions = shapes["embeddings.token_embedding.weight"], shapes["embeddings.position_embedding.weight"]
        inner, layers = shapes["encoder.layers.0.mlp.fc1.weight"], count(shapes, r"encoder\.layers\.(\d+)\.")
    vocabulary, width = table
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner[0],
        "num_hidden_layers": layers,
        "num_attention_heads": _heads(width),
        "max_position_embeddings": positions[0],
        "hidden_act": "gelu" if open_clip else "quick_gelu",
        "projection_dim": shapes.get("text_projection", table)[1],
        "bos_token_id": vocabulary - 2,  # CLIP's two special tokens end its vocabulary
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
