"""Videos of any length on the narrow model: given frames as they were given, the same whichever way it is run."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emu_core.errors import UserError
from emu_core.longer import Pictures, longer, plan_of
from emu_core.model.calls import image_guidance, parts, seed_of
from emu_core.model.timeline import Span, Timeline, stretches
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings

QUICK = Settings(steps=1, seed=7)


@pytest.fixture(scope="module")
def pipeline(narrow: Path) -> EmuVideoPipeline:
    return EmuVideoPipeline.from_files(narrow)


def timeline(length: int, *places: int, prompt: str = "a big red circle moves right") -> Timeline:
    return Timeline(length, places, (Span(0, length, prompt),))


def pictures(count: int, side: int = 64, width: int | None = None) -> torch.Tensor:
    return torch.rand(count, side, width or side, 3, generator=torch.Generator().manual_seed(count))


def at(places: Sequence[int], frames: torch.Tensor) -> Pictures:
    of = dict(zip(places, frames, strict=True))
    return lambda wanted: (of[place] for place in wanted)


@pytest.mark.parametrize("places", [(0, 1, 2), (3,), (0, 7, 11), (11,), (2, 9)])
def test_given_frames_come_out_as_they_went_in(pipeline: EmuVideoPipeline, places: tuple[int, ...]) -> None:
    given = pictures(len(places))
    video = torch.cat([*longer(pipeline, timeline(12, *places), at(places, given), QUICK)])
    assert video.shape == (12, 64, 64, 3)
    assert torch.equal(video[list(places)], given)
    assert len({tuple(frame.flatten()[:50].tolist()) for frame in video}) == 12, "none is there twice"


def test_the_first_call_makes_the_video_that_generate_makes(pipeline: EmuVideoPipeline) -> None:
    given, prompt = pictures(1), "a big red circle moves right"
    video = torch.cat([*longer(pipeline, timeline(15, 0), at((0,), given), QUICK)])
    alone = pipeline.video(given, prompt, QUICK)
    assert torch.equal(
        video[1:8], pipeline.base.decode_latents(pipeline.video_latents(pipeline.encode(given), (0,), prompt, QUICK)[1:])
    )
    torch.testing.assert_close(video[1:8], alone[1:], atol=1e-5, rtol=0)


def test_each_call_goes_on_from_the_latents_of_the_one_before(pipeline: EmuVideoPipeline) -> None:
    """By hand, with the pipeline's own calls."""
    plan, given = stretches(timeline(15, 0), 8), pictures(1)
    first = pipeline.video_latents(pipeline.encode(given), (0,), plan[0].prompt, QUICK)
    second = pipeline.video_latents(first[-1:], (0,), plan[1].prompt, replace(QUICK, seed=seed_of(7, plan[1])))
    video = torch.cat([*longer(pipeline, timeline(15, 0), at((0,), given), QUICK)])
    assert torch.equal(video[8:], pipeline.base.decode_latents(second[1:]))


def test_a_length_that_is_extended_keeps_what_is_there(pipeline: EmuVideoPipeline) -> None:
    short, long = ([*longer(pipeline, timeline(n, 0), at((0,), pictures(1)), QUICK)] for n in (8, 15))
    assert torch.equal(torch.cat(short), torch.cat(long)[:8])


def test_odd_sides_are_kept(pipeline: EmuVideoPipeline) -> None:
    given = pictures(2, 37, 50)
    video = torch.cat([*longer(pipeline, timeline(8, 0, 7), at((0, 7), given), QUICK)])
    assert video.shape == (8, 37, 50, 3)
    assert torch.equal(video[[0, 7]], given)


def test_without_given_frames_the_first_call_has_the_text_alone(pipeline: EmuVideoPipeline) -> None:
    video = torch.cat([*longer(pipeline, timeline(10), at((), pictures(0)), QUICK)])
    assert video.shape == (10, 64, 64, 3)
    torch.testing.assert_close(video[:8], pipeline.video(None, "a big red circle moves right", QUICK), atol=1e-5, rtol=0)


def test_what_was_kept_is_not_made_again(pipeline: EmuVideoPipeline) -> None:
    kept: dict[tuple[str, int], torch.Tensor] = {}
    made: list[int] = []

    def keep(name: str, number: int, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        if (name, number) not in kept:
            kept[name, number] = make()
            made.append(number)
        return kept[name, number]

    steps, told = list[tuple[int, int]](), replace(QUICK, steps=2)
    whole = torch.cat([*longer(pipeline, timeline(20, 0), at((0,), pictures(1)), told, keep)])
    del kept["video", 2]
    again = longer(
        pipeline, timeline(20, 0), at((0,), pictures(1)), told, keep, lambda _, done, total: steps.append((done, total))
    )
    assert torch.equal(whole, torch.cat([*again]))
    assert made == [0, 1, 2, 2]
    assert steps == [(2, 6), (4, 6), (5, 6), (6, 6), (6, 6)], "the bar goes on to its end, whatever was there already"


def test_what_is_held_does_not_grow(pipeline: EmuVideoPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents are let go of once shown: 3 to a call are what later ones need, and the video's own frames are none of them."""
    held: list[int] = []
    channels = pipeline.base.latent_channels

    def counting(known: torch.Tensor, *_: object) -> torch.Tensor:
        held.append(sum(type(x) is torch.Tensor and x.shape == (channels, 8, 8) for x in gc.get_objects()))
        return known[:1].expand(8, channels, 8, 8) / 2

    monkeypatch.setattr(pipeline, "video_latents", counting)
    for part in longer(pipeline, timeline(43, 0), at((0,), pictures(1)), QUICK):
        del part
    assert max(held) - min(held) <= 8


def test_parts_are_runs_of_given_and_of_made_frames() -> None:
    what = timeline(60, *range(40))
    assert [(frames[0], frames[-1], maker) for frames, maker in parts(what, stretches(what, 8))] == [
        (0, 15, None), (16, 31, None), (32, 39, None), (40, 46, 0), (47, 53, 1), (54, 59, 2),
    ]  # fmt: skip
    what = timeline(8, 0, 4)
    assert [frames for frames, _ in parts(what, stretches(what, 8))] == [[0], [1, 2, 3], [4], [5, 6, 7]]


def test_a_video_is_read_as_it_is_written(pipeline: EmuVideoPipeline) -> None:
    """Of a long given video only the frames that a call is given are asked for first."""
    asked: list[list[int]] = []

    def of(wanted: Sequence[int]) -> Iterator[torch.Tensor]:
        asked.append(list(wanted))
        return (pictures(1)[0] for _ in wanted)

    video = torch.cat([*longer(pipeline, timeline(42, *range(40)), of, replace(QUICK, past=3))])
    assert len(video) == 42
    assert asked == [[37, 38, 39], list(range(40))]


def test_sizes_that_differ_are_refused(pipeline: EmuVideoPipeline) -> None:
    frames = [pictures(1)[0], pictures(1, 72)[0]]
    with pytest.raises(UserError, match="64 x 64 and 72 x 72"):
        next(longer(pipeline, timeline(8, 0, 7), lambda wanted: (frames[place > 0] for place in wanted), QUICK))


def test_what_a_stack_cannot_do_is_said_before(pipeline: EmuVideoPipeline) -> None:
    config = pipeline.models["F"].stack.config
    with pytest.raises(UserError, match="8 at a time"):
        plan_of(timeline(20, 0, 9), config, QUICK)
    assert len(plan_of(timeline(20, 0, 9), config, replace(QUICK, window=10))) == 3
    with pytest.raises(UserError, match="takes no frames"):
        plan_of(timeline(20, 0), config.changed(channel_order=(), family="animatediff", keeps_given=False), QUICK)
    pia = config.changed(channel_order=("affinity", "image"), family="pia", keeps_given=False)
    assert len(plan_of(timeline(20, 0), pia, QUICK)) == 3
    assert [len(one.given) for one in plan_of(timeline(20, *range(10, 20)), pia, QUICK)] == [1, 1], "backwards as well"
    with pytest.raises(UserError, match="PIA takes one given frame"):
        plan_of(timeline(8, 0, 7), pia, QUICK)
    with pytest.raises(UserError, match="1 to 7 frames of the past, found 9"):
        plan_of(timeline(20, 0), config, replace(QUICK, past=9))
    assert plan_of(timeline(48, *range(16)), config.changed(frames=32, past=16), QUICK)[1].given == tuple(range(16, 32))


def test_what_leads_to_a_given_frame_is_guided_by_it(pipeline: EmuVideoPipeline) -> None:
    own = pipeline.models["F"].stack.config.changed(text_guidance=3.0, image_guidance=1.0).sampling
    plan = stretches(timeline(16, 0, 7), 8)
    assert [image_guidance(one, own, None, None) for one in plan] == [3.0, 1.0, 1.0]
    assert image_guidance(plan[0], own, None, 2.0) == 2.0
    assert image_guidance(plan[0], own, None, 0.5) == 1.0
    assert image_guidance(plan[0], own, 0.0, None) == 0.0
