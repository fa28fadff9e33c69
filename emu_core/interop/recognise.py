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
_LORA = ("lora_unet_", "lora_te", "lora_A", "lora_B", ".lora.", "lora_down", "lora_up", "hada_w1")
_MOTION_LORA = "is a LoRA for a motion module, which cannot be put on a stack here: take the motion module alone"
_OTHERS = (  # what stands in some of a file's keys, and what such a file is
    (_LORA, "is a LoRA, not a temporal stack: load it with a LoRA loader onto the image model, in front of the stack"),
    (
        ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner."),
        "is a whole image or video model, not a temporal stack: load it as a checkpoint, and choose a stack here",
    ),
    (
        ("control_model.", "controlnet_cond_embedding.", "input_hint_block."),
        "is a ControlNet, not a temporal stack: load it with a ControlNet loader",
    ),
    (
        ("temopral_conv", "temporal_conv."),
        "is ModelScope's model in its original layout: take diffusers' file, unet/diffusion_pytorch_model.safetensors",
    ),
)


def recognise(shapes: Shapes) -> Family | None:
    """The family that a file's keys show; None for what is no public temporal checkpoint."""
    if _other(shapes) is not None:
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
        why = str(error) or type(error).__name__
        if not why.startswith("is "):
            why = f"has the keys of {family}, but no stack can be built of their shapes ({why}): copy it again"
        raise ValueError(f"{file.path} {why}") from error
    _check_names(file, family, plan)
    assert wanted.keys() == plan.sources.keys(), sorted(wanted.keys() ^ plan.sources.keys())[:5]
    for ours, theirs in plan.sources.items():
        if theirs not in file.shapes:
            continue
        value, expected = torch.empty(file.shapes[theirs], device="meta"), tuple(wanted[ours].shape)
        try:
            fits = (plan.changes[ours](value) if ours in plan.changes else value).shape == expected
        except (IndexError, RuntimeError):
            fits = False
        if not fits:
            raise ValueError(
                f"{file.path}: expected {theirs} to give a weight of shape {expected}, found shape {file.shapes[theirs]}: "
                f"it is no {family} checkpoint as published, or is damaged"
            )
    return plan


def _check_names(file: WeightFile, family: Family, plan: Plan) -> None:
    expected = set(plan.sources.values())
    tables = {theirs for ours, theirs in plan.sources.items() if ours.endswith("positions.table")}
    # some programs do not store the tables, which they can compute; training programs store the image model as well
    missing = sorted(expected - file.shapes.keys())
    extra = sorted(k for k in file.shapes.keys() - expected - {fancyvideo.MARKER} if not is_spatial(k))
    who = f"{file.path} is a checkpoint of family {family}"
    if missing and set(missing) != tables:
        raise ValueError(f"{who} without {len(missing)} of its weights: {_few(missing)}; copy it again")
    if extra:
        raise ValueError(f"{who} with {len(extra)} weights that this family does not have: {_few(extra)}; is it newer?")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _other(shapes: Shapes) -> str | None:
    for marks, what in _OTHERS:
        if any(mark in name for name in shapes for mark in marks):
            return _MOTION_LORA if marks is _LORA and any("motion_modules" in name for name in shapes) else what
    return None


def _trouble(shapes: Shapes) -> str:
    if any(name.startswith("layers.") for name in shapes) and any(".attentions." in name or ".conv." in name for name in shapes):
        return "is no temporal stack: it has the weights of one, but not its metadata; copy the original file"
    if other := _other(shapes):
        return other
    if any(is_spatial(name) for name in shapes):
        return "is the U-Net of an image model, not a temporal stack: load it as a diffusion model, and choose a stack here"
    return (
        "is no temporal stack: expected one of this program's, or a checkpoint of AnimateDiff, Hotshot-XL, PIA, FancyVideo or "
        f"ModelScope, found keys such as {', '.join(sorted(shapes)[:3]) or 'none'}; `emu-video info` says what a file is"
    )
