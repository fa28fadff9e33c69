"""The node that puts given frames into the conditioning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..emu_core.errors import UserError
from ..emu_core.model.conditioning import AMOUNTS_OF_MOTION, MAX_FRAMES, checked_positions
from .adapter.given import Given, for_each, with_given
from .adapter.pixels import RESIZE, latent_size, prepare
from .adapter.schema import RARE, Node, answer, io, links
from .sampling import CONDITIONINGS, SIZE

UNSET: dict[str, Any] = {"default": -1.0, "min": -1.0, "optional": True, **RARE}
"""Of numbers that only one family of stacks reads: below 0 as the stack has them."""

TOLD = [
    io.Combo.Input("motion", options=list(AMOUNTS_OF_MOTION), default="moderate", optional=True, **RARE),
    io.Float.Input("cond_fps", max=120.0, step=1.0, **UNSET),
    io.Float.Input("motion_score", max=100.0, step=0.1, **UNSET),
]
"""What single families are told besides."""


def values_of(told: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    """Of `cond_fps` and `motion_score` those that are set, as `Given` has them."""
    return tuple((name.removeprefix("cond_"), number) for name, number in sorted(told.items()) if number >= 0)


def parse_positions(text: str) -> list[int]:
    """`0, -1` -> [0, -1]; `0..15` -> the first 16; nothing -> []. ValueError for what is no list of frame numbers."""
    places: list[int] = []
    try:
        for part in filter(str.strip, text.replace(";", ",").split(",")):
            first, dots, last = part.partition("..")
            places += range(int(first), int(last if dots else first) + 1)[:MAX_FRAMES]
    except ValueError:
        wanted = "frame numbers with commas between, such as 0 or 0, -1 or 0..15"
        raise UserError(f"positions should be {wanted}, found {text!r}") from None
    return places


def _check(positions: str | None, length: int | None) -> None:
    """ValueError for a length or positions that cannot be. None: linked, known when the node runs."""
    if length is not None and not 1 <= length <= MAX_FRAMES:
        raise UserError(f"length should be 1 to {MAX_FRAMES} frames, found {length}")
    places = [] if positions is None else parse_positions(positions)
    if length is not None:
        checked_positions(places, len(places), length)


class EmuVideoConditioning(Node):
    """Given frames and texts -> the three conditionings of two guidances, and an empty LATENT of as many frames."""

    sought = (
        "image to video, i2v, img2vid, text to video, t2v, first frame, last frame, flf2v, keyframes, "
        "extend video, video extension, empty video latent, animatediff, pia, fancyvideo"
    )
    inputs = [
        *links(positive=io.Conditioning, negative=io.Conditioning, vae=io.Vae),
        *SIZE,
        io.Int.Input("length", default=16, min=1, max=MAX_FRAMES),
        io.Int.Input("videos", default=1, min=1, max=64, **RARE),
        io.String.Input("positions", default="0"),
        io.Combo.Input("resize", options=list(RESIZE), default=RESIZE[0], **RARE),
        io.Image.Input("image", optional=True),
        *TOLD,
    ]
    outputs = {**CONDITIONINGS, "latent": io.Latent}

    @classmethod
    def validate_inputs(cls, positions: str | None = None, length: int | None = None) -> bool | str:
        """Frame numbers that fit the length, whose range ComfyUI leaves to us as it is named here."""
        return answer(_check, positions, length)

    @classmethod
    def execute(
        cls, positive, negative, vae, width, height, length, videos, positions, resize, image=None, motion="moderate", **told: Any
    ) -> io.NodeOutput:
        """`image` (k, H, W, 3) becomes k given frames; without one the video is made from the text alone. Where there are k for
        each of several videos, each is given its own; texts likewise, if there is one for each. `told`: cond_fps and
        motion_score, below 0 or left out as the stack has them."""
        _check(None, length)
        positive, negative = (for_each(texts, videos, length) for texts in (positive, negative))
        channels, h, w = latent_size(vae, height, width)
        given = none = Given(torch.zeros(0, channels, h, w), (), length, motion=motion, values=values_of(told))
        if image is not None:
            places = parse_positions(positions)
            own = videos if len(image) == videos * len(places) else 1
            places = checked_positions(places, len(image) // own, length)
            latents = vae.encode(prepare(image, height, width, resize))
            given = replace(none, latents=latents, positions=tuple(places), videos=own)
        latent = {"samples": torch.zeros(videos * length, channels, h, w)}
        return io.NodeOutput(with_given(positive, given), with_given(negative, given), with_given(negative, none), latent)
