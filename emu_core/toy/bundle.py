"""Gather the results of the little world's recipes into one model folder: `python -m emu_core.toy.bundle RUNS OUT`."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from ..errors import UserError
from ..model_folder import DEFAULTS_FILE, FEW_STEPS_LORA, read_defaults
from ..weights import open_weights, save_tensors

FEW = "loras/emu_video_tiny_few_steps.safetensors"
"""In a folder of LoRAs, so that ComfyUI lists it."""
RANK = 12
"""Of that LoRA, which is trained with a few more: all of the bundle stays within 25 MB."""


def lora_of_rank(rank: int, file: Path) -> None:
    """Write a LoRA anew with `rank` directions of each layer, those that say most of what it adds (Eckart & Young 1936)."""
    lora = open_weights(file)
    state = lora.read()
    for name in [key for key in state if key.endswith("lora_down.weight")]:
        other = name.replace("lora_down", "lora_up")
        down, up = state[name], state[other]
        left, sizes, right = torch.linalg.svd(up.flatten(1).float() @ down.flatten(1).float(), full_matrices=False)
        root = sizes[:rank].sqrt()
        state[other] = (left[:, :rank] * root).unflatten(1, (-1, *up.shape[2:])).to(up.dtype).contiguous()
        state[name] = (root[:, None] * right[:rank]).unflatten(1, down.shape[1:]).to(down.dtype).contiguous()
    save_tensors(state, file, dict(lora.metadata))


def bundle(runs: Path, out: Path) -> None:
    """Copy the image model of little-t2i-late with the decoder of little-vae-sharp, the stacks of little-f-camera, little-i and
    little-f-fast, and the LoRA of little-t2i-fast to `out`, one diffusers folder, and the example LoRA of little-lora to `loras`
    beside it."""
    image_model, vae = runs / "little-t2i-late" / "model", runs / "little-vae-sharp" / "model" / "vae"
    parts = {
        out / "stack_F.safetensors": runs / "little-f-camera" / "model" / "stack_F.safetensors",
        out / "stack_I.safetensors": runs / "little-i" / "model" / "stack_I.safetensors",
        out / "stack_F_fast.safetensors": runs / "little-f-fast" / "model" / "stack_F.safetensors",
        out / FEW: runs / "little-t2i-fast" / "model" / FEW_STEPS_LORA,
    }
    lora = runs / "little-lora" / "model" / "emu_video_tiny_pastel.safetensors"
    for needed in (image_model, vae, *parts.values(), lora):
        if not needed.exists():
            raise UserError(f"{needed} does not exist: run the recipes that begin with little- in their order first")
    shutil.copytree(image_model, out, dirs_exist_ok=True)
    shutil.copytree(vae, out / "vae", dirs_exist_ok=True)
    (out / FEW).parent.mkdir(exist_ok=True)
    for place, part in parts.items():
        shutil.copy(part, place)
    lora_of_rank(RANK, out / FEW)
    defaults = read_defaults(out) | {"few_steps_lora": FEW}
    (out / DEFAULTS_FILE).write_text(json.dumps(defaults, indent=2) + "\n")
    (out.parent / "loras").mkdir(exist_ok=True)
    shutil.copy(lora, out.parent / "loras" / lora.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    bundle(**vars(parser.parse_args()))
