"""Ratios of training, each of one run on this machine.

    python -m benchmarks.training memory      peak memory: the stack alone against all parameters, SD 1.5 shapes, small latents
    python -m benchmarks.training resolution  time of an iteration: 256 px against 512 px, SD 1.5 shapes
    python -m benchmarks.training loader      clips a second: the data loader alone against a training step of the tiny model
    python -m benchmarks.training start       steps to the same validation loss: identity start against random start, toy world
    python -m benchmarks.training budgets     minutes of the bundled model's recipes on one GPU: an estimate from what is counted

Weights are random but in `loader` and `start`, which use the bundled image model; `budgets` computes nothing.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from emu_core.base.architectures import CONFIGS, build_unet
from emu_core.model.schedule import ScheduleConfig, add_noise, target
from emu_core.model.stack import TemporalStack
from emu_core.model.video_model import VideoModel
from emu_core.training.recipes import Recipe

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


CALL, UPDATE, ARITHMETIC = 33e-6, 10e-6, 5e13
"""Seconds until an operation of torch in a network is on its way to a GPU, from the two iterations of SD 1.5 that `resolution`
took on an H200 (docs/benchmarks.md); the same in an optimiser, where no modules and no gradients stand between, a guess; what
a GPU computes a second in networks as small as these, a twentieth of an H100's 990 TFLOP/s (bfloat16), a guess too."""
PICTURE, COVERAGE, SAMPLE, CANVAS = 0.8e-3, 0.5e-3, 0.15e-3, 27e-3
"""Seconds of one core, measured once on a busy EPYC: a picture of the world (a further frame of its clip takes a quarter), where
its figure is, all that is drawn at random for a clip (for a picture a third), a nameless picture with what lies around it."""


class Operations(TorchDispatchMode):
    """Counts what becomes work of a GPU, which views do not."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not function.is_view and function is not torch.ops.aten.detach.default
        return function(*args, **(kwargs or {}))


def counted(call: Callable[[], object]) -> tuple[float, int]:
    """Floating point operations of a call on the meta device, and operations of torch."""
    with FlopCounterMode(display=False) as flops, Operations() as operations:
        call()
    return flops.get_total_flops(), operations.count


def networks(recipe: Recipe) -> tuple[Callable[[], Any], list[torch.nn.Module]]:
    """A call of what a recipe of the little world trains, for one batch, without weights; the parts that are trained whole."""
    from emu_core.base.architectures import STACK_SETTINGS, STACKS
    from emu_core.toy import autoencoder, recipes, text, text_to_image, world

    of_vae, of_unet = (recipes.RECIPES[name].network for name in ("little-vae", "little-t2i"))
    n = recipe.optimisation.batch
    x, t, states = torch.empty(n, of_vae.latents, 8, 8), torch.empty(n), torch.empty(n, text.MAX_TOKENS, text.WIDTH)
    if recipe.task == "little_autoencoder":
        vae: Any = autoencoder.build_vae(of_vae.latents, of_vae.widths)
        for block in (*(level.resnets[0] for level in vae.encoder.down_blocks[:2]), vae.decoder.up_blocks[3].resnets[1]):
            block.forward = lambda x, temb=None: x  # they stay at zero
        crops = torch.empty(n, 3, autoencoder.CROP, autoencoder.CROP)
        vae.encoder.requires_grad_(not recipe.start.init)
        return lambda: vae.decode(vae.encode(crops).latent_dist.mean).sample, [vae.decoder if recipe.start.init else vae]
    unet: Any = text_to_image.build_unet(of_unet.widths, of_unet.layers, of_vae.latents)
    if recipe.task == "text_to_image":
        encoder = text.build_text_encoder(len(text.build_tokenizer(world.vocabulary())))
        ids = torch.empty(n, text.MAX_TOKENS, dtype=torch.long)
        return lambda: unet(x, t, encoder(ids).last_hidden_state).sample, [unet, encoder]
    unet.requires_grad_(False)
    if recipe.task == "video":
        stack = TemporalStack.for_unet(unet, base="tiny", **STACK_SETTINGS["tiny"] | STACKS[recipe.method.stack])
        model, given = VideoModel(unet, stack), torch.empty(n, recipe.clips.frames, of_vae.latents + 1, 8, 8)
        return lambda: model(given[:, :, 1:], t, states, given), [stack]
    x.requires_grad_(True)  # a LoRA's gradients pass through the whole U-Net
    return lambda: unet(x, t, states).sample, []


def work(recipe: Recipe) -> tuple[float, int, int]:
    """Floating point operations in a step, and operations of torch in the networks and in the optimiser."""
    from emu_core.training.optimiser import build_optimiser

    with torch.device("meta"):
        call, parts = networks(recipe)
        found = [counted(lambda: call().square().mean().backward())]
        weights = {f"{i}.{name}": p for i, module in enumerate(parts) for name, p in module.named_parameters() if p.requires_grad}
        for p in weights.values():
            p.grad = torch.empty_like(p)
        update = counted(build_optimiser(recipe.optimisation, weights).step) if weights else (0.0, 0)
        if recipe.distil.steps:
            with torch.no_grad():
                found += [counted(call)] * (2 * recipe.distil.teacher_steps // recipe.distil.steps)
    return update[0] + sum(flops for flops, _ in found), sum(operations for _, operations in found), update[1]


def budgets(options: argparse.Namespace) -> None:
    """Nothing of a step overlaps here, though a GPU computes while the next operations are on their way."""
    from emu_core.toy.autoencoder import CROP_SHARE
    from emu_core.toy.recipes import BUDGETS

    total = 0.0
    for name, recipe in BUDGETS["gpu"].items():
        (flops, called, updated), batch, steps = work(recipe), recipe.optimisation.batch, recipe.optimisation.steps
        picture = PICTURE + (COVERAGE if recipe.world.figures else 0.0)
        if recipe.task == "little_autoencoder":  # half of the crops, then of whole pictures, of which there are a quarter as many
            drawn, kept = batch * (CROP_SHARE / 2 + (1 - CROP_SHARE) / 8) * picture, CANVAS
        else:
            drawn, kept = (
                batch * SAMPLE / (1 if recipe.on_a_base else 3),
                picture * (1 + (recipe.clips.frames - 1) / 4 * (recipe.task == "video")),
            )
        step = flops / ARITHMETIC + called * CALL + updated * UPDATE + drawn
        minutes = steps * step / 60, recipe.world.cache * kept / 60
        total += sum(minutes)
        counts = f"{steps:>6} x {batch:<4} {flops / 1e12:5.2f} TFLOP, {called:>5} + {updated:<4} operations, {1e3 * step:4.0f} ms"
        print(f"{name:<16} {counts}: {minutes[0]:3.0f} min, and {minutes[1]:.0f} of drawing before", flush=True)
    print(f"in all {total:.0f} min")


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
    parser.add_argument("what", choices=("memory", "resolution", "loader", "start", "budgets"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--part", choices=("stack", "all"), help=argparse.SUPPRESS)
    parser.add_argument("--pixels", type=int, default=64, help="memory: side of a frame")
    parser.add_argument("--frames", type=int, default=2, help="resolution: frames of the clip")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400, help="start: of each run")
    parser.add_argument("--small", action="store_true", help="start: at 32 x 32 pixels")
    parser.add_argument("--out", default="runs/start", help="start: folder for curves and the picture")
    options = parser.parse_args()
    {"memory": memory, "resolution": resolution, "loader": loader, "start": start, "budgets": budgets}[options.what](options)


if __name__ == "__main__":
    main()
