"""Ratios of training, each of one run on this machine.

    python -m benchmarks.training memory      peak memory: the stack alone against all parameters, SD 1.5 shapes, small latents
    python -m benchmarks.training resolution  time of an iteration: 256 px against 512 px, SD 1.5 shapes
    python -m benchmarks.training loader      clips a second: the data loader alone against a training step of the tiny model
    python -m benchmarks.training start       steps to the same validation loss: identity start against random start, toy world

Weights are random but in `loader` and `start`, which use the bundled image model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from emu_core.base.architectures import CONFIGS, build_unet
from emu_core.model.schedule import ScheduleConfig, add_noise, target
from emu_core.model.stack import TemporalStack
from emu_core.model.video_model import VideoModel

GB = 2**30


class Iteration:
    """One training step of SD 1.5's U-Net with a full stack, on random clips."""

    def __init__(self, family: str, everything: bool, dtype: torch.dtype, device: str) -> None:
        self.schedule, self.dtype, self.device = ScheduleConfig(), dtype, device
        unet: Any = torch.nn.Module.to(build_unet(family, device), dtype=dtype).requires_grad_(everything)
        stack = TemporalStack.for_unet(unet, base=family).to(device, dtype).requires_grad_(True)
        self.model = VideoModel(unet, stack)
        trained = [p for module in (stack, unet) for p in module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=1e-4)
        self.text = torch.randn(1, 77, CONFIGS[family]["cross_attention_dim"], device=device, dtype=dtype)

    def __call__(self, pixels: int, frames: int) -> float:
        """Seconds of a step on a clip of so many frames and pixels a side."""
        started = time.perf_counter()
        shape = (1, frames, 4, pixels // 8, pixels // 8)
        x0, noise = (torch.randn(shape, device=self.device) for _ in range(2))
        t = torch.tensor([600], device=self.device)
        given = torch.zeros(1, frames, 5, *shape[-2:], device=self.device, dtype=self.dtype)
        output = self.model(add_noise(self.schedule, x0, noise, t).to(self.dtype), t, self.text, given)
        (output.float() - target(self.schedule, x0, noise, t)).square().mean().backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.device != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - started


def peak(device: str) -> float:
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / GB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def memory(options: argparse.Namespace) -> None:
    """Each in a process of its own, since a process's peak never falls."""
    if options.part:
        before = peak(options.device)
        iteration = Iteration("sd15", options.part == "all", torch.bfloat16, options.device)
        iteration(options.pixels, 8)
        print(json.dumps({"before": before, "peak": peak(options.device)}))
        return
    found = {}
    for part in ("stack", "all"):
        command = [sys.executable, "-m", "benchmarks.training", "memory", "--part", part, "--pixels", str(options.pixels)]
        done = subprocess.run([*command, "--device", options.device], capture_output=True, text=True, check=True)
        found[part] = json.loads(done.stdout.splitlines()[-1])["peak"]
        print(f"{part:<6} {found[part]:6.2f} GB at the most", flush=True)
    ratio = found["stack"] / found["all"]
    print(f"training the stack alone takes {ratio:.2f} x the memory of training all (allowed: 0.6)")


def resolution(options: argparse.Namespace) -> None:
    seconds: dict[int, list[float]] = {256: [], 512: []}
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    iteration = Iteration("sd15", False, dtype, options.device)
    iteration(256, options.frames)  # the optimiser's states are made
    for _ in range(options.repeats):  # in turns, so that both meet the same neighbours
        for size in seconds:
            seconds[size].append(iteration(size, options.frames))
            print(f"{size} px, {options.frames} frames: {seconds[size][-1]:.2f} s", flush=True)
    ratio = min(seconds[512]) / min(seconds[256])
    print(f"an iteration at 256 px is {ratio:.2f} x as fast as at 512 px (the paper: 3.5)")


def loader(options: argparse.Namespace) -> None:
    from emu_core.data.clips import ClipDataset
    from emu_core.data.clips import loader as load
    from emu_core.data.shards import Shards
    from emu_core.model_folder import BUNDLED
    from emu_core.toy.demo import make_shards
    from emu_core.toy.recipes import TINY
    from emu_core.training import paper
    from emu_core.training.loop import Trainer
    from emu_core.training.recipes import override
    from emu_core.training.video import VideoTask

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = make_shards(folder / "videos", folder / "shards", 200)
        changes = {"optimisation.batch": "16", "optimisation.steps": "1000", "clips.validation": "0", "clips.workers": "0"}
        changes |= {"clips.starts": "1", "compute.cache": "true"}
        recipe = override(paper.stage2_512px(TINY), {**changes, "start.base": str(BUNDLED), "clips.shards": str(shards)})
        trainer = Trainer(recipe, VideoTask(recipe, folder / "run"), folder / "run")
        samples = trainer.task.stream(range(i, i + trainer.micro) for i in itertools.count(0, trainer.micro))
        trainer.one_step(samples)
        started = time.perf_counter()
        for _ in range(options.repeats):
            trainer.one_step(samples)
        eats = 16 * options.repeats / (time.perf_counter() - started)
        rates = {}
        for workers in (0, 1):
            dataset = ClipDataset(Shards.open(shards), None, 4.0, 8, (64, 64), 0)
            batches = load(dataset, (range(i, i + 16) for i in range(0, 10**9, 16)), workers)
            next(batches)
            started, clips = time.perf_counter(), 0
            while time.perf_counter() - started < 10:
                clips += len(next(batches)["caption"])
            rates[workers] = clips / (time.perf_counter() - started)
            batches.close()
    print(f"a training step eats {eats:.1f} clips/s (8 frames of 64 px, tiny model, latents kept)")
    for workers, rate in rates.items():
        print(f"loader, {workers} worker processes: {rate:.0f} clips/s, {rate / eats:.1f} x the step (wanted: 5)")


def start(options: argparse.Namespace) -> None:
    """Two runs of one recipe that differ in nothing else; validation loss on held-out clips."""
    from emu_core.model_folder import BUNDLED
    from emu_core.toy.recipes import TINY
    from emu_core.toy.source import WorldSource
    from emu_core.training import paper
    from emu_core.training.loop import Trainer
    from emu_core.training.recipes import override
    from emu_core.training.video import VideoTask

    every = options.steps // 20
    curves: dict[str, list[float]] = {}
    for kind in ("identity", "random"):
        changes = {"optimisation.batch": "8", "optimisation.steps": str(options.steps), "clips.validation": "32", "cache": "2000"}
        changes |= {"validate_every": str(every), "method.start": kind, "sheet_every": "1000000", "save_every": "1000000"}
        changes |= {"clips.size": "32,32"} if options.small else {}
        recipe = override(paper.stage2_512px(TINY), changes | {"start.base": str(BUNDLED)})
        folder = Path(options.out) / kind
        trainer = Trainer(recipe, VideoTask(recipe, Path(options.out), source=WorldSource), folder)
        folder.mkdir(parents=True, exist_ok=True)
        curves[kind] = [f["val_loss"] for f in trainer.steps() if "val_loss" in f]
        print(kind, " ".join(f"{value:.4f}" for value in curves[kind]), flush=True)
        (folder / "curve.json").write_text(json.dumps({"every": every, "val_loss": curves[kind]}))
    for level in sorted({round(value, 4) for value in curves["random"][4::5]}, reverse=True):
        steps = {k: next((every * (i + 1) for i, v in enumerate(c) if v <= level), None) for k, c in curves.items()}
        if steps["identity"] and steps["random"]:
            ratio = steps["random"] / steps["identity"]
            print(f"loss {level:.4f}: identity {steps['identity']} steps, random {steps['random']}, {ratio:.1f} x")
    draw(curves, every, Path(options.out) / "start.png")


def draw(curves: dict[str, list[float]], every: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.6))
    for name, values in curves.items():
        axis.plot([every * (i + 1) for i in range(len(values))], values, label=f"{name} start", marker=".")
    axis.set_xlabel("step")
    axis.set_ylabel("validation loss")
    axis.set_yscale("log")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "resolution", "loader", "start"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--part", choices=("stack", "all"), help=argparse.SUPPRESS)
    parser.add_argument("--pixels", type=int, default=64, help="memory: side of a frame")
    parser.add_argument("--frames", type=int, default=2, help="resolution: frames of the clip")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400, help="start: of each run")
    parser.add_argument("--small", action="store_true", help="start: at 32 x 32 pixels")
    parser.add_argument("--out", default="runs/start", help="start: folder for curves and the picture")
    options = parser.parse_args()
    {"memory": memory, "resolution": resolution, "loader": loader, "start": start}[options.what](options)


if __name__ == "__main__":
    main()
