"""Every task trains on the device of its process, and nothing of a step is made elsewhere."""

from __future__ import annotations

import json
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from emu_core.toy import autoencoder, lora, recipes, text_to_image
from emu_core.toy.source import WorldSource
from emu_core.training import checkpoints, loop, run, video
from emu_core.training.processes import Processes
from emu_core.training.recipes import Recipe, override

from .narrow import narrow_folder
from .pretended import DEVICE, pretended, there
from .tiny_training import train

FEW = {
    **dict.fromkeys(("optimisation.steps", "every.sheet", "every.validate"), 3),  # the last of an autoencoder has whole pictures
    **{"optimisation.batch": 4, "optimisation.warmup": 1, "clips.validation": 2, "world.cache": 5},
    **{"compute.precision": "bfloat16", "clips.size": (32, 32)},
}
SMALL: dict[str, dict[str, Any]] = {
    "tiny-vae": {},
    "little-vae-sharp": {"network.widths": (32, 32, 64, 64)},
    "little-t2i-wide": {"network.widths": (32, 64)},
    "little-lora": {},
    "little-f-camera": {"clips.frames": 4},
    "little-i": {},
    "little-f-fast": {"clips.frames": 4},
    "little-t2i-fast": {"distil.rank": 2},
}
"""Recipes of all that is trained, and what else makes each small."""
needs_peft = pytest.mark.skipif(not find_spec("peft"), reason="a LoRA is trained with peft, and it is not installed")
NAMES = [pytest.param(name, marks=needs_peft if name in ("little-lora", "little-t2i-fast") else ()) for name in SMALL]


def small(name: str) -> Recipe:
    recipe, base = recipes.RECIPES[name], narrow_folder()
    start = base if recipe.task == "little_autoencoder" else base / "stack_F.safetensors" if recipe.task == "video" else ""
    return override(recipe, {**FEW, "start.base": str(base), "start.init": str(start), **SMALL[name]})


def trained(recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, torch.Tensor], list[bool]]:
    """A run's log, all weights that it exports, and whether each that it trained was on the pretended device."""
    places: list[bool] = []
    begin = loop.Trainer.begin
    monkeypatch.setattr(loop.Trainer, "begin", lambda self: (places.extend(map(there, self.trained.values())), begin(self))[1])
    train(recipe, folder)
    monkeypatch.setattr(loop.Trainer, "begin", begin)
    files = sorted((folder / "model").rglob("*.safetensors"))
    weights = {f"{file.name} {name}": value for file in files for name, value in load_file(file).items()}
    return (folder / "log.jsonl").read_text(), weights, places


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pictures and steps beside the training itself, and no checkpoints."""
    for task in (autoencoder.AutoencoderTask, autoencoder.LittleAutoencoderTask):
        typical = task.typical
        monkeypatch.setattr(task, "typical", lambda self, count, seconds=1.0, of=typical: of(self, count // 25, seconds))
    draw = text_to_image.draw
    for module in (text_to_image, lora):
        monkeypatch.setattr(module, "draw", lambda *given: draw(*given[:4], 16, given[5]))
    examples = WorldSource.examples
    monkeypatch.setattr(WorldSource, "examples", lambda self, count: examples(self, 8))
    monkeypatch.setattr(text_to_image, "STEPS", 2)
    monkeypatch.setattr(video, "SHEET_STEPS", 2)
    monkeypatch.setattr(checkpoints, "save", lambda *_: None)
    monkeypatch.setattr(loop, "plot_losses", lambda folder: None)


@pytest.mark.parametrize("name", NAMES)
def test_every_task_trains_on_its_device_and_makes_there_what_a_cpu_makes(
    name: str, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, weights, places = trained(small(name), tmp_path / "cpu", monkeypatch)
    assert not any(places)
    monkeypatch.setattr(run, "processes", lambda need_group: nullcontext(Processes(device=DEVICE)))
    with pretended():
        other_log, other_weights, places = trained(small(name), tmp_path / "device", monkeypatch)
    assert places
    assert all(places)
    assert [json.loads(row) for row in other_log.splitlines()] == [json.loads(row) for row in log.splitlines()]
    assert weights
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(value, other_weights[key]) for key, value in weights.items())


def test_what_is_on_two_devices_is_refused() -> None:
    here = torch.ones(3, requires_grad=True)
    with pretended():
        away = here.detach().to(DEVICE)
        places = [away.device, (2 * away).device, (away + torch.tensor(1.0)).device, torch.zeros(2, device=DEVICE).device]
        assert places == [DEVICE] * 4
        assert away.cpu().device == here.device
        (here.to(away) * away).sum().backward()
        mixed: list[Any] = [
            lambda: here + away,
            lambda: torch.stack([away[0], torch.tensor(1.0)]),
            lambda: here[away.long()],
            lambda: F.embedding(torch.tensor([0]), away[:, None]),
            lambda: torch.randn(2, generator=torch.Generator(), device=DEVICE),
            away.numpy,
        ]
        for call in mixed:
            with pytest.raises(AssertionError, match=r"cpu:1|cpu.*index=1"):
                call()
