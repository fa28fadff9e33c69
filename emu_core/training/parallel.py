"""One module over several processes, by torch's own engines: DDP (each has all weights) or FSDP2 (each has a share)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .processes import Processes

SHARDED_BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock", "ConvStack", "MotionModule", "TemporalConv", "TemporalTransformer")
"""Classes whose weights are gathered together for one call: the image model's blocks, and the temporal layers."""


class Parallel:
    """`module`, whose call is the loss, ready to run in all processes. `mode`: "ddp" or "fsdp"."""

    def __init__(self, module: nn.Module, mode: str, processes: Processes) -> None:
        self.mode, self.processes = mode, processes
        self.inner: Any = module
        self.module: Any = module
        if mode == "fsdp":
            from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

            for part in module.modules():
                if type(part).__name__ in SHARDED_BLOCKS:
                    fully_shard(part)
            fully_shard(module)
            for name in getattr(module, "forward_methods", ()):
                register_fsdp_forward_method(module, name)
        elif processes.world > 1:
            devices = None if processes.device.type == "cpu" else [processes.device]
            self.module = nn.parallel.DistributedDataParallel(module, device_ids=devices)

    @property
    def sharded(self) -> bool:
        return self.mode == "fsdp"

    @contextlib.contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Gradients of the processes are only brought together in the last of several backward passes."""
        if self.sharded:
            self.inner.set_requires_gradient_sync(last)
            yield
        elif last or self.processes.world == 1:
            yield
        else:
            with self.module.no_sync():
                yield


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which each process may have a share only. Every process has to ask."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's share of a tensor."""
    share = getattr(tensor, "to_local", None)
    return tensor if share is None else share()
