"""A run's folder belongs to one process at a time, and to one recipe for good."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..locks import OwnerLock, Taken
from .folder import RECIPE_FILE
from .recipes import Recipe, read_recipe

LOCK_NAME = "run.lock"
FREE = ("optimisation.steps", "compute.", "every.", "recommended.", "clips.workers")
"""What may change when a run goes on: how long, how the work is done, what is written on the way, what the result recommends."""
PLACES = ("start.base", "start.init", "start.tokenizer", "clips.shards")


@contextmanager
def claimed(folder: Path, recipe: Recipe | None = None, wanted: bool = True) -> Iterator[None]:
    """Meanwhile no other process of this or any machine trains in `folder`, which has to be there. ValueError if one does, or if
    the folder is another recipe's. wanted: false for those processes of a run that write nothing."""
    if not wanted:
        yield
        return
    lock = OwnerLock(folder / LOCK_NAME)
    try:
        lock.take()
    except Taken as owner:
        raise UserError(f"{folder} is in use by {owner}: wait for it, or name another folder with --out") from owner
    try:
        if recipe is not None:
            check_owner(folder, recipe)
        yield
    finally:
        lock.release()


def check_owner(folder: Path, recipe: Recipe) -> None:
    """ValueError if `folder` holds a run of a recipe that trains otherwise, however that run ended."""
    if not (folder / RECIPE_FILE).is_file():
        return
    if changed := differences(read_recipe(folder / RECIPE_FILE), recipe):
        more = f" (and {len(changed) - 1} settings more)" if len(changed) > 1 else ""
        expected = f"{folder} belongs to the recipe in its {RECIPE_FILE}, and {changed[0]}{more}"
        raise UserError(f"{expected}: go on with the same recipe, or name another folder with --out")


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Where two recipes train otherwise, each as "clips.fps was 4.0, is 8.0 now"."""
    before, after = _settings(asdict(old)), _settings(asdict(new))
    return [
        f"{name} was {_shown(before[name])}, is {_shown(value)} now"
        for name, value in after.items()
        if value != before[name] and not name.startswith(FREE) and not (name in PLACES and _same_place(before[name], value))
    ]


def _settings(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _settings(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return found


def _shown(value: Any) -> str:
    return json.dumps(value)


def _same_place(old: str, new: str) -> bool:
    """Whether two addresses are of one thing, which may have been moved since."""
    if not old or not new or "://" in old + new:
        return False
    return Path(old).resolve() == Path(new).resolve() or not Path(old).exists()
