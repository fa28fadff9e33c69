"""Runs that are told to stop, and files of a run that are whole or not there."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from emu_core.errors import Stopped, UserError
from emu_core.training import checkpoints, folder, loop
from emu_core.training.loop import Trainer
from emu_core.training.recipes import Recipe

from .saved import ROOT, surroundings
from .toy_task import ToyTask, toy_recipe

RUN = ["train", "stage1_256px", "--family", "tiny", "--set", "clips.size=32,32", "--set", "optimisation.batch=4"]


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "plot_losses", lambda folder: None)


class Told(ToyTask):
    """Is sent SIGTERM in its third step."""

    def forward(self, indices: range, generator: torch.Generator, progress: float) -> Any:
        if progress == 2 / 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(indices, generator, progress)


class Unfit(ToyTask):
    """Its result cannot be written to its end."""

    def export(self, folder: Path | None) -> None:
        assert folder is not None
        (folder / "first").write_text("half")
        raise UserError(f"{folder / 'second'} is not written: it holds NaN")


@pytest.mark.usefixtures("_no_pictures")
def test_sigterm_ends_a_run_after_its_step_with_a_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        Trainer(toy_recipe(), Told(), tmp_path).run()
    assert signal.getsignal(signal.SIGTERM) is before
    assert "toy was told to stop, and did at step 3 with a checkpoint: go on with --resume" in caplog.text
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == ["checkpoint-00000003"]
    resumed = Trainer(toy_recipe(), ToyTask(), tmp_path)
    resumed.load()
    resumed.run()
    whole = Trainer(toy_recipe(), ToyTask(), tmp_path / "whole")
    whole.run()
    assert all(torch.equal(a, b) for a, b in zip(resumed.trained.values(), whole.trained.values(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_told_to_stop_says_so_in_words(number: int, processes: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "emu_core", *RUN, "--processes", str(processes), "--out", str(tmp_path / "run")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=surroundings(), start_new_session=True, **pipes) as process:
        end = time.monotonic() + 120
        while not (log := tmp_path / "run" / "log.jsonl").is_file() or not log.read_text():
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert "emu-video: stopped" in said
    assert "Traceback" not in said
    if number == signal.SIGTERM:
        assert "go on with --resume" in said
        assert checkpoints.checkpoints(tmp_path / "run")


# -- whole files


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file can be larger than 500 bytes."""
    before, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def test_a_picture_of_a_run_is_replaced_by_a_whole_one_alone(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    noise = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n')
    makers = {
        "sheet.png": lambda: folder.write_sheet(noise, tmp_path / "sheet.png", 2),
        "loss.png": lambda: folder.plot_losses(tmp_path),
    }
    for make in makers.values():
        make()
    request.getfixturevalue("full_disk")
    for name, make in makers.items():
        with pytest.raises(UserError, match=rf"{name}: expected to write the whole file, found the error"):
            make()
        with Image.open(tmp_path / name) as picture:
            picture.load()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "loss.png", "sheet.png"]


@pytest.mark.usefixtures("_no_pictures")
def test_a_result_is_replaced_by_a_whole_one_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "of the run before").write_text("whole")
    with pytest.raises(Stopped, match=rf"^{tmp_path}/model/second is not written: it holds NaN$"):
        Trainer(toy_recipe(), Unfit(), tmp_path).run()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["of the run before"]
    assert not [path for path in tmp_path.glob(".*") if path.suffix in (".part", ".old")]


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_a_fresh_start_forgets_the_figures_of_a_run_that_broke_off(tmp_path: Path) -> None:
    """Those for TensorBoard too."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def run(**task: Any) -> None:
        recipe: Recipe = toy_recipe()
        Trainer(recipe, ToyTask(**task), tmp_path).run(tensorboard=True)

    with pytest.raises(Stopped):
        run(fail_at=0.5)
    run()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
