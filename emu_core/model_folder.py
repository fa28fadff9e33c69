"""What a model's folder may hold beside the image model: stacks, what makes them fast, and what its maker recommends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base.checks import read_json
from .errors import UserError

BUNDLED = Path(__file__).parent / "assets" / "tiny"
DEFAULTS_FILE = "emu_video.json"
FEW_STEPS_LORA = "few_steps_lora.safetensors"


def stack_files(
    model: str | Path | None = None, stack: str | Path | None = None, interpolation_stack: str | Path | None = None
) -> dict[str, Path | None]:
    """The files of the stacks by role, F and I: those that are named, else those in the model's folder, if there are any."""
    named = {"F": stack, "I": interpolation_stack}
    own = {role: Path(model or BUNDLED) / f"stack_{role}.safetensors" for role in named}
    return {role: Path(path) if path else own[role] if own[role].is_file() else None for role, path in named.items()}


def missing_stack(source: str, role: str) -> UserError:
    """What to say of a model without the stack of a role."""
    what, option = ("video", "--stack") if role == "F" else ("interpolation", "--interpolation-stack")
    other = "" if role == "F" else ", or leave this step out with --no-interpolate"
    return UserError(f"{source} comes with no {what} stack (role {role}): name one with {option}{other}")


def read_defaults(folder: Path) -> dict[str, Any]:
    """What a model's maker recommends for its image model, from DEFAULTS_FILE: `steps` and `text_guidance`, and how many times as
    large its videos are written by commands (`scale`); may be empty."""
    path = folder / DEFAULTS_FILE
    return read_json(path) if path.is_file() else {}
