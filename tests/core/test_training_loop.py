"""The training loop on a toy: resumed runs, averages, rates, failures, and several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from emu_core.training import loop
from emu_core.training.loop import Trainer, build_accelerator, plot_losses, rate_factor, step_generator, with_steps
from emu_core.training.recipes import RECIPES, Optimisation, Recipe, override

from .toy_task import ToyTask, toy_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Any:
    """The curve is drawn by a slow library, and is tested once on its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "plot_losses", lambda folder: None)
        yield


def new_trainer(folder: Path, recipe: Recipe | None = None, **task: Any) -> Trainer:
    return Trainer(recipe or toy_recipe(), ToyTask(**task), folder, build_accelerator())


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one dict of their leaves."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, inner in items for k, v in flat(inner, f"{name}/{key}").items()}
    return {name: value}


def assert_same_state(a: Path, b: Path) -> None:
    """To the bit: step, weights, average, optimiser."""
    first, second = flat(state(a)), flat(state(b))
    assert first.keys() == second.keys()
    for name, value in first.items():
        if name != "/elapsed":
            same = torch.equal(value, second[name]) if torch.is_tensor(value) else value == second[name]
            assert same, name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    new_trainer(folder).run()
    return folder


# -- resuming


def test_run_that_stopped_after_every_step_equals_one_that_never_did(whole: Path, tmp_path: Path) -> None:
    exports = []
    for stop in range(6):
        trainer = new_trainer(tmp_path, seed=stop)  # other weights at the start: all must come from the checkpoint
        if stop:
            trainer.load()
        else:
            trainer = new_trainer(tmp_path)
        trainer.run(max_minutes=0)
        assert trainer.step == stop + 1
        exports.append(trainer.task.exported)
    assert_same_state(whole, tmp_path)
    assert not torch.equal(exports[0]["net.0.weight"], exports[-1]["net.0.weight"])


def test_run_that_broke_off_continues_from_its_last_checkpoint(whole: Path, tmp_path: Path) -> None:
    recipe = replace(toy_recipe(), save_every=2)
    with pytest.raises(RuntimeError, match="loss is nan at step 3"):
        new_trainer(tmp_path, recipe, fail_at=0.5).run()
    assert state(tmp_path)["step"] == 2
    resumed = new_trainer(tmp_path, recipe, seed=9)
    resumed.load()
    resumed.run()
    assert_same_state(whole, tmp_path)


def test_resumed_run_sees_the_samples_that_follow(tmp_path: Path) -> None:
    new_trainer(tmp_path).run(max_minutes=0)
    resumed = new_trainer(tmp_path)
    resumed.load()
    resumed.run()
    assert resumed.task.module.seen == [(i, i // 8 / 6) for i in range(8, 48)]


def test_same_seed_same_run_and_another_seed_another(whole: Path, tmp_path: Path) -> None:
    new_trainer(tmp_path / "again").run()
    assert_same_state(whole, tmp_path / "again")
    new_trainer(tmp_path / "other", toy_recipe(seed=4)).run()
    with pytest.raises(AssertionError):
        assert_same_state(whole, tmp_path / "other")


def test_generators_differ_by_seed_step_and_process() -> None:
    draws = {torch.rand(1, generator=step_generator(s, t, r)).item() for s in range(4) for t in range(8) for r in range(4)}
    assert len(draws) == 4 * 8 * 4
    assert torch.equal(torch.rand(3, generator=step_generator(1, 2, 3)), torch.rand(3, generator=step_generator(1, 2, 3)))


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint\.pt does not exist; start without --resume"):
        new_trainer(tmp_path).load()


def test_checkpoint_of_other_parameters_is_refused(whole: Path, tmp_path: Path) -> None:
    saved = state(whole)
    saved["weights"]["further"] = torch.zeros(1)
    torch.save(saved, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="holds other parameters than recipe 'toy' trains"):
        new_trainer(tmp_path).load()


def test_failed_save_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = new_trainer(tmp_path)
    trainer.run(max_minutes=0)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def breaks(value: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", breaks)
    with pytest.raises(OSError, match="No space left"):
        trainer.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


# -- what a step does


def test_loss_that_is_no_number_stops_and_leaves_the_batch(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path, fail_at=0.3)
    with pytest.raises(RuntimeError, match=r"loss is nan at step 2; the batch is in .*bad_batch\.pt"):
        trainer.run()
    assert torch.load(tmp_path / "bad_batch.pt", weights_only=True) == {"step": 2, "indices": list(range(16, 24))}
    assert trainer.step == 2
    assert all(torch.isfinite(p).all() for p in trainer.trained.values())


def test_rate_factor_is_warm_up_constant_then_a_fall_to_zero() -> None:
    config = Optimisation(steps=100, batch=1, rate=1.0, warmup=10, decay=0.3)
    factors = [rate_factor(step, config) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[9:71] == pytest.approx([1.0] * 62)
    assert factors[70:] == pytest.approx([(100 - step) / 30 for step in range(70, 100)])
    assert rate_factor(100, config) == 0
    constant = Optimisation(steps=100, batch=1, rate=1.0, warmup=1, decay=0.0)  # the paper's: no fall
    assert [rate_factor(step, constant) for step in range(100)] == [1.0] * 100


def test_steps_are_adamw_on_clipped_gradients_with_a_running_average(whole: Path) -> None:
    """The same by hand."""
    recipe, task = toy_recipe(), ToyTask()
    parameters = dict(task.module.net.named_parameters(prefix="net"))
    optimiser = torch.optim.AdamW(parameters.values(), lr=0, betas=recipe.optimisation.betas, weight_decay=0)
    average = {name: value.detach().clone() for name, value in parameters.items()}
    for step, factor in enumerate((0.5, 1.0, 1.0, 1.0, 2 / 3, 1 / 3)):
        optimiser.param_groups[0]["lr"] = 0.02 * factor
        loss, _ = task.module(range(8 * step, 8 * step + 8), step_generator(3, step, 0), step / 6)
        optimiser.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in parameters.values()]).norm()
        assert norm > 0.1
        for p in parameters.values():
            p.grad *= min(1.0, 0.1 / norm.item())
        optimiser.step()
        keep = min(0.9, (step + 1) / (step + 11))
        average = {name: keep * average[name] + (1 - keep) * parameters[name].detach() for name in parameters}
    saved = state(whole)
    assert saved["weights"].keys() == parameters.keys()  # what is frozen is not stored
    for name, value in parameters.items():
        torch.testing.assert_close(saved["weights"][name].cpu(), value.detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(saved["average"][name].cpu(), average[name], rtol=1e-4, atol=1e-6)


def test_exports_and_sheets_are_made_of_the_averaged_weights(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path, replace(toy_recipe(), sheet_every=3))
    trainer.run()
    for name, value in trainer.average.items():
        assert torch.equal(trainer.task.exported[name], value)
        assert not torch.equal(trainer.trained[name], value)
    assert [path.name for path in trainer.task.sheets] == ["sheet_000003.png", "sheet_000006.png"]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]
    assert all(row["toy_score"] == 1 and row["loss"] > 0 for row in rows)


def test_averaged_weights_leave_again_also_after_a_failure(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path)
    trainer.run()
    live = {name: value.detach().clone() for name, value in trainer.trained.items()}
    average = {name: value.clone() for name, value in trainer.average.items()}

    def fails() -> None:
        with trainer.averaged():
            assert all(torch.equal(trainer.trained[name], value) for name, value in average.items())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fails()
    assert all(torch.equal(trainer.trained[name], value) for name, value in live.items())
    assert all(torch.equal(trainer.average[name], value) for name, value in average.items())


def test_training_learns(tmp_path: Path) -> None:
    recipe = with_steps(toy_recipe(), 200)
    trainer = new_trainer(tmp_path, recipe)
    losses = [figures["loss"] for figures in trainer.steps(max_minutes=1)]
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])


def test_losses_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("".join(json.dumps({"step": s, "loss": 1 / s, "score": s}) + "\n" for s in range(1, 30)))
    plot_losses(tmp_path)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


# -- several processes


def test_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch 8 does not divide over 3 processes"):
        Trainer(toy_recipe(), ToyTask(), tmp_path, SimpleNamespace(num_processes=3))  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_batch(tmp_path: Path) -> None:
    new_trainer(tmp_path / "one", noise=0.0).run()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "-m", "tests.core.toy_task", str(tmp_path / "two")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert two["step"] == one["step"] == 6
    assert two["weights"].keys() == one["weights"].keys()
    for part in ("weights", "average"):
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value.cpu(), rtol=1e-4, atol=1e-5)


# -- recipes


def test_overrides_keep_their_types() -> None:
    recipe = override(toy_recipe(), {"optimisation.steps": "12", "optimisation.rate": "1e-3", "widths": "32,64", "role": "I"})
    assert (recipe.optimisation.steps, recipe.optimisation.rate, recipe.role) == (12, 1e-3, "I")
    assert tuple(recipe.widths) == (32, 64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimisation.speed": "1"}, "unknown setting 'speed': expected one of .*rate"),
        ({"optimisation": "1"}, "unknown setting 'optimisation'"),
        ({"colour": "1"}, "unknown setting 'colour'"),
        ({"optimisation.steps": "many"}, "'steps' must be int, found 'many'"),
    ],
)
def test_unknown_overrides_are_refused(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        override(toy_recipe(), changes)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_named_as_it_is_listed(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert 0 < recipe.optimisation.warmup < recipe.optimisation.steps
