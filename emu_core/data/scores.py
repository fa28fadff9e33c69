"""How well text and first frame fit (CLIP), and how pleasing the frame is (a head on CLIP's image vector), as curation asks
`networks`. Models come from local folders; nothing is ever downloaded."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ..networks import AestheticHead, ClipNetwork


class Scorer:
    """`score(caption, frame)` -> (cosine of text and image vectors, aesthetic score or None).

    Raises ValueError where the folder or the head cannot be used.
    """

    def __init__(self, clip: str, aesthetic: str | None = None, device: str = "cpu") -> None:
        self._clip = ClipNetwork(clip, device)
        self._head = AestheticHead(aesthetic, self._clip, self._clip.size) if aesthetic else None

    def score(self, caption: str, frame: np.ndarray) -> tuple[float, float | None]:
        """`frame` is (H, W, 3) uint8. One thread, so that the last digits do not depend on the machine's cores."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            image = self._clip.images([self._clip.prepare(frame)])
            cosine = float(self._clip.texts([caption])[0] @ image[0])
            return cosine, None if self._head is None else float(self._head.scores(image)[0])
        finally:
            torch.set_num_threads(threads)


scorer = lru_cache(maxsize=2)(Scorer)
"""The scorer of this process, loaded once."""
