"""A run's folder belongs to one process at a time, and to one recipe for good."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from emu_core import locks
from emu_core.cli.main import main
from emu_core.errors import UserError
from emu_core.locks import OwnerLock, Taken
from emu_core.training import loop
from emu_core.training.claim import FREE, check_owner, claimed, differences
from emu_core.training.folder import write_json
from emu_core.training.recipes import override

from .tiny_training import small, train

ROOT = Path(__file__).parents[2]
HOLDER = """
import os, sys, time
from pathlib import Path
from emu_core.training.claim import claimed
with claimed(Path(sys.argv[1])):
    if sys.argv[2] == "fork" and os.fork() == 0:  # as a process that decodes videos: it outlives its parent
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "plot_losses", lambda folder: None)


@pytest.fixture
def holder(tmp_path: Path, request: Any) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path), getattr(request, "param", "alone")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("holder", ["alone", "fork"], indirect=True)
def test_a_second_run_is_refused_until_the_first_is_gone_however_it_ends(holder: Any, tmp_path: Path) -> None:
    said = rf"is in use by process {holder.pid} on .*: wait for it, or name another folder with --out"
    with pytest.raises(UserError, match=said):
        train(small(steps=1), tmp_path)
    assert not (tmp_path / "log.jsonl").exists()
    os.kill(holder.pid, signal.SIGKILL)
    os.waitpid(holder.pid, 0)
    with claimed(tmp_path):  # at once
        pass


def test_the_lock_is_free_after_a_failure_and_between_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"in use by process {os.getpid()} on"), claimed(tmp_path), claimed(tmp_path):
        pass
    with claimed(tmp_path), claimed(tmp_path, wanted=False):  # a process that writes nothing needs none
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_a_run_goes_on_and_says_so(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As some file systems over a network answer."""

    def none_here(file: Any) -> None:
        raise OSError(number, "No locks available")

    monkeypatch.setattr(locks, "_lock", none_here)
    with claimed(tmp_path), claimed(tmp_path):
        pass
    assert "run.lock cannot be locked (No locks available): see to it that one process at a time uses it" in caplog.text


def test_a_lock_file_of_anything_is_no_hindrance_and_its_words_are_read_with_care(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_bytes(b"\xff{" * 99)
    first, second = OwnerLock(path), OwnerLock(path)
    first.take(at="home")
    assert json.loads(path.read_text())["process"] == os.getpid()
    with pytest.raises(Taken, match=rf"^process {os.getpid()} on \S+ at home$"):
        second.take()
    path.write_text("[" * 50)
    with pytest.raises(Taken, match="^another process$"):
        second.take()
    first.release()
    second.take()
    second.release()


# -- one recipe


def test_another_recipe_is_refused_whether_the_first_ended_or_not(tmp_path: Path) -> None:
    train(small(steps=1), tmp_path / "ended")
    broken = shutil.copytree(tmp_path / "ended", tmp_path / "killed")  # before its first checkpoint
    shutil.rmtree(broken / "checkpoint-00000001")
    shutil.rmtree(broken / "model")
    before = (broken / "log.jsonl").read_text()
    for folder, resume in ((tmp_path / "ended", False), (tmp_path / "ended", True), (broken, False)):
        other = small("stage2_512px", steps=1)
        with pytest.raises(UserError, match=r'name was "stage1_256px", is "stage2_512px" now \(and \d settings more\): go on'):
            train(other, folder, resume)
        with pytest.raises(UserError, match=r"optimisation.rate was 0.002, is 0.1 now: go on with the same recipe, or name"):
            train(small(steps=1, optimisation__rate="0.1"), folder, resume)
    assert (broken / "log.jsonl").read_text() == before
    assert json.loads((broken / "recipe.json").read_text())["name"] == "stage1_256px"
    train(small(steps=1), broken)  # the same again, from the start: nothing of the broken one stays
    assert len((broken / "log.jsonl").read_text().splitlines()) == 1


def test_what_may_change_on_purpose_still_may(tmp_path: Path) -> None:
    recipe = small(steps=1)
    train(recipe, tmp_path)
    longer = {"optimisation.steps": "2", "compute.micro": "2", "every.sheet": "7", "clips.workers": "1"}
    train(override(recipe, {**longer, "compute.precision": "bfloat16", "recommended.steps": "9"}), tmp_path, resume=True)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_places_are_compared_as_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another path to the same thing, or to where it was moved, a run goes on; not to another thing."""
    (tmp_path / "base").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    old = small(start__base="base")
    assert not differences(old, small(start__base=str(tmp_path / "base")))
    assert differences(old, small(start__base="other")) == ['start.base was "base", is "other" now']
    (tmp_path / "base").rename(tmp_path / "moved")
    assert not differences(old, small(start__base="moved"))
    there = small(clips__shards="s3://a/b")
    assert differences(there, small(clips__shards="s3://a/c"))
    assert differences(there, small())


def test_every_setting_is_either_free_or_compared() -> None:
    """A new setting is compared unless somebody decides otherwise."""
    recipe = small()
    changed = {
        "optimisation.seed": 5, "optimisation.batch": 8, "clips.fps": 1.0, "clips.selection": "hq", "clips.validation": 9,
        "given.text_drop": 0.5, "method.image": False, "schedule.beta_end": 0.02, "world.cache": 7, "network.layers": 3,
        "role": "I",
    }  # fmt: skip
    for name, value in changed.items():
        assert [one.split(" was ")[0] for one in differences(recipe, override(recipe, {name: value}))] == [name]
        assert not name.startswith(FREE)


def test_a_folder_of_an_earlier_version_is_known_by_its_recipe(tmp_path: Path) -> None:
    """Version 0.1 wrote most settings in the recipe itself, and some of today's not at all."""
    recipe = small(first_frame="0.5")
    values = json.loads(json.dumps(asdict(recipe)))
    values |= {"first_frame": values["given"].pop("first_frame"), "base": values["start"].pop("base")}
    del values["compute"]["exported"]
    write_json(tmp_path / "recipe.json", values)
    check_owner(tmp_path, recipe)
    with pytest.raises(UserError, match=r"given.first_frame was 0.5, is 0.7 now"):
        check_owner(tmp_path, small())


def test_the_command_line_refuses_before_processes_are_started(
    holder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--set", "optimisation.batch=4", "--set", "optimisation.steps=1", "--processes", "2"]
    started = time.monotonic()
    assert main(["train", "stage1_256px", "--family", "tiny", "--out", str(tmp_path), *settings]) == 2
    assert f"is in use by process {holder.pid}" in capsys.readouterr().err
    assert time.monotonic() - started < 20
