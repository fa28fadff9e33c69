"""Gather the results of the little world's recipes into one model folder: `python -m emu_core.toy.bundle RUNS OUT`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ..errors import UserError


def bundle(runs: Path, out: Path) -> None:
    """Copy the image model of little-t2i-late with the decoder of little-vae-sharp, and the stacks of little-f-camera
    and little-i, to `out`, one diffusers folder, and the example LoRA of little-lora to `loras` beside it."""
    image_model, vae = runs / "little-t2i-late" / "model", runs / "little-vae-sharp" / "model" / "vae"
    stacks = [runs / name / "model" / f"stack_{role}.safetensors" for name, role in (("little-f-camera", "F"), ("little-i", "I"))]
    lora = runs / "little-lora" / "model" / "emu_video_tiny_pastel.safetensors"
    for needed in (image_model, vae, *stacks, lora):
        if not needed.exists():
            raise UserError(f"{needed} does not exist: run the recipes that begin with little- in their order first")
    shutil.copytree(image_model, out, dirs_exist_ok=True)
    shutil.copytree(vae, out / "vae", dirs_exist_ok=True)
    for stack in stacks:
        shutil.copy(stack, out / stack.name)
    (out.parent / "loras").mkdir(exist_ok=True)
    shutil.copy(lora, out.parent / "loras" / lora.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    bundle(**vars(parser.parse_args()))
