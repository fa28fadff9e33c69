"""Frames that lie evenly in time, from pictures that need not: which is shown when, and how many a second that makes."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from ..limits import limits
from .tags import Timing

BROWSER_DELAY = 0.1
EVEN = 1.5
"""Durations that differ by no more than this factor are one duration, rounded."""
TELEVISION = Fraction(1000, 1001)


def is_length_of(timing: Timing, seconds: float) -> bool:
    """Whether a file of this length still is the video as it was written, and nobody has cut or retimed it since."""
    return abs(seconds - timing.frames / timing.fps) <= 0.5 / timing.fps + 0.02


def ending(begin: float, shown: float, told: float | None) -> float:
    """Seconds from the first picture to the end of the last, which begins at `begin`. shown: for how long, as its packet says,
    which in mp4 with B-frames is another picture's time; told: how long the file says that it lasts, which then is right."""
    return told if told is not None and begin < told < begin + shown else begin + shown


def even_rate(durations: Sequence[float], told: float | None, tick: float = 0.0) -> float | None:
    """Frames a second of pictures that are shown this many seconds each; None if they are uneven. told: what the file says, which
    is taken if it fits; tick: what its times are rounded to. That the last one is shorter counts for nothing: how long it is
    shown is a guess in many files, and in others sound ends there.
    """
    count, steps = len(durations), durations[:-1]
    if max(durations) <= EVEN * min(durations):
        measured, span = count / sum(durations), 0.0
    elif steps and max(steps) <= EVEN * min(steps) and durations[-1] < min(steps):
        span = sum(steps)
        measured = (count - 1) / span
    else:
        return None
    if told and abs(told / measured - 1) < 0.02:
        return told
    near = [float(rate) for rate in (round(measured), round(measured / TELEVISION) * TELEVISION) if rate]
    off, rate = min((abs(span - (count - 1) / rate), rate) for rate in near) if near else (1.0, measured)
    return rate if off <= 1.01 * tick else measured


def even_out(durations: Sequence[float], told: float | None, timing: Timing | None, tick: float) -> tuple[Sequence[int], float]:
    """Which picture each evenly spaced frame shows, and the frame rate. timing: what the video was written with, if known; the
    others as in `even_rate`. The last picture always is shown. One frame more than the limit stands for all that are more."""
    count, total = len(durations), sum(durations)
    # A video of equal frames is one still WebP picture without any duration.
    if timing is not None and (total == 0 or is_length_of(timing, total)):
        return range(count) if count == timing.frames else _shown_at(durations, timing.frames, 1 / timing.fps), timing.fps
    if total == 0:
        return range(count), 1 / BROWSER_DELAY
    if (rate := even_rate(durations, told, tick)) is not None:
        return range(count), rate
    # Not the very shortest: one stray timestamp must not multiply the frames. Nor the last, which is a guess in many files,
    # unless the others do not tell.
    steps = sorted(durations[:-1])
    shortest = steps[len(steps) // 10]
    usual = [step for step in steps if 0.5 * shortest < step < 1.5 * shortest]
    if len(usual) < 2 and durations[-1] < shortest:
        usual = [durations[-1]]
    step = sum(usual) / len(usual)
    shown = _shown_at(durations, max(1, round(min(total / step, limits().frames + 1))), step)
    return [*shown, count - 1] if shown[-1] < count - 1 else shown, 1 / step


def _shown_at(durations: Sequence[float], count: int, step: float) -> list[int]:
    """The picture in view in the middle of each of count steps."""
    shown = np.searchsorted(np.cumsum(durations), (np.arange(count) + 0.5) * step, side="right")
    return np.minimum(shown, len(durations) - 1).tolist()
