"""How much memory a training run needs, and settings that fit a given size.

Weights, gradients and optimiser states are counted exactly. Activations are counted by running the U-Net with its stack on
torch's meta device, where tensors have shapes and no data, and adding up what autograd keeps for the backward pass.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..base.architectures import CONFIGS, STACK_SETTINGS, STACKS, build_unet
from ..errors import UserError
from ..model.config import StackKind
from ..model.stack import TemporalStack
from ..model.video_model import VideoModel
from .recipes import Recipe, override

GB = 2**30
OVERHEAD = 1.0 * GB  # the driver's context, work space of the matrix products, kernels
FRAGMENTS = 1.10  # activations do not pack without gaps
VAE_PARAMETERS = 84_000_000  # Stable Diffusion's, both directions
TEXT_PARAMETERS = {"sd15": 123_000_000, "sd21": 340_000_000, "sdxl": 818_000_000, "tiny": 270_000}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
HOME_BATCH = 32  # of a single GPU, where the paper's 512 would take a minute and more a step
MOST_AT_ONCE = 16


@dataclass(frozen=True)
class Needs:
    """Bytes that one process needs on its device."""

    frozen: int
    weights: int
    gradients: int
    optimiser: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        """All of it, with what the driver takes."""
        return round(sum(asdict(self).values()) + OVERHEAD)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / GB:.2f} GB" for name, size in asdict(self).items())
        return f"{self.total / GB:.1f} GB in all: {parts}, other {OVERHEAD / GB:.1f} GB"


class _Kept(TorchFunctionMode):
    """Adds up what autograd keeps: each storage once, parameters not at all. Recomputed parts count by their inputs, and by the
    largest of them, which is made again while the backward pass is in it."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        super().__init__()
        self.known = {p.untyped_storage()._cdata for p in parameters}
        self.alive: list[torch.Tensor] = []  # a freed storage's address would be used again
        self.total, self.largest = 0, 0

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.alive.append(tensor)
            self.total += storage.nbytes()
        return tensor

    def recompute(self, function: Callable[..., Any], *args: Any) -> Any:
        for argument in args:
            if isinstance(argument, torch.Tensor):
                self.add(argument)
        before, largest, self.largest = self.total, self.largest, 0
        output = function(*args)
        self.total, self.largest = before, max(largest, self.total - before + self.largest)
        return output

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Attention as fused kernels keep it: query, key, value and output, not the matrix of all pairs, which torch would write
        out on the meta device."""
        if function is not nn.functional.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        given = [*args, *(kwargs or {}).values()][:3]
        output = torch.empty_like(given[0]).requires_grad_(any(tensor.requires_grad for tensor in given))
        for tensor in (*given, output) if output.requires_grad else ():
            self.add(tensor)
        return output


def _on_meta(family: str, kind: StackKind) -> tuple[Any, TemporalStack]:
    """An architecture's U-Net and the stack that goes on it, without weights."""
    shape = STACK_SETTINGS.get(family, {}) | STACKS[kind]
    with torch.device("meta"):
        unet = build_unet(family)
        return unet, TemporalStack.for_unet(unet, base=family, **shape)


@lru_cache(maxsize=64)
def parameters(family: str, kind: StackKind) -> tuple[int, int]:
    """How many the U-Net of an architecture has, and its stack of a kind of `STACKS`."""
    unet, stack = _on_meta(family, kind)
    return sum(p.numel() for p in unet.parameters()), sum(p.numel() for p in stack.parameters())


@lru_cache(maxsize=64)
def _counted(
    family: str, kind: StackKind, frames: int, size: tuple[int, int], recompute: bool, every: bool, mixed: bool
) -> tuple[int, int, int]:
    """(parameters of the U-Net, of the stack, bytes of one clip that autograd keeps in 16 bits). `mixed`: the stack's layer norms
    are in float32, as under autocast."""
    config = CONFIGS[family]
    unet, stack = _on_meta(family, kind)
    nn.Module.to(unet.requires_grad_(every), torch.bfloat16)  # diffusers' own `to` warns
    stack.to(torch.bfloat16).requires_grad_(True).train()
    model = VideoModel(unet, stack)
    kept = _Kept(iter([*unet.parameters(), *stack.parameters()]))
    if recompute:
        unet.train()
        model.attachment.enable_gradient_checkpointing(kept.recompute)

    def norm_in_full(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        kept.total += 2 * 4 * output.numel()  # its input and output once more

    for module in stack.modules() if mixed else ():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(norm_in_full)
    height, width = (side // 8 for side in size)
    channels = unet.config["in_channels"]
    with torch.device("meta"), kept, torch.autograd.graph.saved_tensors_hooks(kept.add, lambda tensor: tensor):
        x = torch.empty(1, frames, channels, height, width, dtype=torch.bfloat16)
        text = torch.empty(1, 77, config["cross_attention_dim"], dtype=torch.bfloat16)
        given = torch.empty(1, frames, channels + 1, height, width, dtype=torch.bfloat16)
        added = None
        if config.get("addition_embed_type"):
            added = {"text_embeds": torch.empty(1, 1280, dtype=torch.bfloat16), "time_ids": torch.empty(1, 6)}
        model(x, torch.zeros(1, dtype=torch.long), text, given, added)
    spatial, temporal = (sum(p.numel() for p in m.parameters()) for m in (unet, stack))
    return spatial, temporal, kept.total + kept.largest


def needs(recipe: Recipe, micro: int) -> Needs:
    """What a process needs that handles `micro` clips at a time."""
    compute, clips, every = recipe.compute, recipe.clips, recipe.method.trained == "all"
    mixed = BYTES[compute.precision] < 4
    counted = _counted(recipe.family, recipe.method.stack, clips.frames, clips.size, compute.checkpointing, every, mixed)
    spatial, temporal, activations = counted
    size = BYTES[compute.precision]
    trained = temporal + (spatial if every else 0)
    frozen = 0 if every else spatial * size
    if recipe.distil.steps:
        frozen += temporal * size  # the teacher
    if not compute.cache:
        frozen += (VAE_PARAMETERS + TEXT_PARAMETERS[recipe.family]) * size
    copies = trained * size if mixed else 0  # autocast keeps the weights in 16 bits meanwhile
    average = 0 if compute.ema_on_cpu else 4 * trained
    kept = round(micro * activations * size / 2 * FRAGMENTS)
    return Needs(frozen, 4 * trained + copies, 4 * trained, 8 * trained, average, kept)


def read_size(text: str) -> int:
    """Bytes of a size such as 8GB, 24 GB or 80GiB."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(GB|GiB|G)?\s*", text, re.IGNORECASE)
    if not match or not float(match[1]) > 0:
        raise UserError(f"--fit takes the memory of a GPU such as 8GB, 16GB or 24GB, found {text!r}")
    return round(float(match[1]) * GB)


def fit(recipe: Recipe, size: str) -> tuple[Recipe, str]:
    """The recipe with a batch, accumulation, precision, checkpointing, cache and place of the average for a GPU of `size`, and a
    sentence that says what was chosen. ValueError if nothing fits."""
    limit = read_size(size)
    if recipe.task != "video" or recipe.family not in CONFIGS:
        raise UserError(f"--fit is for the training of stacks, and recipe {recipe.name!r} needs little memory: leave it out")
    recipe = override(recipe, {"optimisation.batch": min(recipe.optimisation.batch, HOME_BATCH)})
    if recipe.clips.shards or recipe.family != "tiny":
        recipe = override(recipe, {"clips.starts": recipe.clips.starts or 4})
    recipe = override(recipe, {"compute.precision": "bfloat16", "compute.cache": True})
    least: list[Needs] = []
    for checkpointing, ema_on_cpu in itertools.product((False, True), repeat=2):
        here = override(recipe, {"compute.checkpointing": checkpointing, "compute.ema_on_cpu": ema_on_cpu})
        least.append(needs(here, 1))
        if least[-1].total <= limit:
            batch, micro = recipe.optimisation.batch, 1
            while batch % (2 * micro) == 0 and 2 * micro <= MOST_AT_ONCE and needs(here, 2 * micro).total <= limit:
                micro *= 2
            return override(here, {"compute.micro": micro}), _said(here, micro, size)
    smallest = min(least, key=lambda need: need.total)
    advice = "" if recipe.method.stack == "slim" else "; --ablation slim has fewer temporal layers"
    raise UserError(
        f"recipe {recipe.name!r} for {recipe.family} does not fit {size}: at its smallest (one clip at a time, bfloat16, "
        f"gradient checkpointing, latents kept on disk, average in main memory) it needs {smallest}{advice}"
    )


def _said(recipe: Recipe, micro: int, size: str) -> str:
    compute, batch = recipe.compute, recipe.optimisation.batch
    checkpointing = "gradient checkpointing" if compute.checkpointing else "no gradient checkpointing"
    kept = f"latents and texts kept on disk ({recipe.clips.starts or 'all'} cuts a video)"
    average = "average in main memory" if compute.ema_on_cpu else "average on the GPU"
    parts = f"batch {batch} as {batch // micro} x {micro}", compute.precision, checkpointing, kept, average
    return f"--fit {size} chose: {', '.join(parts)}. It needs {needs(recipe, micro)}."
