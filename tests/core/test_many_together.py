"""Several clips at once: the numbers of one alone, whatever the sampler; and what fails alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from emu_core.base import Base
from emu_core.errors import UserError
from emu_core.many.together import together
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings

RED, BLUE = "a big red circle moves right on a white background", "a small blue square moves up on a black background"
LONG = " ".join([RED, "and", BLUE] * 4)
"""More than the text encoder reads at once."""
PLAIN = Settings(size=(16, 16), steps=2, frames=2)


@pytest.fixture(scope="module")
def pipeline() -> EmuVideoPipeline:
    """In float64, where the size of a batch is not seen."""
    return EmuVideoPipeline.from_files(dtype=torch.float64)


def clip(prompt: str, settings: Settings, seed: int, pipeline: EmuVideoPipeline) -> torch.Tensor:
    made = pipeline(prompt, replace(settings, seed=seed), interpolate=settings.stitch == "paper")
    return made.final[0]


SETTINGS = {
    "all three steps": replace(PLAIN, stitch="paper"),
    "a sampler that adds noise": replace(PLAIN, sampler="euler_ancestral"),
    "a window": replace(PLAIN, steps=1, frames=3, window=2, overlap=1),
    "no guidance": replace(PLAIN, steps=1, text_guidance=1.0, image_guidance=1.0, t2i_guidance=1.0),
}


@pytest.mark.parametrize("how", [pytest.param(how, marks=[pytest.mark.slow][: how == "all three steps"]) for how in SETTINGS])
def test_several_are_as_each_alone(how: str, pipeline: EmuVideoPipeline) -> None:
    tasks: list[Callable[[EmuVideoPipeline], torch.Tensor]] = [
        partial(clip, text, SETTINGS[how], seed) for seed, text in enumerate((RED, LONG, BLUE))
    ]
    wanted = [task(pipeline) for task in tasks]
    for made, one in zip(together(pipeline, tasks), wanted, strict=True):
        assert isinstance(made, torch.Tensor), made
        torch.testing.assert_close(made, one, atol=1e-6, rtol=0)


def test_calls_become_one(pipeline: EmuVideoPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    forward = pipeline.base.unet.forward

    def counted(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(x))
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(pipeline.base.unet, "forward", counted)
    tasks = [partial(lambda text, one: one.starting_frame(text, PLAIN), text) for text in (RED, BLUE, RED)]
    together(pipeline, tasks)
    assert rows == [3] * 4  # two steps of two calls each


def test_what_fails_leaves_the_others_alone(pipeline: EmuVideoPipeline) -> None:
    def fails(one: EmuVideoPipeline) -> torch.Tensor:
        one.starting_frame(RED, PLAIN)
        raise UserError("no picture")

    tasks = [partial(clip, RED, PLAIN, 0), fails, partial(clip, BLUE, PLAIN, 1)]
    first, wrong, last = together(pipeline, tasks)
    assert str(wrong) == "no picture"
    assert isinstance(first, torch.Tensor)
    assert isinstance(last, torch.Tensor)
    assert str(together(pipeline, [fails])[0]) == "no picture"


def test_memory_that_runs_out_is_said_of_all(pipeline: EmuVideoPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipeline.base.unet, "forward", full)
    found = together(pipeline, [partial(clip, RED, PLAIN, 0), partial(clip, BLUE, PLAIN, 1)])
    assert [type(each) for each in found] == [torch.OutOfMemoryError] * 2


def test_ctrl_c_leaves_no_thread_behind(pipeline: EmuVideoPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    before = threading.active_count()
    monkeypatch.setattr(Base, "decode_latents", stopped)
    with pytest.raises(KeyboardInterrupt):
        together(pipeline, [partial(clip, RED, PLAIN, 0), partial(clip, BLUE, PLAIN, 1)])
    assert threading.active_count() == before
