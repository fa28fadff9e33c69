"""`emu-video train` and `emu-video recipes`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .options import add_command

if TYPE_CHECKING:
    from ..training.recipes import Recipe

HERE = "emu_core.cli.train"


def add_commands(commands: argparse._SubParsersAction) -> None:
    train = add_command(
        commands,
        "train",
        "train by a recipe, or a chain of them; checkpoints, loss curve and sample sheets go to --out",
        f"{HERE}:train",
    )
    train.add_argument(
        "recipe", help="name of a recipe (`emu-video recipes` lists them), the recipe.json of a run, or the word chain"
    )
    train.add_argument("chain", nargs="?", help="after the word chain: its name, such as tiny-demo or paper")
    _add_recipe_options(train)
    train.add_argument("--out", help="folder of the run (default: runs/RECIPE)")
    train.add_argument(
        "--resume", action="store_true", help="go on from the folder's newest checkpoint, exactly as if never stopped"
    )
    train.add_argument(
        "--processes", type=int, default=1, help="processes on this machine, one for each GPU; on a CPU one a core"
    )
    train.add_argument("--max-minutes", type=float, help="stop after this time, with a checkpoint to resume from")
    train.add_argument("--tensorboard", action="store_true", help="also write the figures for TensorBoard, in the run's folder")
    recipes = add_command(
        commands, "recipes", "list recipes, chains and ablations, or show one as it would run", f"{HERE}:recipes"
    )
    recipes.add_argument("recipe", nargs="?", help="which one to show")
    recipes.add_argument("chain", nargs="?", help=argparse.SUPPRESS)
    recipes.add_argument("--json", action="store_true", help="print as JSON")
    _add_recipe_options(recipes)


def _add_recipe_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--family", help="base that the paper's stages are for: tiny, sd15, sd21 or sdxl (default: that of --base, else sd15)"
    )
    parser.add_argument("--base", help="image model to build on: a diffusers folder or one .safetensors file")
    parser.add_argument("--tokenizer", help="folder with the tokenizer that a single-file model lacks, or a ComfyUI installation")
    parser.add_argument("--init", help="stack to start from: a file, or the `model` folder of an earlier run")
    parser.add_argument("--shards", help="training videos: a folder or address that `emu-video curate` wrote")
    parser.add_argument("--selection", help="only the videos of this `emu-video select`")
    parser.add_argument(
        "--ablation", action="append", default=[], metavar="NAME", help="change the design as in the paper's comparisons"
    )
    parser.add_argument(
        "--fit",
        metavar="8GB",
        help="choose batch, accumulation, precision ... so that the run needs no more GPU memory than this",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting, such as optimisation.steps=100; may be repeated",
    )


def train(options: Namespace) -> None:
    from ..training.chain import train_chain
    from ..training.run import launch
    from ..training.run import train as run_recipe

    logging.getLogger("emu_core.training").setLevel(logging.INFO)  # what is trained, and the memory that it takes
    if options.processes < 1:
        raise ValueError(f"--processes must be 1 or more, found {options.processes}")
    minutes = math.inf if options.max_minutes is None else options.max_minutes
    if options.recipe == "chain":
        train_chain(options.chain, options, minutes)
        return
    if options.chain:
        raise ValueError(
            f"found {options.chain!r} after the recipe {options.recipe!r}: one recipe at a time, or `train chain NAME`"
        )
    recipe = resolve(options)
    folder = Path(options.out or f"runs/{recipe.name}")
    if options.processes > 1:
        from ..training.checks import check_output, check_recipe

        check_output(folder, options.resume)
        check_recipe(recipe, options.processes)
        launch(options.processes, sys.argv[1:])
        return
    run_recipe(recipe, folder, options.resume, minutes, options.tensorboard)


def resolve(options: Namespace) -> Recipe:
    """The recipe as the command line asks for it."""
    from dataclasses import replace

    from ..pipeline import BUNDLED
    from ..training.paper import STAGES, ablate
    from ..training.recipes import RECIPES, override, read_recipe

    name = options.recipe
    if name.endswith(".json"):
        recipe = read_recipe(Path(name))
    elif name in RECIPES:
        if options.family:
            raise ValueError(f"recipe {name!r} is for the tiny model alone: leave --family out")
        recipe = RECIPES[name]()
    elif name in STAGES:
        recipe = STAGES[name](family(options))
        if recipe.family == "tiny":
            recipe = replace(recipe, base=str(BUNDLED))
    else:
        known = [*STAGES, *RECIPES]
        raise ValueError(f"unknown recipe {name!r}: expected one of {', '.join(known)}, a recipe.json, or chain")
    recipe = finish(ablate(recipe, options.ablation), options)
    recipe = override(recipe, pairs(options.set))
    return fitted(recipe, options.fit) if options.fit else recipe


def finish(recipe: Recipe, options: Namespace) -> Recipe:
    """With the places that the command line names."""
    from dataclasses import replace

    given = {name: getattr(options, name) for name in ("base", "init", "tokenizer") if getattr(options, name)}
    clips = {name: getattr(options, name) for name in ("shards", "selection") if getattr(options, name)}
    return replace(recipe, **given, clips=replace(recipe.clips, **clips))


def fitted(recipe: Recipe, size: str) -> Recipe:
    from ..training.memory import fit

    recipe, said = fit(recipe, size)
    print(said, file=sys.stderr)
    return recipe


def family(options: Namespace) -> str:
    """The family that is asked for, or that of the base."""
    from ..base import inspect_base

    return options.family or (inspect_base(options.base).family if options.base else "sd15")


def pairs(texts: list[str]) -> dict[str, str]:
    result = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise ValueError(f"--set takes NAME=VALUE, such as optimisation.steps=100, found {text!r}")
        result[name] = value
    return result


def recipes(options: Namespace) -> None:
    from dataclasses import asdict

    from ..training.paper import ABOUT_ABLATIONS, CHAINS, STAGES
    from ..training.recipes import RECIPES

    if options.recipe == "chain":
        options.recipe = None if options.chain is None else f"chain {options.chain}"
    if options.recipe and not options.recipe.startswith("chain "):
        print(json.dumps(asdict(resolve(options)), indent=2))
        return
    if options.recipe:
        from ..training.chain import chain_recipes

        shown = chain_recipes(options.recipe.removeprefix("chain "), options)
        print(json.dumps({recipe.name: asdict(recipe) for recipe in shown}, indent=2))
        return
    parts: dict[str, Mapping[str, str | None]] = {
        "The paper's stages, for --family tiny, sd15, sd21 or sdxl": {n: f.__doc__ for n, f in STAGES.items()},
        "Chains: emu-video train chain NAME": {n: c.about for n, c in CHAINS.items()},
        "Ablations: --ablation NAME": ABOUT_ABLATIONS,
        "Recipes that made the bundled model, in order": {n: f.__doc__ for n, f in RECIPES.items()},
    }
    first = {title: {n: (about or "").splitlines()[0] for n, about in rows.items()} for title, rows in parts.items()}
    print(json.dumps(first, indent=2) if options.json else _listing(first))


def _listing(parts: dict[str, dict[str, str]]) -> str:
    width = max(len(name) for rows in parts.values() for name in rows)
    blocks = ["\n".join([title, *(f"  {n:<{width}}  {about}" for n, about in rows.items())]) for title, rows in parts.items()]
    return "\n\n".join(blocks) + "\n\nShow one with all its settings: emu-video recipes NAME --family sd15"
