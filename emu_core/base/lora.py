"""LoRAs of the image model: whose weights a file changes, in the names that trainers and ComfyUI give them, and merging them.

kohya's `lora_unet_...` and `lora_te_...`, with the blocks of diffusers or of the original layout; SimpleTuner's `lycoris_...`;
diffusers' `unet.` and `text_encoder.`, in its old and its peft form; and ComfyUI's `diffusion_model.` and `text_encoders.`.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..low_rank import added, difference, told_alpha
from ..weights import WeightFile, open_weights

logger = logging.getLogger(__name__)

Lora = tuple[str | Path, float]
"""A file and its strength, for the U-Net and the text encoders alike."""

_END = re.compile(
    r"(?:\.lora_(?P<kohya>up|down|mid)\.weight|(?:_lora|\.lora|\.lora_linear_layer)\.(?P<diffusers>up|down)\.weight|"
    r"\.lora_(?P<peft>[AB])(?:\.default)?(?:\.weight)?|"
    r"\.(?P<other>alpha|dora_scale|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|diff|diff_b|w_norm|b_norm))$"
)
_UNREAD = {
    r"\.(oft_|boft_|oft_diag|oft_blocks)": ("OFT", True),
    r"\.[ab][12]\.weight$": ("GLoRA", True),
    r"\.(set_weight|reshape_weight)$": ("whole new weights", True),
    r"lora_magnitude_vector": ("DoRA under peft's names", False),
    r"(^|\.)ia3_|\.on_input$": ("(IA)3", False),
}
"""What it is, and whether ComfyUI reads it."""
_EIGHT_BITS = ("F8_E4M3", "F8_E5M2", "float8_e4m3fn", "float8_e5m2")
"""As safetensors and torch call the kinds that are read here, as in ComfyUI, which merges in float32."""
_OTHERS = {
    r"motion_modules|temporal_transformer|temp_attentions": "a motion LoRA or a stack; name it with --motion-lora or --stack",
    r"^(string_to_param|emb_params|clip_[lg]$|<.*>$)": "a textual inversion, which only ComfyUI reads",
    r"^control_model\.|zero_convs|controlnet_": "a ControlNet",
    r"^model\.diffusion_model\.|^first_stage_model\.": "a whole model; name it with --model",
    r"^(decoder|encoder)\.": "a VAE; name it with --vae",
    r"(double|single|joint)_blocks|(^|model\.|lora_)transformer[._]": "a LoRA for a transformer, not for a U-Net",
    r"^(lora_unet_|diffusion_model\.)(blocks|layers)[._]\d": "a LoRA for a transformer, not for a U-Net",
    r"^(lora_te3|lora_prior)_": "a LoRA for another kind of model",
}
_PLACES = (
    ("text_encoder_2", r"lora_te2_|text_encoder_2\.|text_encoders\.clip_g\.transformer\."),
    ("text_encoder", r"lora_te1?_|text_encoder\.|text_encoders\.clip_[lh]\.transformer\."),
    ("unet", r"(?:lora_unet_|lycoris_|unet\.|(?:model\.)?diffusion_model\.)?"),
)
_RESNET = {"conv1": "in_layers.2", "conv2": "out_layers.3", "conv_shortcut": "skip_connection", "time_emb_proj": "emb_layers.1"}
_RESNET |= {"norm1": "in_layers.0", "norm2": "out_layers.0"}

Target = tuple[str, str]
"""A part of the model and the name of a module of it, one with a weight."""


@dataclass(frozen=True)
class Change:
    """What a file changes of one parameter: its part and name, the file's tensors by their roles, and alpha by its settings."""

    part: str
    parameter: str
    names: dict[str, str]
    alpha: float | None


def plan(file: WeightFile, parts: Mapping[str, nn.Module], family: str) -> tuple[list[Change], list[str]]:
    """What a LoRA changes of a model's parts (which may be on the meta device), by names and shapes alone, and the names in the
    file that have no place in them. ValueError for what is no LoRA, of a kind that is not read, or for another model."""
    modules, strange = _modules(file)
    targets = _targets(parts)
    changes: list[Change] = []
    for module, names in modules.items():
        target = targets.get(_place(module))
        if target is None:
            strange += names.values()
            continue
        changes += _changes(file, module, names, target)
    if not changes:
        _refuse(file, modules, family)
    parameters = {part: dict(module.named_parameters()) for part, module in parts.items()}
    for change in changes:
        if change.parameter not in parameters[change.part]:
            raise UserError(f"{file.path}: expected a change of a weight, found {next(iter(change.names.values()))} for a bias "
                            f"that this model ({family}) does not have: take a LoRA that was made for it")  # fmt: skip
        _check(file, change, parameters[change.part][change.parameter].shape, family)
    return changes, strange


def open_lora(path: str | Path) -> WeightFile:
    """A file of weights that may be a LoRA; its values are not read yet. ValueError for anything else."""
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise UserError(f"{path} should be a LoRA's file, found {found}: check the path")
    return open_weights(path)


def check(loras: Sequence[Lora], parts: Mapping[str, nn.Module], family: str) -> None:
    """ValueError for the first that cannot be merged into these parts, before any of its values are read."""
    for path, strength in loras:
        if not math.isfinite(strength):
            raise UserError(f"the strength of {path} must be a finite number, found {strength}")
        plan(open_lora(path), parts, family)


def merge(loras: Sequence[Lora], parts: Mapping[str, nn.Module], family: str) -> None:
    """Add LoRAs to the weights of a model's parts, one after the other in float32, and round once. ValueError for one that does
    not fit or holds NaN or infinity, before anything is changed."""
    check(loras, parts, family)
    wanted: dict[tuple[str, str], list[tuple[float, Change, Mapping[str, Tensor]]]] = {}
    for path, strength in loras:
        file = open_lora(path)
        changes, strange = plan(file, parts, family)
        if strange:
            logger.warning("%s: %d of its weights have no place in this model: %s", path, len(strange), _few(strange))
        read = {name: value.float() if file.kinds.get(name) in _EIGHT_BITS else value for name, value in file.read().items()}
        for name, value in read.items():
            if not torch.isfinite(value).all():
                raise UserError(f"{path}: {name} holds NaN or infinite values: its training failed, or the file is damaged")
        for change in changes if strength else ():
            wanted.setdefault((change.part, change.parameter), []).append((strength, change, read))
    for (part, name), steps in wanted.items():
        parameter = parts[part].get_parameter(name)
        weight = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        for strength, change, tensors in steps:
            weight = _changed(weight, change, tensors, strength)
        parameter.data = weight.to(parameter.dtype)  # not in place: it may be a view of the file


def _changed(weight: Tensor, change: Change, tensors: Mapping[str, Tensor], strength: float) -> Tensor:
    values = {role: tensors[name].to(weight.device, weight.dtype) for role, name in change.names.items()}
    alpha, lengths = values.pop("alpha", None), values.pop("dora_scale", None)
    amount = change.alpha if alpha is None else float(alpha)
    return added(weight, difference(values, weight.shape, amount), strength, lengths)


def _modules(file: WeightFile) -> tuple[dict[str, dict[str, str]], list[str]]:
    """By module, as the file calls it, its tensors by their roles; and the names that are no change."""
    modules: dict[str, dict[str, str]] = {}
    strange = []
    for name in file.shapes:
        if unread := next((unread for pattern, unread in _UNREAD.items() if re.search(pattern, name)), None):
            kind, there = unread
            what = "which only ComfyUI reads: use it there, or take another" if there else "which is not read: take another"
            raise UserError(f"{file.path}: expected a LoRA (also LoCon, LoHa, LoKr or DoRA), found {kind} in {name}, {what}")
        found = _END.search(name)
        if found is None:
            strange.append(name)
            continue
        role = found["kohya"] or found["diffusers"] or {"A": "down", "B": "up"}.get(found["peft"] or "") or found["other"]
        modules.setdefault(name[: found.start()], {})[role] = name
    return modules, strange


def _changes(file: WeightFile, module: str, names: dict[str, str], target: Target) -> Iterator[Change]:
    """Of the module's weight and of its bias."""
    part, place = target
    bias = next((names[role] for role in ("diff_b", "b_norm") if role in names), None)
    if bias is not None:
        yield Change(part, f"{place}.bias", {"diff": bias}, None)
    weight = {"diff" if role == "w_norm" else role: name for role, name in names.items() if role not in ("diff_b", "b_norm")}
    if weight.keys() - {"alpha"}:
        down = weight.get("down")
        alpha = None if down is None else told_alpha(file.path, file.metadata, module, file.shapes[down][0])
        yield Change(part, f"{place}.weight", weight, alpha)


def _check(file: WeightFile, change: Change, shape: torch.Size, family: str) -> None:
    """ValueError where the file's matrices do not make up a weight of this shape."""
    some = next(name for role, name in change.names.items() if role != "alpha")
    names = [name for role, name in change.names.items() if role != "alpha" and file.kinds.get(name) not in _EIGHT_BITS]
    file.check_precision("a LoRA", names)
    values = {role: torch.empty(file.shapes[name], device="meta") for role, name in change.names.items()}
    alpha, lengths = values.pop("alpha", None), values.pop("dora_scale", None)
    if alpha is not None and alpha.numel() != 1:
        raise UserError(
            f"{file.path}: expected one number, found {change.names['alpha']} of shape {tuple(alpha.shape)}: copy it again"
        )
    try:
        found = added(torch.empty(shape, device="meta"), difference(values, shape), 1.0, lengths)
        if found.shape != shape:
            raise RuntimeError(f"of shape {tuple(found.shape)}")
    except KeyError as error:
        raise UserError(f"{file.path}: expected {error.args[0]} beside {some}, found none: copy it again") from None
    except (RuntimeError, IndexError, TypeError) as error:
        shown = ", ".join(f"{role} {tuple(value.shape)}" for role, value in values.items())
        raise UserError(
            f"{file.path}: expected a change of {change.parameter}, {tuple(shape)} in this model ({family}), found {some} with"
            f" {shown}: take a LoRA that was made for this model"
        ) from error


def _refuse(file: WeightFile, modules: Mapping[str, Any], family: str) -> None:
    """Says what a file is that changes nothing of this model."""
    names = list(file.shapes)
    kind = next((what for pattern, what in _OTHERS.items() if any(re.search(pattern, name) for name in names)), None)
    if not names:
        kind = "a file without tensors, or a hypernetwork, which only ComfyUI reads"
    if kind is None:
        kind = "one for another model" if modules else f"{len(names)} tensors of something else"
    raise UserError(f"{file.path}: expected a LoRA for this model ({family}), found {kind}; its names are such as {_few(names)}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or "none"


# -- names


def _place(module: str) -> Target:
    """The part that a file's name of a module means, and the module in one spelling."""
    part, prefix = next((part, found[0]) for part, pattern in _PLACES if (found := re.match(pattern, module)))
    return part, _spelt(module[len(prefix) :].removeprefix("base_model.model."))


def _spelt(module: str) -> str:
    """Underscores for dots, and without what stands in some names only."""
    return module.replace(".processor", "").replace(".", "_").removeprefix("text_model_")


def _targets(parts: Mapping[str, nn.Module]) -> dict[Target, Target]:
    """By every spelling of a name, the module that it means."""
    found: dict[Target, Target] = {}
    for part, whole in parts.items():
        blocks = dict(_original(whole)) if part == "unet" else {}
        for name, _ in whole.named_parameters():
            module, _, end = name.rpartition(".")
            for theirs in {module, _in_original(module, blocks)} if end == "weight" else ():
                spelt = _spelt(theirs)
                found[part, spelt] = (part, module)
                if spelt.endswith("_to_out_0"):  # diffusers' old names pass over the list that the layer stands in
                    found[part, spelt.removesuffix("_0")] = (part, module)
    return found


def _in_original(module: str, blocks: Mapping[str, str]) -> str:
    """A module of the U-Net as the original layout names it, and else as it is."""
    for ours, theirs in blocks.items():
        if module == ours or module.startswith(f"{ours}."):
            inner = module[len(ours) :].removeprefix(".")
            return ".".join(filter(None, (theirs, _RESNET.get(inner, inner) if ".resnets." in ours else inner)))
    return module


def _original(unet: Any) -> Iterator[tuple[str, str]]:
    """The blocks of a U-Net of diffusers, and what the original layout calls them: it counts blocks through, where diffusers
    counts levels and blocks within."""
    yield from (("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"))
    for ours, theirs in (("time_embedding", "time_embed"), ("add_embedding", "label_emb.0")):
        yield from ((f"{ours}.linear_1", f"{theirs}.0"), (f"{ours}.linear_2", f"{theirs}.2"))
    number = 1
    for level, block in enumerate(unet.down_blocks):
        for i in range(len(block.resnets)):
            yield f"down_blocks.{level}.resnets.{i}", f"input_blocks.{number}.0"
            yield f"down_blocks.{level}.attentions.{i}", f"input_blocks.{number}.1"
            number += 1
        if block.downsamplers:
            yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{number}.0.op"
            number += 1
    for i, ours in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        yield f"mid_block.{ours}", f"middle_block.{i}"
    number = 0
    for level, block in enumerate(unet.up_blocks):
        for i in range(len(block.resnets)):
            yield f"up_blocks.{level}.resnets.{i}", f"output_blocks.{number}.0"
            yield f"up_blocks.{level}.attentions.{i}", f"output_blocks.{number}.1"
            number += 1
        last = 2 if getattr(block, "attentions", None) else 1
        yield f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{number - 1}.{last}.conv"
