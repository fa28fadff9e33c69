"""Videos of several calls in real ComfyUI: the latents that the core makes, what is refused, progress and Cancel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from emu_core.base import load_base
from emu_core.checkpoint import save_stack
from emu_core.longer import longer
from emu_core.model.timeline import Timeline, timeline_of
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings

from ..core import reference
from .conftest import outcome
from .test_numbers import PROMPT, STANDARD, standard_stack
from .test_video_model import checks

pytestmark = pytest.mark.newest
UP = "a big red circle moves up on a white background"
SETTINGS = Settings(seed=11, steps=3, sampler="ddim", text_guidance=4.0, image_guidance=1.5)


@pytest.fixture(scope="session")
def ran(inside: Callable[..., Any], narrow: Path) -> dict[str, Any]:
    def prepare(out: Path) -> None:
        folder, tiny = out / "models" / "emu_video", load_base(narrow).unet
        save_stack(standard_stack(narrow, "F"), folder / "standard_F.safetensors", torch.float32)
        text_alone = reference.original_layout(reference.motion_adapter(tiny, mid=False).state_dict())
        reference.save(text_alone, folder / "text_alone.safetensors")
        reference.save(reference.motion_adapter(tiny, mid=False, conv_in=True).state_dict(), folder / "pia.safetensors")

    return inside("timelines", prepare)


NUMBERS = {
    "extension": timeline_of(17, range(3), [PROMPT, f"1.5s-3s: {UP}"], 4.0, 3, 14),
    "backwards": timeline_of(11, (9, 10), [PROMPT], 4.0, 0, 9),
    "loop": timeline_of(8, (0, 7), [PROMPT], 4.0),
    "keyframes": timeline_of(13, (0, 6, 12), [PROMPT, f"8-: {UP}"], 4.0),
    "text_alone": timeline_of(10, (), [PROMPT], 4.0),
}
PAST = {"extension": 2}


def core_calls(
    model: Path, timeline: Timeline, given: Sequence[torch.Tensor], past: int | None
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The latents of each call, as the VAE has them, and the frames of the whole video, by the core."""
    base = load_base(model)
    base.schedule = dataclasses.replace(base.schedule, zero_snr=STANDARD.zero_snr)
    pipeline, made = EmuVideoPipeline(base, standard_stack(model, "F")), []
    one_call = pipeline.video_latents

    def listening(*inputs: Any, **settings: Any) -> torch.Tensor:
        made.append(one_call(*inputs, **settings))
        return made[-1]

    pipeline.video_latents = listening  # type: ignore[method-assign]
    places = dict(zip(timeline.given, given, strict=True))
    guidance = None if timeline is NUMBERS["loop"] else SETTINGS.image_guidance
    settings = dataclasses.replace(SETTINGS, past=past, image_guidance=guidance)
    frames = [*longer(pipeline, timeline, lambda wanted: (places[place] for place in wanted), settings)]
    return [latents / base.latent_scale + base.latent_shift for latents in made], torch.cat(frames)


@pytest.mark.parametrize("name", NUMBERS)
def test_latents_of_every_call_are_those_of_the_core(name: str, ran: dict[str, Any], narrow: Path) -> None:
    """Within 1e-4 of their deviation a call: each goes on from what the one before it made, here and there, rounding as well."""
    outcome(ran, f"check_{name}")
    found, made = (load_file(ran["out"] / f"check_{name}{kind}.safetensors") for kind in ("", ".sampled"))
    given = [*found["given"], *found["given"]] if name == "loop" else [*found.get("given", ())]
    wanted, video = core_calls(narrow, NUMBERS[name], given, PAST.get(name))
    assert len(wanted) == {"loop": 1, "extension": 3}.get(name, 2)
    assert len(made) == len(wanted) * (2 if name == "keyframes" else 1)  # made again with other names of its inputs
    for number, latents in enumerate(wanted):
        assert (made[str(number)] - latents).abs().max() <= (1 + number) * 1e-4 * latents.std(), number
    video = video[:-1] if name == "loop" else video
    assert found["video"].shape == video.shape
    assert (found["video"] - video).abs().max() <= 1e-4


OTHERS = [name for name in checks("timelines") if name.removeprefix("check_") not in (*NUMBERS, "what_is_refused")]


@pytest.mark.parametrize("check", OTHERS)
def test_videos_of_several_calls(check: str, ran: dict[str, Any]) -> None:
    outcome(ran, check)


def test_each_bad_input_has_a_sentence(ran: dict[str, Any]) -> None:
    said = outcome(ran, "check_what_is_refused")["data"]
    words = {
        "a gap that no window bridges": "frames 4 and 19 are 15 frames apart, and the model sees 8 at a time",
        "positions twice": "two given frames share a position",
        "a position beyond the end": "position 20 is outside a video of 20 frames",
        "more positions than pictures": "found 3 frames and 4 positions",
        "more pictures than frames": "two given frames share a position",
        "sizes that differ": "the image is 64 x 64, the video 128 x 64",
        "a range beyond the end": "'1s-3s: prompt 2' is frames 4 to 11, and the video has frames 0 to 7, 2 seconds",
        "a frame without a prompt": "no prompt holds for frames 4 to 7",
        "two prompts without a range": "",
        "no prompt": "positive holds no prompt",
        "no prompt in a range": "conditioning holds no prompt",
        "no range": "such as 0-2s, 2s- or 0-16",
        "a range backwards": "choose one within",
        "a negative range": "negative holds for a range of frames, 0-1s",
        "past beyond the video": "the video has 3 frames, and past 5",
        "past beyond the window": "1 to 7 frames of the past, found 9",
        "a loop too long": "a loop should have 2 to 7 frames, found 8",
        "no stack": "this MODEL has no temporal stack on it",
        "a stack without frames": "of family animatediff, which takes no frames",
        "PIA with several": "PIA takes one given frame at a time",
        "PIA with one": "",
        "the sampler of one call": "positive holds for a range of frames, 0-1s",
    }
    assert said.keys() == words.keys()
    for name, part in words.items():
        assert part in said[name], name
        assert bool(part) == bool(said[name]), (name, said[name])
