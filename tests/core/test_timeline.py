"""Plans of long videos: every frame is made once, from what is there by then, and what is given stays where it was given."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from emu_core.errors import UserError
from emu_core.model.timeline import MOST_FRAMES, Span, Stretch, Timeline, parse_prompts, ranges, stretches


def timeline(length: int, *places: int, prompts: tuple[Span, ...] = ()) -> Timeline:
    return Timeline(length, places, prompts or (Span(0, length, "p"),))


@some.composite
def timelines(draw: some.DrawFn) -> tuple[Timeline, int, int]:
    size = draw(some.integers(2, 20))
    length = draw(some.integers(1, 120))
    places, at = [], draw(some.integers(0, 3 * size))
    while at < length and draw(some.booleans()):
        places.append(at)
        at += draw(some.integers(1, size - 1))
    ends = sorted({*draw(some.lists(some.integers(1, length), max_size=4)), length})
    spans = tuple(Span(a, b, f"from {a}") for a, b in zip([0, *ends], ends, strict=False))
    return Timeline(length, tuple(places), spans), size, draw(some.integers(1, size - 1))


@settings(max_examples=400, deadline=None)
@given(timelines())
def test_every_frame_is_made_once_and_given_ones_stay(drawn: tuple[Timeline, int, int]) -> None:
    what, size, past = drawn
    known = set(what.given)
    for stretch in stretches(what, size, past):
        assert stretch.size == size
        window = range(stretch.first, stretch.first + size)
        assert stretch.made
        assert set(stretch.made) <= set(window)
        assert set(stretch.given) == known & set(window), "it is given all that is there, and nothing that is not yet"
        assert not known & set(stretch.made), "none is made twice, and no given frame is made"
        assert {what.span(frame).prompt for frame in stretch.made} == {stretch.prompt}
        assert stretch.given or not known, "only the very first may begin from nothing"
        assert all(0 <= place < size for place in stretch.places)
        known |= set(stretch.made)
    assert known == set(range(what.length))


@settings(max_examples=200, deadline=None)
@given(timelines())
def test_what_is_made_knows_the_given_frame_that_comes_next(drawn: tuple[Timeline, int, int]) -> None:
    what, size, past = drawn
    for stretch in stretches(what, size, past):
        after = [frame for frame in what.given if frame > stretch.made[0]]
        if after and any(frame < stretch.made[0] for frame in what.given):
            assert after[0] in stretch.given


def test_extension_goes_on_from_the_last_frames() -> None:
    plan = stretches(timeline(20, 0), 8)
    assert [(one.first, one.given, one.made) for one in plan] == [
        (0, (0,), tuple(range(1, 8))),
        (7, (7,), tuple(range(8, 15))),
        (14, (14,), tuple(range(15, 20))),
    ]
    # the paper's: 16 frames given the 16 before them
    plan = stretches(timeline(48, *range(16)), 32, 16)
    assert [(one.first, one.places, one.made) for one in plan] == [
        (0, list(range(16)), tuple(range(16, 32))),
        (16, list(range(16)), tuple(range(32, 48))),
    ]


def test_the_way_backwards_ends_in_what_is_given() -> None:
    plan = stretches(timeline(20, 19), 8)
    assert [(one.first, one.places, one.made) for one in plan] == [
        (12, [7], tuple(range(12, 19))),
        (5, [7], tuple(range(5, 12))),
        (-2, [7], tuple(range(5))),
    ]


def test_keyframes_a_loop_and_both_ends() -> None:
    assert stretches(timeline(8, 0, 7), 8) == [Stretch(0, 8, (0, 7), (1, 2, 3, 4, 5, 6), "p")]
    assert stretches(timeline(9, 3), 8)[0] == Stretch(0, 8, (3,), (0, 1, 2, 4, 5, 6, 7), "p")
    plan = stretches(timeline(15, 0, 5, 7, 14), 8)
    assert [(one.given, one.made) for one in plan] == [
        ((0, 5, 7), (1, 2, 3, 4, 6)),
        ((7, 14), (8, 9, 10, 11, 12, 13)),
    ]
    assert stretches(timeline(3, 0, 1, 2), 8) == []


def test_a_prompt_ends_where_it_should() -> None:
    spans = parse_prompts(["0-2.5s: right", "2.5s-: up"], 20, 4.0)
    assert spans == (Span(0, 10, "right"), Span(10, 20, "up"))
    plan = stretches(timeline(20, 0, prompts=spans), 8)
    assert [(one.prompt, one.made[0], one.made[-1]) for one in plan] == [
        ("right", 1, 7),
        ("right", 8, 9),
        ("up", 10, 16),
        ("up", 17, 19),
    ]


@pytest.mark.parametrize(
    ("texts", "spans"),
    [
        (["a"], [(0, 16, "a")]),
        (["0-1s: a", "b"], [(0, 4, "a"), (4, 16, "b")]),
        (["b", "1s-2s: a"], [(0, 4, "b"), (4, 8, "a"), (8, 16, "b")]),
        (["-8: a", "8-: b"], [(0, 8, "a"), (8, 16, "b")]),
        (["8-16: b", "0-8: a (red:1.3) - and: so on"], [(0, 8, "a (red:1.3) - and: so on"), (8, 16, "b")]),
        (["a: 3-4 things"], [(0, 16, "a: 3-4 things")]),
        (["-: dash"], [(0, 16, "-: dash")]),
    ],
)
def test_prompts_by_range(texts: list[str], spans: list[tuple[int, int, str]]) -> None:
    assert parse_prompts(texts, 16, 4.0) == tuple(Span(*span) for span in spans)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["0-5s: a"], "frames 0 to 19, and the video has frames 0 to 15, 4 seconds"),
        (["0-2s: a", "1s-: b"], "two prompts hold for frame 4"),
        (["0-2s: a", "3s-: b"], "no prompt holds for frames 8 to 11"),
        (["0-2s: a"], "no prompt holds for frames 8 to 15"),
        (["a", "b"], "two prompts have no range"),
        (["2s-1s: a"], "choose one within"),
        (["1.01-1.02s: a", "b"], "choose one within"),
    ],
)
def test_ranges_that_cannot_be(texts: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_prompts(texts, 16, 4.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: stretches(timeline(30, 0, 8), 8), "0 and 8 are 8 frames apart, and the model sees 8"),
        (lambda: timeline(8, 0, 0), "found 0 twice"),
        (lambda: timeline(8, 8), "frame 8 is given, and the video has frames 0 to 7"),
        (lambda: timeline(0), "1 or more frames"),
        (lambda: timeline(MOST_FRAMES + 1), "at most 100,000"),
        (lambda: stretches(timeline(30, 0), 8, 8), "1 to 7 frames of the past, found 8"),
        (lambda: Timeline(8, (), (Span(0, 4, "a"),)), "none for frame 4"),
        (lambda: Timeline(8, (), (Span(0, 4, "a"), Span(5, 8, "b"))), "follow each other"),
    ],
)
def test_timelines_that_cannot_be(call: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()  # type: ignore[operator]


def test_a_plan_is_said_in_words() -> None:
    assert str(stretches(timeline(9, 3), 8)[1]) == "frames 7 to 14: given 7, made 8: p"
    assert ranges((0, 1, 2, 5, 7, 8)) == "0 to 2, 5, 7 to 8"


def test_the_longest_plans_take_no_time() -> None:
    """With a prompt of its own for every frame, too: half a second each, and minutes if each call looked at every prompt."""
    spans = tuple(Span(frame, frame + 1, "p") for frame in range(MOST_FRAMES))
    for place in (0, MOST_FRAMES - 1):
        begun = time.process_time()
        assert len(stretches(Timeline(MOST_FRAMES, (place,), spans), 8)) == MOST_FRAMES - 1
        assert time.process_time() - begun < 10
