"""Guidance by image and by text: X = X(none) + w_i (X(I) - X(none)) + w_p (X(I,p) - X(I)) (Emu Video, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from ..errors import UserError, out_of_memory

BatchCalls = Literal["auto", "on", "off"]
BATCH_CALLS: tuple[BatchCalls, ...] = get_args(BatchCalls)
MARGIN = 1.2
"""How much more memory a batch may take than its parts one by one: blocks that are free do not pack without gaps."""


@dataclass(frozen=True)
class Call:
    """One evaluation of the network: with or without image and text, and its weight in the sum."""

    image: bool
    text: bool
    weight: float


def calls(image_guidance: float, text_guidance: float, has_image: bool = True, has_text: bool = True) -> list[Call]:
    """The evaluations that a step needs: none whose weight is zero, none twice.

    Without an image X(I) is X(none), without text X(I,p) is X(I), and their weights are added up. The weights sum to 1.
    """
    # what is not there pulls nowhere; so weights that cancel do so exactly, and a call that stands alone has weight 1
    image_guidance = image_guidance if has_image else 0.0
    text_guidance = text_guidance if has_text else 0.0
    weights = {(False, False): 1.0 - image_guidance, (True, False): image_guidance - text_guidance, (True, True): text_guidance}
    merged: dict[tuple[bool, bool], float] = {}
    for (image, text), weight in weights.items():
        key = (image and has_image, text and has_text)
        merged[key] = merged.get(key, 0.0) + weight
    return [Call(*key, weight) for key, weight in merged.items() if weight != 0.0]


def combine(outputs: Sequence[torch.Tensor], weights: Sequence[float], rescale: float = 0.0) -> torch.Tensor:
    """Weighted sum of outputs (b, f, c, h, w), the fullest conditioned one last.

    `rescale` 0..1 draws the result's standard deviation towards that of the last (Lin et al., arXiv 2305.08891, section 3.4).
    """
    if len(outputs) == 1 and weights[0] == 1.0:
        return outputs[0]
    result = sum((w * x for w, x in zip(weights, outputs, strict=True)), torch.zeros_like(outputs[0]))
    if rescale:
        dims = tuple(range(1, result.dim()))
        same_size = result * (outputs[-1].std(dims, keepdim=True) / result.std(dims, keepdim=True))
        result = torch.lerp(result, same_size, rescale)
    return result


Parts = Sequence[Sequence[Call]]
Outputs = list[torch.Tensor]
Network = Callable[[torch.Tensor, torch.Tensor, Sequence[Call]], torch.Tensor]
"""(noisy latents (b, ...), timestep (), calls that run as one batch) -> their outputs (calls b, ...), a call after the other."""


class Batching:
    """Whether the calls of a step run as one batch: the same numbers but for rounding, more memory, fewer and larger kernels.

    `off` and `on` say so. `auto` asks an accelerator: the first step runs call by call, what one call takes at its peak is
    measured, and later steps are one batch where the free memory holds as many times that. On a CPU, and on a device that does
    not tell its memory, `auto` is `off`: the same seed is then the same video to the bit, whatever else the machine does.
    """

    def __init__(self, choice: BatchCalls = "off", device: torch.device | str = "cpu") -> None:
        if choice not in BATCH_CALLS:
            raise UserError(f"batch_calls must be one of {', '.join(BATCH_CALLS)}, found {choice!r}")
        self.choice = choice
        self.memory = memory_of(torch.device(device))
        self.peaks: dict[Hashable, float] = {}  # bytes of one call, beside what is there before and after it

    def __call__(self, network: Network, noisy: torch.Tensor, t: torch.Tensor, parts: Parts, what: Hashable) -> Outputs:
        """The output of every call, in float32. `parts` are the calls that can run together, `what` tells networks and sizes
        apart that take different memory."""
        if self.choice == "on" or self._fits(max(map(len, parts)), what):
            try:
                return [each.float() for part in parts for each in network(noisy, t, part).chunk(len(part))]
            except Exception as error:
                if self.choice == "on" or not out_of_memory(error):
                    raise
                self.peaks[what] = float("inf")
        outputs = []
        for call in (call for part in parts for call in part):
            before = self._begin(what)
            outputs.append(network(noisy, t, [call]).float())
            if before is not None:
                self.peaks[what] = self.memory.max_memory_allocated() - before
        return outputs

    def _fits(self, calls: int, what: Hashable) -> bool:
        if self.choice == "off" or self.memory is None or what not in self.peaks or calls < 2:
            return False
        unused = self.memory.memory_reserved() - self.memory.memory_allocated()
        return calls * self.peaks[what] * MARGIN <= self.memory.mem_get_info()[0] + unused

    def _begin(self, what: Hashable) -> int | None:
        """Bytes in use before a call that is to be measured; None where none is."""
        if self.choice != "auto" or self.memory is None or what in self.peaks:
            return None
        self.memory.reset_peak_memory_stats()
        return self.memory.memory_allocated()


def memory_of(device: torch.device) -> Any:
    """torch's module for a kind of device, if it tells of memory, as torch.cuda does; else None."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    asked = ("mem_get_info", "memory_reserved", "memory_allocated", "max_memory_allocated", "reset_peak_memory_stats")
    return module if module is not None and all(hasattr(module, name) for name in asked) else None


@dataclass(frozen=True)
class GuidedDenoiser:
    """What a sampler calls: (noisy latents, timestep ()) -> the guided output, of the same shape, in float32.

    `network(noisy, t, calls)` evaluates the network with the image and the text that each call says, several calls as one batch.
    That is asked of it only where `batching` does so, and only of calls that are `alike`: whose texts have the same number of
    tokens, since filling one up would change what the network reads. `what` names the network, see `Batching`.
    """

    network: Network
    plan: Sequence[Call]
    rescale: float = 0.0
    batching: Batching = field(default_factory=Batching)
    alike: bool = True
    what: Hashable = None

    def __call__(self, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        by_text = ([call for call in self.plan if call.text == text] for text in (False, True))  # the plan's own order
        parts = [self.plan] if self.alike else [part for part in by_text if part]
        outputs = self.batching(self.network, noisy, t, parts, self.what)
        return combine(outputs, [call.weight for call in self.plan], self.rescale)
