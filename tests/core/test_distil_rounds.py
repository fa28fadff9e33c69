"""Which rounds a distillation is made of, and which it cannot be made of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from emu_core.checkpoint import load_stack, save_stack
from emu_core.errors import UserError
from emu_core.model_folder import BUNDLED
from emu_core.toy import recipes as toy
from emu_core.training.checks import check_chain, check_recipe
from emu_core.training.distil_rounds import of_stack, rounds
from emu_core.training.recipes import override

STACK = BUNDLED / "stack_F.safetensors"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distil.rounds": 100_000}, "at most 1000 steps, and each round at least halves them, found distil.teacher_steps=0, "),
        ({"distil.rounds": 8}, "distil.steps=4, distil.rounds=8: choose fewer"),  # 4 x 2^8 is 1024
        ({"distil.steps": 10**400}, "at most 1000 steps"),
        ({"distil.teacher_steps": 10**400}, "at most 1000 steps"),
        ({"distil.rounds": -1}, "distil.rounds must be 0 or more, found -1"),
        ({"distil.teacher_steps": -8, "distil.rounds": 2}, "distil.teacher_steps must be 0 or more, found -8"),
    ],
)
def test_numbers_that_no_rounds_can_be_made_of_are_said(changes: dict[str, Any], said: str) -> None:
    recipe = of_stack(str(STACK), toy.TINY)
    with pytest.raises(UserError, match=re.escape(said)):
        check_recipe(rounds(override(recipe, changes))[0])


def test_seven_rounds_begin_within_the_schedule() -> None:
    made = rounds(override(of_stack(str(STACK), toy.TINY), {"distil.rounds": 7}))
    assert [r.distil.steps for r in made] == [256, 128, 64, 32, 16, 8, 4]


def test_what_was_distilled_is_halved_further_in_rounds(tmp_path: Path) -> None:
    """All that `train_chain` asks before the first of them, when no later one has its teacher yet."""
    stack = load_stack(STACK)
    stack.config = stack.config.changed(steps=8, text_guidance=1.0, image_guidance=1.0, stage="distil_8")
    save_stack(stack, tmp_path / "eight.safetensors")
    recipe = override(of_stack(str(tmp_path / "eight.safetensors"), toy.TINY), {"start.base": str(BUNDLED)})
    made = rounds(override(recipe, {"distil.steps": 2}))
    assert [(r.distil.teacher_steps, r.distil.steps) for r in made] == [(8, 4), (4, 2)]
    check_chain(made, tmp_path)
    for other in ({"distil.teacher_steps": 4, "distil.steps": 2}, {"distil.teacher_steps": 16}):
        with pytest.raises(UserError, match="is distilled already, to 8 steps without guidance"):
            rounds(override(recipe, other))
