"""kill -9 at random moments of every long command: nothing half-written, and what is run again ends as if nothing had been."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emu_core.data.arrow import parquet
from emu_core.media import read_image, read_video, write_video
from emu_core.study.store import STORE_NAME

from .saved import ROOT, surroundings
from .tiny_training import small

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="NOT CHECKED: this system cannot fork")]
KILLS = int(os.environ.get("EMU_VIDEO_KILLS", "2"))
"""Of each command, in the slow tests."""
PROMPT = "a big red circle moves right on a white background"


class Commands:
    """Runs commands in processes that have loaded everything, so that they are killed at work and not while they import."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.core.forking"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=surroundings(), **pipes)
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def run(self, arguments: list[str], log: Path, kill_after: float | None = None) -> tuple[int, float]:
        """The status, as of os.waitpid, and the seconds."""
        assert self.process.stdin is not None
        print(json.dumps([arguments, str(log)]), file=self.process.stdin, flush=True)
        child, started = int(self._line()), time.monotonic()
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):  # it was over before
                os.kill(child, signal.SIGKILL)
        return int(self._line()), time.monotonic() - started

    def close(self) -> None:
        """No more commands."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    running = Commands()
    yield running
    running.close()


def frames(path: Path) -> Any:
    video = read_video(path)
    return [video.frames.numpy().tobytes(), video.fps, sorted(video.metadata.items())]


def picture(path: Path) -> bytes:
    return read_image(path).numpy().tobytes()


def rows(path: Path) -> Any:
    return json.loads(path.read_text())


def weights(path: Path) -> Any:
    return {name: value.numpy().tobytes() for name, value in load_file(path).items()}


def table(path: Path) -> Any:
    return parquet.read_table(path).to_pylist()


def study(folder: Path) -> Any:
    """What a study is about; its secrets are its own."""
    with sqlite3.connect(folder / STORE_NAME) as database:
        pairs = database.execute("SELECT * FROM pairs ORDER BY 1").fetchall()
    return [len(pairs), sorted(frames(path)[0] for path in folder.rglob("*.mp4"))]


READERS: dict[str, Callable[[Path], Any]] = {
    ".mp4": frames,
    ".png": picture,
    ".json": rows,
    ".safetensors": weights,
    ".parquet": table,
}


@dataclass
class Command:
    """A command that writes to `out`. `again`: options of going on; `own`: files that are not the same each time, or that are
    only ever added to."""

    arguments: list[str]
    out: str
    again: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    read: Callable[[Path], Any] | None = None

    def result(self, folder: Path) -> dict[str, Any]:
        """All that is seen under its name, read whole: a half-written file fails here."""
        out = folder / self.out
        if not out.exists():
            return {}
        if self.read is not None:
            return {self.out: self.read(out)}
        files = [out] if out.is_file() else [path for path in sorted(out.rglob("*")) if path.is_file()]
        parts = {str(path.relative_to(folder)): path for path in files}
        hidden = ("/.", "/checkpoint-", *(f"/{name}" for name in self.own))
        shown = [name for name in parts if not any(word in f"/{name}" for word in hidden)]
        return {name: READERS.get(parts[name].suffix, Path.read_bytes)(parts[name]) for name in shown}


@pytest.fixture(scope="module")
def made(narrow: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Command]:
    folder = tmp_path_factory.mktemp("given")
    videos, other = folder / "videos", folder / "other"
    for system, where in enumerate((videos, other)):
        where.mkdir()
        for number in range(6):
            clip = torch.from_numpy(np.random.default_rng(number + 10 * system).random((6, 4, 4, 3), np.float32))
            clip = clip.repeat_interleave(8, 1).repeat_interleave(8, 2)
            write_video(where / f"{number:03d}-a-clip.mp4", clip, 8.0)
            (where / f"{number:03d}-a-clip.txt").write_text(f"clip {number}")
    (folder / "prompts.txt").write_text("\n".join(f"clip {number}" for number in range(6)))
    recipe = small(steps=8, save_every="2")
    (folder / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe)))
    quick = ["--steps", "2", "--seed", "3", "--model", str(narrow)]
    prompts, create = ["--prompts", str(folder / "prompts.txt")], ["study", "create", "{out}/study", str(videos), str(other)]
    source = str(videos / "000-a-clip.mp4")
    measured = ["--motion-fps", "native", "--motion-height", "native", "--workers", "1", "--shard-clips", "2"]
    return {
        "generate": Command(["generate", PROMPT, "--out", "{out}/video.mp4", *quick, "--sheet", "{out}/sheet.png"], ""),
        "interpolate": Command(["interpolate", source, PROMPT, "--out", "{out}/finer.mp4", *quick], ""),
        "curate": Command(["curate", str(videos), "{out}/shards", *measured], "shards", own=("curate.lock",)),
        "train": Command(["train", str(folder / "recipe.json"), "--out", "{out}/run"], "run", ("--resume",)),
        "evaluate": Command(["evaluate", f"one={videos}", f"two={other}", *prompts, "--out", "{out}/figures"], "figures"),
        "study create": Command([*create, *prompts, "--seed", "4"], "study", read=study),
    }


def arguments(command: Command, folder: Path) -> list[str]:
    return [part.format(out=folder) for part in command.arguments]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generate", "interpolate", "curate", "train", "evaluate", "study create"])
def test_killed_at_any_moment(name: str, commands: Commands, made: dict[str, Command], tmp_path: Path) -> None:
    command, log = made[name], tmp_path / "log.txt"
    whole = tmp_path / "whole"
    whole.mkdir()
    status, seconds = commands.run(arguments(command, whole), log)
    assert status == 0, log.read_text()
    wanted = command.result(whole)
    assert wanted
    moments, stopped = random.Random(7), 0
    for number in range(KILLS):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        status, _ = commands.run(arguments(command, folder), log, kill_after=moments.uniform(0.02, 1.0) * seconds)
        stopped += status != 0
        found = command.result(folder)
        if name not in ("train", "curate"):  # which are folders that grow
            assert {key: wanted[key] for key in found} == found, f"{name}, {number}: half-written"
        if name == "study create" and found:
            continue  # it was made, and is not made again
        going_on = command.again if [*(folder / command.out).glob("checkpoint-*")] else ()
        status, _ = commands.run([*arguments(command, folder), *going_on], log)
        assert status == 0, f"{name}, {number}: {log.read_text()[-2000:]}"
        assert command.result(folder) == wanted, f"{name}, {number}"
        assert not [path for path in folder.rglob("*.part")], f"{name}, {number}: left behind"
    assert stopped * 2 >= KILLS, f"{name}: {stopped} of {KILLS} were killed before their end"
