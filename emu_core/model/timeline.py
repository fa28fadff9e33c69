"""A video of any length as windows: which frames each call of the model sees, which of them it is given, and which it makes.

Extension, loops and frames between keyframes are cases of one description: so many frames, some of them given, and prompts that
hold for ranges of frames. All here is numbers; frames are counted from 0.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import UserError

MOST_FRAMES = 100_000
"""More are a slip of the finger: at 25 a second more than an hour."""


@dataclass(frozen=True)
class Span:
    """A prompt that holds from frame `start` up to, and without, frame `stop`."""

    start: int
    stop: int
    prompt: str


@dataclass(frozen=True)
class Timeline:
    """A video of `length` frames, of which those at `given` are given; the `prompts` follow each other from 0 to the end."""

    length: int
    given: tuple[int, ...]
    prompts: tuple[Span, ...]

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UserError(f"a video needs 1 or more frames, found {self.length}")
        if self.length > MOST_FRAMES:
            raise UserError(f"a video has at most {MOST_FRAMES:,} frames here, found {self.length:,}: make several")
        if beyond := [place for place in self.given if not 0 <= place < self.length]:
            raise UserError(f"frame {beyond[0]} is given, and the video has frames 0 to {self.length - 1}: make it longer")
        if list(self.given) != sorted(set(self.given)):
            twice = next((a for a, b in zip(self.given, self.given[1:], strict=False) if a >= b), None)
            raise UserError(f"given frames should each have a place of their own, rising, found {twice} twice or out of order")
        at = 0
        for span in self.prompts:
            if not span.start == at < span.stop:
                raise UserError(f"prompts should follow each other, found one for frames {span.start} to {span.stop - 1} at {at}")
            at = span.stop
        if at != self.length:
            raise UserError(f"prompts should hold for all {self.length} frames, found none for frame {at}")

    def span(self, frame: int) -> Span:
        """The prompt that holds at a frame."""
        return self.prompts[bisect_right(self.prompts, frame, key=lambda span: span.stop)]


@dataclass(frozen=True)
class Stretch:
    """One call of the model, which sees `size` frames of the video from `first` on: it is given those at `given`, and makes those
    at `made`. Frames of the window that are neither, such as those outside the video, are thrown away."""

    first: int
    size: int
    given: tuple[int, ...]
    made: tuple[int, ...]
    prompt: str

    @property
    def places(self) -> list[int]:
        """Where the given frames are in the window."""
        return [frame - self.first for frame in self.given]

    @property
    def leads_to_given(self) -> bool:
        """Whether frames are given on both sides of some that are made."""
        return bool(self.given) and self.given[0] < self.made[-1] and self.made[0] < self.given[-1]

    def __str__(self) -> str:
        """`frames 7 to 14: given 7, made 8 to 14: a red circle moves up`."""
        known = f"given {ranges(self.given)}" if self.given else "none given"
        return f"frames {self.first} to {self.first + self.size - 1}: {known}, made {ranges(self.made)}: {self.prompt}"


def stretches(timeline: Timeline, size: int, past: int = 1) -> list[Stretch]:
    """The calls that make a video, in an order in which each is given only what is there by then.

    `size` frames are seen at a time, and `past` of them (fewer where there are none) are the frames just before those that are to
    be made. What lies before the first given frame is made backwards, from the frames just after it. A call makes frames of one
    prompt only. Given frames within its reach are given to it wherever they are; ValueError where two that follow each other are
    too far apart to be seen at once, so that what is made from the one could not arrive at the other.
    """
    if size < 2:
        raise UserError(f"a call that is given a frame should see 2 or more at a time, found a window of {size}: make it larger")
    if not 1 <= past < size:
        raise UserError(f"a window of {size} frames can be given 1 to {size - 1} frames of the past, found {past} (--past)")
    _check_gaps(timeline, size)
    known, plan = set(timeline.given), list[Stretch]()
    for stretch in _backwards(timeline, size, past):
        plan.append(stretch)
        known.update(stretch.made)
    at = 0
    while (at := _next_unknown(known, at, timeline.length)) < timeline.length:
        following = next((frame for frame in range(at, min(at + size - 1, timeline.length)) if frame in known), at)
        before, room = 0, min(past, size - 1 - (following - at))  # so that the next given frame is seen as well
        while before < room and at - before - 1 in known:
            before += 1
        first, span = at - before, timeline.span(at)
        seen = range(first, min(first + size, timeline.length))
        made = tuple(frame for frame in seen if at <= frame < span.stop and frame not in known)
        plan.append(Stretch(first, size, tuple(frame for frame in seen if frame in known), made, span.prompt))
        known.update(made)
    return plan


def _backwards(timeline: Timeline, size: int, past: int) -> Iterator[Stretch]:
    """What is before a first given frame that a window from frame 0 on does not reach, or that others follow at once: such a
    window would be given more of them than the past that is asked for."""
    known, at = set(timeline.given), min(timeline.given, default=0)
    while at >= size or (at > 0 and at + 1 in known):
        after = 1
        while after < past and at + after in known:
            after += 1
        stop, span = at + after, timeline.span(at - 1)
        seen = range(stop - size, stop)
        made = tuple(frame for frame in seen if frame < at and frame >= span.start)
        yield Stretch(stop - size, size, tuple(frame for frame in seen if frame in known), made, span.prompt)
        known.update(made)
        at = made[0]


def _next_unknown(known: set[int], at: int, length: int) -> int:
    while at < length and at in known:
        at += 1
    return at


def _check_gaps(timeline: Timeline, size: int) -> None:
    for left, right in zip(timeline.given, timeline.given[1:], strict=False):
        if right - left >= size:
            raise UserError(
                f"the given frames {left} and {right} are {right - left} frames apart, and the model sees {size} at a time: give "
                f"one between them, bring them within {size - 1}, or, if the model can, let it see more (window)"
            )


def ranges(frames: Sequence[int]) -> str:
    """`0 to 3, 7` for the frames 0, 1, 2, 3 and 7."""
    parts: list[list[int]] = []
    for frame in frames:
        if parts and frame == parts[-1][1] + 1:
            parts[-1][1] = frame
        else:
            parts.append([frame, frame])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in parts)


def timeline_of(
    length: int, given: Sequence[int], texts: Sequence[str], fps: float, first: int = 0, count: int | None = None
) -> Timeline:
    """A timeline whose prompts are for the `count` frames from `first` on (None: all), by `parse_prompts`; the first and the last
    hold for what is beside these too."""
    spans = parse_prompts(texts, length if count is None else count, fps)
    moved = [replace(span, start=span.start + first, stop=span.stop + first) for span in spans]
    moved[0] = replace(moved[0], start=0)
    moved[-1] = replace(moved[-1], stop=length)
    return Timeline(length, tuple(given), tuple(moved))


_RANGE = re.compile(r"\s*(\d{1,9}(?:\.\d+)?)?(s?)\s*-\s*(\d{1,9}(?:\.\d+)?)?(s?)\s*:(.*)", re.DOTALL)


def parse_prompts(texts: Sequence[str], length: int, fps: float) -> tuple[Span, ...]:
    """Prompts for ranges of `length` frames at `fps`: `0-2s: a red circle moves right`, `2s-: it moves up`, in seconds, or
    without the s in frames, from the first up to, and without, the second. A text without a range holds wherever no other does.

    ValueError for a range that is none, reaches beyond the end or overlaps another, and for frames without a prompt.
    """
    spans, elsewhere = list[Span](), list[str]()
    for text in texts:
        found = _RANGE.fullmatch(text)
        if found is None or not (found[1] or found[3]):
            elsewhere.append(text.strip())
            continue
        unit = fps if found[2] or found[4] else 1.0
        start, stop = (
            end if number is None else round(float(number) * unit) for number, end in ((found[1], 0), (found[3], length))
        )
        if not 0 <= start < stop <= length:
            lasts = f"the video has frames 0 to {length - 1}, {length / fps:g} seconds"
            raise UserError(f"the range of the prompt {text!r} is frames {start} to {stop - 1}, and {lasts}: choose one within")
        spans.append(Span(start, stop, found[5].strip()))
    if len(elsewhere) > 1:
        both = f"{elsewhere[0]!r} and {elsewhere[1]!r}"
        raise UserError(f"two prompts have no range: {both}; say when each holds, such as '0-2s: ...' and '2s-: ...'")
    result, at = list[Span](), 0
    for span in [*sorted(spans, key=lambda span: span.start), Span(length, length, "")]:
        if span.start < at:
            raise UserError(
                f"two prompts hold for frame {span.start}: {result[-1].prompt!r} and {span.prompt!r}; part their ranges"
            )
        if span.start > at:
            if not elsewhere:
                raise UserError(f"no prompt holds for frames {at} to {span.start - 1}: give one for them, or one without a range")
            result.append(Span(at, span.start, elsewhere[0]))
        result += [span] if span.stop > span.start else []
        at = span.stop
    return tuple(result)


def is_range(text: str) -> bool:
    """Whether a text is such a range, without its colon and prompt."""
    found = _RANGE.fullmatch(text + ":")
    return found is not None and bool(found[1] or found[3]) and not found[5]
