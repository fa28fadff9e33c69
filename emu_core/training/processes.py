"""The processes of a training run, as torch's launcher starts them: who I am, on which device, what we tell each other, and one
module over all of them, by torch's own engines."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """`rank` of `world` processes; this one works on `device`. One process needs no launcher and no group."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for the others."""
        if self.world > 1:
            dist.barrier()

    def gather(self, tensor: Tensor) -> Tensor:
        """Tensors of equal shape (n, ...) of all processes -> (world n, ...), on the device."""
        if self.world == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes, in double precision, so that their number hardly shows."""
        return values if self.world == 1 else self.gather(values.double()[None].to(self.device)).mean(0)

    def flags(self, flag: bool) -> list[bool]:
        """The flags of all processes, since one that stops alone leaves the others waiting."""
        return [flag] if self.world == 1 else [bool(v) for v in self.gather(torch.tensor([float(flag)], device=self.device))]


def processes_started() -> int:
    """How many processes torchrun says that it has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes the files, as torchrun's environment has it: known before the group is joined."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def processes(need_group: bool = False, accelerated: bool = True) -> Iterator[Processes]:
    """Join the group that torchrun has laid out in the environment (several processes, or one that has to shard); leave it at
    the end. The device is the local rank's accelerator, else (or where it is not to be `accelerated`) the CPU."""
    world, rank = processes_started(), int(os.environ.get("RANK", "0"))
    device = torch.device("cpu")
    if accelerated and torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        assert kind is not None
        device = torch.device(kind.type, int(os.environ.get("LOCAL_RANK", "0")))
        torch.accelerator.set_device_index(device.index)
    if (world == 1 and not need_group) or dist.is_initialized():
        yield Processes(rank, world, device)
        return
    alone: Any = {"store": dist.HashStore(), "rank": 0, "world_size": 1}  # a process of its own that wants to shard
    dist.init_process_group(dist.get_default_backend_for_device(device), **({} if "MASTER_ADDR" in os.environ else alone))
    try:
        yield Processes(rank, world, device)
    finally:
        dist.destroy_process_group()


SHARDED_BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock", "ConvStack", "MotionModule", "TemporalConv", "TemporalTransformer")
"""Classes whose weights are gathered together for one call: the image model's blocks, and the temporal layers."""


class Parallel:
    """`module`, whose call is the loss, ready to run in all processes. `mode`: "ddp" (each has all weights) or "fsdp" (FSDP2:
    each has a share)."""

    def __init__(self, module: nn.Module, mode: str, processes: Processes) -> None:
        self.sharded, self.world = mode == "fsdp", processes.world
        self.module: Any = module
        if self.sharded:
            from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # takes a second

            for part in module.modules():
                if type(part).__name__ in SHARDED_BLOCKS:
                    fully_shard(part)
            fully_shard(module)
            for name in getattr(module, "forward_methods", ()):
                register_fsdp_forward_method(module, name)
        elif processes.world > 1:
            devices = None if processes.device.type == "cpu" else [processes.device]
            self.module = nn.parallel.DistributedDataParallel(module, device_ids=devices)

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Gradients of the processes are only brought together in the last of several backward passes."""
        if self.sharded:
            self.module.set_requires_gradient_sync(last)
        together = last or self.sharded or self.world == 1
        with nullcontext() if together else self.module.no_sync():
            yield


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process may have a share only. Every process has to ask."""
    return getattr(tensor, "full_tensor", lambda: tensor)()


def local(tensor: Tensor) -> Tensor:
    """This process's share of a tensor."""
    return getattr(tensor, "to_local", lambda: tensor)()


def fingerprint(modules: Sequence[nn.Module], facts: str = "") -> str:
    """sha256 over `facts` and every weight and buffer, names and bits (of a sharded model, this process's share)."""
    digest = hashlib.sha256(facts.encode())
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            flat = local(value).detach().cpu().contiguous().flatten()
            digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
