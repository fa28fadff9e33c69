"""A second device that this machine does not have, to find what is made on the wrong one.

Its tensors lie in main memory and say that they are on `DEVICE`, a second CPU, so that every number is what the CPU makes of it,
to the bit, and all that torch has for CPUs works. What has been moved there, and all that is made of it, is known by its storage;
an operation that takes tensors of both places raises, as CUDA's do, also in the backward pass and in the optimiser.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cpu", 1)
ANYWHERE = {"aten::copy_"}  # takes tensors of two devices
INDEXED = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"}  # by places in main memory too
WHOLE = {"aten::cat", "aten::stack"}  # do not take single numbers of another device either
_there: dict[int, StorageWeakRef] = {}  # a storage that is referred to keeps its address


def there(tensor: Tensor) -> bool:
    """Whether a tensor is on the pretended device."""
    return tensor.untyped_storage()._cdata in _there


def _put(tensor: Tensor) -> Tensor:
    storage = tensor.untyped_storage()
    _there[storage._cdata] = StorageWeakRef(storage)
    return tensor


def _names_device(value: Any) -> bool:
    return isinstance(value, str | torch.device)


class _Watched(TorchDispatchMode):
    """Every operation, those of autograd and of optimisers among them."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        away = [each for each in tensors if there(each)]
        if away and len(away) < len(tensors) and name not in ANYWHERE:
            asked = tensors[:1] if name in INDEXED else tensors
            stray = [tuple(each.shape) for each in asked if not there(each) and (each.dim() or name in WHOLE)]
            if stray:
                raise AssertionError(f"{name} takes tensors of {DEVICE}, and of main memory those of the shapes {stray}")
        result = function(*args, **(kwargs or {}))
        if (away or (not tensors and _Moves.inside)) and name not in ANYWHERE:
            for each in tree_leaves(result):
                if isinstance(each, Tensor):
                    _put(each)
        return result


class _Moves(TorchFunctionMode):
    """Moves tensors, makes new ones where they are wanted, and answers where they are."""

    inside = False
    """Whether a function of tensors there is at work, which makes what else it needs there too, such as a mask."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function == Tensor.device.__get__:
            return DEVICE if there(args[0]) else function(*args)
        if function in (Tensor.numpy, Tensor.__array__) and there(args[0]):
            raise AssertionError(f"numpy takes no tensor of {DEVICE}")
        if function is Tensor.to or function is Tensor.cpu:
            return self._moved(function, *args, **kwargs)
        wanted = kwargs.get("device")
        if wanted is not None and torch.device(wanted) == DEVICE and function is not torch._C._nn._parse_to:
            if kwargs.get("generator") is not None:
                raise AssertionError(f"{function.__name__} draws on {DEVICE} with a generator of main memory")
            return _put(function(*args, **{**kwargs, "device": "cpu"}))
        before, _Moves.inside = _Moves.inside, any(isinstance(x, Tensor) and there(x) for x in tree_leaves((args, kwargs)))
        try:
            result = function(*args, **kwargs)
        finally:
            _Moves.inside = before
        return _put(result) if function is Tensor.__deepcopy__ and there(args[0]) else result

    def _moved(self, function: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        given = [*args, *kwargs.values()]
        like = next((each for each in given if isinstance(each, Tensor)), None)
        named = next((torch.device(each) for each in given if _names_device(each)), None)
        before = there(tensor)
        after = there(like) if like is not None else before if named is None else named == DEVICE
        after = after and function is not Tensor.cpu
        plain = [torch.device("cpu") if _names_device(each) else each for each in args]
        kwargs = {name: torch.device("cpu") if _names_device(each) else each for name, each in kwargs.items()}
        if named is not None and named.type == "meta":
            return function(tensor, *args, **kwargs)
        result = function(tensor, *plain, **kwargs)
        if after == before:
            return result
        result = result.clone() if result.untyped_storage()._cdata == tensor.untyped_storage()._cdata else result
        if after:
            return _put(result)
        del _there[result.untyped_storage()._cdata]
        return result


@contextmanager
def pretended() -> Iterator[torch.device]:
    """Meanwhile the device is there."""
    with _Watched(), _Moves():
        yield DEVICE
