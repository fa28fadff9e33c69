"""The image model of the little world in ComfyUI makes the pipeline's picture, though its widths are no whole multiples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from safetensors.torch import load_file

from emu_core.base import load_base
from emu_core.model_folder import BUNDLED, read_defaults
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings

from .conftest import outcome

pytest.importorskip("diffusers", reason="NOT CHECKED: diffusers, which makes the picture to compare with, is not installed")
LITTLE = BUNDLED.parent / "little"


def test_a_picture_is_the_pipelines(inside: Callable[..., dict[str, Any]]) -> None:
    """ComfyUI's last alpha_bar is 4.9e-8 instead of 0, as `test_numbers` says of the bundled model: root mean square difference
    <= 2e-3 of the deviation."""
    run = inside("little")
    found = outcome(run, "check_a_picture_and_its_preview")
    image = load_file(run["out"] / "check_a_picture_and_its_preview.safetensors")["image"]
    pipeline = EmuVideoPipeline(load_base(LITTLE), defaults=read_defaults(LITTLE))
    wanted = pipeline.starting_frame(found["data"]["prompt"], Settings(seed=1, steps=8, size=(64, 64)))
    assert (image - wanted).square().mean().sqrt() <= 2e-3 * wanted.std()
