"""One call of the video U-Net against the plain U-Net on the same batch: time, floating-point operations, peak memory.

    python benchmarks/step.py [sd15] [sdxl] [--latents 16] [--frames 8] [--repeats 3] [--device cpu] [--dtype float32]

Weights are random. Operations and peak memory (float32) are counted on fake tensors, time is measured; the two networks take
turns in one process, and the least of each is compared (`--repeats 0`: count only). SDXL in float32 needs 20 GB.
"""

from __future__ import annotations

import argparse
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from emu_core.base.architectures import CONFIGS, STACK_SETTINGS, build_unet
from emu_core.model.stack import Run, TemporalStack


class PeakMemory(TorchDispatchMode):
    """Most bytes that tensors made inside held at once, those of `known` modules' parameters left out."""

    def __init__(self, *known: torch.nn.Module) -> None:
        super().__init__()
        self.known = {p.untyped_storage()._cdata for module in known for p in module.parameters()}
        self.holders: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in self.known:
                self._hold(leaf)
        return result

    def _hold(self, tensor: torch.Tensor) -> None:
        storage, size = tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes()
        self.holders[storage] = self.holders.get(storage, 0) + 1
        if self.holders[storage] == 1:
            self.now += size
            self.peak = max(self.peak, self.now)
        weakref.finalize(tensor, self._release, storage, size)

    def _release(self, storage: int, size: int) -> None:
        self.holders[storage] -= 1
        if not self.holders[storage]:
            self.now -= size


def inputs(name: str, frames: int, latents: int, device: str, dtype: torch.dtype) -> tuple[tuple, dict[str, Any], Run]:
    """The U-Net's arguments for one video, and the run of its stack."""
    config = CONFIGS[name]
    channels = config.get("in_channels", 4)
    make: dict[str, Any] = {"device": device, "dtype": dtype}
    text = torch.randn(1, 77, config["cross_attention_dim"], **make)
    added = None
    if config.get("addition_embed_type") == "text_time":
        added = {"text_embeds": torch.randn(frames, 1280, **make), "time_ids": torch.zeros(frames, 6, **make)}
    sample = torch.randn(frames, channels, latents, latents, **make)
    given = torch.randn(frames, channels + 1, latents, latents, **make)
    arguments = (sample, torch.tensor(500, device=device), text.expand(frames, -1, -1))
    return arguments, {"added_cond_kwargs": added, "return_dict": False}, Run(frames, (text,), given)


def build(name: str, device: str, dtype: torch.dtype, fake: bool) -> tuple[torch.nn.Module, TemporalStack]:
    """U-Net and stack with random weights; fake ones are made where they stand, real ones without their slow initialisation."""
    place = device if fake else "meta"
    unet = build_unet(name, place)
    with torch.device(place):
        stack = TemporalStack.for_unet(unet, base=name, **STACK_SETTINGS.get(name, {}))
    for part in (unet, stack):
        part.eval().requires_grad_(False)
        if not fake:
            part.to(dtype).to_empty(device=device)
            for parameter in part.parameters():
                parameter.uniform_(-0.02, 0.02)
    return unet, stack


def counted(call: Callable[[], Any], *known: torch.nn.Module) -> tuple[int, int]:
    """Floating-point operations and peak bytes of activations."""
    with FlopCounterMode(display=False) as flops:
        call()
    with PeakMemory(*known) as memory:
        call()
    return flops.get_total_flops(), memory.peak


def timed(call: Callable[[], Any], device: str) -> float:
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


class Pair:
    """The plain call and the video call of one architecture."""

    def __init__(self, name: str, frames: int, latents: int, device: str, dtype: torch.dtype, fake: bool = False) -> None:
        self.unet, self.stack = build(name, device, dtype, fake)
        self.attachment = self.stack.attach(self.unet)
        self.arguments, self.named, self.run = inputs(name, frames, latents, device, dtype)

    def plain(self) -> Any:
        return self.unet(*self.arguments, **self.named)

    def video(self) -> Any:
        with self.attachment.run(self.run):
            return self.plain()


@torch.no_grad()
def measure(name: str, frames: int, latents: int, repeats: int, device: str, dtype: torch.dtype) -> None:
    with FakeTensorMode():
        pair = Pair(name, frames, latents, "cpu", torch.float32, fake=True)
        flops, memory = counted(pair.plain, pair.unet, pair.stack)
        video_flops, video_memory = counted(pair.video, pair.unet, pair.stack)
    flop_ratio = video_flops / flops
    print(f"{name}, {frames} frames, latents {latents} x {latents}, {dtype}, {device}")
    print(f"  operations  plain {flops / 1e9:9.1f} G    video {video_flops / 1e9:9.1f} G    ratio {flop_ratio:.3f}")
    print(f"  activations plain {memory / 1e6:9.1f} MB   video {video_memory / 1e6:9.1f} MB   ratio {video_memory / memory:.3f}")
    if not repeats:
        return
    pair = Pair(name, frames, latents, device, dtype)
    pair.plain(), pair.video()
    times = [(timed(pair.plain, device), timed(pair.video, device)) for _ in range(repeats)]
    fastest, video_fastest = (min(column) for column in zip(*times, strict=True))
    time_ratio = video_fastest / fastest
    print(f"  time        plain {fastest:9.3f} s    video {video_fastest:9.3f} s    ratio {time_ratio:.3f}")
    print(f"  time ratio over operation ratio: {time_ratio / flop_ratio:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["sd15"], choices=[*CONFIGS])
    parser.add_argument("--latents", type=int, default=16)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    options = parser.parse_args()
    for architecture in options.names:
        measure(architecture, options.frames, options.latents, options.repeats, options.device, getattr(torch, options.dtype))
