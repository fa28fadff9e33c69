"""The nodes that measure, choose, compare and add to a study, inside real ComfyUI: every check of inside/judging.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from emu_core.media import write_image

from ..core.evaluation_tiny import tiny_clip
from .conftest import outcome
from .test_video_model import checks

pytestmark = pytest.mark.newest


def with_clip(out: Path) -> None:
    tiny_clip(out / "models" / "emu_video_metrics" / "tiny-clip")


@pytest.mark.parametrize("check", checks("judging"))
def test_judging(check: str, inside: Callable[..., Any], comfy_root: Path) -> None:
    ran = inside("judging", with_clip)
    outcome(ran, check)
    if places := os.environ.get("EMU_SCREENSHOTS"):  # for a person to look at
        for name, picture in load_file(ran["out"] / f"{check}.safetensors").items():
            folder = Path(places) / comfy_root.name
            folder.mkdir(parents=True, exist_ok=True)
            write_image(folder / f"{check}_{name}.png", picture[0] if picture.ndim == 4 else picture)
