"""How many clips a device takes at once, by what one of them needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

MOST_CLIPS = 16
SPARE = 0.2
"""Of the free memory: what is left alone, for work space and gaps."""


def clips_that_fit(device: torch.device, make_one: Callable[[], object]) -> int:
    """How many clips at once, measured by making one. 1 on a CPU, and on devices that do not count their memory."""
    counts: Any = getattr(torch, device.type, None)
    if device.type == "cpu" or not (hasattr(counts, "max_memory_allocated") and hasattr(counts, "mem_get_info")):
        return 1
    before = counts.memory_allocated(device)
    counts.reset_peak_memory_stats(device)
    make_one()
    peak = counts.max_memory_allocated(device) - before
    counts.empty_cache()
    return fitting(peak, counts.mem_get_info(device)[0])


def fitting(peak: int, free: int) -> int:
    """How many clips of `peak` bytes fit into `free` ones. The peak of several is at most so many times that of one: the VAE
    takes a few frames at a time, however many clips there are."""
    return max(1, min(MOST_CLIPS, int((1 - SPARE) * free / max(peak, 1))))
