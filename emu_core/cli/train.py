"""`emu-video train`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .options import add_command, in_columns
from .recipes import add_commands as add_recipes
from .recipes import add_recipe_options, chain_recipes, find_chain, resolve

if TYPE_CHECKING:
    from ..training.paper import Chain
    from ..training.recipes import Recipe
    from ..training.run import RunOptions


def add(commands: argparse._SubParsersAction) -> None:
    """Add `train` and `recipes`."""
    about = "train by a recipe, or a chain of them; checkpoints, loss curve and sample sheets go to --out"
    parser = add_command(commands, "train", about, "emu_core.cli.train:train")
    add = parser.add_argument
    add("recipe", help="name of a recipe (`emu-video recipes` lists them), the recipe.json of a run, or the word chain")
    add("chain", nargs="?", help="after the word chain: its name, such as tiny-demo or paper")
    add_recipe_options(parser)
    add("--out", help="folder of the run (default: runs/RECIPE)")
    add("--resume", action="store_true", help="go on from the folder's newest checkpoint, exactly as if never stopped")
    add("--processes", type=int, default=1, help="processes on this machine, one for each GPU; on a CPU one a core")
    add("--max-minutes", type=float, help="stop after this time, with a checkpoint to resume from")
    add("--tensorboard", action="store_true", help="also write the figures for TensorBoard, in the run's folder")
    add_recipes(commands)


def train(options: Namespace) -> None:
    """Train by a recipe or a chain, in one process or several."""
    from ..toy.tasks import TASKS
    from ..training.checks import check_processes
    from ..training.claim import claimed
    from ..training.distil_rounds import rounds
    from ..training.run import RunOptions, check_run, launch
    from ..training.run import train as run_recipe

    logging.getLogger("emu_core.training").setLevel(logging.INFO)  # what is trained, and the memory that it takes
    check_processes(options.processes, accelerated=False)  # a chain says all that is wrong at once
    minutes = math.inf if options.max_minutes is None else options.max_minutes
    how = RunOptions(options.resume, minutes, options.tensorboard, TASKS)
    if options.recipe == "chain":
        _train_chain(find_chain(options.chain), options, how)
        return
    if options.chain:
        found = f"found {options.chain!r} after the recipe {options.recipe!r}"
        raise UserError(f"{found}: one recipe at a time, or `train chain NAME`")
    recipe = resolve(options)
    folder = Path(options.out or f"runs/{recipe.name}")
    if len(parts := rounds(recipe)) > 1:
        _train_rounds(parts, folder, options, how)
        return
    (recipe,) = parts
    if options.processes == 1:
        run_recipe(recipe, folder, how)
    else:
        check_processes(options.processes)
        check_run(recipe, folder, options.resume, options.processes)
        with claimed(folder, recipe):  # the processes will take it themselves: whether somebody else has it is known now
            pass
        launch(options.processes, sys.argv[1:])


def _train_rounds(recipes: list[Recipe], out: Path, options: Namespace, how: RunOptions) -> None:
    """Distil in rounds, each in a folder of its own below --out, or go on with them."""
    from ..model_folder import FEW_STEPS_LORA
    from ..training.checks import check_clips, check_processes, check_recipe
    from ..training.claim import claimed
    from ..training.run import open_chain, train_chain

    check_processes(options.processes)
    check_recipe(recipes[0], options.processes)
    check_clips(recipes[0])
    open_chain(out, options.resume)
    with claimed(out):
        for recipe, model, complete in train_chain(recipes, out, how, options.processes):
            if not complete:
                print(f"{recipe.name} stopped before its end: go on with --resume")
                return
            name = FEW_STEPS_LORA if recipe.task == "image" else f"stack_{recipe.role}.safetensors"
            count = recipe.distil.steps
            print(f"{model / name} needs {count} step{'s' * (count > 1)} without guidance", flush=True)


def _train_chain(chain: Chain, options: Namespace, how: RunOptions) -> None:
    """All stages in folders of their own below --out, or on with them; then, of a demo, generate and judge."""
    from ..toy.demo import judge_stacks, make_shards
    from ..training.checks import check_chain
    from ..training.claim import claimed
    from ..training.recipes import override
    from ..training.run import open_chain, train_chain

    recipes = chain_recipes(chain, options)
    out = Path(options.out or f"runs/{chain.name}")
    check_chain(recipes, out, options.processes, shards=not chain.demo)
    open_chain(out, options.resume)
    with claimed(out):
        if chain.demo:  # unless that was done before
            shards = make_shards(out / "videos", out / "shards", chain.demo)
            recipes = [override(recipe, {"clips.shards": str(shards)}) for recipe in recipes]
        stacks: dict[str, Path] = {}
        for recipe, model, complete in train_chain(recipes, out, how, options.processes):
            if not complete:
                print(f"{recipe.name} stopped before its end: go on with --resume")
                return
            stacks[recipe.role] = model / f"stack_{recipe.role}.safetensors"
        if chain.demo:
            print(f"\n{in_columns(judge_stacks(stacks, out))}", flush=True)
            print(
                f"Contact sheets: {out / 'videos_made'}. A miniature of the five stages: it shows that each runs and hands on to "
                "the next. Motion takes some thousand steps (docs/training.md).",
                file=sys.stderr,
            )
