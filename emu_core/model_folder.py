"""What a model's folder may hold beside the image model: stacks, what makes them fast, and what its maker recommends."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from .base.checks import read_json
from .errors import UserError
from .weights import open_weights

BUNDLED = Path(__file__).parent / "assets" / "tiny"
DEFAULTS_FILE = "emu_video.json"
FEW_STEPS_LORA = "few_steps_lora.safetensors"


def stack_files(
    model: str | Path | None = None,
    stack: str | Path | None = None,
    interpolation_stack: str | Path | None = None,
    fast: bool = False,
) -> dict[str, Path | None]:
    """The files of the stacks by role, F and I: those that are named, else those in the model's folder, if there are any; `fast`:
    there the distilled ones before the others."""
    folder, named = Path(model or BUNDLED), {"F": stack, "I": interpolation_stack}
    return {role: Path(path) if path else _own_stack(folder, role, fast) for role, path in named.items()}


def _own_stack(folder: Path, role: str, fast: bool) -> Path | None:
    places = [folder / f"stack_{role}{kind}.safetensors" for kind in (("_fast", "") if fast else ("",))]
    return next((place for place in places if place.is_file()), None)


def few_steps_lora(folder: Path) -> Path | None:
    """The LoRA with which the image model makes a starting frame in few steps without guidance, if the folder holds one: what
    DEFAULTS_FILE calls `few_steps_lora`, else FEW_STEPS_LORA. UserError for another place, or nothing there."""
    named = read_defaults(folder).get("few_steps_lora")
    path = folder / str(FEW_STEPS_LORA if named is None else named)
    inside = Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder))  # a link may lead elsewhere, as in a cache
    if named is not None and not (inside and os.path.isfile(path)):
        told = f"{folder / DEFAULTS_FILE}: expected few_steps_lora to be a file in this folder, found {named!r}"
        raise UserError(f"{told}: put it there, or mend the name")
    return path if os.path.isfile(path) else None


def recommended_with(lora: Path) -> dict[str, float]:
    """The steps and the text guidance that such a LoRA was made for, by what is written in it; 4 and 1 if nothing is."""
    said = open_weights(lora).metadata
    found = {"steps": said.get("steps", "4"), "text_guidance": said.get("text_guidance", "1")}
    try:
        steps, guidance = int(found["steps"]), float(found["text_guidance"])
        if not 1 <= steps <= 1000 or not 0 <= guidance < math.inf:
            raise ValueError
    except ValueError:
        told = f"{lora}: expected steps and a text guidance in its metadata, found {found}"
        raise UserError(f"{told}: distil it again, or use --no-fast") from None
    return {"steps": steps, "text_guidance": guidance}


def has_fast(model: str | Path | None = None) -> bool:
    """Whether a model's folder holds anything for few calls."""
    folder = Path(model or BUNDLED)
    return few_steps_lora(folder) is not None or any(_own_stack(folder, r, True) != _own_stack(folder, r, False) for r in "FI")


def advises_fast(model: str | Path | None = None) -> bool:
    """Whether its maker says that commands should take what is for few calls, and it is there. UserError for another word than
    true and false."""
    folder = Path(model or BUNDLED)
    said = read_defaults(folder).get("fast", False)
    if not isinstance(said, bool):
        raise UserError(f"{folder / DEFAULTS_FILE}: expected fast to be true or false, found {said!r}: mend it there")
    return said and has_fast(model)


def missing_stack(source: str, role: str) -> UserError:
    """What to say of a model without the stack of a role."""
    what, option = ("video", "--stack") if role == "F" else ("interpolation", "--interpolation-stack")
    other = "" if role == "F" else ", or leave this step out with --no-interpolate"
    return UserError(f"{source} comes with no {what} stack (role {role}): name one with {option}{other}")


def read_defaults(folder: Path) -> dict[str, Any]:
    """What a model's maker recommends for its image model, from DEFAULTS_FILE: `steps` and `text_guidance`, and how many times as
    large its videos are written by commands (`scale`), and whether they take what is fast, unless told otherwise (`fast`); may be
    empty."""
    path = folder / DEFAULTS_FILE
    return read_json(path) if path.is_file() else {}
