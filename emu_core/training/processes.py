"""The processes of a training run, as torch's launcher starts them: who I am, on which device, and what we tell each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class Processes:
    """`rank` of `world` processes; this one works on `device`. One process needs no launcher and no group."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Tensors of equal shape (n, ...) of all processes -> (world n, ...), on the device."""
        if self.world == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the processes, in double precision, so that their number hardly shows."""
        if self.world == 1:
            return values
        total = values.double()
        dist.all_reduce(total)
        return total / self.world

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value.item())

    def main_says(self, flag: bool) -> bool:
        """The first process's flag: clocks differ, and one that stops alone leaves the others waiting."""
        if self.world == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        dist.broadcast(value, 0)
        return bool(value.item())


def processes_started() -> int:
    """How many processes torchrun says that it has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def processes(need_group: bool = False) -> Iterator[Processes]:
    """Join the group that torchrun has laid out in the environment (several processes, or one that has to shard); leave it at
    the end. The device is the local rank's accelerator, else the CPU."""
    world, rank = processes_started(), int(os.environ.get("RANK", "0"))
    device = torch.device("cpu")
    if torch.accelerator.is_available():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        kind = torch.accelerator.current_accelerator()
        assert kind is not None
        device = torch.device(kind.type, local)
        torch.accelerator.set_device_index(local)
    if (world == 1 and not need_group) or dist.is_initialized():
        yield Processes(rank, world, device)
        return
    backend = dist.get_default_backend_for_device(device)
    if "MASTER_ADDR" in os.environ:
        dist.init_process_group(backend)
    else:  # a process of its own that wants to shard
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield Processes(rank, world, device)
    finally:
        dist.destroy_process_group()


# -- one module over several processes


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
