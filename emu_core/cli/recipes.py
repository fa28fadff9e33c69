"""`emu-video recipes`, and the recipes that the command line asks for. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .options import add_command

if TYPE_CHECKING:
    from ..training.paper import Chain, Scale
    from ..training.recipes import Recipe


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `recipes`."""
    about = "list recipes, chains and ablations, or show one as it would run"
    parser = add_command(commands, "recipes", about, "emu_core.cli.recipes:recipes")
    parser.add_argument("recipe", nargs="?", help="which one to show")
    parser.add_argument("chain", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    add_recipe_options(parser)


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """What changes a recipe."""
    add = parser.add_argument
    add("--family", help="base that the paper's stages are for: tiny, sd15, sd21 or sdxl (default: that of --base, else sd15)")
    add("--base", help="image model to build on: a diffusers folder or one .safetensors file")
    add("--tokenizer", help="folder with the tokenizer that a single-file model lacks, or a ComfyUI installation")
    add("--stack", metavar="FILE", help="of `distil`: the stack that is to need few steps")
    add("--init", help="stack to start from: a file, or the `model` folder of an earlier run")
    add("--shards", help="training videos: a folder or address that `emu-video curate` wrote")
    add("--selection", help="only the videos of this `emu-video select`")
    add("--budget", choices=("cpu", "gpu"), help="of the recipes little-...: for two CPU cores, or one GPU (default: cpu)")
    add("--ablation", action="append", default=[], metavar="NAME", help="change the design as in the paper's comparisons")
    fit = "choose batch, accumulation, precision ... so that the run needs no more GPU memory than this"
    add("--fit", metavar="8GB", help=fit)
    change = "change a setting, such as optimisation.steps=100; may be repeated"
    add("--set", action="append", default=[], metavar="NAME=VALUE", help=change)


def recipes(options: Namespace) -> None:
    """List what there is, or print one recipe or chain as JSON."""
    from dataclasses import asdict

    from ..toy import recipes as toy
    from ..training.distil_rounds import ABOUT, rounds
    from ..training.paper import ABLATIONS, CHAINS, STAGES

    if options.recipe == "chain" and options.chain:
        shown = chain_recipes(find_chain(options.chain), options)
        print(json.dumps({recipe.name: asdict(recipe) for recipe in shown}, indent=2))
    elif options.recipe and options.recipe != "chain":
        found = rounds(resolve(options))
        print(json.dumps(asdict(found[0]) if len(found) == 1 else {r.name: asdict(r) for r in found}, indent=2))
    else:
        parts = {
            "The paper's stages, for --family tiny, sd15, sd21 or sdxl": {n: f.__doc__ or "" for n, f in STAGES.items()},
            "Fewer steps: emu-video train distil --stack FILE": ABOUT,
            "Chains: emu-video train chain NAME": {n: c.about for n, c in {**CHAINS, **toy.CHAINS}.items()},
            "Ablations: --ablation NAME": {n: about for n, (about, _) in ABLATIONS.items()},
            "Recipes that made the bundled model (little-, also with --budget gpu) and the first (tiny-), in order": toy.ABOUT,
        }
        print(json.dumps(parts, indent=2) if options.json else _listing(parts))


def _listing(parts: dict[str, dict[str, str]]) -> str:
    width = max(len(name) for rows in parts.values() for name in rows)
    blocks = ["\n".join([title, *(f"  {n:<{width}}  {about}" for n, about in rows.items())]) for title, rows in parts.items()]
    return "\n\n".join(blocks) + "\n\nShow one with all its settings: emu-video recipes NAME --family sd15"


def find_chain(name: str | None) -> Chain:
    """The chain of a name. ValueError if there is none."""
    from ..toy import recipes as toy
    from ..training.paper import CHAINS

    known = {**CHAINS, **toy.CHAINS}
    if name not in known:
        raise UserError(f"expected the name of a chain, {', '.join(known)}, found {name!r}: such as `train chain tiny-demo`")
    return known[name]


def chain_recipes(chain: Chain, options: Namespace) -> list[Recipe]:
    """The recipes of a chain's stages as the command line changes them; what each starts from is not known yet."""
    _check_budget(options, f"chain {chain.name!r}")
    if chain.family and options.family not in (None, chain.family):
        raise UserError(f"chain {chain.name!r} is for the family {chain.family} alone: leave --family out")
    made: list[Recipe] = []
    for recipe in chain.recipes(_scale(options, chain.family), options.ablation):
        changes = chain.changes.get("", {}) | chain.changes.get(recipe.name, {})
        made.append(_finish(recipe, options, changes, first=not made))
    return made


def resolve(options: Namespace) -> Recipe:
    """The recipe as the command line asks for it. ValueError for names and values that are unknown."""
    from ..toy.recipes import BUDGETS, RECIPES
    from ..training.distil_rounds import ABOUT
    from ..training.paper import STAGES, ablate
    from ..training.recipes import read_recipe

    name = options.recipe
    if options.stack and name != "distil":
        raise UserError(f"--stack names what `train distil` makes faster, found the recipe {name!r}: start from one with --init")
    if name not in BUDGETS["gpu"]:
        _check_budget(options, f"recipe {name!r}")
    if name.endswith(".json"):
        recipe = read_recipe(Path(name))
    elif name in RECIPES:
        if options.family:
            raise UserError(f"recipe {name!r} is for the tiny model alone: leave --family out")
        recipe = (RECIPES | BUDGETS[options.budget or "cpu"])[name]
    elif name in STAGES:
        recipe = STAGES[name](_scale(options))
    elif name in ABOUT:
        recipe = _distilling(options)
    else:
        known = ", ".join([*STAGES, *ABOUT, *RECIPES])
        raise UserError(f"unknown recipe {name!r}: expected one of {known}, a recipe.json, or chain")
    return _finish(ablate(recipe, options.ablation), options)


def _check_budget(options: Namespace, what: str) -> None:
    """ValueError for a budget of what has none."""
    if options.budget:
        raise UserError(f"{what} has no budgets, as the recipes that begin with little- have: leave --budget out")


def _distilling(options: Namespace) -> Recipe:
    """The recipe that makes a stack, or an image model, need few steps."""
    from ..training.distil_rounds import check_stack, of_image_model, of_stack

    if options.init:
        raise UserError(f"recipe {options.recipe!r} takes no --init: name what is to become faster with --stack, or --base")
    if options.recipe == "distil-image":
        return of_image_model(_scale(options, any_family=True))
    family = check_stack(options.stack).unet.base
    if options.family not in (None, family):
        raise UserError(
            f"{options.stack} is a stack for a base of family {family}, found --family {options.family}: leave it out"
        )
    return of_stack(options.stack, _scale(options, family, any_family=True))


def _finish(recipe: Recipe, options: Namespace, changes: dict[str, str] | None = None, first: bool = True) -> Recipe:
    """With the bundled base, the places that the command line names, `changes`, and what the command line sets; fitted."""
    from ..model_folder import BUNDLED, read_defaults
    from ..training.memory import fit
    from ..training.recipes import override

    if recipe.family == "tiny" and recipe.on_a_base and not recipe.start.base:
        recipe = override(recipe, {"start.base": str(BUNDLED)})
    names = ("start.base", "start.init", "start.tokenizer", "clips.shards", "clips.selection")
    given = {name: getattr(options, name.partition(".")[2]) for name in names}
    recipe = override(recipe, {name: value for name, value in given.items() if value} | (changes or {}))
    kind = read_defaults(Path(recipe.start.base)).get("world") if recipe.on_a_base and recipe.start.base else None
    if kind and not options.recipe.endswith(".json"):  # what is drawn is of the world that the image model knows
        recipe = override(recipe, {"world.kind": kind})
    for text in options.set:
        name, separator, value = text.partition("=")
        if not separator:
            raise UserError(f"--set takes NAME=VALUE, such as optimisation.steps=100, found {text!r}")
        recipe = override(recipe, {name: value})
    if options.init and not first:
        recipe = override(recipe, {"start.init": ""})
    if options.fit:
        recipe, said = fit(recipe, options.fit)
        print(said, file=sys.stderr)
    return recipe


def _scale(options: Namespace, family: str = "", any_family: bool = False) -> Scale:
    """Of the only family, of the one that is asked for, or of that of the base; of `any_family` as of SD 1.5."""
    from ..base import inspect_base
    from ..toy.recipes import TINY
    from ..training.paper import SCALES

    family = family or options.family or (inspect_base(options.base).family if options.base else "sd15")
    scales = {TINY.family: TINY, **SCALES}
    if any_family:
        return scales.get(family) or replace(SCALES["sd15"], family=family)
    if family not in scales:
        raise UserError(f"there are recipes for the families {', '.join(scales)}, found {family!r}")
    return scales[family]
