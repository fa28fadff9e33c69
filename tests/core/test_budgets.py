"""The recipes of the little world for a GPU beside those for a CPU: all of them, of the same networks, small enough together."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from emu_core.base.architectures import STACK_SETTINGS, STACKS
from emu_core.cli.main import main
from emu_core.model.stack import TemporalStack
from emu_core.model_folder import BUNDLED
from emu_core.toy import bundle, lora, recipes, world
from emu_core.toy.autoencoder import build_vae
from emu_core.toy.tasks import TASKS
from emu_core.toy.text import build_text_encoder, build_tokenizer
from emu_core.toy.text_to_image import build_unet
from emu_core.training import distil_image
from emu_core.training.claim import differences
from emu_core.training.loop import Trainer
from emu_core.training.processes import Processes
from emu_core.training.recipes import Recipe, from_dict, override

from .saved import ROOT

CPU, GPU = recipes.BUDGETS["cpu"], recipes.BUDGETS["gpu"]
LIMIT = 25_000_000  # bytes of the bundled model
LONGER = ("optimisation.batch", "optimisation.warmup", "optimisation.ema", "world.cache")
needs_peft = pytest.mark.skipif(not find_spec("peft"), reason="a LoRA is trained with peft, and it is not installed")


def test_each_recipe_of_the_little_world_has_both_budgets_and_the_larger_differs_in_its_length_alone() -> None:
    assert list(CPU) == list(GPU) == [name for name in recipes.RECIPES if name.startswith("little-")]
    for name, gpu in GPU.items():
        cpu = recipes.RECIPES[name]
        assert CPU[name] is cpu
        assert {line.partition(" was ")[0] for line in differences(cpu, gpu)} == set(LONGER)
        steps = [recipe.optimisation.steps for recipe in (cpu, gpu)]
        assert steps[0] < steps[1]
        assert gpu.optimisation.batch > cpu.optimisation.batch
        assert gpu.world.cache > cpu.world.cache
        for of_steps in ("every.sheet", "every.save", "every.validate", "optimisation.warmup"):
            was, now = (at(recipe, of_steps) / total for recipe, total in zip((cpu, gpu), steps, strict=True))
            assert now == was, of_steps
        looks_back = [1 / (1 - recipe.optimisation.ema) / total for recipe, total in zip((cpu, gpu), steps, strict=True)]
        assert looks_back[1] == pytest.approx(looks_back[0], rel=0.01)


def at(recipe: Recipe, name: str) -> Any:
    part, _, own = name.partition(".")
    return getattr(getattr(recipe, part), own)


@pytest.mark.parametrize("name", GPU)
def test_the_command_line_resolves_both(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for budget, expected in (([], CPU), (["--budget", "cpu"], CPU), (["--budget", "gpu"], GPU)):
        assert main(["recipes", name, *budget, "--base", str(BUNDLED), "--set", "optimisation.clip=2"]) == 0
        shown = from_dict(json.loads(capsys.readouterr().out))
        assert shown == override(expected[name], {"start.base": str(BUNDLED), "optimisation.clip": 2.0})
    assert from_dict(json.loads(json.dumps(dataclasses.asdict(GPU[name])))) == GPU[name]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("recipes stage1_256px --family sd15", "recipe 'stage1_256px'"),
        ("train tiny-f", "recipe 'tiny-f'"),
        ("train distil --stack x", "recipe 'distil'"),
        ("train chain tiny-demo", "chain 'tiny-demo'"),
        ("recipes runs/little-f/recipe.json", "recipe 'runs/little-f/recipe.json'"),
    ],
)
def test_what_has_no_budgets_says_so(arguments: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments.split(), "--budget", "gpu"]) == 2
    said = f"emu-video: {what} has no budgets, as the recipes that begin with little- have: leave --budget out\n"
    assert capsys.readouterr().err == said


def test_processes_without_a_gpu_each_are_refused_for_every_recipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert main(["train", "little-vae", "--budget", "gpu", "--processes", "4", "--out", str(tmp_path / "run")]) == 2
    assert "--processes 4 needs as many GPUs, and this machine has 2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def lora_size(unet: nn.Module, targets: tuple[str, ...], rank: int) -> int:
    """Numbers of a LoRA: of each layer `rank` directions in and out."""
    layers = [(name, module) for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    chosen = [module for name, module in layers if name.endswith(tuple(f".{target}" for target in targets))]
    return sum(rank * (module.weight[0].numel() + len(module.weight)) for module in chosen)


@pytest.mark.parametrize("budget", recipes.BUDGETS)
def test_what_each_budget_makes_fits_the_bundle(budget: str) -> None:
    """Counted on networks without weights, in float16; the bundled files, which the smaller budget made, are as large as that."""
    of = recipes.BUDGETS[budget]
    vae_of, unet_of, decoder_of = (of[name].network for name in ("little-vae", "little-t2i-late", "little-vae-sharp"))
    assert vae_of == decoder_of
    with torch.device("meta"):
        vae, unet = build_vae(vae_of.latents, vae_of.widths), build_unet(unet_of.widths, unet_of.layers, vae_of.latents)
        text = build_text_encoder(len(build_tokenizer(world.vocabulary())))
        stacks = []
        for name in ("little-f-camera", "little-i", "little-f-fast"):
            shape = STACK_SETTINGS["tiny"] | STACKS[of[name].method.stack] | {"mixing": of[name].method.mixing}
            stacks.append(TemporalStack.for_unet(unet, base="tiny", **shape))
    numbers = sum(p.numel() for network in (vae, unet, text, *stacks) for p in network.parameters())
    numbers += lora_size(unet, distil_image.TARGETS, bundle.RANK) + lora_size(unet, lora.TARGETS, lora.RANK)
    assert 2 * numbers < LIMIT
    if budget == "cpu":
        files = sum(file.stat().st_size for file in (ROOT / "emu_core" / "assets").rglob("*.safetensors"))
        assert files == pytest.approx(2 * numbers, rel=0.01)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=needs_peft if "lora" in n or n == "little-t2i-fast" else ()) for n in GPU]
)
def test_a_step_of_each_recipe_for_a_gpu_runs_here(name: str, tmp_path: Path) -> None:
    """At the full width, from the bundled model's weights in the place of the earlier recipe's, of two samples."""
    recipe = GPU[name]
    starts = {"video": BUNDLED / "stack_F.safetensors", "image": ""}
    changes = {"optimisation.batch": 2, "world.cache": 8, "clips.validation": 0, "start.base": str(BUNDLED)}
    if recipe.start.init:
        changes["start.init"] = str(starts.get(recipe.task, BUNDLED))
    task = TASKS[recipe.task](override(recipe, changes), tmp_path, Processes())
    trainer = Trainer(override(recipe, changes), task, tmp_path)
    before = {name: p.detach().clone() for name, p in trainer.trained.items()}
    figures = trainer.one_step(task.stream(range(first, first + 2) for first in count(0, 2)))
    assert 0 < figures["loss"] < 10
    assert sum(not torch.equal(p, before[name]) for name, p in trainer.trained.items()) > len(before) / 3
