"""Starting frame of N: of several starting frames of one prompt, the one that shows it best by CLIP."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import UserError
from ..media.images import to_bytes
from ..networks import ImageText

MOST_CANDIDATES = 64
"""The most starting frames of one prompt that are made to choose from."""


def rank(images: Tensor | Sequence[Tensor], prompt: str, clip: ImageText) -> list[float]:
    """Cosine of each picture with the prompt, in the order given; the best is the one with the highest.

    images: (n, H, W, 3) or n pictures (H, W, 3), float 0..1. clip: such as `networks.ClipNetwork`. Raises ValueError for no
    pictures, a wrong shape, or an empty prompt.
    """
    if not prompt.strip():
        raise UserError("prompt: expected the text that the pictures were made from, found an empty one; give it")
    pictures = list(images)
    if not pictures:
        raise UserError("images: expected one or more candidates, found none; ask for at least one")
    wrong = [tuple(p.shape) for p in pictures if p.ndim != 3 or p.shape[-1] != 3 or not p.is_floating_point()]
    if wrong:
        raise UserError(f"images: expected pictures (height, width, 3) of floats, found {wrong[0]}; permute or convert them")
    text = clip.texts([prompt])[0]
    # One at a time: candidates may be large, and there are few.
    return [float(clip.images([clip.prepare(to_bytes(picture))])[0] @ text) for picture in pictures]


def best(scores: Sequence[float]) -> int:
    """Place of the highest score; of equal ones the first."""
    return max(range(len(scores)), key=scores.__getitem__)
