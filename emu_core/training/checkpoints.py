"""Checkpoints of a run: torch's distributed format, which loads in any number of processes, sharded or not.

A checkpoint is a folder `checkpoint-<step>` in the run's. It is written under another name and renamed when it is whole, so what
has its name can be used, whatever happened meanwhile.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from ..errors import Stopped, UserError
from .processes import Processes

KEPT = 2  # the newest, and one before
GROWTH = "scale_growth"  # steps since float16's scale last changed, of those that let it grow; version 0.1 did not keep it


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    found = [(p.name.removeprefix("checkpoint-"), p) for p in folder.glob("checkpoint-*") if (p / ".metadata").is_file()]
    return [p for _, p in sorted((int(step), p) for step, p in found if step.isdigit())]


@contextmanager
def _alone_on_purpose() -> Iterator[None]:
    """torch warns where there is one process and no group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def newest(folder: Path) -> Path:
    """The newest whole checkpoint of a run. ValueError if there is none."""
    found = checkpoints(folder)
    if not found:
        raise UserError(f"nothing to resume: {folder} holds no checkpoint; start without --resume")
    return found[-1]


def save(state: dict[str, Any], folder: Path, step: int, processes: Processes) -> None:
    """Write `state` (tensors, plain or sharded, by name) as the checkpoint of `step`, each process its share. Stopped if it
    cannot be written; the one before stays."""
    target = folder / f"checkpoint-{step:08d}"
    part = folder / f".{target.name}.part"
    if processes.main:
        for stale in folder.glob(".checkpoint-*.part"):
            shutil.rmtree(stale, ignore_errors=True)
        part.mkdir(parents=True)
    processes.barrier()
    try:
        with _alone_on_purpose():
            dcp.save(state, checkpoint_id=part, no_dist=processes.world == 1)
    except (CheckpointException, OSError, RuntimeError) as error:
        shutil.rmtree(part, ignore_errors=True)
        own = next(iter(getattr(error, "failures", {}).values()), error)  # a process's own, of the list that torch makes
        cause = str(own[0] if isinstance(own, tuple) else own).strip() or type(own).__name__
        advice = "make room on the disk, then go on with --resume; the checkpoint before is untouched"
        raise Stopped(f"{target} could not be written ({cause.splitlines()[0]}): {advice}") from error
    processes.barrier()  # all shares are written
    if processes.main:
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
        for old in checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    processes.barrier()


def load(state: dict[str, Any], path: Path, processes: Processes) -> None:
    """Read a checkpoint into the tensors of `state`, in place; ValueError if it holds others. Of an earlier version's, what it
    did not keep stays as it is."""
    saved = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    state = {name: tensor for name, tensor in state.items() if name in saved or name != GROWTH}
    if strange := sorted(saved.keys() ^ state.keys()):
        raise UserError(f"{path} holds other parameters than this recipe trains, such as {strange[0]}: use the same recipe")
    for name, tensor in state.items():
        shape, own = tuple(getattr(saved[name], "size", ())), tuple(tensor.shape)
        if shape != own:
            raise UserError(f"{path} holds {name} of shape {shape}, this recipe trains {own}: resume with the same recipe")
    with _alone_on_purpose():
        dcp.load(state, checkpoint_id=path, no_dist=processes.world == 1)
