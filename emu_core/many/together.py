"""Several clips made at once: each takes the steps that one clip takes, and their calls of the networks become one.

Every clip runs in a thread of its own, of which one moves at a time: up to its next call of a network, where it waits until all
have come as far. So whatever makes one clip (samplers, windows, guidance, interpolation) makes several, unchanged, and one that
fails leaves the others alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

import torch

from ..pipeline import EmuVideoPipeline

T = TypeVar("T")
ALONE = ("encode_prompt", "encode_images", "decode_latents")
"""What the base does for one clip after the other; its work is bounded as it is."""


def together(pipeline: EmuVideoPipeline, tasks: Sequence[Callable[[EmuVideoPipeline], T]]) -> list[T | Exception]:
    """What each task makes with a pipeline, or the error that ended it. Calls of equal shapes and settings run as one batch, in
    the order of the tasks; one task is simply run."""
    if len(tasks) == 1:
        try:
            return [tasks[0](pipeline)]
        except Exception as error:
            return [error]
    clips = [_Clip(pipeline, task) for task in tasks]
    try:
        for clip in clips:
            clip.go()
        while waiting := [clip for clip in clips if clip.asked is not None]:
            for calls in _alike([clip.asked for clip in waiting if clip.asked is not None]):
                _run(calls)
            for clip in waiting:
                clip.go()
    finally:
        for clip in clips:
            clip.stop()
    return [clip.made for clip in clips]


class _Ended(BaseException):
    """Raised within a clip's thread that is not to go on."""


class _Call:
    """A function that a clip wants called, and what came of it. batched: together with the others'."""

    def __init__(self, function: Callable[..., Any], batched: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function, self.batched, self.args, self.kwargs = function, batched, args, kwargs
        self.output: Any = None
        self.error: Exception | None = None


class _Network:
    """In the place of a network: a call of it waits for the other clips' calls."""

    def __init__(self, network: Any, ask: Callable[..., Any]) -> None:
        self._network, self._ask = network, ask

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask(self._network, True, *args, **kwargs)


class _Clip(Generic[T]):
    """One task, which moves by `go` and stands still at each call, `asked`; once that is None, `made` is there."""

    def __init__(self, pipeline: EmuVideoPipeline, task: Callable[[EmuVideoPipeline], T]) -> None:
        own, base = copy.copy(pipeline), copy.copy(pipeline.base)
        base.unet = _Network(base.unet, self._ask)  # type: ignore[assignment]
        for name in ALONE:
            setattr(base, name, partial(self._ask, getattr(pipeline.base, name), False))
        own.base, own.models = base, {role: _Network(m, self._ask) for role, m in pipeline.models.items()}  # type: ignore[misc]
        if pipeline.image_unet is not None:
            own.image_unet = _Network(pipeline.image_unet, self._ask)
        self.asked: _Call | None = None
        self.made: T | Exception = RuntimeError("the clip was not made")
        self._told, self._stands = SimpleQueue[bool](), SimpleQueue[None]()
        self._thread = Thread(target=self._work, args=(partial(task, own),), daemon=True)

    def go(self) -> None:
        """Let it move to its next call, or to its end."""
        self.asked = None
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._told.put(True)
        self._stands.get()

    def stop(self) -> None:
        """End it where it stands; nothing happens if it has ended."""
        if self._thread.is_alive():
            self._told.put(False)
            self._thread.join()

    def _work(self, task: Callable[[], T]) -> None:
        try:
            self.made = task()
        except Exception as error:
            self.made = error
        except _Ended:
            pass
        self._stands.put(None)

    def _ask(self, function: Callable[..., Any], batched: bool, *args: Any, **kwargs: Any) -> Any:
        call = self.asked = _Call(function, batched, args, kwargs)
        self._stands.put(None)
        if not self._told.get():
            raise _Ended
        if call.error is not None:
            raise call.error
        return call.output


def _alike(calls: Sequence[_Call]) -> list[list[_Call]]:
    """The calls that can be one, in the order in which their first comes."""
    groups: dict[Any, list[_Call]] = {}
    for call in calls:
        groups.setdefault((id(call.function), _form(call.args), _form(call.kwargs)) if call.batched else id(call), []).append(
            call
        )
    return [*groups.values()]


def _form(value: Any) -> Any:
    """What has to be equal of values that can be put side by side: everything but the numbers of tensors with rows."""
    if isinstance(value, torch.Tensor):
        return (value.dtype, value.shape[1:], None if value.dim() else value.item())
    if isinstance(value, dict):
        return tuple((name, _form(each)) for name, each in value.items())
    return tuple(_form(each) for each in value) if isinstance(value, tuple | list) else value


@torch.inference_mode()
def _run(calls: Sequence[_Call]) -> None:
    """Call a function once for all of them, and give each its rows."""
    first = calls[0]
    try:
        if len(calls) == 1:
            first.output = first.function(*first.args, **first.kwargs)
            return
        args, kwargs = _stacked([call.args for call in calls]), _stacked([call.kwargs for call in calls])
        output, start = first.function(*args, **kwargs), 0
        for call in calls:
            rows = len(call.args[0])
            call.output = _rows(output, start, start + rows)
            start += rows
    except Exception as error:
        for call in calls:
            call.error = error


def _stacked(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        return torch.cat([*values]) if first.dim() else first
    if isinstance(first, dict):
        return {name: _stacked([value[name] for value in values]) for name in first}
    return type(first)(_stacked(each) for each in zip(*values, strict=True)) if isinstance(first, tuple | list) else first


def _rows(output: Any, start: int, stop: int) -> Any:
    return output[start:stop] if isinstance(output, torch.Tensor) else tuple(_rows(each, start, stop) for each in output)
