"""Many videos by several processes, by some that are killed, and by a cluster: the same files, each once and whole."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu_core.many import manifest

from .saved import ROOT, surroundings
from .test_killed import Commands
from .test_many import QUICK, listed, videos

pytestmark = pytest.mark.slow
SHAPES = [
    f"a {size} {colour} {shape} moves {way} on a white background"
    for size in ("big", "small")
    for colour in ("red", "blue", "green", "yellow")
    for shape in ("circle", "square", "triangle", "cross")
    for way in ("left", "right", "up", "down")
]


def given(folder: Path, count: int, *more: str) -> list[str]:
    prompts = [f"{SHAPES[number % len(SHAPES)]} {'and stays ' * (number // len(SHAPES))}".strip() for number in range(count)]
    return ["generate", "--prompts", str(listed(folder, *prompts)), *QUICK, *more]


def started(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """In a session of its own, so that all its processes can be killed at once."""
    with open(log, "wb") as said:
        command = [sys.executable, "-m", "emu_core", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=surroundings(), stdout=said, stderr=said, start_new_session=True)


def finish(arguments: list[str], log: Path) -> None:
    assert started(arguments, log).wait(900) == 0, log.read_text()[-3000:]


def until(folder: Path, count: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until so many videos are there."""
    while len([*folder.glob("*.mp4")]) < count:
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.05)


def check_whole(folder: Path, wanted: dict[str, bytes]) -> None:
    """Every file is there, whole, and told once as a video that is there."""
    assert videos(folder) == wanted
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]
    told = manifest.entries(folder)
    assert Counter(entry["file"] for entry in told.values()) == Counter({name: 1 for name in wanted})


def test_two_processes_make_what_one_makes(tmp_path: Path) -> None:
    arguments, log = given(tmp_path, 40, "--samples", "2", "--batch", "3"), tmp_path / "log.txt"
    finish([*arguments, "--out", str(tmp_path / "one")], log)
    finish([*arguments, "--out", str(tmp_path / "two"), "--processes", "2"], log)
    assert "process 2 of 2: made" in log.read_text()
    assert len(videos(tmp_path / "one")) == 80
    check_whole(tmp_path / "two", videos(tmp_path / "one"))


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    running = Commands()
    yield running
    running.close()


def test_killed_five_times_and_resumed(commands: Commands, tmp_path: Path) -> None:
    arguments, log = given(tmp_path, 30, "--batch", "2"), tmp_path / "log.txt"
    status, seconds = commands.run([*arguments, "--out", str(tmp_path / "whole")], log)
    assert status == 0, log.read_text()
    again, moments, killed = [*arguments, "--out", str(tmp_path / "out"), "--resume"], random.Random(5), 0
    for _ in range(5):
        status, _ = commands.run(again, log, kill_after=moments.uniform(0.1, 0.3) * seconds)
        killed += os.WIFSIGNALED(status)
    assert killed == 5
    assert commands.run(again, log)[0] == 0, log.read_text()
    check_whole(tmp_path / "out", videos(tmp_path / "whole"))


def test_two_processes_killed_and_resumed_by_one(tmp_path: Path) -> None:
    arguments, log = given(tmp_path, 300, "--batch", "2"), tmp_path / "log.txt"
    both = [*arguments, "--out", str(tmp_path / "out"), "--processes", "2"]
    process = started(both, log)
    until(tmp_path / "out", 6, process, log)
    said = started([*arguments, "--out", str(tmp_path / "out"), "--resume"], tmp_path / "other.txt")
    assert said.wait(300) == 2
    assert "is in use by process" in (tmp_path / "other.txt").read_text()
    process.kill()  # the launcher alone: the processes that it started end by themselves
    process.wait(30)
    time.sleep(3)
    finish([*arguments, "--out", str(tmp_path / "out"), "--resume"], log)
    finish([*arguments, "--out", str(tmp_path / "whole")], log)
    check_whole(tmp_path / "out", videos(tmp_path / "whole"))


def test_a_cluster_whose_workers_are_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="NO RAY: many videos on a cluster were NOT tested; install the extra 'cluster'.")
    arguments, log = given(tmp_path, 60, "--batch", "2"), tmp_path / "log.txt"
    finish([*arguments, "--out", str(tmp_path / "whole")], log)
    process = started([*arguments, "--out", str(tmp_path / "out"), "--engine", "ray", "--processes", "2"], log)
    for count in (4, 16, 28):
        until(tmp_path / "out", count, process, log)
        worker = workers()[0]
        os.kill(worker, signal.SIGKILL)
    assert process.wait(900) == 0, log.read_text()[-3000:]
    check_whole(tmp_path / "out", videos(tmp_path / "whole"))
    assert json.loads((tmp_path / "out" / manifest.RUN).read_text())["batch"] == 2


def workers() -> list[int]:
    """Processes of Ray that are at work on a task of ours."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"ray::_call" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
