"""Distillation: the closed forms, that a student is taught what the pipeline makes, runs of it, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from emu_core.base import load_base
from emu_core.base.architectures import STACK_SETTINGS
from emu_core.checkpoint import load_stack, read_config, save_stack
from emu_core.model.guidance import calls
from emu_core.model.sampling import build_scheduler, sample
from emu_core.model.schedule import ScheduleConfig, abar, add_noise, trailing_timesteps
from emu_core.model.stack import TemporalStack
from emu_core.model.streams import stream
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings
from emu_core.toy import recipes as toy
from emu_core.toy.tasks import TASKS
from emu_core.training import loop, run
from emu_core.training.checks import check_recipe
from emu_core.training.distil import DistilTask
from emu_core.training.distil_rounds import of_image_model, of_stack, rounds
from emu_core.training.distil_steps import ddim_step, distance, output_between, step_grid
from emu_core.training.recipes import Recipe, from_dict, override
from emu_core.training.video import sample_generator

from .helpers import randomise
from .saved import PROMPT, emu, narrow_model

ZERO_SNR, PLAIN_V = ScheduleConfig(), ScheduleConfig(zero_snr=False)
NOISE = ScheduleConfig(zero_snr=False, prediction="epsilon")
SCHEDULES = pytest.mark.parametrize("config", [ZERO_SNR, PLAIN_V, NOISE], ids=["zero snr", "v", "epsilon"])
needs_peft = pytest.mark.skipif(not find_spec("peft"), reason="a LoRA is trained with peft, and it is not installed")


# -- the numbers


@SCHEDULES
def test_the_steps_are_those_of_the_samplers(config: ScheduleConfig) -> None:
    for steps, each in ((1, 2), (1, 16), (2, 2), (3, 2), (4, 2), (4, 5), (6, 3), (7, 2), (8, 2), (64, 2), (125, 8), (333, 3)):
        grid = step_grid(config, steps, steps * each)
        assert grid.shape == (steps, each + 1)
        assert torch.equal(grid[:, 0], trailing_timesteps(config, steps))
        assert torch.equal(grid[1:, 0], grid[:-1, -1])
        assert grid[-1, -1] == -1
        assert (grid[:, 1:] < grid[:, :-1]).all()
        assert (grid[:, :-1].flatten() - trailing_timesteps(config, steps * each)).abs().max() <= 1  # ties may round otherwise
    assert step_grid(config, 4, 8).tolist() == [[999, 874, 749], [749, 624, 499], [499, 374, 249], [249, 124, -1]]


MEAN, DEVIATION = 0.7, 0.5


def gaussian_teacher(config: ScheduleConfig, x: torch.Tensor, t: int) -> torch.Tensor:
    """The best network for data of one normal distribution, in closed form: E[x0 | x] = m + a s^2 (x - a m) / (a^2 s^2 + b^2),
    a^2 = abar and b^2 = 1 - abar; float64."""
    a, b = math.sqrt(abar(config)[t]), math.sqrt(1 - abar(config)[t])
    clean = MEAN + a * DEVIATION**2 * (x - a * MEAN) / (a**2 * DEVIATION**2 + b**2)
    return (x - a * clean) / b if config.prediction == "epsilon" else (a * x - clean) / b


def two_steps_by_hand(config: ScheduleConfig, x: torch.Tensor, times: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Where two DDIM steps (Song et al., arXiv 2010.02502, equation 12) of that teacher lead x, and the student's target there as
    Salimans & Ho write it (arXiv 2202.00512, algorithm 2): the clean sample (z'' - (b''/b) z) / (a'' - (b''/b) a)."""
    start, z = x, x
    for t, after in zip(times, times[1:], strict=False):
        a, b = math.sqrt(abar(config)[t]), math.sqrt(1 - abar(config)[t])
        power = 1.0 if after < 0 else float(abar(config)[after])
        output = gaussian_teacher(config, z, t)
        clean = (z - b * output) / a if config.prediction == "epsilon" else a * z - b * output
        noise = output if config.prediction == "epsilon" else b * z + a * output
        z = math.sqrt(power) * clean + math.sqrt(1 - power) * noise
    a, b = math.sqrt(abar(config)[times[0]]), math.sqrt(1 - abar(config)[times[0]])
    ratio = math.sqrt(1 - power) / b
    return z, (z - ratio * start) / (math.sqrt(power) - ratio * a)


@SCHEDULES
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_target_is_the_papers_on_a_teacher_in_closed_form(config: ScheduleConfig, steps: int) -> None:
    """At the last timestep of zero terminal SNR as well, where the signal is 0 and x is noise alone."""
    x = torch.randn(steps, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = step_grid(config, steps, 2 * steps)
    end = x
    for t, after in zip(grid.T, grid.T[1:], strict=False):
        output = torch.stack([gaussian_teacher(config, row, int(s)) for row, s in zip(end, t, strict=True)])
        end = ddim_step(config, end, output, t, after)
    wanted = output_between(config, x, end, grid[:, 0], grid[:, -1])
    assert torch.isfinite(wanted).all()
    for row, times, found, target in zip(x, grid.tolist(), end, wanted, strict=True):
        by_hand, clean = two_steps_by_hand(config, row, times)
        a, b = math.sqrt(abar(config)[times[0]]), math.sqrt(1 - abar(config)[times[0]])
        torch.testing.assert_close(found, by_hand, atol=1e-5, rtol=1e-5)
        there = (row - a * clean) / b if config.prediction == "epsilon" else (a * row - clean) / b
        torch.testing.assert_close(target.double(), there, atol=1e-5, rtol=1e-5)


@SCHEDULES
def test_diffusers_steps_lead_where_ours_do(config: ScheduleConfig) -> None:
    """The teacher's two steps, and the student's one with its target, by diffusers' DDIM."""
    x = torch.randn(1, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fine, coarse = build_scheduler("ddim", config), build_scheduler("ddim", config)
    fine.set_timesteps(8)
    coarse.set_timesteps(4)
    grid = step_grid(config, 4, 8)
    assert fine.timesteps.tolist() == grid[:, :-1].flatten().tolist()
    for number, row in enumerate(grid):
        end = theirs = x
        for t, after in zip(row[:-1], row[1:], strict=True):
            output = gaussian_teacher(config, end, int(t))
            end = ddim_step(config, end, output, t[None], after[None])
            theirs = fine.step(gaussian_teacher(config, theirs, int(t)), int(t), theirs).prev_sample
        torch.testing.assert_close(end, theirs, atol=1e-5, rtol=1e-5)
        wanted = output_between(config, x, end, row[:1], row[-1:])
        there = coarse.step(wanted.double(), int(coarse.timesteps[number]), x).prev_sample
        torch.testing.assert_close(there, theirs, atol=1e-4, rtol=1e-4)
        x = theirs


def test_a_student_in_closed_form_samples_what_its_teacher_does() -> None:
    """Whoever says the target at each of its steps ends, through the sampler that everybody uses, where the teacher does."""
    noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grid = step_grid(ZERO_SNR, 4, 16)
    rows = {int(row[0]): row for row in grid}

    def student(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        end, row = x, rows[int(t)]
        for now, after in zip(row[:-1], row[1:], strict=True):
            end = ddim_step(ZERO_SNR, end, gaussian_teacher(ZERO_SNR, end, int(now)), now[None], after[None])
        return output_between(ZERO_SNR, x, end, row[:1], row[-1:])

    teacher = sample(lambda x, t: gaussian_teacher(ZERO_SNR, x, int(t)), noise, ZERO_SNR, 16)
    torch.testing.assert_close(sample(student, noise, ZERO_SNR, 4), teacher, atol=1e-5, rtol=1e-5)


def test_the_loss_is_in_v_whatever_is_predicted() -> None:
    """An error d of the predicted noise is one of d / a of v, and of b d / a of the clean sample."""
    t, wrong = torch.tensor([999, 500, 20]), torch.full((3, 4), 0.1)
    a = abar(NOISE)[t].sqrt().float()
    torch.testing.assert_close(distance(NOISE, wrong, torch.zeros(3, 4), t), (0.1 / a) ** 2)
    torch.testing.assert_close(distance(PLAIN_V, wrong, torch.zeros(3, 4), t), torch.full((3,), 0.01))
    counts = torch.tensor([[2.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 3.0, 1.0, 0.0]])
    found = distance(PLAIN_V, wrong, torch.zeros(3, 4), t, counts)
    torch.testing.assert_close(found, torch.tensor([0.005, 0.01, 0.01]))


# -- a very narrow model


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, stack_F.safetensors and stack_I.safetensors, of random weights."""
    folder = tmp_path_factory.mktemp("narrow")
    unet = load_base(narrow_model(folder / "base")).unet
    how: dict[str, Any] = {"steps": 8, "text_guidance": 3.0, "size": (32, 32), "stage": "stage2_512px"}
    for role, own in (
        ("F", {"frames": 4, "image_guidance": 2.0}),
        ("I", {"frames": 37, "image_guidance": 1.0, "image_noise": 20}),
    ):
        stack = TemporalStack.for_unet(unet, base="tiny", role=role, **STACK_SETTINGS["tiny"], **how, **own)
        save_stack(randomise(stack, scale=0.05), folder / f"stack_{role}.safetensors", torch.float32)
    return folder


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "plot_losses", lambda folder: None)


LITTLE = {
    "optimisation.steps": 3, "optimisation.batch": 2, "optimisation.warmup": 1, "clips.validation": 2, "every.validate": 1,
    "every.sheet": 100, "world.cache": 4, "distil.rounds": 1,
}  # fmt: skip


def recipe_of(narrow: Path, role: str = "F", **changes: Any) -> Recipe:
    """One round, from 4 steps with guidance to 2 without."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    recipe = of_stack(str(narrow / f"stack_{role}.safetensors"), toy.TINY)
    own = {"start.base": str(narrow / "base"), "distil.steps": 2, "distil.teacher_steps": 4, **LITTLE, **dotted}
    (only,) = rounds(override(recipe, own))
    return only


def task_of(recipe: Recipe, folder: Path) -> DistilTask:
    return TASKS["video"](recipe, folder)  # type: ignore[return-value]


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def go(recipe: Recipe, folder: Path, resume: bool = False, minutes: float = math.inf) -> bool:
    return run.train(recipe, folder, run.RunOptions(resume, minutes, tasks=TASKS))


def test_the_student_is_taught_what_the_pipeline_makes(narrow: Path, tmp_path: Path) -> None:
    """In one step, from the same noise, frame and words, the guided video of four; in two, on its way to it."""
    folder = narrow / "stack_F.safetensors"
    pipeline = EmuVideoPipeline.from_files(narrow / "base", folder, None)
    known = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    settings = Settings(frames=4, size=(32, 32), steps=4, text_guidance=3.0, image_guidance=2.0, seed=5)
    made = pipeline.video_latents(known, (0,), PROMPT, settings)
    noise = torch.randn(1, 4, 4, 4, 4, generator=stream(5))
    for steps in (1, 2):
        task = task_of(recipe_of(narrow, distil__steps=steps), tmp_path)
        given = task.channels(known[None].expand(1, 4, -1, -1, -1) * 1.0, [0], 0, torch.Generator())
        text, x = task.base.encode_text([PROMPT]), noise
        assert [(c.image, c.text) for c in task.plan] == [(False, False), (True, False), (True, True)]
        for row in task.grid:
            with torch.no_grad():
                end = task.led(x, row[None], task.guided(task.taught, text, given))
            wanted = output_between(ZERO_SNR, x, end, row[:1], row[-1:])
            x = ddim_step(ZERO_SNR, x, wanted, row[:1], row[-1:])
        torch.testing.assert_close(x[0], made, atol=2e-4, rtol=1e-3)


def test_the_loss_is_the_distance_from_that(narrow: Path, tmp_path: Path) -> None:
    """And of a teacher without guidance in a step of the same length, a student that says the same has none."""
    task = task_of(recipe_of(narrow), tmp_path)
    batch = next(task.stream([range(2)]))
    assert {int(task.timestep(p)) for p in range(20)} == {999, 499}
    x0, t = batch.latents, torch.tensor([999, 499])
    noise = task.noise(x0, [sample_generator(9, p) for p in range(2)])
    text, given = task.base.encode_text(list(batch.captions)), task.known(x0, "test", range(2))
    x = add_noise(ZERO_SNR, x0, noise, t)
    assert torch.equal(x[0], noise[0])  # nothing of the video is left where sampling begins
    with torch.no_grad():
        errors = task.errors(x0, text, t, noise, given)
        end = task.led(x, task.grid, task.guided(task.taught, text, given))
        wanted = output_between(ZERO_SNR, x, end, t, torch.tensor([499, -1]))
        found = (task.predict(x, t, text, given) - wanted).square().flatten(1).mean(1)
        assert torch.equal(errors, found)
        assert (errors > 1e-4).all()
        task.__dict__["grid"] = torch.tensor([[999, 499], [499, -1]])
        object.__setattr__(task, "recipe", override(task.recipe, {"distil.text_guidance": 1.0, "distil.image_guidance": 1.0}))
        assert (task.errors(x0, text, t, noise, given) < 1e-9).all()


def test_a_distilled_stack_says_how_it_is_run_and_of_what_it_was_made(narrow: Path, tmp_path: Path) -> None:
    base = (narrow / "base" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    recipe = recipe_of(narrow, every__sheet=3)
    assert go(recipe, tmp_path)
    file = tmp_path / "model" / "stack_F.safetensors"
    teacher, config = read_config(narrow / "stack_F.safetensors"), read_config(file)
    sampling = config.sampling
    assert (sampling.steps, sampling.text_guidance, sampling.image_guidance) == (2, 1.0, 1.0)
    assert [(c.image, c.text, c.weight) for c in calls(sampling.image_guidance, sampling.text_guidance)] == [(True, True, 1.0)]
    assert config.origin.stage == "distil_2"
    said = "distilled by this project's trainer from stage2_512px (text guidance 3, image guidance 2, 4 steps) to 2"
    assert config.origin.source == said
    same = {"sampling": teacher.sampling, "origin": teacher.origin}
    assert dataclasses.replace(config, **same) == teacher
    before, after = load_stack(narrow / "stack_F.safetensors").state_dict(), load_stack(file).state_dict()
    assert before.keys() == after.keys()
    assert not any(torch.equal(value.half(), after[name]) for name, value in before.items() if value.any() and "conv_in" in name)
    assert (narrow / "base" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == base
    hashes = json.loads((tmp_path / "frozen.json").read_text())
    assert hashes["sha256_before"] == hashes["sha256_after"]
    assert {"loss", "val_loss", "val_loss_1", "val_loss_2", "val_end"} <= rows(tmp_path)[-1].keys()
    width, height = Image.open(tmp_path / "sheet_000003.png").size
    assert (width, height) == (4 * 32, 2 * 4 * 32)  # four clips, the teacher's row above the student's
    counted = Counted(EmuVideoPipeline.from_files(narrow / "base", file, None))
    counted.pipeline.video(torch.rand(1, 32, 32, 3), PROMPT)
    assert counted.calls == 2


def test_a_stack_that_keeps_its_given_frames_teaches_one_that_does(narrow: Path, tmp_path: Path) -> None:
    stack = load_stack(narrow / "stack_F.safetensors", dtype=torch.float32)
    stack.config = stack.config.changed(keeps_given=True, image_guidance=1.0)
    save_stack(stack, tmp_path / "stack_F.safetensors", torch.float32)
    shutil.copytree(narrow / "base", tmp_path / "base")
    task = task_of(recipe_of(tmp_path), tmp_path)
    assert task.recipe.method.keep_given
    assert task.config.sampling.keeps_given
    known = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    given, x = task.channels(known, [2], 0, torch.Generator()), torch.randn(1, 4, 4, 4, 4)
    with torch.no_grad():
        for row in task.grid:
            x = task.led(x, row[None], task.guided(task.taught, task.base.encode_text([PROMPT]), given))
    torch.testing.assert_close(x[0, 2], known[0, 2], atol=1e-5, rtol=1e-4)


class Counted:
    """Calls of a pipeline's U-Net."""

    def __init__(self, pipeline: EmuVideoPipeline) -> None:
        self.pipeline, self.calls = pipeline, 0
        pipeline.base.unet.register_forward_pre_hook(self.count)

    def count(self, *_: Any) -> None:
        self.calls += 1


@pytest.mark.parametrize("role", ["F", "I"])
def test_a_run_that_was_stopped_goes_on_to_the_bit(role: str, narrow: Path, tmp_path: Path) -> None:
    recipe = recipe_of(narrow, role, optimisation__steps=2)
    assert go(recipe, tmp_path / "whole")
    assert not go(recipe, tmp_path / "parts", minutes=0)
    assert go(recipe, tmp_path / "parts", resume=True)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    files = [tmp_path / part / "model" / f"stack_{role}.safetensors" for part in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    config = read_config(files[0])
    assert (config.role, config.sampling.image_noise) == (role, 20 if role == "I" else 0)


def test_student_and_teacher_come_together(narrow: Path, tmp_path: Path) -> None:
    recipe = recipe_of(narrow, optimisation__steps=60, optimisation__rate=1.5e-3, optimisation__ema=0.5, every__validate=60)
    task = task_of(recipe, tmp_path)
    with torch.no_grad():
        before = task.validate()
    assert go(recipe, tmp_path / "run")
    after = rows(tmp_path / "run")[-1]
    assert after["val_loss"] < 0.95 * before["val_loss"]  # of random networks: 0.083 and 0.093
    assert after["val_end"] < 0.95 * before["val_end"]


# -- rounds


def test_rounds_halve_the_steps_and_fold_guidance_in_once(narrow: Path) -> None:
    stack = str(narrow / "stack_F.safetensors")
    recipe = of_stack(stack, toy.TINY)
    made = rounds(override(recipe, {"distil.steps": 1}))
    assert [(r.name, r.distil.teacher_steps, r.distil.steps) for r in made] == [
        ("distil_4", 8, 4),
        ("distil_2", 4, 2),
        ("distil_1", 2, 1),
    ]
    assert [(r.distil.text_guidance, r.distil.image_guidance) for r in made] == [(3.0, 2.0), (1.0, 1.0), (1.0, 1.0)]
    direct = rounds(override(recipe, {"distil.teacher_steps": 20, "distil.rounds": 1, "distil.text_guidance": 2.0}))
    assert [(r.name, r.distil.teacher_steps, r.distil.steps, r.distil.text_guidance) for r in direct] == [("distil", 20, 4, 2.0)]
    quarters = rounds(override(recipe, {"distil.steps": 2, "distil.teacher_steps": 32, "distil.rounds": 2}))
    assert [(r.distil.teacher_steps, r.distil.steps) for r in quarters] == [(32, 8), (8, 2)]
    for each in (*made, *direct):
        assert from_dict(json.loads(json.dumps(dataclasses.asdict(each)))) == each
        check_recipe(override(each, {"start.base": str(narrow / "base")}))


def test_recipes_that_were_saved_before_distil_nothing() -> None:
    recipe = toy.RECIPES["tiny-f"]
    values = dataclasses.asdict(recipe)
    del values["distil"]
    assert from_dict(values) == recipe
    assert rounds(recipe) == [recipe]


def test_the_command_line_distils_in_rounds_and_again(narrow: Path, tmp_path: Path) -> None:
    sets = ["--set", "distil.steps=1", "--set", "distil.teacher_steps=4", "--set", "optimisation.steps=1"]
    for name, value in {**LITTLE, "optimisation.steps": 1, "distil.rounds": 0}.items():
        sets += ["--set", f"{name}={value}"]
    common = ["train", "distil", "--stack", narrow / "stack_F.safetensors", "--base", narrow / "base", *sets]
    emu(*common, "--out", tmp_path / "out", "--max-minutes", "0")
    said = emu(*common, "--out", tmp_path / "out", "--resume")
    last = tmp_path / "out" / "2-distil_1" / "model" / "stack_F.safetensors"
    assert f"{last} needs 1 step without guidance" in said
    first = read_config(tmp_path / "out" / "1-distil_2" / "model" / "stack_F.safetensors")
    assert first.sampling.steps == 2
    config = read_config(last)
    assert (config.sampling.steps, config.origin.stage) == (1, "distil_1")
    assert config.origin.source.endswith("(text guidance 3, image guidance 2, 4 steps) to 2, to 1")
    further = ["train", "distil", "--base", narrow / "base", "--out", tmp_path / "again"]
    said = emu(*further, "--stack", last, status=2)
    assert "is distilled already, to 1 step without guidance, and teaches nothing else" in said
    said = emu(
        *further,
        "--stack",
        last.parents[2] / "1-distil_2" / "model",
        "--set",
        "distil.text_guidance=3",
        "--set",
        "distil.steps=1",
        status=2,
    )
    assert "is distilled already, to 2 steps without guidance" in said


# -- what cannot be


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distil.rounds": 2}, "one run is one round, found distil.rounds=2"),
        ({"distil.teacher_steps": 5}, "must be a multiple of distil.steps and at most 1000, found 5 and 2"),
        ({"distil.teacher_steps": 2000}, "must be a multiple of distil.steps and at most 1000, found 2000 and 2"),
        ({"distil.steps": -1}, "distil.steps must be 0 or more, found -1"),
        ({"distil.steps": 0, "name": "distil"}, "recipe 'distil' is a distillation, found distil.steps=0"),
        ({"distil.text_guidance": math.nan}, "distil.text_guidance must be a number, found nan"),
        ({"method.keep_given": True}, "was made with method.keep_given=false, and so is what is distilled from it"),
        ({"method.shared_noise": 1.0}, "was made with method.shared_noise=0.0, and so is"),
        ({"given.text_drop": 0.1}, "no text is dropped: set given.text_drop=0"),
        ({"method.trained": "all"}, "the image model stays frozen: leave method.trained=all out"),
        ({"start.init": ""}, "distillation needs the stack that is to become faster: name its file with --stack"),
        ({"start.init": "nowhere"}, "starts from nowhere, which does not exist"),
        ({"role": "I"}, "an interpolation model is trained on 37 frames, of which 8 are given, found clips.frames=4"),
        ({"role": "I", "clips.frames": 37}, "is a stack of role F, and the recipe is for role I"),
        ({"schedule.zero_snr": False}, "was trained on another noise schedule than the recipe's"),
        ({"family": "sd15"}, "for a base of family sd15, and {base} is of family tiny: name the image model that it"),
        ({"task": "lora"}, "distils no lora: leave distil.steps out"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_begins(narrow: Path, changes: dict[str, Any], said: str) -> None:
    recipe = recipe_of(narrow)
    for name, value in changes.items():
        recipe = override(recipe, {name: value})
    with pytest.raises(ValueError, match="^") as found:
        check_recipe(recipe)
    assert said.format(base=narrow / "base") in str(found.value)


def test_the_command_line_says_what_is_missing(narrow: Path, tmp_path: Path) -> None:
    def refused(*arguments: Any) -> str:
        return emu("train", *arguments, "--out", tmp_path / "out", status=2)

    stack = narrow / "stack_F.safetensors"
    assert "needs the stack that is to become faster: name its file with --stack" in refused("distil")
    assert f"{tmp_path / 'none'} does not exist: name the file of a stack" in refused("distil", "--stack", tmp_path / "none")
    assert "is a stack for a base of family tiny, found --family sd15" in refused("distil", "--stack", stack, "--family", "sd15")
    assert "takes no --init" in refused("distil", "--stack", stack, "--init", stack)
    assert "--stack names what `train distil` makes faster, found the recipe 'tiny-f'" in refused("tiny-f", "--stack", stack)
    assert "keeps the design of the stack" in refused("distil", "--stack", stack, "--ablation", "learned_mixing")
    assert "model_index.json" in refused("distil", "--stack", narrow / "base" / "model_index.json")
    assert "8 steps do not become 3 in 1 rounds" in refused(
        "distil", "--stack", stack, "--set", "distil.steps=3", "--set", "distil.teacher_steps=8"
    )
    assert not (tmp_path / "out").exists()
    converted = Path(__file__).parent / "fixtures" / "saved" / "converted.safetensors"
    assert "is a stack of animatediff, and Emu Video stacks alone are distilled" in refused("distil", "--stack", converted)


# -- the image model


def image_recipe(narrow: Path, **changes: Any) -> Recipe:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    own = {"start.base": str(narrow / "base"), "distil.steps": 2, "distil.teacher_steps": 4, "clips.size": (32, 32), **LITTLE}
    (only,) = rounds(override(of_image_model(toy.TINY), {**own, **dotted}))
    return only


@needs_peft
def test_an_image_model_is_distilled_into_a_lora(narrow: Path, tmp_path: Path) -> None:
    """Resumed to the bit; read by the loader, with a place for each weight; and a second round begins where its teacher is."""
    recipe = image_recipe(narrow, every__sheet=3)
    assert recipe.distil.text_guidance == 7.5
    assert go(recipe, tmp_path / "whole")
    assert not go(recipe, tmp_path / "parts", minutes=0)
    assert go(recipe, tmp_path / "parts", resume=True)
    files = [tmp_path / part / "model" / "few_steps_lora.safetensors" for part in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")
    assert Image.open(tmp_path / "whole" / "sheet_000003.png").size == (32, 8 * 32)
    plain, fast = load_base(narrow / "base"), load_base(narrow / "base", loras=[(files[0], 1.0)])
    moved = {n for n, p in plain.unet.named_parameters() if not torch.equal(p, fast.unet.get_parameter(n))}
    assert len(moved) == len(load_file(files[0])) / 2
    assert any("attn2.to_v" in name for name in moved)
    assert any("conv1" in name for name in moved)
    half = image_recipe(narrow, compute__precision="bfloat16", optimisation__steps=1, every__validate=0)
    assert go(half, tmp_path / "half")
    assert rows(tmp_path / "half")[0]["loss"] == pytest.approx(rows(tmp_path / "whole")[0]["loss"], rel=0.05)
    second = task_of_image(image_recipe(narrow, start__init=str(files[0].parent), distil__steps=1), tmp_path)
    x, t = torch.randn(1, 1, 4, 4, 4), torch.tensor(500)
    text = second.base.encode_text([PROMPT])
    with torch.no_grad():
        student, teacher = second.predict(x, t, text, None), second.taught(x, t, text, None)
        alone = fast.unet(x[:, 0], t, text.hidden).sample[:, None]
    torch.testing.assert_close(student, teacher, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(teacher, alone, atol=1e-5, rtol=1e-5)
    assert (second.recipe.distil.text_guidance, second.recipe.distil.teacher_steps) == (1.0, 4)


def task_of_image(recipe: Recipe, folder: Path) -> Any:
    return TASKS["image"](recipe, folder)


@needs_peft
def test_the_image_models_student_is_taught_what_the_pipeline_makes(narrow: Path, tmp_path: Path) -> None:
    task = task_of_image(image_recipe(narrow, distil__steps=1), tmp_path)
    pipeline = EmuVideoPipeline.from_files(narrow / "base", None, None)
    made = pipeline.starting_frame(PROMPT, Settings(steps=4, size=(32, 32), seed=3, t2i_guidance=7.5))
    noise = torch.randn(1, 1, 4, 4, 4, generator=stream(3))
    with torch.no_grad():
        end = task.led(noise, task.grid, task.guided(task.taught, task.base.encode_text([PROMPT]), None))
    torch.testing.assert_close(task.base.decode_latents(end[0]), made, atol=2e-4, rtol=1e-3)


def test_clips_of_an_image_model_are_single_pictures(narrow: Path) -> None:
    with pytest.raises(ValueError, match="learns from single pictures, found clips.frames=2: set clips.frames=1"):
        check_recipe(image_recipe(narrow, clips__frames=2))


@needs_peft
def test_an_image_model_is_distilled_in_rounds(narrow: Path, tmp_path: Path) -> None:
    own = {
        **LITTLE,
        "optimisation.steps": 1,
        "distil.steps": 1,
        "distil.teacher_steps": 4,
        "distil.rounds": 0,
        "clips.size": "32,32",
    }
    sets = [part for name, value in own.items() for part in ("--set", f"{name}={value}")]
    said = emu("train", "distil-image", "--base", narrow / "base", *sets, "--out", tmp_path)
    file = tmp_path / "2-distil_image_1" / "model" / "few_steps_lora.safetensors"
    assert f"{file} needs 1 step without guidance" in said
    first = json.loads((tmp_path / "1-distil_image_2" / "recipe.json").read_text())["distil"]
    second = json.loads((tmp_path / "2-distil_image_1" / "recipe.json").read_text())["distil"]
    assert [(d["teacher_steps"], d["steps"], d["text_guidance"]) for d in (first, second)] == [(4, 2, 7.5), (2, 1, 1.0)]
    load_base(narrow / "base", loras=[(file, 1.0)])
