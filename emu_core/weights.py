"""Files of weights: safetensors and, with nothing in them but tensors, torch's own. Shapes are read without the data."""

from __future__ import annotations

import json
import math
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import UserError
from .limits import json_of, unique_names
from .media.files import reason, whole_file

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
SUFFIXES = (".safetensors", *PICKLES)
MOST_HEADER_BYTES = 100_000_000  # the format's own limit
_FLOATS = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
_DAMAGE = (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError)
_WRAPPERS = (
    *("state_dict", "module", "model", "ema", "model_state_dict", "params_ema", "params", "unet", "unet_state_dict", "generator"),
    *("motion_module_state_dict", "ema_state_dict", "model_ema", "model_state", "net", "weights", "trainable"),
)
"""Under which trainers keep the weights."""
_BESIDE = (
    *("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", "numpy.dtype"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
)
"""What training programs leave in pickles beside the weights; each is passed over, as an object that does nothing."""
_COVERS = re.compile(r"(?:^|(?<=\.))(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
"""What DataParallel, torch.compile, FSDP, activation checkpointing and DeepSpeed put into names."""


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file by name: `shapes`, precisions (`kinds`, as safetensors calls them) and `sizes` in bytes at once, the
    values by `read`. `metadata` is that of safetensors. `tensors`: the values, where opening the file brings them along."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    names: Mapping[str, str] = field(default_factory=dict, repr=False)

    def read(self, prefix: str = "", dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """The tensors whose names begin so, in their own precision or in `dtype`. ValueError when the file is cut short."""
        wanted = [name for name in self.shapes if name.startswith(prefix)]
        if self.tensors:
            return {name: self.tensors[name].to(dtype=dtype) for name in wanted}
        try:
            with safe_open(self.path, framework="pt") as file:
                return {name: file.get_tensor(self.names.get(name, name)).to(dtype=dtype) for name in wanted}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.path} cannot be read to its end ({error}): download or copy it again") from error

    def renamed(self, name_of: Callable[[str], str]) -> WeightFile:
        """The same file with each tensor under another name; this one where two would get the same."""
        new = {name: name_of(name) for name in self.shapes}
        if len(set(new.values())) < len(new) or all(old == name for old, name in new.items()):
            return self
        parts: tuple[Any, ...] = (self.shapes, self.kinds, self.sizes, self.tensors)
        shapes, kinds, sizes, tensors = ({new[name]: value for name, value in part.items()} for part in parts)
        names = {name: self.names.get(old, old) for old, name in new.items()}
        return replace(self, shapes=shapes, kinds=kinds, sizes=sizes, tensors=tensors, names=names)

    def check_precision(self, what: str, names: Iterable[str] | None = None) -> None:
        """ValueError where weights are in 8 bits or integers; `what` the file is, `names` those that count (None: all)."""
        for name in self.kinds if names is None else names:
            kind = self.kinds.get(name, "F32")
            if kind not in _FLOATS.values() and self.shapes[name]:
                wanted = f"{what} with weights in float16, bfloat16 or float32"
                raise UserError(f"{self.path}: expected {wanted}, found {kind} in {name}: take the file in one of these")


def open_weights(path: str | Path) -> WeightFile:
    """Names and shapes of the tensors in a file, without what wrappers of a training program put into names, such as "module.".
    ValueError for what is no such file, is damaged, or could run code."""
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise UserError(f"{path} should be a temporal stack's file, found {found}: check the path")
    if path.suffix.lower() in PICKLES:
        status = path.stat()
        file = _open_pickle(path, status.st_mtime_ns, status.st_size)
    else:
        file = read_header(path)
    return file.renamed(lambda name: _COVERS.sub("", name))


def read_header(path: Path) -> WeightFile:
    """What a safetensors file says of itself. ValueError for a file that is none or that was cut short."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            text = file.read(length) if length <= MOST_HEADER_BYTES else b""
    except OSError as error:
        found = f"one that cannot be read ({reason(error)})"
        raise UserError(f"{path}: expected a safetensors file, found {found}: check the path and its permissions") from error
    if start.startswith(b"version "):
        raise UserError(f"{path}: expected a safetensors file, found a Git LFS pointer to it: fetch it with `git lfs pull`")
    if not 0 < length <= MOST_HEADER_BYTES:
        raise UserError(f"{path}: expected a safetensors file, found {size} bytes of something else: copy it again")
    if len(text) < length:
        raise UserError(f"{path}: expected a header of {length} bytes, found a file of {size}, cut short: copy it again")
    wanted = f"{path}: expected the JSON header of a safetensors file, found"
    try:
        content = json_of(text, unique_names)
        metadata = dict(content.pop("__metadata__", {}))
        if odd := [name for name, value in metadata.items() if not isinstance(value, str)]:
            raise UserError(f"no text as {odd[0][:80]} in its metadata")
        shapes = {name: tuple(map(_whole, tensor["shape"])) for name, tensor in content.items()}
        kinds = {name: str(tensor["dtype"]) for name, tensor in content.items()}
        spans = {name: tuple(map(_whole, tensor["data_offsets"])) for name, tensor in content.items()}
        sizes = {name: end - begin for name, (begin, end) in spans.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{wanted} something else ({reason(error)}): copy it again") from None
    expected = 8 + length + max((end for _, end in spans.values()), default=0)
    if size < expected:
        raise UserError(f"{path}: expected {expected} bytes, found {size}, so the file is truncated: copy it again")
    _check_spans(wanted, shapes, kinds, spans)
    return WeightFile(path, shapes, kinds, sizes, metadata)


def _check_spans(wanted: str, shapes: Mapping[str, Any], kinds: Mapping[str, str], spans: Mapping[str, tuple[int, ...]]) -> None:
    """ValueError unless the tensors lie one behind the other, each as long as its shape says."""
    end = 0
    for name, span in sorted(spans.items(), key=lambda one: one[1]):
        bits = re.search(r"\d+", kinds[name])
        length = math.prod(shapes[name]) * (int(bits[0]) if bits else 8) // 8  # BOOL is a byte
        if span != (end, end + length):
            found = f"{name[:80]} of shape {list(shapes[name])} at bytes {list(span)} where {end} to {end + length} were to be"
            raise UserError(f"{wanted} {found}: copy it again")
        end += length


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise UserError(f"{str(number)[:40]} as a size")
    return number


class _Nothing:
    """In the place of what is passed over."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _load_pickle(path: Path, mmap: bool) -> Any:
    names = (name.rpartition(".") for name in _BESIDE)
    with torch.serialization.safe_globals([type(name, (_Nothing,), {"__module__": module}) for module, _, name in names]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


@lru_cache(maxsize=2)
def _open_pickle(path: Path, modified: int, size: int) -> WeightFile:
    """Only tensors and plain containers are let in (`weights_only`), _BESIDE passed over; all else is refused."""
    try:
        try:
            content = _load_pickle(path, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            content = _load_pickle(path, mmap=False)  # the format before torch 1.6
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        more = f", it asks for {match.group(1)}" if match else ""
        raise UserError(
            f"{path} is a pickle that was not opened, since it holds more than weights{more}, and reading it could run code: "
            "take the model's .safetensors; or, if you trust it, load it with torch and write it with safetensors.torch.save_file"
        ) from error
    except _DAMAGE as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path} cannot be read ({said}): it may be cut short; download or copy it again") from error
    tensors = _unwrapped(content)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    kinds = {name: _FLOATS.get(value.dtype, str(value.dtype).removeprefix("torch.")) for name, value in tensors.items()}
    return WeightFile(path, shapes, kinds, {name: value.nbytes for name, value in tensors.items()}, tensors=tensors)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write safetensors, first under a temporary name. Equal contents make equal files. ValueError on a full disk."""
    with whole_file(path) as part:
        try:
            save_file({name: value.contiguous() for name, value in tensors.items()}, part, metadata)
        except SafetensorError as error:  # a full disk; whole_file puts errors of the file system into words
            raise OSError(str(error)) from error
        if not metadata:
            return
        # safetensors writes its metadata in an order that changes from call to call, and with it the file's hash, by which
        # people know a model. The header is 8 bytes with its length, then JSON padded with spaces.
        with open(part, "r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            if len(text) <= length:  # the same text but for its order; were it ever spelt longer, the file is right as it is
                file.seek(8)
                file.write(text.ljust(length))


def _unwrapped(content: Any) -> dict[str, torch.Tensor]:
    """The mapping of names to tensors, wherever a trainer put it; those of several parts under the parts' names."""
    for _ in range(3):
        entries = content.values() if isinstance(content, Mapping) else ()
        if any(isinstance(value, torch.Tensor) and value.numel() > 1 for value in entries):  # one number counts steps
            break
        inner = next((content[key] for key in _WRAPPERS if entries and isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return dict(_tensors(content))


def _tensors(content: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    entries = content.items() if isinstance(content, Mapping) else ()
    if any(isinstance(value, torch.Tensor) for _, value in entries):
        yield from ((f"{prefix}{name}", value) for name, value in entries if isinstance(value, torch.Tensor))
    elif depth < 4:
        for name, value in entries:
            yield from _tensors(value, f"{prefix}{name}.", depth + 1)
