"""The calls of a model that make a video of any length: which a stack needs, their seeds, and the loop over them, whoever
runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from ..errors import UserError
from .config import SamplingConfig, StackConfig
from .streams import derived
from .timeline import Stretch, Timeline, stretches
from .windows import check_frames

AT_ONCE = 16
"""Given frames that are passed on at a time."""


def calls_of(timeline: Timeline, config: StackConfig, window: int | None = None, past: int | None = None) -> list[Stretch]:
    """The calls that a stack needs for a video: `window` frames at a time, or as many as it was trained on; of the past `past`,
    or as many as it recommends. ValueError for what the stack cannot do."""
    size = window or config.clip.frames
    check_frames(config, size, None, "a smaller window")
    plan = stretches(timeline, size, past or config.sampling.past)
    if "affinity" in config.channel_order and (more := [each for each in plan if len(each.given) > 1]):
        raise UserError(f"PIA takes one given frame at a time, and here it would be given more ({more[0]}): use another stack")
    return plan


def seed_of(seed: int, stretch: Stretch) -> int:
    """The seed of a call: that of a video itself for the call that begins it, which is so the one that `generate` makes."""
    return seed if stretch.first == 0 else derived(seed, "stretch", stretch.first)


def image_guidance(stretch: Stretch, recommended: SamplingConfig, image: float | None, text: float | None) -> float:
    """The image guidance of a call, where guidances are set or, None, as the stack recommends. Where it is not and frames are
    given on both sides of those that are made, it is no less than that of the text, or the way that the text asks for would not
    arrive."""
    if image is not None or not stretch.leads_to_given:
        return recommended.image_guidance if image is None else image
    return max(recommended.image_guidance, recommended.text_guidance if text is None else text)


def in_order(
    timeline: Timeline,
    plan: Sequence[Stretch],
    known: Mapping[int, torch.Tensor],
    given: Iterator[torch.Tensor],
    make: Callable[[int, Sequence[torch.Tensor]], torch.Tensor],
    decode: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[torch.Tensor]:
    """The frames (k, H, W, 3) of a video, part by part, whatever makes them. `known`: latents (C, h, w) of those at `asked`, by
    their places; `given`: all given pictures in order. `make(number, latents)` does a call of the plan with the latents of the
    frames that it is given, and returns those (k, C, h, w) that it makes; `decode` makes pictures of them."""
    last = {frame: number for number, stretch in enumerate(plan) for frame in stretch.given}
    held, done = dict(known), 0
    for frames, maker in parts(timeline, plan):
        while maker is not None and done <= maker:
            made = make(done, [held[frame] for frame in plan[done].given])
            held |= zip(plan[done].made, made, strict=True)
            done += 1
        if maker is None:
            yield torch.stack([next(given) for _ in frames])
        else:
            yield decode(torch.stack([held[frame] for frame in frames]))
        held = {frame: latents for frame, latents in held.items() if frame > frames[-1] or last.get(frame, -1) >= done}


def asked(timeline: Timeline, plan: Sequence[Stretch]) -> list[int]:
    """Those of the given frames that a call is given."""
    return sorted({frame for stretch in plan for frame in stretch.given}.intersection(timeline.given))


def parts(timeline: Timeline, plan: Sequence[Stretch]) -> Iterator[tuple[list[int], int | None]]:
    """The video in the pieces in which it is passed on, in order: frames that follow each other, and the number of the call that
    makes them; None for given ones."""
    makers = {frame: number for number, stretch in enumerate(plan) for frame in stretch.made}
    piece: list[int] = []
    for frame in range(timeline.length):
        full = len(piece) == AT_ONCE and frame not in makers
        if piece and (full or makers.get(piece[0]) != makers.get(frame)):
            yield piece, makers.get(piece[0])
            piece = []
        piece.append(frame)
    yield piece, makers.get(piece[0])
