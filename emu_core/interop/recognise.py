"""Which family a file is of, by its keys; and why, if it is none."""

from __future__ import annotations

from types import ModuleType

import torch

from ..model.config import Family
from ..model.stack import TemporalStack
from ..weights import WeightFile
from . import animatediff, fancyvideo, hotshot_xl, modelscope, pia
from .layout import Plan, Shapes, is_spatial

_MODULES: dict[Family, ModuleType] = {
    "modelscope": modelscope,
    "hotshot-xl": hotshot_xl,
    "fancyvideo": fancyvideo,
    "pia": pia,
    "animatediff": animatediff,
}
_ALIEN = (
    (("lora_unet_", "lora_te", "lora_A", "lora_B", ".lora.", "lora_down", "lora_up", "hada_w1"), "lora"),
    (("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner."), "checkpoint"),
    (("control_model.", "controlnet_cond_embedding.", "input_hint_block."), "controlnet"),
    (("temopral_conv", "temporal_conv."), "modelscope"),
)
_WHAT = {
    "lora": "is a LoRA, not a temporal stack: load it with a LoRA loader onto the image model, in front of the stack",
    "motion lora": "is a LoRA for a motion module, which cannot be put on a stack here: take the motion module alone",
    "checkpoint": "is a whole image or video model, not a temporal stack: load it as a checkpoint, and choose a stack here",
    "controlnet": "is a ControlNet, not a temporal stack: load it with a ControlNet loader",
    "modelscope": "is ModelScope's model in its original layout: take the file of diffusers' layout, "
    "unet/diffusion_pytorch_model.safetensors",
    "unet": "is the U-Net of an image model, not a temporal stack: load it as a diffusion model, and choose a stack for it here",
}


def recognise(shapes: Shapes) -> Family | None:
    """The family that a file's keys show; None for what is no public temporal checkpoint."""
    if _alien(shapes) is not None:
        return None
    return next((family for family, module in _MODULES.items() if module.matches(shapes)), None)


def import_plan(file: WeightFile) -> Plan:
    """How the file becomes a stack. ValueError for what is none, or lacks or has more weights than its family."""
    family = recognise(file.shapes)
    if family is None:
        raise ValueError(f"{file.path} {_trouble(file.shapes)}")
    try:
        plan: Plan = _MODULES[family].plan(file.shapes)
        with torch.device("meta"):
            wanted = TemporalStack(plan.config).state_dict()
    except (ArithmeticError, AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        told = str(error) if isinstance(error, ValueError) and str(error).startswith("is ") else ""
        raise ValueError(f"{file.path} {told or _misshapen(family, error)}") from error
    _check_names(file, family, plan)
    assert wanted.keys() == plan.sources.keys(), sorted(wanted.keys() ^ plan.sources.keys())[:5]
    for ours, theirs in plan.sources.items():
        if theirs in file.shapes:
            _check_shape(file, plan, ours, theirs, wanted[ours])
    return plan


def _misshapen(family: Family, error: Exception) -> str:
    return f"has the keys of {family}, but no stack can be built of their shapes ({error or type(error).__name__}): copy it again"


def _check_names(file: WeightFile, family: Family, plan: Plan) -> None:
    expected = set(plan.sources.values())
    tables = {theirs for ours, theirs in plan.sources.items() if ours.endswith("positions.table")}
    missing = sorted(expected - file.shapes.keys())
    if missing and set(missing) == tables:  # some programs do not store what they can compute
        missing = []
    if missing:
        raise ValueError(
            f"{file.path} is a checkpoint of family {family} without {len(missing)} of its weights: {_few(missing)}; "
            "copy it again"
        )
    known = {fancyvideo.MARKER}
    # training programs store the image model as well; its weights are left out
    extra = sorted(k for k in file.shapes.keys() - expected - known if not is_spatial(k))
    if extra:
        raise ValueError(
            f"{file.path} is a checkpoint of family {family} with {len(extra)} weights that this family does not have: "
            f"{_few(extra)}; it may be a newer or changed version, which would not run as it was meant"
        )


def _check_shape(file: WeightFile, plan: Plan, ours: str, theirs: str, wanted: torch.Tensor) -> None:
    change = plan.changes.get(ours, lambda value: value)
    try:
        found = tuple(change(torch.empty(file.shapes[theirs], device="meta")).shape)
    except (IndexError, RuntimeError):
        found = ()
    if found != tuple(wanted.shape):
        raise ValueError(
            f"{file.path}: expected {theirs} to give a weight of shape {tuple(wanted.shape)}, found shape {file.shapes[theirs]}: "
            f"it is no {plan.config.origin.family} checkpoint as published, or is damaged"
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _alien(shapes: Shapes) -> str | None:
    for marks, kind in _ALIEN:
        if any(mark in name for name in shapes for mark in marks):
            if kind == "lora" and any("motion_modules" in name for name in shapes):
                return "motion lora"
            return kind
    return None


def _trouble(shapes: Shapes) -> str:
    if any(name.startswith("layers.") for name in shapes) and any(".attentions." in name or ".conv." in name for name in shapes):
        return "is no temporal stack: it has the weights of one, but not its metadata; copy the original file"
    kind = _alien(shapes) or ("unet" if any(is_spatial(name) for name in shapes) else None)
    if kind is not None:
        return _WHAT[kind]
    few = ", ".join(sorted(shapes)[:3]) or "none"
    return (
        "is no temporal stack: expected one of this program's, or a checkpoint of AnimateDiff, Hotshot-XL, PIA, FancyVideo or "
        f"ModelScope, found keys such as {few}; `emu-video info` says what a file is"
    )
