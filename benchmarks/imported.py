"""An imported checkpoint on a frozen U-Net against diffusers' own implementation of the same weights: time and peak memory.

    python -m benchmarks.imported [animatediff] [pia] [--latents 32] [--frames 16] [--repeats 3] [--device cpu] [--dtype float32]

SD 1.5's size with random weights, one call without guidance. The two networks take turns in one process, and the least time of
each is compared. Peak memory is that of the activations: counted over the operations on a CPU, torch's own figure on a GPU.
Also printed: the temporal layers alone, as the difference to the plain U-Net; and how far the two outputs are apart.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from einops import rearrange
from safetensors.torch import save_file

from benchmarks.step import PeakMemory, timed
from emu_core.checkpoint import load_stack
from emu_core.model.conditioning import condition
from emu_core.model.video_model import VideoModel

FAMILIES = ("animatediff", "pia")


def random_weights(module: torch.nn.Module) -> torch.nn.Module:
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, parameter[0].numel() ** -0.5)
        else:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.0)
    return module.eval().requires_grad_(False)


class Pair:
    """The same weights in both implementations, and a call of each."""

    def __init__(self, family: str, frames: int, latents: int, device: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        unet: Any = random_weights(UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8))
        adapter = random_weights(
            MotionAdapter(use_motion_mid_block=family == "animatediff", conv_in_channels=9 if family == "pia" else None)
        )
        self.theirs = UNetMotionModel.from_unet2d(unet, adapter).eval().to(device, dtype)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "adapter.safetensors"
            save_file({name: value.clone() for name, value in adapter.state_dict().items()}, path)
            stack = load_stack(path).to(device, dtype)
        self.unet = unet.to(device, dtype)
        self.model = VideoModel(self.unet, stack)
        make: dict[str, Any] = {"device": device, "dtype": dtype}
        self.x = torch.randn(1, frames, 4, latents, latents, **make)
        self.text = torch.randn(1, 77, 768, **make)
        self.t = torch.tensor([500], device=device)
        image = torch.randn(1, 1, 4, latents, latents, **make)
        self.given = condition(image, (0,), frames, stack.config.channel_order) if stack.config.takes_image else None
        channels = self.x if self.given is None else torch.cat([self.x, self.given], 2)
        self.channels = rearrange(channels, "b f c h w -> b c f h w").contiguous()
        self.repeated = self.text.expand(frames, -1, -1).contiguous()

    def ours(self) -> torch.Tensor:
        return self.model(self.x, self.t, self.text, self.given)

    def diffusers(self) -> torch.Tensor:
        return rearrange(self.theirs(self.channels, self.t, self.repeated, return_dict=False)[0], "b c f h w -> b f c h w")

    def plain(self) -> torch.Tensor:
        return self.unet(self.x[0], self.t, self.repeated, return_dict=False)[0]


def peak(call: Callable[[], Any], device: str, *known: torch.nn.Module) -> int:
    """Bytes of activations at most."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with PeakMemory(*known) as memory:
        call()
    return memory.peak


@torch.no_grad()
def measure(family: str, frames: int, latents: int, repeats: int, device: str, dtype: torch.dtype) -> None:
    pair = Pair(family, frames, latents, device, dtype)
    calls = (pair.plain, pair.diffusers, pair.ours)
    plain, theirs, ours = (call() for call in calls)
    difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    del plain, theirs, ours
    rows = [[timed(call, device) for call in calls] for _ in range(repeats)]
    plain_time, their_time, our_time = (min(column) for column in zip(*rows, strict=True))
    modules = (pair.unet, pair.theirs, pair.model)
    their_memory, our_memory = (peak(call, device, *modules) for call in (pair.diffusers, pair.ours))
    print(
        f"{family}, SD 1.5, {frames} frames, latents {latents} x {latents}, {dtype}, {device}; outputs differ by {difference:.1e}"
    )
    print(f"  time    diffusers {their_time:8.3f} s   ours {our_time:8.3f} s   ours is {their_time / our_time:.2f} x as fast")
    temporal = [(full - plain_time) for full in (their_time, our_time)]
    print(f"  temporal layers   {temporal[0]:8.3f} s        {temporal[1]:8.3f} s   (plain U-Net {plain_time:.3f} s)")
    print(
        f"  memory  diffusers {their_memory / 1e6:8.1f} MB  ours {our_memory / 1e6:8.1f} MB  "
        f"ratio {our_memory / their_memory:.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(FAMILIES), choices=[*FAMILIES, list(FAMILIES)])
    parser.add_argument("--latents", type=int, default=32)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    options = parser.parse_args()
    for family in options.families:
        measure(family, options.frames, options.latents, options.repeats, options.device, getattr(torch, options.dtype))
