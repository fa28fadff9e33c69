"""Every arm of training is run, and docs/training.md names exactly the arms that there are."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from emu_core.base import load_base
from emu_core.base.base import vae_dtype
from emu_core.training import loop, paper
from emu_core.training.recipes import override

from . import arms
from .arms import Arm
from .narrow import narrow_folder
from .tiny_training import VideoTask, small, train

SPREAD = [Arm("stage1_256px", "all_trained", "fsdp", "bfloat16"), Arm("tiny-t2i", "", "one", "bfloat16")]
OF_TWO = Arm("tiny-f", "slim", "two", "float16")
"""Slow as the starts of its processes are; test_training_loop.py has two of a small task."""


def ran(chosen: list[Arm]) -> dict[Arm, dict[str, Any]]:
    found = arms.run_all(chosen, "cpu")
    failed = {str(arm): row.get("trace", row["error"]) for arm, row in found.items() if "error" in row}
    assert not failed, json.dumps(failed, indent=1)
    return found


def test_a_spread_of_arms_runs() -> None:
    found = ran(SPREAD)
    assert all(len(found[arm]["losses"]) == 3 for arm in SPREAD)


@pytest.mark.slow
def test_every_fifth_arm_runs() -> None:
    ran([OF_TWO, *[arm for arm in arms.arms() if not arms.refusal(arm)][::5]])


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.last
def test_every_arm_runs_and_is_in_the_table() -> None:
    """It writes the table. About a quarter of an hour."""
    found = ran(arms.arms())
    if find_spec("peft"):
        arms.write_docs(arms.table(lambda arm: found[arm].get("refused", "")))


def test_the_table_names_exactly_the_arms_that_there_are() -> None:
    assert arms.in_docs() == arms.table(arms.refusal)


def test_an_arm_that_fails_is_seen() -> None:
    """A runner that cannot fail would say nothing: here one arm's starting point is not there."""
    broken = Arm("stage2_512px", "", "one", "float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "in_order", lambda chosen: list(chosen))  # without what it starts from
        with pytest.raises(AssertionError, match="does not exist: train that stage first"):
            ran([broken])


# -- a U-Net that is trained along


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "plot_losses", lambda folder: None)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_trained_u_net_has_all_digits_of_its_weights_before_the_first_step(precision: str, tmp_path: Path) -> None:
    task = VideoTask(paper.ablate(small(compute__precision=precision), ["all_trained"]), tmp_path)
    exact = load_file(narrow_folder() / "unet" / "diffusion_pytorch_model.safetensors")  # float16: 7 of 8 change in bfloat16
    rounded = sum(int((value.bfloat16().half() != value).sum()) for value in exact.values())
    assert rounded / sum(value.numel() for value in exact.values()) == pytest.approx(7 / 8, abs=0.01)
    for name, value in task.base.unet.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, exact[name].float()), name
    asked, base = getattr(torch, precision), task.base  # what is frozen is in it, but for a VAE that float16 would overflow
    assert {p.dtype for part in base.text_encoders for p in part.parameters()} == {asked}
    assert base.vae.dtype == vae_dtype(asked, base.vae.config)


@pytest.mark.parametrize("asked", ["float16", "float32", "bfloat16"])
def test_a_trained_u_net_is_written_as_was_asked(asked: str, tmp_path: Path) -> None:
    recipe = override(paper.ablate(small(steps=1), ["all_trained"]), {"compute.exported": asked})
    train(recipe, tmp_path)
    found = load_file(tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in found.values()} == {getattr(torch, asked)}
    before = load_base(narrow_folder()).unet.state_dict()
    assert found.keys() == before.keys()
    assert any(not torch.equal(value.float(), before[name]) for name, value in found.items())
