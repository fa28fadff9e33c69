"""What a long run has made so far, in a folder beside its output, so that it goes on where it was stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .errors import UserError
from .limits import json_of
from .locks import OwnerLock, Taken
from .media.files import real_target, write_text
from .weights import open_weights, save_tensors

RUN = "run.json"
"""What the run is of: all that its frames depend on."""
LOCK = "run.lock"


def folder_of(out: str | Path) -> Path:
    """Where what belongs to the video `out` is kept: `out.mp4.windows` beside `out.mp4`."""
    target = real_target(str(out).rstrip("/"))
    return target.with_name(f"{target.name}.windows")


class Kept:
    """Latents in a folder, a file for each name and number; to be called as `settings.Keep`. Only one process at a time may.

    `facts`: all that the frames depend on, as JSON has it. ValueError where the folder holds another run's, or one that was
    stopped and is not to go on (`resume`), or another process works there."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], resume: bool) -> None:
        self.folder, self._lock = folder, OwnerLock(folder / LOCK)
        facts = json.loads(json.dumps(facts))
        before = self._facts()
        done = self.count()
        if before is not None and done and not resume:
            raise UserError(
                f"{folder} holds {done} windows of a run that was stopped: add --resume to go on with it, or delete the folder"
            )
        differ = [name for name in sorted({*facts, *(before or {})}) if facts.get(name) != (before or {}).get(name)]
        if before is not None and done and differ:
            told = f"{differ[0]} {before.get(differ[0])!r} and not {facts.get(differ[0])!r}"
            raise UserError(f"{folder} holds windows of a run with {told}: give the same, or delete the folder")
        try:
            folder.mkdir(exist_ok=True)
            self._lock.take()
        except Taken as owner:
            raise UserError(f"{folder} is in use by {owner}: wait for it, or choose another name for --out") from owner
        except OSError as problem:
            raise UserError(f"{folder} cannot be written ({problem.strerror}): choose another place for --out") from problem
        write_text(folder / RUN, json.dumps(facts, indent=1))

    def __call__(self, name: str, number: int, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """See `settings.Keep`."""
        path = self._path(name, number)
        if path.is_file():
            return open_weights(path).read()["latents"]
        latents = make()
        save_tensors({"latents": latents.contiguous()}, path)
        return latents

    def has(self, name: str, number: int) -> bool:
        """Whether latents are kept under this name and number."""
        return self._path(name, number).is_file()

    def count(self) -> int:
        """How many files of latents there are."""
        return len([*self.folder.glob("*.safetensors")])

    def close(self, finished: bool) -> None:
        """Let others work here; what is kept goes when the run is `finished`, and the folder where nothing is."""
        self._lock.release()
        if finished or not self.count():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"{name.replace(' ', '-')}-{number:06d}.safetensors"

    def _facts(self) -> dict[str, Any] | None:
        try:
            return dict(json_of((self.folder / RUN).read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as problem:
            raise UserError(f"{self.folder / RUN} cannot be read ({problem}): delete {self.folder}") from problem
