"""Motion LoRAs: changes W + scale * up @ down of the weights of motion modules, in the key forms in which they were published.

guoyww's own, `...attention_blocks.0.processor.to_q_lora.down.weight`; both of diffusers', `...attn1.processor.to_q_lora.down.
weight` and `...attn1.to_q.lora_A.weight`; that of MotionDirector for AnimateDiff; kohya's, with underscores for dots; and the
list without names that MotionDirector itself writes for ModelScope. What stands in front of the blocks' names does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ..errors import UserError
from ..low_rank import told_alpha
from ..model.config import StackConfig
from ..model.sites import Site
from ..model.stack import TemporalStack
from ..weights import WeightFile
from .layers import MotionModules
from .layout import DIFFUSERS, HOTSHOT, ORIGINAL, Shapes

EXPECTED = "such as down_blocks.0.motion_modules.0 ... to_q_lora.down.weight"
_FROM_BLOCKS = re.compile(r"(?:^|[._])((?:down_blocks|up_blocks)[._]\d.*|(?:mid_block|transformer_in)[._].*)$")
_TEMPORAL = re.compile(r"motion_modules|temporal_transformer|temporal_attentions|temp_attentions|temp_convs|transformer_in")
_TABLES = (".pos_encoder.pe", ".pos_embed.pe", ".positional_encoding")
_END = re.compile(
    r"(?:_lora|\.lora|\.lora_linear_layer)?\.(?:(?P<side>(?:lora_)?(?:up|down))\.weight|"
    r"lora_(?P<letter>[AB])(?:\.(?!weight|bias)\w+)?(?:\.weight)?|(?P<alpha>alpha))$"
)
_LORA = re.compile(r"lora|hada_|lokr_|oft_|\.diff(_b)?$")


@dataclass(frozen=True)
class Pair:
    """The names in the file of what changes one weight; alpha's name, its number, or None."""

    up: str
    down: str
    alpha: str | float | None


@dataclass(frozen=True)
class LoraPlan:
    """By the stack's weights, what changes them; and what a user should know of the rest of the file."""

    pairs: dict[str, Pair]
    notes: tuple[str, ...] = ()


def matches(shapes: Shapes) -> bool:
    """Whether a file changes weights of motion modules by low-rank products; it may change others too."""
    return any(_TEMPORAL.search(name) and _END.search(name) for name in shapes)


def is_spatial_lora(shapes: Shapes) -> bool:
    """Whether a file is a LoRA, and of the image model alone."""
    return any(_LORA.search(name) for name in shapes) and not any(_TEMPORAL.search(name) for name in shapes)


def plan(file: WeightFile, config: StackConfig) -> LoraPlan:
    """Which weights of a stack the file changes, by names and shapes. ValueError for one that does not fit."""
    targets = _targets(config)
    what = f"{file.path} is a motion LoRA"
    listed = all(name.isdigit() for name in file.shapes)
    if not targets:
        wanted = "ModelScope or ZeroScope" if listed else "AnimateDiff v2"
        has = f"this stack of family {config.origin.family} has no motion modules"
        raise UserError(f"{what}, and {has}: choose a stack of {wanted} for it")
    parts, rest = _listed(file, config) if listed else _named(file)
    middle = [module for module in parts if module.startswith("mid_block") and module not in targets]
    lost = sorted(min(names.values()) for module, names in parts.items() if module not in targets and module not in middle)
    if lost:
        raise UserError(f"{what} with {len(lost)} changes that this stack has no weight for: {_few(lost)}; {_choose(config)}")
    _refuse_without_middle(what, config, {targets[module] for module in parts if module in targets})
    pairs = {targets[module]: _pair(what, file, module, found) for module, found in parts.items() if module in targets}
    if not pairs:
        raise UserError(f"{what} whose changes are all in the middle, where this stack has no module; {_choose(config)}")
    for name, pair in pairs.items():
        _check_shape(what, file, pair, _shapes(config)[name], config)
    notes = []
    if middle:
        told = f"{len(middle)} of its changes are left out: it was made for AnimateDiff v2, and this stack has no module there"
        notes.append(f"{file.path} also changes the module in the middle, and {told}")
    if rest:
        told = f"{len(rest)} weights of the image model, which are left out: load it with ComfyUI's LoRA loader, or --lora, too"
        notes.append(f"{file.path} also changes {told}")
    return LoraPlan(pairs, tuple(notes))


def read_list(path: Path) -> WeightFile | None:
    """The list of tensors that MotionDirector writes, named by their numbers; None where the file holds something else. It has
    been opened as tensors alone before."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, list) or not content or not all(isinstance(value, torch.Tensor) for value in content):
        return None
    tensors = {str(number): value.detach() for number, value in enumerate(content)}
    return WeightFile(path, {name: tuple(value.shape) for name, value in tensors.items()}, tensors=tensors)


# -- the file's names

Parts = dict[str, dict[str, str]]
"""By module, its names in one spelling: the file's names of up, down and alpha."""


def _named(file: WeightFile) -> tuple[Parts, list[str]]:
    """What changes motion modules, and the names of what changes the image model."""
    parts: Parts = {}
    rest, strange = [], []
    for name in file.shapes:
        found = _END.search(name)
        if not _TEMPORAL.search(name):
            rest.append(name)
        elif found is None and not name.endswith(_TABLES):  # tables of positions: diffusers leaves them out as well
            strange.append(name)
        elif found is not None:
            side = {"A": "down", "B": "up"}.get(found["letter"], "alpha") if found["side"] is None else found["side"]
            parts.setdefault(_spelt(name[: found.start()]), {})[side.removeprefix("lora_")] = name
    if strange:
        more = f"weights beside low-rank products: {_few(sorted(strange))}"
        raise UserError(f"{file.path} is a motion LoRA with {len(strange)} {more}; only up, down and alpha are read here")
    return parts, rest


def _spelt(module: str) -> str:
    """A module's name from its block on, underscores for dots."""
    found = _FROM_BLOCKS.search(module)
    return (found[1] if found else module).replace(".", "_").replace("_processor", "")


def _pair(what: str, file: WeightFile, module: str, found: dict[str, str]) -> Pair:
    if lacking := {"up", "down"} - found.keys():
        has = _few(sorted(found.values()))
        raise UserError(f"{what} that lacks the {sorted(lacking)[0]} weight of {module}, found only {has}: copy it again")
    if "alpha" in found:
        return Pair(found["up"], found["down"], found["alpha"])
    down = found["down"]
    return Pair(found["up"], down, told_alpha(file.path, file.metadata, re.sub(_END, "", down), file.shapes[down][0]))


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


# -- the stack's names


@lru_cache(maxsize=4)
def _shapes(config: StackConfig) -> Shapes:
    """Of the stack's weights."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in TemporalStack(config).state_dict().items()}


def _targets(config: StackConfig) -> dict[str, str]:
    """By a module's name in one spelling, in every layout, the stack's weight; without norms."""
    result = {}
    for site in config.sites if isinstance(config.layers, MotionModules) else ():
        ours = f"layers.{site.name.replace('.', '-')}."
        for theirs, name in _modules(site, config):
            result[_spelt(theirs)] = ours + name
            if theirs.endswith("to_out.0"):
                result[_spelt(theirs.removesuffix(".0"))] = ours + name
    return result


def _modules(site: Site, config: StackConfig) -> Iterator[tuple[str, str]]:
    """(a module in a file's layout, its weight behind the site's own name)."""
    side, *inner = site.name.split(".")
    place, last = "mid_block" if side == "mid" else f"{side}_blocks.{inner[0] if inner else ''}", inner[-1] if inner else ""
    if site.kind == "resnet":
        for i in range(4):
            yield f"{place}.temp_convs.{last}.conv{i + 1}.{3 if i else 2}", f"convs.{i}.weight"
        return
    folders = {"transformer_in." if site.name == "conv_in" else f"{place}.temp_attentions.{last}.": DIFFUSERS}
    if site.kind == "layer":
        folders = {f"{place}.{naming.folder}.{last}{naming.inside}.": naming for naming in (ORIGINAL, DIFFUSERS, HOTSHOT)}
    assert isinstance(config.layers, MotionModules)
    for prefix, naming in folders.items():
        for theirs, name in naming.names(config.layers.blocks, False):
            if theirs.endswith(".weight") and "norm" not in theirs:
                yield prefix + theirs.removesuffix(".weight"), name


def _listed(file: WeightFile, config: StackConfig) -> tuple[Parts, list[str]]:
    """MotionDirector's list: up and down in turn of the attentions and MLP of each temporal transformer, in its U-Net's order."""

    def order(site: Site) -> tuple[int, ...]:
        side, *inner = site.name.split(".")
        return (("conv_in", "down", "up", "mid").index(side), *(int(part) for part in inner if part.isdigit()))

    sites = sorted((site for site in config.sites if site.kind == "attention" or site.name == "conv_in"), key=order)
    modules = [theirs for site in sites for theirs, _ in _modules(site, config) if "proj_" not in theirs]
    count, expected = len(file.shapes), 2 * len(modules)
    if count != expected or not modules:
        what = f"{file.path} is a list of {count} LoRA weights without names, as MotionDirector writes for ModelScope"
        takes = f"this stack of family {config.origin.family} takes {expected or 'none'}"
        raise UserError(f"{what}: {takes}; a spatial one changes the image model, and ComfyUI has no loader for it")
    return {_spelt(name): {"up": str(2 * n), "down": str(2 * n + 1)} for n, name in enumerate(modules)}, []


# -- whether they fit


def _refuse_without_middle(what: str, config: StackConfig, changed: set[str]) -> None:
    """One that changes every module but that in the middle was made for a stack without it."""
    layers = {site.name.replace(".", "-") for site in config.sites if site.kind == "layer"}
    middle = {name for name in layers if name.startswith("mid-")}
    if middle and layers - {name.split(".")[1] for name in changed} == middle:
        made = "for a stack without a module in the middle (AnimateDiff v1 or v3)"
        raise UserError(f"{what} made {made}, and this stack has one: put it on such a stack")


def _check_shape(what: str, file: WeightFile, pair: Pair, shape: tuple[int, ...], config: StackConfig) -> None:
    up, down = file.shapes[pair.up], file.shapes[pair.down]
    if len(up) < 2 or len(down) < 2 or not up[1] == down[0] > 0 or any(size != 1 for size in up[2:]):
        raise UserError(f"{what} whose {pair.down} of shape {down} and {pair.up} of shape {up} make no product: copy it again")
    inner, expected = torch.Size(down[1:]).numel(), torch.Size(shape[1:]).numel()
    if (up[0], inner) != (shape[0], expected):
        found = f"{pair.down} changes a weight of {up[0]} x {inner}, and this stack's has {shape[0]} x {expected}"
        raise UserError(f"{what} for another motion module: {found}; {_choose(config)}")
    if isinstance(pair.alpha, str) and torch.Size(file.shapes[pair.alpha]).numel() != 1:
        raise UserError(f"{what} whose {pair.alpha} has shape {file.shapes[pair.alpha]}, expected one number: copy it again")


def _choose(config: StackConfig) -> str:
    stage = f" {config.origin.stage}" if config.origin.stage else ""
    return f"take one that was made for {config.origin.family}{stage}, or choose another stack"
