"""One safetensors file holds one stack: its weights, and in the metadata everything needed to run it. Public checkpoints of
other programs are read as they are (see `interop`)."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from .errors import UserError
from .interop import AUTO, animatediff, bare, hotshot_xl, import_plan, motion_lora, recognise
from .interop.layers import MotionModules
from .limits import json_of
from .low_rank import LowRank
from .model.config import SamplingConfig, StackConfig, UNetShape
from .model.layers import TORCH_LAYERS, Layers, LayerShape, LayerTypes
from .model.schedule import ScheduleConfig
from .model.sites import Site
from .model.stack import TemporalStack
from .weights import PICKLES, WeightFile, open_weights, save_tensors

logger = logging.getLogger(__name__)

FORMAT, VERSION = "emu-video-stack", 1
SETTINGS = (
    *("base", "latent_channels", "input_width", "sites", "role", "frames", "fps", "size", "schedule", "channel_order"),
    *("attentions", "positions", "head_dim", "mlp_ratio", "kernel", "mixing", "shared_noise", "image_noise", "text_guidance"),
    *("image_guidance", "steps", "stage", "source", "family", "motion", "values", "text_width", "sampler", "past"),
    *("keeps_given", "directed", "depthwise"),
)
"""The entries of a file's `config`, flat and in this order; `motion` is the shape of public motion modules, or null. The usual
of what came later is left out, for older versions refuse what they do not know."""
_LEFT_OUT = {name: getattr(SamplingConfig, name) for name in ("sampler", "past", "keeps_given")}
_LEFT_OUT |= {name: getattr(LayerShape, name) for name in ("directed", "depthwise")}

_CORRECTED = {("hotshot-xl", ""): hotshot_xl.SCHEDULE, ("animatediff", "SDXL"): animatediff.SDXL_BETA}
"""Schedules of families that earlier versions converted with AnimateDiff's of SD 1.5, which is wrong."""


def save_stack(stack: TemporalStack, path: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a stack, first under a temporary name. NaN or infinity, also by overflow of `dtype`, is refused."""
    path = Path(path)
    metadata = {"format": FORMAT, "version": str(VERSION), "config": json.dumps(settings_of(stack.config))}
    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in stack.state_dict().items()}
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{path} is not written: {name} holds NaN or infinite values in {dtype}; its training failed")
    save_tensors(weights, path, metadata)


def settings_of(config: StackConfig) -> dict[str, Any]:
    """A stack's settings in the form of its file, for JSON."""
    public = isinstance(config.layers, MotionModules)
    parts: list[Any] = [config.unet, config.clip, config.sampling, config.origin, LayerShape() if public else config.layers]
    flat = {name: value for part in parts for name, value in asdict(part).items()}
    flat |= {name: getattr(config, name) for name in ("role", "channel_order", "values")}
    flat |= {"sites": [asdict(site) for site in config.sites], "schedule": asdict(config.schedule)}
    flat["mixing"] = config.layers.mixing
    flat["motion"] = {k: v for k, v in asdict(config.layers).items() if k != "mixing"} if public else None
    return {name: flat[name] for name in SETTINGS if name not in _LEFT_OUT or flat[name] != _LEFT_OUT[name]}


def config_of(settings: dict[str, Any]) -> StackConfig:
    """The reverse of `settings_of`. ValueError for unknown, missing or misshapen entries."""
    if unknown := sorted(set(settings) - set(SETTINGS)):
        raise UserError(f"unknown entries {', '.join(unknown)}")
    try:
        given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
        sites = tuple(Site(s["name"], s["kind"], int(s["channels"]), tuple(s["contexts"])) for s in given.pop("sites"))
        unet = UNetShape(given["base"], given["latent_channels"], given["input_width"])
        layers: Layers = LayerShape(**{f.name: given.pop(f.name) for f in fields(LayerShape) if f.name in given})
        motion = given.pop("motion", None)
        given["schedule"] = ScheduleConfig(**given["schedule"])
        given["values"] = tuple((str(name), float(number)) for name, number in given.get("values", ()))
        layers = layers if motion is None else MotionModules(mixing=layers.mixing, **motion)
        return StackConfig(unet, sites, layers=layers, channel_order=given.pop("channel_order")).changed(**given)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"missing or misshapen entry: {error}") from error


def read_config(path: str | Path, variant: str | None = None) -> StackConfig:
    """What a stack is, from its file's metadata, or of a public checkpoint from its names and shapes. `variant`: of those that
    keys cannot tell apart, the one that it is (see `interop.VARIANTS`). ValueError for what is no stack, is damaged, or is of
    another version."""
    file = open_weights(path)
    return _own_config(file, variant) or import_plan(file, variant).config


def _own_config(file: WeightFile, variant: str | None = None) -> StackConfig | None:
    """None for a file of another program."""
    path, metadata, version = file.path, file.metadata, file.metadata.get("version")
    if metadata.get("format") != FORMAT:
        return None
    if variant not in (None, AUTO):
        raise UserError(f"{path} says itself what it is, found the variant {variant!r}: leave that out")
    file.check_precision("a temporal stack")
    if version != str(VERSION):
        raise UserError(f"{path} has format version {version!r}, and this program reads {VERSION}: update the program")
    try:
        config = config_of(json_of(metadata["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} has damaged metadata ({error}): download or copy it again") from error
    known = _CORRECTED.get((config.origin.family, config.origin.stage))
    return config if known is None or config.schedule != animatediff.LINEAR else config.changed(schedule=known)


def load_stack(path: str | Path, types: LayerTypes = TORCH_LAYERS, variant: str | None = None, **factory: Any) -> TemporalStack:
    """Read a stack. Its weights keep the file's precision unless `factory` names a dtype; NaN or infinity is refused. `variant`:
    see `read_config`."""
    file = open_weights(path)
    if config := _own_config(file, variant):
        weights = file.read()
    else:
        plan = import_plan(file, variant)
        config, weights = plan.config, plan.weights(bare(file).read())
    if not all(value.is_floating_point() for value in weights.values()) or not weights:
        raise UserError(f"{path} should hold weights in floating point, found none or others: copy it again")
    factory.setdefault("dtype", next(iter(weights.values())).dtype)
    try:
        with torch.device("meta"):
            wanted = TemporalStack(config).state_dict()  # of torch's layers: those of `types` may have no weights yet
            stack = TemporalStack(config, types, dtype=factory["dtype"])
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} has metadata that no stack can be built of ({error}): copy it again") from error
    if missing := sorted(wanted.keys() - weights.keys()):
        raise UserError(f"{path} lacks {len(missing)} weights that its metadata promises, such as {missing[0]}: copy it again")
    if extra := sorted(weights.keys() - wanted.keys()):
        raise UserError(f"{path} has {len(extra)} weights that its metadata does not know, such as {extra[0]}: copy it again")
    for name, value in weights.items():
        if value.shape != wanted[name].shape:
            raise UserError(f"{path}: expected {name} of shape {tuple(wanted[name].shape)}, found {tuple(value.shape)}")
        if not torch.isfinite(value).all():
            raise UserError(f"{path}: {name} holds NaN or infinite values: its training failed, or the file is damaged")
    device = factory.get("device", "cpu")
    stack.load_state_dict({k: v.to(device, factory["dtype"]) for k, v in weights.items()}, assign=True)
    return stack.requires_grad_(False).eval()


# -- motion LoRAs


def check_motion_lora(path: str | Path, config: StackConfig | None = None) -> None:
    """Refuse, by names and shapes alone, what is no motion LoRA, or does not fit the stack where that is known. ValueError."""
    file = _open_motion_lora(path)
    if config is not None:
        motion_lora.plan(file, config)


def load_motion_lora(path: str | Path, config: StackConfig) -> dict[str, LowRank]:
    """By the names of a stack's weights, what a motion LoRA adds to them. ValueError for one that does not fit the stack, and for
    NaN or infinity."""
    file = _open_motion_lora(path)
    plan, weights = motion_lora.plan(file, config), file.read()
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{path}: {name} holds NaN or infinite values: its training failed, or the file is damaged")
    for note in plan.notes:
        logger.warning(note)
    found = {}
    for name, pair in plan.pairs.items():
        alpha = float(weights[pair.alpha]) if isinstance(pair.alpha, str) else pair.alpha
        found[name] = LowRank(weights[pair.up], weights[pair.down], alpha)
    return found


def merge_motion_loras(stack: TemporalStack, loras: Sequence[tuple[str | Path, float]]) -> None:
    """Add motion LoRAs, (file, strength) each, to a stack's weights: summed in float32 and rounded once. ValueError for one that
    does not fit, before anything is changed."""
    weights = dict(stack.named_parameters())
    sums: dict[str, torch.Tensor] = {}
    for path, strength in loras:
        if not math.isfinite(strength):
            raise UserError(f"the strength of {path} must be a finite number, found {strength}")
        for name, change in load_motion_lora(path, stack.config).items() if strength else ():
            sums[name] = sums.get(name, 0) + strength * change.of(weights[name])
    for name, added in sums.items():
        # not in place: the file's own tensors may be kept for the next who opens it
        weights[name].data = (weights[name].to(added.dtype) + added).to(weights[name].dtype)


def _open_motion_lora(path: str | Path) -> WeightFile:
    """ValueError for a file that is none, with what it is."""
    if not Path(path).is_file():
        there = "a folder" if Path(path).is_dir() else "nothing"
        raise UserError(f"{path} should be a motion LoRA's file, found {there}: check the path")
    file = open_weights(path)
    if not file.shapes and file.path.suffix.lower() in PICKLES and (listed := motion_lora.read_list(file.path)):
        return listed
    other = _named_otherwise(file)
    if motion_lora.matches(file.shapes) and (other or "is a LoRA").startswith("is a LoRA"):
        file.check_precision("a motion LoRA")
        return file
    if motion_lora.is_spatial_lora(file.shapes):
        what = "is a spatial LoRA, which changes the image model, not a motion LoRA"
        raise UserError(f"{path} {what}: load it with ComfyUI's LoRA loader, in front of the stack, or with --lora")
    family = "emu" if _own_config(file) else recognise(file.shapes)
    if family is not None:
        what = f"is a temporal stack of family {family}, not a motion LoRA"
        raise UserError(f"{path} {what}: choose it in Apply Temporal Stack, or name it with --stack")
    some = ", ".join(sorted(file.shapes)[:3]) or "none"
    what = other or f"is no motion LoRA: expected keys {motion_lora.EXPECTED}, found keys such as {some}"
    raise UserError(f"{path} {what}")


def _named_otherwise(file: WeightFile) -> str | None:
    """What a file is that is neither a stack nor a motion LoRA, where its keys tell: "is a ControlNet, not a motion LoRA ..." """
    try:
        import_plan(file)
    except ValueError as error:
        words = str(error).removeprefix(f"{file.path} ")
        if words.startswith("is ") and not words.startswith(("is no temporal stack", "is a motion LoRA", "is a checkpoint of")):
            return words.replace("not a temporal stack", "not a motion LoRA")
    return None
