"""A chain: stages one after the other, each from the last, that goes on where it was stopped."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

from . import checkpoints
from .checks import check_recipe
from .loop import RECIPE_FILE, check_folder
from .paper import CHAINS, Chain
from .recipes import Recipe, override

logger = logging.getLogger(__name__)

DONE = "done.json"
DEMO_PROMPTS = 5


def find_chain(name: str | None) -> Chain:
    if name not in CHAINS:
        raise ValueError(f"expected the name of a chain, {', '.join(CHAINS)}, found {name!r}: such as `train chain tiny-demo`")
    return CHAINS[name]


def chain_recipes(name: str | None, options: Namespace) -> list[Recipe]:
    """The recipes of a chain's stages as the command line changes them; what each starts from is not known yet."""
    from ..cli.train import family, finish, fitted, pairs
    from ..pipeline import BUNDLED

    chain = find_chain(name)
    if chain.family and options.family not in (None, chain.family):
        raise ValueError(f"chain {chain.name!r} is for the family {chain.family} alone: leave --family out")
    made: list[Recipe] = []
    for recipe in chain.recipes(chain.family or family(options), options.ablation):
        if recipe.family == "tiny":
            recipe = replace(recipe, base=str(BUNDLED))
        changes = {**chain.changes.get("", {}), **chain.changes.get(recipe.name, {})}
        recipe = override(override(finish(recipe, options), changes), pairs(options.set))
        if options.init and made:
            recipe = replace(recipe, init="")  # the first stage's alone
        made.append(fitted(recipe, options.fit) if options.fit else recipe)
    return made


def train_chain(name: str | None, options: Namespace, minutes: float = math.inf) -> None:
    """Run all stages in folders of their own below --out, or go on with them; then, of a demo, generate and judge."""
    chain, end = find_chain(name), time.monotonic() + 60 * minutes
    recipes = chain_recipes(name, options)
    out = Path(options.out or f"runs/{chain.name}")
    if (out / DONE).exists() or any(out.glob("*/" + RECIPE_FILE)):
        if not options.resume:
            raise ValueError(f"{out} holds a chain already: go on with --resume, or name another folder with --out")
    elif options.resume:
        raise ValueError(f"nothing to resume: {out} holds no chain; start without --resume")
    check_folder(out, 0)
    if chain.demo:
        recipes = with_demo_clips(recipes, out, chain.demo)
    for recipe in recipes:
        check_recipe(recipe, options.processes)  # all stages, before the first begins
    before = options.init or ""
    for number, recipe in enumerate(recipes, 1):
        folder = out / f"{number}-{recipe.name}"
        recipe = replace(recipe, init=before)
        if not run_stage(recipe, folder, options.processes, end, options.tensorboard):
            print(f"{recipe.name} stopped before its end: go on with --resume")
            return
        before = str(folder / "model")
    if chain.demo:
        judge_demo(recipes, out)
    (out / DONE).write_text(json.dumps({"stages": [recipe.name for recipe in recipes]}))


def run_stage(recipe: Recipe, folder: Path, processes: int, end: float, tensorboard: bool) -> bool:
    """Run or continue one stage, or pass over it; returns whether it is complete."""
    from .run import launch
    from .run import train as run_recipe

    done = folder / DONE
    if done.is_file():
        logger.info("%s is complete", folder)
        return True
    resume = bool(checkpoints.checkpoints(folder))
    minutes = max((end - time.monotonic()) / 60, 0.0)
    if processes > 1:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / RECIPE_FILE
        file.write_text(json.dumps(asdict(recipe), indent=2))
        limit = [] if math.isinf(minutes) else ["--max-minutes", str(minutes)]
        flags = [flag for flag, given in (("--resume", resume), ("--tensorboard", tensorboard)) if given]
        launch(processes, ["train", str(file), "--out", str(folder), *flags, *limit])
        complete = checkpoints.newest(folder).name == f"checkpoint-{recipe.optimisation.steps:08d}"
    else:
        complete = run_recipe(recipe, folder, resume, minutes, tensorboard)
    if complete:
        done.write_text(json.dumps({"steps": recipe.optimisation.steps}))
    return complete


# -- the demo


def with_demo_clips(recipes: list[Recipe], out: Path, count: int) -> list[Recipe]:
    """Draw clips, encode them as mp4, curate them into shards and select those that move, unless that was done before."""
    from ..toy.demo import make_shards

    shards = make_shards(out / "videos", out / "shards", count)
    return [replace(recipe, clips=replace(recipe.clips, shards=str(shards))) for recipe in recipes]


def judge_demo(recipes: list[Recipe], out: Path) -> None:
    """Generate with the last stacks and print what the judge of the procedural world says."""
    from ..pipeline import EmuVideoPipeline, Settings
    from ..toy.judge import evaluate

    stacks: dict[str, Path] = {}
    for number, recipe in enumerate(recipes, 1):
        stacks[recipe.role] = out / f"{number}-{recipe.name}" / "model" / f"stack_{recipe.role}.safetensors"
    pipeline = EmuVideoPipeline.from_files(None, str(stacks["F"]), str(stacks["I"]))
    figures = evaluate(pipeline, DEMO_PROMPTS, Settings(frames=8, steps=8), interpolate=True, out=out / "videos_made")
    (out / "judge.json").write_text(json.dumps(figures, indent=2))
    width = max(map(len, figures))
    lines = [f"{name:<{width}}  {value:.4g}" for name, value in figures.items()]
    print("\n".join(["", *lines]), flush=True)
    print(
        f"Contact sheets: {out / 'videos_made'}. A miniature of the five stages: it shows that each runs and hands on to the "
        "next. Motion takes some thousand steps (docs/training.md).",
        file=sys.stderr,
    )
