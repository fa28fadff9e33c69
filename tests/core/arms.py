"""Every arm of training, run: recipe x ablation x processes x precision, each for three steps at a tiny width, its result loaded
and sampled.

`python -m tests.core.arms --out FILE` runs all of them, those of one process first, and writes what came of each as JSON as it
comes; `--device cuda` on a GPU, else on the CPU. Nothing but what training itself needs is imported.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL

from emu_core.base import load_base
from emu_core.errors import UserError
from emu_core.media.files import write_text
from emu_core.model_folder import BUNDLED
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings
from emu_core.toy import recipes as toy
from emu_core.toy.tasks import TASKS
from emu_core.training import loop, paper, run
from emu_core.training.checks import check_recipe
from emu_core.training.loop import PRECISIONS
from emu_core.training.processes import Processes, processes
from emu_core.training.recipes import Recipe, override
from emu_core.weights import open_weights
from tests.core.saved import PROMPT, ROOT, narrow_model

RECIPES: dict[str, Recipe] = {
    **{name: stage(toy.TINY) for name, stage in paper.STAGES.items()},
    **{name: recipe for name, recipe in toy.RECIPES.items() if not recipe.distil.steps},  # those need a teacher: see test_distil
}
ABLATIONS = ("", *paper.ABLATIONS)
WORLDS = {"one": 1, "two": 2, "fsdp": 2}
"""Kinds of processes, and how many they are; on a machine with one GPU `fsdp` shards in one."""
DOCS = ROOT / "docs" / "training.md"
STEPS = 3
MOST_SECONDS = 30  # of one arm


@dataclass(frozen=True)
class Arm:
    """One of them, by the names of its parts; no ablation is ""."""

    recipe: str
    ablation: str
    kind: str
    precision: str

    def __str__(self) -> str:
        return " ".join(filter(None, (self.recipe, self.ablation, self.kind, self.precision)))


def arms() -> list[Arm]:
    """All combinations, those of one recipe and ablation side by side."""
    return [Arm(*parts) for parts in itertools.product(RECIPES, ABLATIONS, WORLDS, PRECISIONS)]


# -- as small recipes


def recipe_of(arm: Arm, base: str = str(BUNDLED), init: str = "") -> Recipe:
    """The arm's recipe with the same switches at a tiny size. UserError where they cannot combine."""
    plain = RECIPES[arm.recipe]
    changes: dict[str, Any] = {
        "optimisation.steps": STEPS, "optimisation.batch": 2, "optimisation.warmup": 1, "clips.validation": 2, "world.cache": 4,
        "every.validate": STEPS, "every.sheet": 10 * STEPS, "start.base": base, "start.init": init,
    }  # fmt: skip
    if plain.task == "video":
        changes |= {"clips.size": (32, 32)} | ({"clips.frames": 4} if plain.role == "F" else {})
    compute = {"compute.precision": arm.precision, "compute.parallel": "fsdp" if arm.kind == "fsdp" else "ddp"}
    return override(paper.ablate(override(plain, changes), [arm.ablation] if arm.ablation else []), compute)


@cache
def refusal(arm: Arm) -> str:
    """Why it cannot be, as the trainer says before it begins; "" where it can."""
    try:
        check_recipe(recipe_of(arm), WORLDS[arm.kind])
    except UserError as error:
        return str(error)
    return ""


def starts_from(arm: Arm) -> Arm | None:
    """The arm whose result this one starts from, as in the paper's chain and in the bundled model's: of the same ablation."""
    before = {
        **dict(zip(list(paper.STAGES)[1:], list(paper.STAGES), strict=False)), "interpolation": "stage2_512px",
        "tiny-vae-wide": "tiny-vae", "tiny-t2i-wide": "tiny-t2i", "tiny-f-wide": "tiny-f", "tiny-i": "tiny-f",
        "little-vae-late": "little-vae", "little-vae-sharp": "little-vae-late", "little-t2i-wide": "little-t2i",
        "little-t2i-late": "little-t2i-wide", "little-f-late": "little-f", "little-f-camera": "little-f-late",
        "little-i": "little-f-camera",
    }  # fmt: skip
    name = before.get(arm.recipe)
    if name is None or arm.ablation == "single_stage":
        return None
    return Arm(name, arm.ablation, "one", "float32")


# -- running them


def run_arm(arm: Arm, work: Path, here: Processes) -> dict[str, Any]:
    """Train, load and sample one arm in `work`, where its results stay. Every process of its kind calls it."""
    before, folder = starts_from(arm), work / str(arm).replace(" ", "-")
    if here.main:  # latents of the same clips are encoded once; their names say of what they are
        folder.mkdir(parents=True)
        for file in (work / "latents").glob("*.safetensors"):
            os.link(file, folder / file.name)
    here.barrier()
    init = "" if before is None else str(work / str(before).replace(" ", "-") / "model")
    recipe = recipe_of(arm, str(work / "narrow"), init)
    run.train(recipe, folder, run.RunOptions(tasks=TASKS))
    if not here.main:
        return {}
    for file in folder.glob("latents-*.safetensors"):
        if not (work / "latents" / file.name).exists():
            os.link(file, work / "latents" / file.name)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows]
    if len(losses) != STEPS or not all(math.isfinite(loss) for loss in losses):
        raise AssertionError(f"expected {STEPS} finite losses, found {losses}")
    made = sampled(recipe, folder / "model", work)
    if not bool(torch.isfinite(made).all()) or float(made.std()) == 0:
        raise AssertionError("the result samples pictures of no value")
    return {"losses": losses, "picture": [float(made.mean()), float(made.std())]}


def sampled(recipe: Recipe, model: Path, work: Path) -> torch.Tensor:
    """What the exported model makes in one step, in the recipe's precision, where it was trained."""
    dtype = PRECISIONS[recipe.compute.precision]
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    where: dict[str, Any] = {"dtype": dtype, "device": device or "cpu"}
    if recipe.task in ("autoencoder", "little_autoencoder"):
        vae: Any = AutoencoderKL.from_pretrained(model / "vae")
        return vae.decode(
            torch.randn(1, vae.config.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
        ).sample.detach()
    settings = Settings(frames=4, size=(32, 32), steps=1)
    if recipe.task == "text_to_image":
        return EmuVideoPipeline.from_files(model, **where).starting_frame(PROMPT, settings)
    if recipe.task == "lora":
        return EmuVideoPipeline(with_lora(work / "narrow", next(model.glob("*.safetensors")))).starting_frame(PROMPT, settings)
    whole = model / "unet" / "config.json"
    base = model if whole.is_file() else work / "narrow"
    if whole.is_file() != (recipe.method.trained == "all"):
        raise AssertionError(f"expected a U-Net where one was trained and nowhere else, found {whole.is_file()}")
    stack = model / f"stack_{recipe.role}.safetensors"
    if recipe.role == "I":
        finer = EmuVideoPipeline.from_files(base, None, stack, **where)
        return finer.interpolate(torch.rand(8, 32, 32, 3, generator=torch.Generator().manual_seed(0)), PROMPT, settings)
    pipeline = EmuVideoPipeline.from_files(base, stack, **where)
    return pipeline(PROMPT, settings, interpolate=False).video


def with_lora(base: Path, file: Path) -> Any:
    """The image model with the LoRA's weights added, by their names."""
    loaded, lora = load_base(base), open_weights(file).read()
    modules = {f"lora_unet_{name.replace('.', '_')}": module for name, module in loaded.unet.named_modules()}
    for name in (name.removesuffix(".lora_up.weight") for name in lora if name.endswith(".lora_up.weight")):
        change = lora[f"{name}.lora_up.weight"].float() @ lora[f"{name}.lora_down.weight"].float()
        modules[name].weight.data += change
    return loaded


def in_order(chosen: Sequence[Arm]) -> list[Arm]:
    """With what they start from, first what others start from."""
    found: dict[Arm, None] = {}

    def add(arm: Arm) -> None:
        if (before := starts_from(arm)) is not None:
            add(before)
        found.setdefault(arm)

    for arm in chosen:
        add(arm)
    return list(found)


def work_through(chosen: Sequence[Arm], work: Path) -> Iterator[tuple[Arm, dict[str, Any]]]:
    """Run arms that belong in the same processes, in this one or in the group that torchrun started; a failure is noted."""
    torch.set_num_threads(1)
    loop.plot_losses = lambda folder: None  # type: ignore[assignment]  # it takes longer than the arm
    with processes(chosen[0].kind != "one") as here:
        yield from _each(chosen, work, here)


def _each(mine: Sequence[Arm], work: Path, here: Processes) -> Iterator[tuple[Arm, dict[str, Any]]]:
    for arm in mine:
        started = time.monotonic()
        try:
            found = run_arm(arm, work, here)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            found = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        yield arm, {**found, "seconds": round(time.monotonic() - started, 2)}
        if "error" in found and here.world > 1:
            os._exit(1)  # the others wait for this one, and torchrun ends them; those arms that follow get new processes


Outcomes = dict[Arm, dict[str, Any]]
"""Of each arm: losses and a picture's figures, or the reason why it is refused, or the error."""


def run_all(chosen: Sequence[Arm], device: str, told: Callable[[Outcomes], object] = len) -> Outcomes:
    """Each arm's outcome, those first that one process trains. told: called with those that have come since the last call."""
    results = {arm: {"refused": why} for arm in chosen if (why := refusal(arm))}
    if device == "cuda" and torch.cuda.device_count() < 2:
        results |= {arm: {"refused": "two processes need two GPUs"} for arm in chosen if arm.kind == "two" and arm not in results}
    if not find_spec("peft"):
        results |= {arm: {"refused": "peft is not installed"} for arm in chosen if RECIPES[arm.recipe].task == "lora"}
    told(results)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "latents").mkdir()
        narrow_model(work / "narrow")
        # a starting point is always trained in one process
        wanted = [arm for arm in in_order([arm for arm in chosen if arm not in results]) if arm not in results]
        for alone in sorted({arm.kind == "one" for arm in wanted}, reverse=True):
            results |= _in_processes([arm for arm in wanted if (arm.kind == "one") == alone], work, device, told)
    return results


def _in_processes(mine: list[Arm], work: Path, device: str, told: Callable[[Outcomes], object]) -> Outcomes:
    count = 1 if device == "cuda" and torch.cuda.device_count() < 2 else WORLDS[mine[0].kind]
    todo, done = work / "todo.json", work / "done.jsonl"
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    command = [sys.executable, *launcher, "-m", "tests.core.arms", "--work", str(work)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    found: Outcomes = {}

    def look() -> None:
        rows = [json.loads(line) for line in done.read_text().splitlines(keepends=True) if line.endswith("\n")]
        new = {arm: row for row in rows if (arm := Arm(**row.pop("arm"))) not in found}
        found.update(new)
        if new:
            told(new)

    while left := [arm for arm in mine if arm not in found]:
        todo.write_text(json.dumps([asdict(arm) for arm in left]))
        done.write_text("")
        why = _watched(command, environment, 60 + MOST_SECONDS * len(left), look)
        new = [arm for arm in left if arm in found]
        if len(new) < len(left) and not any("error" in found[arm] for arm in new):  # the first of those without a word
            silent = next(arm for arm in left if arm not in found)
            found[silent] = {"error": f"its process ended with {why}"}
            told({silent: found[silent]})
    return found


def _watched(command: list[str], environment: dict[str, str], limit: float, look: Callable[[], None]) -> str:
    """How a command ended within `limit` seconds; meanwhile and after its end, `look`."""
    end = time.monotonic() + limit
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True) as process,
    ):
        try:
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.2)
                look()
        finally:
            if late := process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        look()
        process.wait()
        said.seek(0)
        return f"no end within {limit} s" if late else f"status {process.returncode}: {said.read()[-1500:]}"


def inside(work: Path) -> None:
    """One of the processes: what came of each arm goes to a file, a line each."""
    chosen = [Arm(**values) for values in json.loads((work / "todo.json").read_text())]
    main = os.environ.get("RANK", "0") == "0"
    with open(work / "done.jsonl", "a") if main else nullcontext() as file:
        for arm, found in work_through(chosen, work):
            if file is not None:
                file.write(json.dumps({"arm": asdict(arm), **found}) + "\n")
                file.flush()


# -- the table

MARKS = "abcdefghij"


def table(named: Callable[[Arm], str]) -> str:
    """Markdown: a row a recipe, a column an ablation; in each cell how many arms run, and letters for why the
    others are refused, below. named: of an arm, why it is refused, or ""."""
    reasons: dict[str, str] = {}

    def cell(recipe: str, ablation: str) -> str:
        refused: dict[str, list[Arm]] = {}
        every = [Arm(recipe, ablation, kind, precision) for kind in WORLDS for precision in PRECISIONS]
        for arm in every:
            if why := named(arm):
                refused.setdefault(why.replace(repr(recipe), "NAME").replace(f"leave {ablation} out", "leave it out"), []).append(
                    arm
                )
        marks = [reasons.setdefault(why, MARKS[len(reasons)]) for why in refused]
        ran = len(every) - sum(map(len, refused.values()))
        return f"{ran} <sup>{' '.join(marks)}</sup>" if marks else f"{ran}"

    head = ["recipe", *(f"`{name}`" if name else "as it is" for name in ABLATIONS)]
    rows = [[f"`{recipe}`", *(cell(recipe, ablation) for ablation in ABLATIONS)] for recipe in RECIPES]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, "", *(f"* {mark}: {why}." for why, mark in reasons.items())])


START, END = "<!-- arms: written by tests/core/test_training_arms.py -->", "<!-- end of arms -->"


def in_docs() -> str:
    """The table as it stands in docs/training.md."""
    return DOCS.read_text().partition(START)[2].partition(END)[0].strip()


def write_docs(text: str) -> None:
    """Put the table into docs/training.md."""
    before, _, rest = DOCS.read_text().partition(START)
    DOCS.write_text(f"{before}{START}\n{text}\n{END}{rest.partition(END)[2]}")


def main() -> int:
    """The command line; 1 where an arm failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="file for the outcomes, JSON")
    parser.add_argument("--only", action="append", default=[], help="arms with these words alone, such as 'tiny-f all_trained'")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        inside(options.work)
        return 0
    words = [only.split() for only in options.only] or [[]]
    chosen = [arm for arm in arms() if any(set(some) <= set(str(arm).split()) for some in words)]
    started = time.monotonic()
    machine = {"torch": torch.__version__, "device": options.device}
    if options.device == "cuda":
        machine["name"] = torch.cuda.get_device_name(0)
    so_far: Outcomes = {}

    def told(new: Outcomes) -> None:
        """A line for each that ran, and the file anew, so that it is there if this is stopped."""
        so_far.update(new)
        for arm, row in new.items():
            if "refused" not in row:
                print(f"{len(so_far)}/{len(chosen)} {arm}: {row.get('error') or row['losses']}", flush=True)
        if options.out:
            write_text(
                options.out, json.dumps({"machine": machine, "arms": [{**asdict(a), **r} for a, r in so_far.items()]}, indent=1)
            )

    results = run_all(chosen, options.device, told)
    failed = [arm for arm, found in results.items() if "error" in found]
    ran = sum("losses" in found for found in results.values())
    print(f"{ran} ran, {len(results) - ran - len(failed)} refused, {len(failed)} failed, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
