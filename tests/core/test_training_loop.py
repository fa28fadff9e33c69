"""The training loop on a toy: resumed runs, averages, rates, failures, and several processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from emu_core.errors import Stopped
from emu_core.toy.recipes import RECIPES
from emu_core.training import checkpoints, loop
from emu_core.training.loop import Trainer, plot_losses, rate_factor, step_generator
from emu_core.training.processes import Processes
from emu_core.training.recipes import Optimisation, Recipe, override

from .toy_task import ToyTask, toy_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Any:
    """The curve is drawn by a slow library, and is tested once on its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "plot_losses", lambda folder: None)
        yield


def new_trainer(folder: Path, recipe: Recipe | None = None, **task: Any) -> Trainer:
    return Trainer(recipe or toy_recipe(), ToyTask(**task), folder)


def state(folder: Path) -> dict[str, Any]:
    """The newest checkpoint, by torch's own reader."""
    with tempfile.NamedTemporaryFile() as file:
        dcp_to_torch_save(checkpoints.newest(folder), file.name)
        return torch.load(file.name, weights_only=True)


def part(saved: dict[str, Any], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}


def assert_same_state(a: Path, b: Path) -> None:
    """To the bit: step, weights, average, optimiser."""
    first, second = state(a), state(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert name == "elapsed" or torch.equal(value, second[name]), name


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
    recipe = override(toy_recipe(), {"save_every": 2})
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
    assert resumed.task.seen == [(i, i // 8 / 6) for i in range(8, 48)]


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
    with pytest.raises(ValueError, match=r"holds no checkpoint; start without --resume"):
        new_trainer(tmp_path).load()


def test_checkpoint_of_other_parameters_is_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    task = ToyTask()
    task.further = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="holds other parameters than this recipe trains, such as average.further.bias"):
        Trainer(toy_recipe(), task, tmp_path / "run").load()
    task = ToyTask()
    task.net[0] = torch.nn.Linear(4, 8)
    task.net[2] = torch.nn.Linear(8, 4)
    with pytest.raises(ValueError, match=r"holds weights.net.0.weight of shape \(16, 4\), this recipe trains \(8, 4\)"):
        Trainer(toy_recipe(), task, tmp_path / "run").load()


def test_failed_save_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = new_trainer(tmp_path)
    trainer.run(max_minutes=0)
    before = state(tmp_path)

    def breaks(value: Any, checkpoint_id: Path, **_: Any) -> None:
        (checkpoint_id / "half").write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints.dcp, "save", breaks)
    trainer.step += 1
    with pytest.raises(Stopped, match=r"checkpoint-00000002 could not be written \(No space left on device\): make room"):
        trainer.save()
    assert [p.name for p in checkpoints.checkpoints(tmp_path)] == ["checkpoint-00000001"]
    assert not list(tmp_path.glob(".*"))
    assert state(tmp_path).keys() == before.keys()


def test_only_whole_checkpoints_count_and_few_are_kept(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path, override(toy_recipe(), {"save_every": 1}))
    trainer.run()
    assert [p.name for p in checkpoints.checkpoints(tmp_path)] == ["checkpoint-00000005", "checkpoint-00000006"]
    (tmp_path / "checkpoint-00000007").mkdir()  # no metadata: not whole
    (tmp_path / ".checkpoint-00000008.part").mkdir()
    assert checkpoints.newest(tmp_path).name == "checkpoint-00000006"


def test_rows_after_the_checkpoint_are_made_again(whole: Path, tmp_path: Path) -> None:
    """A crash between two checkpoints leaves rows that the resumed run writes again, once."""
    recipe = override(toy_recipe(), {"save_every": 2})
    with pytest.raises(RuntimeError, match="loss is nan at step 3"):
        new_trainer(tmp_path, recipe, fail_at=0.5).run()
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"step": 4, "lo')  # cut off
    resumed = new_trainer(tmp_path, recipe)
    resumed.load()
    resumed.run()
    assert (tmp_path / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()


# -- what a step does


def test_loss_that_is_no_number_stops_and_leaves_the_batch(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path, fail_at=0.3)
    with pytest.raises(RuntimeError, match=r"loss is nan at step 2; the batch is in .*bad_batch\.pt"):
        trainer.run()
    assert torch.load(tmp_path / "bad_batch.pt", weights_only=True) == {"step": 2, "samples": [list(range(16, 24))]}
    assert trainer.step == 2
    assert all(torch.isfinite(p).all() for p in trainer.trained.values())


def test_rate_factor_is_warm_up_constant_then_a_fall_to_zero() -> None:
    config = Optimisation(steps=100, batch=1, rate=1.0, warmup=10, decay=0.3)
    factors = [rate_factor(step, config) for step in range(100)]
    assert (factors[:10], factors[9:71]) == (pytest.approx([(step + 1) / 10 for step in range(10)]), pytest.approx([1.0] * 62))
    assert (factors[70:], rate_factor(100, config)) == (pytest.approx([(100 - step) / 30 for step in range(70, 100)]), 0)
    constant = Optimisation(steps=100, batch=1, rate=1.0, warmup=1, decay=0.0)  # the paper's: no fall
    assert [rate_factor(step, constant) for step in range(100)] == [1.0] * 100


def test_steps_are_adamw_on_clipped_gradients_with_a_running_average(whole: Path) -> None:
    """The same by hand."""
    recipe, task = toy_recipe(), ToyTask()
    parameters = dict(task.net.named_parameters(prefix="net"))
    optimiser = torch.optim.AdamW(parameters.values(), lr=0, betas=recipe.optimisation.betas, weight_decay=0)
    average = {name: value.detach().clone() for name, value in parameters.items()}
    for step, factor in enumerate((0.5, 1.0, 1.0, 1.0, 2 / 3, 1 / 3)):
        optimiser.param_groups[0]["lr"] = 0.02 * factor
        loss, _ = task(range(8 * step, 8 * step + 8), step_generator(3, step, 0), step / 6)
        optimiser.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in parameters.values()]).norm()
        assert norm > 0.1
        for p in parameters.values():
            p.grad *= min(1.0, 0.1 / (norm.item() + 1e-6))  # as clip_grad_norm_ keeps the division from zero
        optimiser.step()
        keep = min(0.9, (step + 1) / (step + 11))
        average = {name: keep * average[name] + (1 - keep) * parameters[name].detach() for name in parameters}
    saved = state(whole)
    assert part(saved, "weights.").keys() == parameters.keys()  # what is frozen is not stored
    for name, value in parameters.items():
        torch.testing.assert_close(saved[f"weights.{name}"], value.detach())
        torch.testing.assert_close(saved[f"average.{name}"], average[name])


def test_sixteen_bits_on_a_cpu_do_without_fused_attention(tmp_path: Path) -> None:
    """Which torch has there in float32 for speed, and in 16 bits at a third of the speed of plain products."""
    inside = {}
    for precision in ("float32", "bfloat16"):
        with new_trainer(tmp_path, override(toy_recipe(), {"compute.precision": precision})).autocast():
            inside[precision] = torch.backends.cuda.flash_sdp_enabled(), torch.is_autocast_enabled("cpu")
    assert inside == {"float32": (True, False), "bfloat16": (False, True)}
    assert torch.backends.cuda.flash_sdp_enabled()


def test_exports_and_sheets_are_made_of_the_averaged_weights(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path, override(toy_recipe(), {"sheet_every": 3}))
    trainer.run()
    for name, value in trainer.average.items():
        assert torch.equal(trainer.task.exported[name], value)
        assert not torch.equal(trainer.trained[name], value)
    assert [path.name for path in trainer.task.sheets] == ["sheet_000003.png", "sheet_000006.png"]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if row.get("toy_score") == 1] == [3, 6]


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
    recipe = toy_recipe(steps=200)
    trainer = new_trainer(tmp_path, recipe)
    losses = [figures["loss"] for figures in trainer.steps(max_minutes=1)]
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])


def test_losses_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("".join(json.dumps({"step": s, "loss": 1 / s, "score": s}) + "\n" for s in range(1, 30)))
    plot_losses(tmp_path)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_figures_go_to_tensorboard_as_well(whole: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    new_trainer(tmp_path).run(max_minutes=0, tensorboard=True)
    resumed = new_trainer(tmp_path)
    resumed.load()
    resumed.run(tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(r["step"], pytest.approx(r["loss"])) for r in rows]


# -- several processes


def test_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch 8 does not divide over 3 processes"):
        Trainer(toy_recipe(), ToyTask(), tmp_path, Processes(0, 3))
    recipe = toy_recipe()
    with pytest.raises(ValueError, match=r"8 of the batch of 8 do not divide into compute.micro=3"):
        Trainer(override(recipe, {"compute.micro": 3}), ToyTask(), tmp_path)


def test_accumulated_gradients_equal_those_of_the_whole_batch(tmp_path: Path) -> None:
    recipe = toy_recipe()
    new_trainer(tmp_path / "whole", noise=0.0).run()
    new_trainer(tmp_path / "parts", override(recipe, {"compute.micro": 2}), noise=0.0).run()
    one, two = state(tmp_path / "whole"), state(tmp_path / "parts")
    for name, value in part(one, "weights.").items():
        torch.testing.assert_close(two[f"weights.{name}"], value)


def test_average_may_be_kept_in_main_memory(whole: Path, tmp_path: Path) -> None:
    recipe = toy_recipe()
    new_trainer(tmp_path, override(recipe, {"compute.ema_on_cpu": True})).run()
    assert_same_state(whole, tmp_path)


def test_frozen_parts_that_changed_are_noticed(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path)
    steps = trainer.steps

    def meddles(minutes: float) -> Any:
        yield from steps(minutes)
        trainer.task.frozen()[0].bias.data += 1  # type: ignore[operator]

    trainer.steps = meddles  # type: ignore[method-assign,assignment]
    with pytest.raises(RuntimeError, match="the frozen parts changed while toy trained"):
        trainer.run()


@pytest.mark.parametrize("mode", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_equal_one_with_the_same_batch(mode: str, tmp_path: Path) -> None:
    new_trainer(tmp_path / "one", noise=0.0).run()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command += ["-m", "tests.core.toy_task", str(tmp_path / "two"), mode]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert two.keys() == one.keys()
    assert two["step"] == one["step"] == 6
    for name, value in one.items():
        if name != "elapsed":
            torch.testing.assert_close(two[name], value)
    logs = [(tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("one", "two")]
    first, second = ([json.loads(line)["loss"] for line in log] for log in logs)
    assert second == pytest.approx(first)
    resumed = new_trainer(tmp_path / "two", toy_recipe(steps=8), seed=9, noise=0.0)  # what two wrote, one reads
    resumed.load()
    assert resumed.step == 6
    for name, value in part(two, "weights.").items():
        assert torch.equal(resumed.trained[name].detach(), value)


# -- recipes


def test_overrides_keep_their_types() -> None:
    recipe = override(toy_recipe(), {"optimisation.steps": "12", "optimisation.rate": "1e-3", "widths": "32,64", "role": "I"})
    assert (recipe.optimisation.steps, recipe.optimisation.rate, recipe.role, recipe.network.widths) == (12, 1e-3, "I", (32, 64))
    recipe = override(recipe, {"clips.size": "32,32", "compute.cache": "true", "schedule.zero_snr": "false"})
    assert (recipe.clips.size, recipe.compute.cache, recipe.schedule.zero_snr) == ((32, 32), True, False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimisation.speed": "1"}, "unknown setting 'optimisation.speed': expected one of .*rate"),
        ({"optimisation": "1"}, "unknown setting 'optimisation'"),
        ({"colour": "1"}, "unknown setting 'colour'"),
        ({"optimisation.steps": "many"}, "'optimisation.steps' must be int, found 'many'"),
        ({"compute.cache": "perhaps"}, "'compute.cache' must be true or false, found 'perhaps'"),
        ({"optimisation.steps.more": "1"}, "unknown setting 'optimisation.steps.more'"),
    ],
)
def test_unknown_overrides_are_refused(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        override(toy_recipe(), changes)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_named_as_it_is_listed(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name
    assert 0 < recipe.optimisation.warmup < recipe.optimisation.steps


# -- float16


def test_resumed_run_in_float16_keeps_the_scale_and_how_long_it_has_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale doubles after so many good steps in a row; a resumed run counted them from 0 again."""
    recipe = override(toy_recipe(), {"compute.precision": "float16"})
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler(device, enabled=enabled, growth_interval=4))
    whole = new_trainer(tmp_path / "whole", recipe)
    whole.run()
    for stop in range(6):
        trainer = new_trainer(tmp_path / "parts", recipe, seed=stop) if stop else new_trainer(tmp_path / "parts", recipe)
        if stop:
            trainer.load()
        trainer.run(max_minutes=0)
    assert whole.scaler.state_dict()["scale"] == 2 * 65536  # it has grown once, and two steps further
    assert trainer.scaler.state_dict() == whole.scaler.state_dict()
    assert trainer.scaler.state_dict()["_growth_tracker"] == 2
    assert_same_state(tmp_path / "whole", tmp_path / "parts")


def test_checkpoint_without_the_count_is_read(tmp_path: Path) -> None:
    """As version 0.1 wrote them."""
    trainer = new_trainer(tmp_path)
    trainer.run(max_minutes=0)
    old = {name: value for name, value in trainer.state().items() if name != checkpoints.GROWTH}
    checkpoints.save(old, tmp_path, 2, Processes())
    resumed = new_trainer(tmp_path, seed=7)
    resumed.load()
    assert resumed.step == 1
    resumed.run()
