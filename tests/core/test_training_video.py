"""Training of stacks on the narrow image model: what it must not change, what it must give again, each arm of the recipes."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emu_core.checkpoint import load_stack, read_config
from emu_core.cli.main import main
from emu_core.data.curate import Curation, curate
from emu_core.model.schedule import add_noise, frame_noise, target
from emu_core.model_folder import BUNDLED
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings
from emu_core.toy import demo
from emu_core.toy import recipes as toy
from emu_core.training import folder as files
from emu_core.training import loop, memory, paper, video
from emu_core.training.checks import check_recipe
from emu_core.training.loop import Trainer
from emu_core.training.processes import fingerprint
from emu_core.training.recipes import Recipe, override
from emu_core.training.sources import Batch
from emu_core.training.video import draw_positions, sample_generator

from .helpers import DOUBLE
from .narrow import narrow_folder
from .tiny_training import SD15, VideoTask, small, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "plot_losses", lambda folder: None)
        yield


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 clips of 4 s, curated from mp4 files with damaged ones among them."""
    folder = tmp_path_factory.mktemp("data")
    return str(demo.make_shards(folder / "videos", folder / "shards", 24))


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in rows(folder)]


def in_float64(task: video.VideoTask) -> Any:
    """The loss as a function of a batch, in networks where no kernel's rounding is seen (see helpers.DOUBLE)."""
    task.base.to(dtype=DOUBLE)
    return task.to(DOUBLE)


# -- the numbers of a run


def test_frozen_parts_are_the_same_before_and_after_and_only_the_stack_moves(tmp_path: Path) -> None:
    base_file = narrow_folder() / "unet" / "diffusion_pytorch_model.safetensors"
    before = base_file.read_bytes()
    task = VideoTask(small(), tmp_path)
    trainer = Trainer(small(), task, tmp_path)
    assert {name.split(".")[1] for name in trainer.trained} == {"stack"}
    start = fingerprint(task.frozen())
    trainer.run()
    assert (fingerprint(task.frozen()), json.loads((tmp_path / "frozen.json").read_text())["sha256_after"]) == (start, start)
    assert base_file.read_bytes() == before
    assert any(value.any() for name, value in trainer.trained.items() if name.endswith("conv.weight"))
    config = read_config(tmp_path / "model" / "stack_F.safetensors")
    assert config.schedule.prediction == "epsilon"
    assert (config.origin.stage, config.clip.fps, config.clip.frames) == ("stage1_256px", 8.0, 4)


def test_first_loss_is_that_of_the_image_model_alone(tmp_path: Path) -> None:
    """An identity stack changes nothing, so the loss of step 1 can be had from the plain U-Net."""
    recipe = small(text_drop="0", image_drop="0.9")
    task = VideoTask(recipe, tmp_path)
    batch: Batch = next(task.stream([range(4)]))
    loss, _ = in_float64(task)(batch, None, 0.0)
    errors = []
    for i, position in enumerate(batch.positions):
        generator = sample_generator(recipe.optimisation.seed, position)
        said = batch.says(i, generator, 0.0)
        task.given(batch.latents[i], generator)  # draws as many numbers as in training
        noise = frame_noise(batch.latents[i].shape, generator)
        t = task.timestep(position).expand(len(noise))
        x = add_noise(recipe.schedule, batch.latents[i], noise, t)
        text = task.base.encode_text([said]).hidden.expand(len(noise), -1, -1)
        with torch.no_grad():
            output = task.base.unet(x.to(DOUBLE), t, text).sample
        errors.append((output.float() - target(recipe.schedule, batch.latents[i], noise, t)).square().mean())
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)  # sums of a thousand squares in float32


def test_an_error_counts_as_much_as_its_place_does(tmp_path: Path) -> None:
    """The upper half twice and the lower one not at all, and the other way round: their mean is the plain loss."""
    recipe = small("stage2_512px", world__kind="little", world__figures="1")
    task = VideoTask(recipe, tmp_path)
    batch: Batch = next(task.stream([range(4)]))
    assert batch.counts is not None
    assert batch.counts.shape == (4, 1, 1, *batch.latents.shape[-2:])
    assert set(batch.counts.flatten().tolist()) >= {1.0, 2.0}
    halves = torch.zeros_like(batch.counts)
    halves[..., : halves.shape[-2] // 2, :] = 2
    with torch.no_grad():
        whole, upper, lower = (
            float(task(replace(batch, counts=counts), torch.Generator(), 0.0)[0]) for counts in (None, halves, 2 - halves)
        )
    assert upper != pytest.approx(lower, rel=1e-3)
    assert (upper + lower) / 2 == pytest.approx(whole, rel=1e-5)


def test_timesteps_of_a_step_are_spread_over_the_schedule_whoever_asks(tmp_path: Path) -> None:
    task = VideoTask(small(optimisation__batch="8"), tmp_path)
    for step in range(3):
        t = sorted(int(task.timestep(8 * step + i)) for i in range(8))
        assert [value // 125 for value in t] == list(range(8))


@pytest.mark.slow
def test_sheet_and_validation_of_the_procedural_world(tmp_path: Path) -> None:
    recipe = small("stage2_512px", clips__size="64,64", clips__validation="4")
    task = VideoTask(recipe, tmp_path)
    with torch.no_grad():
        first, again = task.validate(), task.validate()
        figures = task.sheet(tmp_path / "sheet.png", count=8)
    assert first == again  # fixed clips, words and noise
    assert set(first) == {"val_loss", "val_loss_1", "val_loss_2", "val_loss_3", "val_loss_4"}
    assert first["val_loss"] == pytest.approx(np.mean([first[f"val_loss_{i}"] for i in range(1, 5)]))
    assert {"direction", "path_error_px"} <= set(figures)
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_the_procedural_world_trains_in_half_precision_and_without_clips_that_measure(tmp_path: Path) -> None:
    changes = {"world.cache": "4", "compute.precision": "bfloat16", "clips.validation": "0", "every.validate": "1"}
    recipe = override(small("stage2_512px", steps=2), {**changes, "every.sheet": "2"})
    train(recipe, tmp_path / "half")
    train(override(recipe, {"compute.precision": "float32"}), tmp_path / "exact")
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "exact"), rel=0.05)  # 8 bits of mantissa
    assert not any("val_loss" in row for row in rows(tmp_path / "half"))


def test_recomputed_activations_give_the_same_gradients(tmp_path: Path) -> None:
    gradients = []
    for flag in ("false", "true"):
        task = VideoTask(small(compute__checkpointing=flag, method__start="random"), tmp_path)
        batch = next(task.stream([range(2)]))
        in_float64(task)
        kept = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss, _ = task(batch, None, 0.0)
        loss.backward()
        gradients.append((kept, {n: p.grad.clone() for n, p in task.named_parameters()}))
    (much, plain), (little, recomputed) = gradients
    assert little < much / 5
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value)


def test_activations_are_recomputed_as_they_were_in_16_bits(tmp_path: Path) -> None:
    """In the backward pass, with the same kernel of attention as in the forward one."""
    found = []
    for flag in ("false", "true"):
        recipe = small(compute__checkpointing=flag, compute__precision="bfloat16", method__start="random")
        trainer = Trainer(recipe, VideoTask(recipe, tmp_path), tmp_path / flag)
        figures = trainer.one_step(trainer.task.stream([range(4)]))
        found.append((figures["loss"], figures["grad_norm"]))
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize("name", [n for n in paper.ABLATIONS if n != "single_stage"])
def test_every_ablation_trains_and_its_stack_makes_a_video(name: str, tmp_path: Path) -> None:
    recipe = paper.ablate(small("stage2_512px", steps=2), [name])
    train(recipe, tmp_path)
    assert all(np.isfinite(losses(tmp_path)))
    model = tmp_path / "model"
    stack, whole = (load_stack(folder / "stack_F.safetensors") for folder in (model, narrow_folder()))
    expected: dict[str, Callable[[], bool]] = {
        "direct": lambda: not stack.config.takes_image and stack.conv_in is None,
        "standard_snr": lambda: not stack.config.schedule.zero_snr and stack.config.schedule.prediction == "v_prediction",
        "all_trained": lambda: (model / "unet" / "config.json").is_file() and (model / "vae").is_dir(),
        "learned_mixing": lambda: len(stack.mixes) == len(stack.layers),
        "correlated_noise": lambda: stack.config.sampling.shared_noise == 1.0,
        "random_start": lambda: all(p.any() for n, p in stack.named_parameters() if n.endswith("weight") and "conv_in" not in n),
        "convolutions_alone": lambda: {site.kind for site in stack.config.sites} == {"conv"},
        "attention_alone": lambda: {site.kind for site in stack.config.sites} == {"attention"},
        "depthwise": lambda: all(layer.conv.weight.shape[1] == 1 for layer in stack.layers.values() if hasattr(layer, "conv")),
        "directed": lambda: getattr(stack.config.layers, "directed", False),
        "textless": lambda: stack.config.layers.kinds == ("self",),
        "cosine": lambda: stack.config.schedule.beta_schedule == "cosine",
        "slim": lambda: 2 * sum(p.numel() for p in stack.parameters()) < sum(p.numel() for p in whole.parameters()),
    }
    assert expected[name]()
    base = str(model if name == "all_trained" else narrow_folder())
    pipeline = EmuVideoPipeline.from_files(base, str(model / "stack_F.safetensors"), None)
    video = pipeline("a big red circle moves right", Settings(frames=4, size=(32, 32), steps=2), interpolate=False).video
    assert video.shape == (4, 32, 32, 3)
    if name == "all_trained":
        loaded = pipeline.base.unet.state_dict()
        original = EmuVideoPipeline.from_files(narrow_folder(), None, None).base.unet.state_dict()
        assert any(not torch.equal(value, original[key]) for key, value in loaded.items())


def test_correlated_noise_shares_half_of_its_power() -> None:
    noise = frame_noise((4, 50_000), torch.Generator().manual_seed(0), 1.0)
    covariance = noise @ noise.T / noise.shape[1]
    error = (2 / noise.shape[1]) ** 0.5  # the standard error of a variance of 1
    torch.testing.assert_close(covariance, 0.5 + 0.5 * torch.eye(4), atol=4 * error, rtol=0)


def test_given_frames_are_the_first_alone_where_the_recipe_says_so() -> None:
    generator = torch.Generator().manual_seed(0)
    assert all(draw_positions(8, generator, first=1.0) == [0] for _ in range(200))
    drawn = [tuple(draw_positions(8, generator, 0.7)) for _ in range(2000)]
    assert 0.67 < sum(d == (0,) for d in drawn) / 2000 < 0.76  # a few more come from the other sets
    assert 0.08 < sum(d == (0, 7) for d in drawn) / 2000 < 0.13


# -- real videos


def test_shards_train_with_and_without_kept_latents(shards: str, tmp_path: Path) -> None:
    """What is kept is what is made as it is needed, rounded to 16 bits, and either is what a run begins with."""
    recipe = small(clips__shards=shards, clips__starts="2")
    recipes = {"live": recipe, "kept": override(recipe, {"compute.cache": "true"})}
    tasks = {name: VideoTask(each, tmp_path / name) for name, each in recipes.items()}
    live, kept = (next(task.stream([range(4)])) for task in tasks.values())
    assert (kept.positions, kept.captions) == (live.positions, live.captions)
    text = tasks["live"].base.encode_text([str(said) for said in live.captions]).hidden
    for found, exact in ((kept.latents, live.latents), (kept.text, text)):
        assert found is not None
        assert torch.equal(found, found.half().float())
        assert not torch.equal(exact, exact.half().float())
        # half a step of float16 is 2^-11 of a value; twice that, since the two encode other numbers of frames at a time, whose
        # rounding in float32 may decide to which side
        torch.testing.assert_close(found, exact, rtol=2**-10, atol=1e-5)
    for (name, task), batch in zip(tasks.items(), (live, kept), strict=True):
        train(recipes[name], tmp_path / name)
        assert np.isfinite(losses(tmp_path / name)).all()
        assert losses(tmp_path / name)[0] == pytest.approx(task(batch, None, 0.0)[0].item())
    assert len(list((tmp_path / "kept").glob("cache-*"))) == 1


def test_of_several_captions_each_epoch_has_the_next(shards: str, tmp_path: Path) -> None:
    """Words and kept states of words are those of the same caption."""
    counts = [3, 1, 2]
    (tmp_path / "in").mkdir()
    for number, count in enumerate(counts):
        os.link(Path(shards, "../videos", f"clip-{number:05d}.mp4").resolve(), tmp_path / f"in/{number}.mp4")
        said = {"captions": [f"clip {number} in words {index}" for index in range(count)]}
        (tmp_path / f"in/{number}.json").write_text(json.dumps(said))
    curate([str(tmp_path / "in")], tmp_path / "shards", Curation(8.0, 64))
    recipe = small(clips__shards=str(tmp_path / "shards"), clips__starts="1", clips__validation="0")
    tasks = [VideoTask(override(recipe, {"compute.cache": kept}), tmp_path / kept) for kept in ("false", "true")]
    positions = [range(3 * epoch, 3 * epoch + 3) for epoch in range(6)]
    heard: list[str] = []
    for live, kept in zip(*(task.stream(positions) for task in tasks), strict=True):
        assert live.captions == kept.captions
        heard += live.captions
        text = tasks[0].base.encode_text([str(said) for said in live.captions]).hidden
        torch.testing.assert_close(kept.text, text, rtol=2**-10, atol=1e-5)
    wanted = {f"clip {n} in words {index}": 6 // count for n, count in enumerate(counts) for index in range(count)}
    assert Counter(heard) == wanted


def test_stale_latents_cannot_be_used(shards: str, tmp_path: Path) -> None:
    recipe = small(clips__shards=shards, clips__starts="1", compute__cache="true")
    first = VideoTask(recipe, tmp_path).source.kept  # type: ignore[attr-defined]
    assert first.arrays["done"].all()
    first.arrays["latents"][0] += 1  # what is there is used again, and not made anew
    first.arrays["latents"].flush()
    again = VideoTask(recipe, tmp_path).source.kept  # type: ignore[attr-defined]
    assert again.folder == first.folder
    assert np.array_equal(again.arrays["latents"], first.arrays["latents"])
    for change in ({"clips.fps": "4"}, {"clips.frames": "5"}, {"clips.starts": "2"}, {"optimisation.seed": "1"}):
        assert VideoTask(override(recipe, change), tmp_path).source.kept.folder != first.folder  # type: ignore[attr-defined]


def test_clips_that_measure_are_never_trained_on(shards: str, tmp_path: Path) -> None:
    task = VideoTask(small(clips__shards=shards, clips__validation="3"), tmp_path)
    source: Any = task.source
    epoch = {source.dataset.order[p] for p in range(len(source.dataset))}
    out = set(source.out_rows.tolist())
    assert out
    assert not out & epoch
    assert len(out) + len(epoch) == len(source.shards)
    later: Any = VideoTask(small("stage2_512px", clips__shards=shards, clips__validation="3"), tmp_path).source
    assert set(later.out_rows.tolist()) == out


# -- stopping, resuming, several processes


def run_cli(*arguments: str, wait: bool = True) -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "emu_core", *arguments]
    if not wait:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)


def write(recipe: Recipe, path: Path) -> str:
    path.write_text(json.dumps(dataclasses.asdict(recipe)))
    return str(path)


def wait_for(condition: Callable[[], bool], process: Any) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end
        assert process.poll() is None, "the run was over before it could be killed"
        time.sleep(0.001)


@pytest.mark.slow
def test_killed_runs_end_as_if_they_had_not_been(shards: str, tmp_path: Path) -> None:
    """kill -9 in the middle of a step, of a checkpoint, and of an epoch of 22 clips; losses and weights to the bit."""
    recipe = small(steps=24, clips__shards=shards, save_every="3", clips__workers="1")
    file = write(recipe, tmp_path / "recipe.json")
    assert run_cli("train", file, "--out", str(tmp_path / "whole")).returncode == 0
    killed = tmp_path / "killed"

    def written() -> int:
        path = killed / "log.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def half_a_checkpoint() -> bool:
        return written() > 9 and any(any(part.iterdir()) for part in killed.glob(".checkpoint-*.part"))

    for condition in (lambda: written() >= 5, half_a_checkpoint, lambda: written() >= 17):
        resume = ["--resume"] if killed.exists() else []
        process = run_cli("train", file, "--out", str(killed), *resume, wait=False)
        wait_for(condition, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (killed / "model").exists()
    assert run_cli("train", file, "--out", str(killed), "--resume").returncode == 0
    assert (killed / "log.jsonl").read_text() == (tmp_path / "whole" / "log.jsonl").read_text()
    files = [folder / "model" / "stack_F.safetensors" for folder in (killed, tmp_path / "whole")]
    ends = [load_file(file) for file in files]
    assert {n: float((v - ends[1][n]).abs().max()) for n, v in ends[0].items() if not torch.equal(v, ends[1][n])} == {}
    assert hashlib.sha256(files[0].read_bytes()).digest() == hashlib.sha256(files[1].read_bytes()).digest()
    assert not list(killed.glob(".checkpoint*"))


@pytest.mark.slow
def test_a_chain_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    little = {"optimisation.steps": "2", "optimisation.batch": "2", "clips.validation": "2", "clips.workers": "0"}
    little |= {"compute.cache": "false", "clips.starts": "0"}
    chain = replace(toy.CHAINS["tiny-demo"], changes={"": little}, demo=24)
    monkeypatch.setitem(toy.CHAINS, "tiny-demo", chain)
    command = ["train", "chain", "tiny-demo", "--out", str(tmp_path)]
    assert main([*command, "--max-minutes", "0"]) == 0
    assert "stage1_256px stopped before its end: go on with --resume" in capsys.readouterr().out
    assert [p.name for p in sorted(tmp_path.glob("?-*"))] == ["1-stage1_256px"]
    assert main(command) == 2
    assert "holds a chain already: go on with --resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert [p.name for p in sorted(tmp_path.glob("?-*"))] == [f"{i}-{n}" for i, n in enumerate(paper.STAGES, 1)]
    assert all((folder / "model").is_dir() and (folder / "done.json").is_file() for folder in tmp_path.glob("?-*"))
    for before, after in itertools.pairwise(sorted(tmp_path.glob("?-*"))):
        assert json.loads((after / "recipe.json").read_text())["start"]["init"] == str(before / "model")
    config = read_config(tmp_path / "5-interpolation" / "model" / "stack_I.safetensors")
    assert (config.role, config.clip.frames, config.sampling.image_noise) == ("I", 37, 20)
    judged = json.loads((tmp_path / "judge.json").read_text())
    assert {"direction", "amount", "between_error_px"} <= judged.keys()
    assert "direction" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one(mode: str, shards: str, tmp_path: Path) -> None:
    # At the paper's rate: AdamW's first steps turn the rounding of gradients near zero into steps as long as the rate. Where a
    # weight's gradient is no more than rounding, such a step moves the loss by no more than rounding.
    recipe = small(steps=4, clips__shards=shards, validate_every="4", sheet_every="4", optimisation__rate="1e-4")
    start = VideoTask(recipe, tmp_path).model.stack.state_dict()
    train(recipe, tmp_path / "one")
    several = override(recipe, {"compute.parallel": mode})
    done = run_cli("train", write(several, tmp_path / "recipe.json"), "--out", str(tmp_path / "two"), "--processes", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    for name, step in (("grad_norm", 0), ("val_loss", -1)):
        assert rows(tmp_path / "two")[step][name] == pytest.approx(rows(tmp_path / "one")[step][name], rel=1e-5), name
    ends = [load_stack(tmp_path / run / "model" / "stack_F.safetensors").state_dict() for run in ("one", "two")]
    one, two = (torch.cat([(end[name] - value).flatten() for name, value in start.items()]) for end in ends)
    assert (two - one).norm() < 0.05 * one.norm()  # few weights went the other way; were the gradients others, many would
    longer = override(recipe, {"optimisation.steps": "5"})  # what two wrote, one goes on with
    train(longer, tmp_path / "two", resume=True)
    assert len(losses(tmp_path / "two")) == 5


# -- memory


def test_activations_are_counted_as_autograd_keeps_them(tmp_path: Path) -> None:
    """The count on shapes alone against a real pass of the same model in 16 bits' worth of bytes."""
    for frames in (4, 8):
        task = VideoTask(
            small(base=str(BUNDLED), method__start="random", clips__frames=str(frames), clips__size="64,64"), tmp_path
        )
        known = {p.untyped_storage()._cdata for p in [*task.base.unet.parameters(), *task.model.stack.parameters()]}
        kept: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor, known: Any = known, kept: Any = kept) -> torch.Tensor:
            if tensor.untyped_storage()._cdata not in known:
                kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        x = torch.randn(2, frames, task.base.latent_channels, 8, 8)
        text = task.base.encode_text(["a big red circle"] * 2).hidden
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            task.model(x, torch.tensor([5, 6]), text, torch.cat([x, x[:, :, :1]], 2))
        real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        counted = memory._counted("tiny", "full", frames, (64, 64), False, False, False)[2] * 4  # two clips, 4 bytes a number
        assert counted == pytest.approx(real, rel=0.1)


@pytest.mark.slow
def test_fit_chooses_what_fits_and_refuses_what_cannot() -> None:
    for size in ("12GB", "24GB", "80GB"):
        recipe, said = memory.fit(paper.stage1_256px(SD15), size)
        assert memory.needs(recipe, recipe.compute.micro).total <= memory.read_size(size)
        assert recipe.optimisation.batch % recipe.compute.micro == 0
        assert f"--fit {size} chose: batch 32 as {32 // recipe.compute.micro} x {recipe.compute.micro}, bfloat16" in said
    with pytest.raises(
        ValueError, match=r"'stage2_512px' for sd15 does not fit 8GB: .*needs 1\d\.\d GB in all: .*--ablation slim"
    ):
        memory.fit(paper.stage2_512px(SD15), "8GB")
    recipe, said = memory.fit(paper.ablate(paper.stage2_512px(SD15), ["slim"]), "8GB")
    assert recipe.compute.checkpointing
    assert "gradient checkpointing" in said
    for wrong in ("much", "0GB", "-3GB"):
        with pytest.raises(ValueError, match="--fit takes the memory of a GPU such as 8GB"):
            memory.fit(paper.stage1_256px(SD15), wrong)


@pytest.mark.slow
def test_training_the_stack_alone_needs_less_than_six_tenths_of_training_all() -> None:
    recipe = override(paper.stage2_512px(SD15), {"clips.size": "64,64", "compute.cache": "true"})
    alone, everything = memory.needs(recipe, 1), memory.needs(paper.ablate(recipe, ["all_trained"]), 1)
    assert alone.total <= 0.6 * everything.total


# -- what cannot work


def test_other_faults_are_said_before_the_first_step(shards: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected videos of at least 15\.00 s .*the longest of 24 lasts"):
        VideoTask(small(clips__shards=shards, clips__fps="0.2"), tmp_path)
    with pytest.raises(ValueError, match="/nowhere: expected a folder that emu-video curate finished"):
        VideoTask(small(clips__shards="/nowhere"), tmp_path)
    with pytest.raises(ValueError, match="expected the selection 'best'"):
        VideoTask(small(clips__shards=shards, clips__selection="best"), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        train(small(), tmp_path / "file" / "run")
    with pytest.raises(ValueError, match="and the checkpoints of this run need 1048576.0 GB: make room"):
        files.check_folder(tmp_path, 2**50)
    train(small(steps=1), tmp_path / "run")
    with pytest.raises(ValueError, match="continue with --resume, or name another folder"):
        train(small(steps=1), tmp_path / "run")
    learned = small(init=str(tmp_path / "run" / "model"), method__mixing="learned")
    with pytest.raises(ValueError, match="was trained with method.mixing=residual, the recipe asks for learned"):
        check_recipe(learned)
    with pytest.raises(ValueError, match="takes a starting frame, and the recipe has method.image=false"):
        check_recipe(small(init=str(tmp_path / "run" / "model"), method__image="false"))
