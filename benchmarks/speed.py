"""What each way of saving time gains, in one run: each with and without it, in turns, the least of each compared.

    python -m benchmarks.speed [texts] [calls] [compile] [encode] [--architecture tiny] [--latents 8] [--frames 8] [--repeats 3]
        [--threads 1 2] [--device cpu] [--side 256]

texts: the bundled model's video and three windows of interpolation, texts read once or for every sampling. calls: the three
evaluations of a step, one after the other or as one batch. compile: one evaluation, plain or compiled, and how many evaluations
pay for the compiling. encode: decoding of latents and encoding of an mp4, one after the other or at once. `calls` and `compile`
take a U-Net of `--architecture` with a stack at every site, of random weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.step import build, inputs
from emu_core.base import load_base
from emu_core.media import write_parts
from emu_core.model.compiled import CompiledUNet
from emu_core.model.guidance import Batching, GuidedDenoiser, calls
from emu_core.model.video_model import VideoModel
from emu_core.model_folder import BUNDLED
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings

PROMPT = "a big red circle moves right on a white background"


def seconds(call: Callable[[], Any], device: str = "cpu") -> float:
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def compare(name: str, without: Callable[[], Any], with_it: Callable[[], Any], options: Any) -> tuple[float, float]:
    """Print and return the least time of each, after one call that counts for nothing."""
    without(), with_it()
    rounds = [(seconds(without, options.device), seconds(with_it, options.device)) for _ in range(options.repeats)]
    slow, fast = (min(column) for column in zip(*rounds, strict=True))
    print(f"{name:<44} {slow:8.3f} s -> {fast:8.3f} s   {slow / fast:.2f} x as fast", flush=True)
    return slow, fast


def texts(options: argparse.Namespace, threads: int) -> None:
    pipeline, settings = EmuVideoPipeline.from_files(device=options.device), Settings(steps=1)
    frames = torch.rand(20, 64, 64, 3)

    def work(states: Callable[..., Any]) -> None:
        pipeline.states = states
        pipeline.video(None, PROMPT, settings)
        pipeline.interpolate(frames, PROMPT, settings)

    kept = pipeline.states
    compare(f"texts read once, {threads} threads", lambda: work(pipeline._states), lambda: work(kept), options)


def video_model(options: argparse.Namespace) -> tuple[VideoModel, dict[str, Any]]:
    unet, stack = build(options.architecture, options.device, torch.float32, fake=False)
    (sample, t, text), named, run = inputs(options.architecture, options.frames, options.latents, options.device, torch.float32)
    added = named["added_cond_kwargs"] or {}
    first = {"text": text[:1], "added": {name: value[:1] for name, value in added.items()}}
    return VideoModel(unet, stack), {"latents": sample[None], "t": t, "conditioning": run.conditioning[None], **first}


def guidance(options: argparse.Namespace, threads: int) -> None:
    model, x = video_model(options)

    def network(noisy: torch.Tensor, t: torch.Tensor, part: Any) -> torch.Tensor:
        n = len(part)
        added = {name: value.expand(n, -1) for name, value in x["added"].items()}
        given = torch.cat([x["conditioning"] * call.image for call in part])
        return model(noisy.expand(n, *noisy.shape[1:]), t, x["text"].expand(n, -1, -1), given, added)

    off, on = (GuidedDenoiser(network, calls(2.0, 7.5), batching=Batching(how)) for how in ("off", "on"))  # type: ignore[arg-type]
    found = off(x["latents"], x["t"]), on(x["latents"], x["t"])
    name = f"calls as one batch, {options.architecture}, {threads} threads"
    compare(name, lambda: off(x["latents"], x["t"]), lambda: on(x["latents"], x["t"]), options)
    print(f"    largest difference {float((found[0] - found[1]).abs().max() / found[0].abs().max()):.1e} of the largest value")


def compiling(options: argparse.Namespace, threads: int) -> None:
    model, x = video_model(options)
    cover = CompiledUNet(model.attachment.unet)

    def call(compiled: CompiledUNet | None) -> torch.Tensor:
        model.compiled = compiled
        return model(**x)

    plain, other = call(None), call(cover)
    name = f"compiled, {options.architecture}, {threads} threads"
    slow, fast = compare(name, lambda: call(None), lambda: call(cover), options)
    pays = f"pays after {cover.seconds / (slow - fast):.0f} calls" if slow > fast else "never pays"
    difference = float((plain - other).abs().max() / plain.abs().max())
    print(f"    compiling took {cover.seconds:.1f} s ({cover.graphs} graphs): {pays}; largest difference {difference:.1e}")


def encoding(options: argparse.Namespace, threads: int) -> None:
    base, frames, side = load_base(BUNDLED, device=options.device), 4 * options.frames, options.side // 8
    small = torch.randn(frames, 4, side // 4, side // 4, generator=torch.Generator().manual_seed(0))
    latents = torch.nn.functional.interpolate(small, (side, side), mode="bilinear")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        file = Path(folder) / "video.mp4"
        decode = seconds(lambda: [*base.decoded(latents)], options.device)

        def after() -> None:
            write_parts(file, [*base.decoded(latents)], frames, 8.0)

        def at_once() -> None:
            write_parts(file, base.decoded(latents), frames, 8.0)

        slow, _ = compare(f"decoded while encoding, {options.side} px, {threads} threads", after, at_once, options)
    print(f"    decoding alone takes {decode / slow:.0%} of the former")


KINDS = {"texts": texts, "calls": guidance, "compile": compiling, "encode": encoding}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=[*KINDS], choices=[*KINDS])
    parser.add_argument("--architecture", default="tiny", choices=("tiny", "sd15", "sdxl"))
    parser.add_argument("--latents", type=int, default=8)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--side", type=int, default=256, help="pixels of what is encoded")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    for threads in options.threads:
        torch.set_num_threads(threads)
        for kind in options.kinds:
            KINDS[kind](options, threads)


if __name__ == "__main__":
    main()
