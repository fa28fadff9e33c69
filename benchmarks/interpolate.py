"""Peak memory of `emu-video interpolate` on a short and on a long video.

    python -m benchmarks.interpolate [--frames 10000] [--side 256] [--out .mp4]

The networks are made for the purpose, with random weights: a U-Net of one level, a VAE of four narrow ones, a stack of role I.
What grows with the length of a video does not depend on how large they are; with them 10,000 frames end in minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from emu_core.checkpoint import save_stack
from emu_core.media import write_parts
from emu_core.model.stack import TemporalStack
from emu_core.model_folder import BUNDLED

SHORT = 100


def small_model(folder: Path) -> Path:
    """The bundled text encoder with a narrow U-Net and VAE, and a stack I for them."""
    shutil.copytree(BUNDLED, folder, ignore=shutil.ignore_patterns("unet", "vae", "stack_*"))
    torch.manual_seed(0)
    blocks = {"block_out_channels": (32,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = UNet2DConditionModel(**blocks, sample_size=8, layers_per_block=1, cross_attention_dim=128, attention_head_dim=4)
    unet.save_pretrained(folder / "unet")
    levels = 6
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    vae = AutoencoderKL(**blocks, block_out_channels=(1,) * levels, norm_num_groups=1, latent_channels=4, layers_per_block=1)
    vae.decoder.conv_out.weight.data *= 0.1  # pictures of little contrast, which the encoder of the file is done with sooner
    vae.save_pretrained(folder / "vae")
    stack = TemporalStack.for_unet(unet, base="custom", role="I", frames=37, fps=16.0, head_dim=32)
    save_stack(stack, folder / "stack_I.safetensors", torch.float32)
    return folder


def moving(frames: int, side: int) -> Iterator[torch.Tensor]:
    """Frames (1, H, W, 3) of a square that moves on a still ground."""
    ground = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(1)) * 0.1 + 0.4
    for number in range(frames):
        frame, left = ground.clone(), number % (side * 3 // 4)
        frame[:, side // 4 : side // 2, left : left + side // 4] = torch.tensor([0.9, 0.3, 0.2])
        yield frame


def measure(model: Path, video: Path, out: Path) -> dict[str, float]:
    """Peak memory in GB and seconds of one command."""
    command = [sys.executable, "-m", "emu_core", "interpolate", str(video), "a big red square moves right", "--out", str(out)]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--model", str(model), "--steps", "1", "--json"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    made = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the command ended with {status}")
    return {"frames": made["frames"], "peak_gb": round(usage.ru_maxrss / 2**20, 3), "seconds": time.perf_counter() - started}


def main() -> None:
    """Print what a short and a long video take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000, help="of the long video")
    parser.add_argument("--side", type=int, default=256, help="pixels")
    parser.add_argument("--out", default=".mp4", help="ending of what is written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = small_model(Path(folder) / "model")
        for frames in (SHORT, options.frames):
            video = Path(folder) / f"{frames}.mp4"
            write_parts(video, moving(frames, options.side), frames, 8.0)
            found = measure(model, video, Path(folder) / f"made{options.out}")
            print(f"{frames} frames of {options.side} px -> {found['frames']}: {found['peak_gb']} GB, {found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
