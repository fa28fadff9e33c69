"""One safetensors file holds one stack: its weights, and in the metadata everything needed to run it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .config import StackConfig
from .stack import TemporalStack
from .temporal import TORCH_LAYERS, LayerTypes

FORMAT, VERSION = "emu-video-stack", 1
_PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}


def save_stack(stack: TemporalStack, path: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a stack, first under a temporary name. NaN or infinity, also by overflow of `dtype`, is refused."""
    path = Path(path)
    metadata = {"format": FORMAT, "version": str(VERSION), "config": json.dumps(stack.config.to_dict())}
    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in stack.state_dict().items()}
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{path} is not written: {name} holds NaN or infinite values in {dtype}; its training failed")
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file(weights, temporary, metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_config(path: str | Path) -> StackConfig:
    """The metadata of a stack's file alone. ValueError for what is no stack, is damaged, or is of another version."""
    path = Path(path)
    _check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            first_keys = sorted(file.keys())[:3]
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}): it may be cut short; copy it again") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no temporal stack: expected format {FORMAT!r} in its metadata, found {metadata.get('format')!r} "
            f"and keys such as {', '.join(first_keys) or 'none'}; choose a file that `emu-video info` knows"
        )
    if metadata.get("version") != str(VERSION):
        raise ValueError(
            f"{path} has format version {metadata.get('version')!r}, and this program reads {VERSION}: update the program"
        )
    try:
        return StackConfig.from_dict(json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has damaged metadata ({error}): download or copy it again") from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise ValueError(f"{path} should be a temporal stack's .safetensors file, found {found}: check the path")
    if path.suffix.lower() in _PICKLES:
        raise ValueError(f"{path} is a pickle, which can run code when it is read: convert it to .safetensors first")


def load_stack(path: str | Path, types: LayerTypes = TORCH_LAYERS, **factory: Any) -> TemporalStack:
    """Read a stack. Its weights keep the file's precision unless `factory` names a dtype; NaN or infinity is refused."""
    config = read_config(path)
    with safe_open(Path(path), framework="pt") as file:
        try:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} cannot be read to its end ({error}): download or copy it again") from error
    if not all(value.is_floating_point() for value in weights.values()) or not weights:
        raise ValueError(f"{path} should hold weights in floating point, found none or others: copy it again")
    factory.setdefault("dtype", next(iter(weights.values())).dtype)
    try:
        with torch.device("meta"):
            stack = TemporalStack(config, types, dtype=factory["dtype"])
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has metadata that no stack can be built of ({error}): copy it again") from error
    _check_weights(Path(path), weights, stack.state_dict())
    device = factory.get("device", "cpu")
    stack.load_state_dict({k: v.to(device, factory["dtype"]) for k, v in weights.items()}, assign=True)
    return stack.requires_grad_(False).eval()


def _check_weights(path: Path, weights: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    if missing := sorted(wanted.keys() - weights.keys()):
        raise ValueError(f"{path} lacks {len(missing)} weights that its metadata promises, such as {missing[0]}: copy it again")
    if extra := sorted(weights.keys() - wanted.keys()):
        raise ValueError(f"{path} has {len(extra)} weights that its metadata does not know, such as {extra[0]}: copy it again")
    for name, value in weights.items():
        if value.shape != wanted[name].shape:
            raise ValueError(f"{path}: expected {name} of shape {tuple(wanted[name].shape)}, found {tuple(value.shape)}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {name} holds NaN or infinite values: its training failed, or the file is damaged")
