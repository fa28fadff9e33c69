"""What files of LoRAs change of a weight, as numbers: products of small matrices (LoRA, LoCon, LoHa, LoKr), whole differences,
and DoRA's lengths. The formulas are LyCORIS's and ComfyUI's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import UserError
from .limits import json_of

METADATA = "lora_adapter_metadata"  # in which diffusers keeps peft's settings
_ENDLESS = re.compile(r"\)\s*[*+?{]|([*+?{][^*+?{]*){3}|([|][^|]*){5}")
"""In a pattern: repeated groups and many repetitions or choices, which can take longer than anybody waits, and no file needs."""
_LONGEST = 300
"""Signs of a module's name that patterns are matched against; on longer ones even two repetitions take long."""


@dataclass(frozen=True)
class LowRank:
    """A change of one weight: `up` (o, r), `down` (r, i), of a convolution with further dimensions; `alpha` None for r."""

    up: Tensor
    down: Tensor
    alpha: float | None

    def of(self, weight: Tensor) -> Tensor:
        """alpha / r * up @ down, in the weight's shape and at least in float32."""
        dtype = torch.promote_types(weight.dtype, torch.float32)
        up, down = (part.to(weight.device, dtype) for part in (self.up, self.down))
        return difference({"up": up, "down": down}, weight.shape, self.alpha)


def difference(parts: Mapping[str, Tensor], shape: torch.Size, alpha: float | None = None) -> Tensor:
    """What `parts` of one kind, all of one precision, add to a weight of `shape`, times alpha / rank; alpha None for the rank.

    By the names that files give them: `up`, `down` and Tucker's `mid`; `hada_w1_a` ... of LoHa; `lokr_w1` ... of LoKr; or `diff`.
    KeyError where one is missing, RuntimeError where shapes do not fit; on the meta device this is a check of shapes.
    """
    rank: int | None
    if "diff" in parts:
        change, rank = parts["diff"], None
        if change.shape != shape:
            raise RuntimeError(f"a difference of shape {tuple(change.shape)}")
    elif any(name.startswith("hada") for name in parts):
        (first, rank), (second, _) = _product(parts, "hada_w1"), _product(parts, "hada_w2")
        change = first * second
    elif any(name.startswith("lokr") for name in parts):
        (first, one), (second, other) = _product(parts, "lokr_w1"), _product(parts, "lokr_w2")
        rank = one if other is None else other
        change = torch.kron(first[..., None, None] if second.ndim == 4 else first, second.contiguous())
    else:
        up, down = parts["up"], parts["down"]
        rank = len(down)
        if "mid" in parts:
            down = torch.einsum("abkl,bi->aikl", parts["mid"], down.flatten(1))
        change = up.flatten(1) @ down.flatten(1)
    if rank == 0:
        raise RuntimeError("a product of rank 0")
    return change.reshape(shape) * (1.0 if alpha is None or rank is None else alpha / rank)


def _product(parts: Mapping[str, Tensor], name: str) -> tuple[Tensor, int | None]:
    """A matrix of LoHa or LoKr, and its rank where it is a product itself."""
    if name in parts:
        return parts[name], None
    a, b, core = parts[f"{name}_a"], parts[f"{name}_b"], parts.get(name.replace("_w", "_t"))
    return (a @ b if core is None else torch.einsum("ijkl,jr,ip->prkl", core, b, a)), len(b)


def added(weight: Tensor, change: Tensor, strength: float, lengths: Tensor | None = None) -> Tensor:
    """`weight` with strength x `change`. `lengths` of DoRA, (o, 1 ...) or (1, i ...), are those that rows or columns of the sum
    have at strength 1; rows are measured before the change is added, as ComfyUI does."""
    if lengths is None:
        return weight + strength * change
    whole = weight + change
    axis = 0 if len(lengths) == len(weight) else 1
    measured = weight if axis == 0 else whole
    others = [d for d in range(weight.ndim) if d != axis]
    norm = torch.linalg.vector_norm(measured, dim=others, keepdim=True) + torch.finfo(weight.dtype).eps
    return weight + strength * (whole * (lengths / norm) - weight)


def told_alpha(path: Path, metadata: Mapping[str, str], module: str, rank: int) -> float | None:
    """The alpha of a module by peft's settings, where the metadata of the file at `path` have them, else None. A rank-stabilised
    scale, alpha / sqrt(r), is put into alpha / r."""
    if METADATA not in metadata:
        return None
    try:
        settings: dict[str, Any] = json_of(metadata[METADATA])
        place = re.match(r"(unet|text_encoder_2|text_encoder)\.", module)
        start = place[0] if place else "unet."
        own = {name.removeprefix(start): value for name, value in settings.items() if name.startswith(start) or "." not in name}
        patterns: dict[str, float] = own.get("alpha_pattern") or {}
        if endless := next(filter(_ENDLESS.search, patterns), None):
            raise UserError(f"the pattern {endless[:60]!r} repeats too much")
        inner = module.removeprefix(start)
        if patterns and len(inner) > _LONGEST:
            raise UserError(f"a name of {len(inner)} signs")
        alpha = next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", inner)), own.get("lora_alpha"))
        if alpha is not None and not math.isfinite(float(alpha)):
            raise UserError(f"an alpha of {alpha}")
        return None if alpha is None else float(alpha) * (rank**0.5 if own.get("use_rslora") else 1.0)
    except (ValueError, TypeError, AttributeError, OverflowError, re.error) as error:
        raise UserError(f"{path} has damaged metadata in {METADATA} ({error}): download or copy it again") from error
