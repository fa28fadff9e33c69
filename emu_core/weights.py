"""Files of weights: safetensors and, with nothing in them but tensors, torch's own. Shapes are read without the data."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
SUFFIXES = (".safetensors", *PICKLES)
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_SAFETENSORS_FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_DAMAGE = (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError)
_WRAPPERS = ("state_dict", "module", "model", "ema", "model_state_dict")  # under which trainers keep the weights


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file by name: `shapes` at once, the values by `read`. `metadata` is that of safetensors."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    names: Mapping[str, str] = field(default_factory=dict, repr=False)

    def read(self) -> dict[str, torch.Tensor]:
        """All tensors. ValueError when the file is cut short."""
        if self.tensors:
            return dict(self.tensors)
        try:
            with safe_open(self.path, framework="pt") as file:
                return {name: file.get_tensor(self.names.get(name, name)) for name in self.shapes}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.path} cannot be read to its end ({error}): download or copy it again") from error


def open_weights(path: str | Path) -> WeightFile:
    """Names and shapes of a file's tensors. ValueError for what is no such file, is damaged, or could run code."""
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise ValueError(f"{path} should be a temporal stack's file, found {found}: check the path")
    if path.suffix.lower() in PICKLES:
        status = path.stat()
        return _open_pickle(path, status.st_mtime_ns, status.st_size)
    return _open_safetensors(path)


def _open_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            kinds = {name: part.get_dtype() for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}): it may be cut short; copy it again") from error
    odd = {name: kind for name, kind in kinds.items() if kind not in _SAFETENSORS_FLOATS and shapes[name]}
    _refuse_precision(path, odd)
    names = {_bare(name): name for name in shapes}
    if len(names) < len(shapes):
        names = {name: name for name in shapes}
    return WeightFile(path, {bare: shapes[name] for bare, name in names.items()}, metadata, names=names)


@lru_cache(maxsize=2)
def _open_pickle(path: Path, modified: int, size: int) -> WeightFile:
    """Only tensors and plain containers are let in (`weights_only`): a pickle that would call anything else is refused."""
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            content = torch.load(path, map_location="cpu", weights_only=True)  # the format before torch 1.6
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        more = f", it asks for {match.group(1)}" if match else ""
        raise ValueError(
            f"{path} is a pickle that was not opened, since it holds more than weights{more}, and reading it could run code: "
            "take the .safetensors form of the model; or, where you trust its source, load it with torch yourself and write its "
            "tensors with safetensors.torch.save_file"
        ) from error
    except (
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        AssertionError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise ValueError(f"{path} cannot be read ({reason}): it may be cut short; download or copy it again") from error
    tensors = _unwrapped(content)
    odd = {name: value.dtype for name, value in tensors.items() if value.dtype not in _FLOATS and value.dim()}
    _refuse_precision(path, {name: str(dtype).removeprefix("torch.") for name, dtype in odd.items()})
    return WeightFile(path, {name: tuple(value.shape) for name, value in tensors.items()}, tensors=tensors)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write safetensors, first under a temporary name. Equal contents make equal files."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata)
        _sort_metadata(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sort_metadata(path: Path) -> None:
    """safetensors writes its metadata in an order that changes from call to call, and with it the file's hash, by which people
    know a model. The header is 8 bytes with its length, then JSON padded with spaces."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" not in header:
            return
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # the same text but for its order; were it ever spelt longer, the file is right as it is
            file.seek(8)
            file.write(text.ljust(length))


def _unwrapped(content: Any) -> dict[str, torch.Tensor]:
    """The mapping of names to tensors, wherever a trainer put it; "module." in front of names is taken off."""
    for _ in range(3):
        if not isinstance(content, Mapping) or any(isinstance(value, torch.Tensor) for value in content.values()):
            break
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        return {}
    return {_bare(str(name)): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _bare(name: str) -> str:
    return name.removeprefix("module.")


def _refuse_precision(path: Path, odd: Mapping[str, str]) -> None:
    if odd:
        name, kind = next(iter(odd.items()))
        raise ValueError(
            f"{path} should hold weights in float16, bfloat16 or float32, found {kind} in {name}: take the file in one of these; "
            "8-bit weights do not keep what temporal layers need"
        )
