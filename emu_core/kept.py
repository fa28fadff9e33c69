"""What a long run has made so far, in a folder beside its output, so that it goes on where it was stopped."""

from __future__ import annotations

import json
import re
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
STOPPED = "stopped.json"
"""There once a stopped run has left a video of what it had, which a later stop may replace."""

_OURS = re.compile(r"(video|interpolation|starting-frame)-\d{6}\.safetensors|\..+\.part")


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
        self._check_ours()
        try:
            folder.mkdir(exist_ok=True)
            self._lock.take()  # before a look at what is there: a run that goes on was not stopped
        except Taken as owner:
            raise UserError(f"{folder} is in use by {owner}: wait for it, or choose another name for --out") from owner
        except OSError as problem:
            raise UserError(f"{folder} cannot be written ({problem.strerror}): choose another place for --out") from problem
        try:
            facts = json.loads(json.dumps(facts))
            self._check_run(facts, resume)
            write_text(folder / RUN, json.dumps(facts, indent=1))
        except BaseException:
            self._lock.release()
            raise

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

    @property
    def left_video(self) -> bool:
        """Whether what is at the output is what this run left there when it was stopped."""
        return (self.folder / STOPPED).is_file()

    def note_video(self) -> None:
        """What is at the output is what this run has left there."""
        write_text(self.folder / STOPPED, "{}")

    def close(self, finished: bool) -> None:
        """Let others work here; what is kept goes when the run is `finished`, and the folder where nothing is."""
        self._lock.release()
        if finished or not self.count():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _check_ours(self) -> None:
        """Refuse a folder of the user's own, since it goes in the end."""
        try:
            names = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return
        except OSError as problem:
            raise UserError(f"{self.folder} cannot be read ({problem.strerror}): choose another name for --out") from problem
        strange = [name for name in sorted(names) if not (name in (RUN, LOCK, STOPPED) or _OURS.fullmatch(name))]
        if strange:
            found = f"found {strange[0]} in it"
            raise UserError(f"{self.folder} is where windows are kept until the video is whole, {found}: choose another --out")

    def _check_run(self, facts: Mapping[str, Any], resume: bool) -> None:
        before, done = self._facts(), self.count()
        if not done:
            return
        if before is None:
            raise UserError(f"{self.folder / RUN}, which tells what the windows there are of, is missing: delete {self.folder}")
        if not resume:
            holds = f"{self.folder} holds {done} windows of a run that was stopped"
            raise UserError(f"{holds}: add --resume to go on with it, or delete the folder")
        for name in sorted({*facts, *before}):
            if (was := before.get(name)) != (now := facts.get(name)):
                raise UserError(f"{self.folder} holds windows of a run with {_differ(name, was, now)}, or delete the folder")

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"{name.replace(' ', '-')}-{number:06d}.safetensors"

    def _facts(self) -> dict[str, Any] | None:
        try:
            return dict(json_of((self.folder / RUN).read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as problem:
            raise UserError(f"{self.folder / RUN} cannot be read ({problem}): delete {self.folder}") from problem


def _differ(name: str, was: Any, now: Any) -> str:
    """What two runs differ in, and what to do: of a mapping the first entry alone."""
    if isinstance(was, dict) and isinstance(now, dict):
        one = next(key for key in sorted({*was, *now}) if was.get(key) != now.get(key))
        if name == "files":
            return f"{one}, {'which has changed since' if one in was and one in now else 'and not the same files'}: give the same"
        return _differ(f"{name} {one}", was.get(one), now.get(one))
    told, other = (text if len(text := repr(value)) <= 80 else f"{text[:77]}..." for value in (was, now))
    return f"{name} {told} and not {other}: give the same"
