"""Given frames in their channels, the interpolation model's slots and windows, noise augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from emu_core.model.conditioning import Stitch, augment, condition, slot_count, slots, windows
from emu_core.model.schedule import ScheduleConfig, abar

EMU = ScheduleConfig()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- channels


def test_starting_frame_is_padded_with_zeros_and_masked() -> None:
    given = normal(2, 1, 4, 3, 5)
    channels = condition(given, [0], 8)
    assert channels.shape == (2, 8, 5, 3, 5)
    assert torch.equal(channels[:, :1, :4], given)
    assert not channels[:, 1:].any()
    assert (channels[:, 0, 4] == 1).all()


@pytest.mark.parametrize(
    ("positions", "places"),
    [([0], [0]), ([0, 7], [0, 7]), ([-1], [7]), ([5, 2, 3], [5, 2, 3]), ([-8, -1], [0, 7]), (range(8), range(8)), ([], [])],
)
def test_any_set_of_frames_can_be_given(positions: Sequence[int], places: Sequence[int]) -> None:
    given = normal(2, len(positions), 4, 3, 5)
    channels = condition(given, positions, 8)
    image, mask = channels[:, :, :4], channels[:, :, 4]
    for k, place in enumerate(places):
        assert torch.equal(image[:, place], given[:, k])
    others = [place for place in range(8) if place not in list(places)]
    assert (mask[:, list(places)] == 1).all()
    assert not mask[:, others].any()
    assert not image[:, others].any()


def test_channel_order_is_the_checkpoints() -> None:
    given = normal(1, 2, 4, 3, 5)
    ordinary, reversed_ = (condition(given, [1, 3], 6, order) for order in (("image", "mask"), ("mask", "image")))
    assert torch.equal(reversed_[:, :, 1:], ordinary[:, :, :4])
    assert torch.equal(reversed_[:, :, :1], ordinary[:, :, 4:])


def test_precision_is_that_of_the_latents() -> None:
    assert condition(normal(1, 1, 4, 3, 5).half(), [0], 4).dtype == torch.float16


@pytest.mark.parametrize(
    ("given", "positions", "words"),
    [
        (1, [8], "position 8 is outside a video of 8 frames: use 0 to 7"),
        (1, [-9], "position -9 is outside"),
        (2, [3, 3], "share a position"),
        (2, [7, -1], "share a position"),
        (2, [3], "found 2 frames and 1 positions"),
        (0, [3], "found 0 frames and 1 positions"),
    ],
)
def test_impossible_positions_are_refused(given: int, positions: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        condition(torch.zeros(1, given, 4, 2, 2), positions, 8)


# -- interpolation


def test_eight_keyframes_sit_at_slots_4_to_32_of_37() -> None:
    assert (slot_count(8), slots(8)) == (37, [4, 8, 12, 16, 20, 24, 28, 32])


@pytest.mark.parametrize("n", range(1, 41))
def test_slots_leave_three_frames_between_and_four_on_either_side(n: int) -> None:
    places = slots(n)
    assert (places[0], slot_count(n) - 1 - places[-1]) == (4, 4)
    assert all(b - a == 4 for a, b in zip(places, places[1:], strict=False))


def stitched(n: int, stitch: Stitch = "continuous", size: int = 8) -> list[tuple[float, int | None]]:
    """The frames of a whole video: (time in slots since the video's start, keyframe or None). Padding is no keyframe."""
    frames: list[tuple[float, int | None]] = []
    for window in windows(n, size, stitch):
        known = dict(zip(slots(window.given), window.keyframes, strict=False))
        assert len(window.keyframes) == window.size == size
        start = 4 * window.first  # its slot 4 is its first keyframe, and keyframe k is at time 4 (k + 1)
        part = [(start + slot, known.get(slot)) for slot in range(slot_count(size))]
        frames += part[window.start : window.stop]
    return frames


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("n", range(2, 41))
def test_continuous_windows_lose_nothing(n: int, size: int) -> None:
    frames = stitched(n, size=size)
    assert len(frames) == 4 * (n + 1) + 1 == slot_count(n)
    assert [time for time, _ in frames] == list(range(len(frames)))  # no jump, nothing twice
    assert {time: k for time, k in frames if k is not None} == {4 * (k + 1): k for k in range(n)}


@pytest.mark.parametrize("n", range(2, 41))
def test_windows_share_no_keyframe_and_repeat_the_last_one_to_fill(n: int) -> None:
    plan = windows(n)
    own = [k for window in plan for k in window.keyframes[: window.given]]
    assert own == list(range(n))
    assert all(k == n - 1 for k in plan[-1].keyframes[plan[-1].given :])
    assert all(window.given == 8 for window in plan[:-1])


def test_sixteen_keyframes_make_69_frames_or_the_papers_65() -> None:
    assert len(stitched(16)) == 69
    paper = windows(16, stitch="paper")
    assert ([(w.start, w.stop) for w in paper], len(stitched(16, "paper"))) == ([(0, 37 - 5), (4, 37)], 65)


def test_the_papers_stitching_loses_a_keyframe() -> None:
    frames = stitched(16, "paper")
    assert 7 not in {k for _, k in frames}
    times = [time for time, _ in frames]
    assert [b - a for a, b in zip(times, times[1:], strict=False) if b - a != 1] == [5]


@pytest.mark.parametrize("stitch", ["continuous", "paper"])
def test_one_window_is_whole_in_either_way(stitch: Stitch) -> None:
    assert [(w.start, w.stop) for w in windows(8, stitch=stitch)] == [(0, 37)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"keyframes": 1}, "2 or more keyframes, found 1"),
        ({"keyframes": 8, "size": 0}, "1 or more keyframes, found 0"),
        ({"keyframes": 8, "stitch": "blend"}, "'blend'"),
    ],
)
def test_impossible_windows_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        windows(**arguments)


# -- noise augmentation


@pytest.mark.parametrize("t", [1, 100, 250, 999])
def test_augmentation_is_noise_of_that_timestep(t: int) -> None:
    latents, noise = normal(2, 8, 4, 3, 3), normal(2, 8, 4, 3, 3, seed=1)
    power = abar(EMU)[t].item()
    torch.testing.assert_close(augment(latents, t, EMU, noise), power**0.5 * latents + (1 - power) ** 0.5 * noise)


def test_no_augmentation_leaves_the_latents() -> None:
    latents = normal(2, 8, 4, 3, 3)
    assert augment(latents, 0, EMU, torch.full_like(latents, torch.nan)) is latents


@pytest.mark.parametrize("t", [-1, 1000])
def test_augmentation_beyond_the_schedule_is_refused(t: int) -> None:
    with pytest.raises(ValueError, match=f"0 to 999, found {t}"):
        augment(normal(1, 1, 4, 2, 2), t, EMU, normal(1, 1, 4, 2, 2))
