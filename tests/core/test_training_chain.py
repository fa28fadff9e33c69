"""A chain says everything that would stop any of its stages, before the first; and its folder is one chain's."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from emu_core.cli.main import main
from emu_core.errors import UserError
from emu_core.model_folder import BUNDLED
from emu_core.toy import recipes as toy
from emu_core.training import checkpoints, checks, loop, paper, run
from emu_core.training.recipes import override

from .narrow import narrow_folder
from .saved import SAVED
from .tiny_training import small

SHARDS = SAVED / "shards"  # four clips of 2 to 4 s, of which the selection "moving" has three


@pytest.fixture
def train(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    def run_it(name: str, *arguments: str, shards: Path | str = SHARDS) -> str:
        """What `train chain` says, of which it is expected to be a refusal that leaves nothing behind."""
        given = [name, "--base", str(BUNDLED), "--shards", str(shards), "--out", str(tmp_path / "run"), *arguments]
        assert main(["train", "chain", *given]) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err

    return run_it


def test_a_missing_selection_is_said_before_the_first_stage(train: Any) -> None:
    said = train("short", "--family", "tiny")
    assert "the chain cannot begin: hq_finetune: " in said
    assert "expected the selection 'hq'" in said


def test_everything_is_said_at_once(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    changes = {"clips.size": "60,64", "optimisation.rate": "0", "clips.frames": "90"}
    settings = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    said = train("short", "--family", "tiny", "--processes", "3", *settings)
    assert "the chain cannot begin, for 8 reasons: (1) " in said
    stages = "stage1_256px, stage2_512px, hq_finetune, interpolation"
    for words in (
        f"{stages}: optimisation.rate must be above 0, found 0.0",
        f"{stages}: clips.size must be multiples of 8, found 60,64",
        "interpolation: an interpolation model is trained on 37 frames, of which 8 are given, found clips.frames=90",
        f"stage1_256px: {SHARDS}: expected videos of at least 11.12 s",
        f"stage2_512px: {SHARDS}: expected videos of at least 22.25 s",
        f"hq_finetune: {SHARDS}: expected the selection 'hq'",
        "--processes 3 needs as many GPUs, and this machine has 2: start with --processes 2",
    ):
        assert f") {words}" in said


def test_missing_shards_bases_and_families_are_said(train: Any, tmp_path: Path) -> None:
    assert "/nowhere: expected a folder that emu-video curate finished" in train("short", "--family", "tiny", shards="/nowhere")
    said = train("short", "--family", "sd15")
    assert "is for a base of family sd15, and" in said
    assert train("short", "--family", "tiny", "--base", "/nowhere").count("/nowhere: expected a diffusers folder") == 1
    damaged = shutil.copytree(SHARDS, tmp_path / "shards")
    for file in damaged.glob("*.tar"):
        file.unlink()
    said = train("short", "--family", "tiny", "--selection", "moving", shards=damaged)
    assert "stage1_256px, stage2_512px, hq_finetune, interpolation: " in said
    assert ".tar is not there: copy the folder whole" in said


def test_room_for_all_stages_is_looked_for(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    few = namedtuple("Usage", "free")(100 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: few)
    said = train("short", "--family", "tiny", "--selection", "moving")
    assert "has 0.1 GB of free space, and the checkpoints, models and latents of all stages need 0.2 GB: make room" in said


def test_the_room_that_is_counted_is_the_room_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "plot_losses", lambda folder: None)
    stages = ("stage1_256px", "stage2_512px")  # of a model whose weights are most of what is written
    recipes = [override(small(name, steps=3, base=str(BUNDLED)), {"every.save": 1}) for name in stages]
    assert all(complete for *_, complete in run.train_chain(recipes, tmp_path / "run", run.RunOptions(tasks=run_tasks())))
    taken = sum(file.stat().st_size for file in (tmp_path / "run").rglob("*") if file.is_file())
    counted = checks.room_of_chain(recipes)
    one = counted / (2 * (checkpoints.KEPT + 0.25) + 1)  # the one that is being written is gone at the end
    assert taken == pytest.approx(counted - one, rel=0.05)


def run_tasks() -> Any:
    from emu_core.toy.tasks import TASKS

    return TASKS


def test_a_chains_folder_is_one_chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(loop, "plot_losses", lambda folder: None)
    little = {"optimisation.steps": "1", "optimisation.batch": "2", "clips.validation": "0", "clips.size": "32,32"}
    for name, second in {"one": "stage2_512px", "two": "hq_finetune"}.items():
        stages = ("stage1_256px", second)
        chain = replace(paper.CHAINS["short"], name=name, stages=stages, family="tiny", changes={"": little})
        monkeypatch.setitem(toy.CHAINS, name, chain)
    out = ["--out", str(tmp_path)]
    assert main(["train", "chain", "one", *out]) == 0
    first = (tmp_path / "1-stage1_256px" / "recipe.json").read_text()
    assert main(["train", "chain", "two", *out, "--resume"]) == 2
    assert "holds a chain with the stage 2-stage2_512px, which this one has not: go on with the same" in capsys.readouterr().err
    assert main(["train", "chain", "one", *out, "--resume", "--ablation", "standard_snr"]) == 2
    said = "2-stage2_512px belongs to the recipe in its recipe.json, and schedule.zero_snr was true, is false now"
    assert said in capsys.readouterr().err
    assert main(["train", "chain", "one", *out, "--resume", "--processes", "1"]) == 0  # all is done, and is passed over
    assert (tmp_path / "1-stage1_256px" / "recipe.json").read_text() == first
    assert json.loads((tmp_path / "done.json").read_text()) == {"stages": ["stage1_256px", "stage2_512px"]}


def test_a_u_net_is_handed_on_as_it_was_trained_and_given_as_was_asked() -> None:
    recipes = [paper.ablate(small(name), ["all_trained"]) for name in ("stage1_256px", "stage2_512px")]
    assert [recipe.compute.exported for recipe, _ in run._stages(recipes, Path("out"))] == ["float32", "float16"]


def test_ablations_that_change_nothing_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny-t2i", "--ablation", "direct"]) == 2
    said = "recipe 'tiny-t2i' trains no temporal layers, which is what ablations change: leave direct out"
    assert said in capsys.readouterr().err
    with pytest.raises(UserError, match="single_stage is to train without stage1_256px: start with stage2_512px"):
        paper.ablate(small(), ["single_stage"])
    full = small(init=str(narrow_folder() / "stack_F.safetensors"), method__stack="slim")
    with pytest.raises(UserError, match=r"stack_F.safetensors is a full stack, and the recipe asks for method.stack=slim: use"):
        checks.check_recipe(full)
