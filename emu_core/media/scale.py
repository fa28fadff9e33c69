"""Videos that are written larger than they are, so that a player shows more than a stamp, and read as they were."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from ..limits import how, limits

MOST, WIDEST = 16, 16383
"""Of a factor; and of a side in pixels, which is what WebP holds (H.264 one more)."""
KEY = "scale"
"""The entry of a video's metadata that tells of it."""
_TOLD = re.compile(r"(\d{1,2}):(nearest|lanczos) of (\d{1,5})x(\d{1,5})")


@dataclass(frozen=True)
class Scale:
    """Each pixel becomes factor x factor: equal ones (nearest), or a smooth picture (lanczos). within: fewer, where the longer
    side would become more than so many pixels."""

    factor: int = 1
    filter: Literal["nearest", "lanczos"] = "nearest"
    within: int | None = None

    def of(self, height: int, width: int) -> Scale:
        """For frames (height, width)."""
        most = self.factor if self.within is None else max(1, self.within // max(height, width))
        return replace(self, factor=min(self.factor, most), within=None)

    def enlarged(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A frame (H, W, 3) uint8 as (factor H, factor W, 3)."""
        if self.factor == 1:
            return pixels
        if self.filter == "nearest":
            return pixels.repeat(self.factor, 0).repeat(self.factor, 1)
        size = pixels.shape[1] * self.factor, pixels.shape[0] * self.factor
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))

    def told(self, height: int, width: int) -> dict[str, str]:
        """What the metadata of a video of frames (height, width) say of it."""
        return {} if self.factor == 1 else {KEY: f"{self.factor}:{self.filter} of {width}x{height}"}

    def check(self, height: int, width: int) -> None:
        """UserError for frames (height, width) that become too large: for a file, or to be read again."""
        own, most = self.of(height, width).factor, limits().pixels
        if own == 1:
            return
        found = f"found {width} x {height} times that; choose a smaller one"
        if max(height, width) * own > WIDEST:
            raise UserError(f"--scale {own}: expected sides of at most {WIDEST} px in the file, {found}")
        if height * width * own**2 > most:
            raise UserError(f"--scale {own}: expected at most {most:,} pixels a frame in the file, {found}, or, {how('pixels')}")


def parse_scale(text: str) -> Scale:
    """`4` or `4:nearest` or `4:lanczos`. ValueError for anything else."""
    found = re.fullmatch(r"\s*(\d{1,3})\s*(?::\s*(nearest|lanczos))?\s*", text.lower())
    if found is None or not 1 <= int(found[1]) <= MOST:
        raise UserError(f"--scale should be a whole number from 1 to {MOST}, or with a filter as 4:lanczos, found {text!r}")
    return Scale(int(found[1]), "lanczos" if found[2] == "lanczos" else "nearest")


def scale_of(metadata: Mapping[str, str], height: int, width: int) -> Scale:
    """How a video of frames (height, width) was enlarged when it was written, by its metadata: not at all where they say nothing,
    or where it has another size since."""
    found = _TOLD.fullmatch(metadata.get(KEY, ""))
    if found is None or (int(found[3]) * int(found[1]), int(found[4]) * int(found[1])) != (width, height):
        return Scale()
    return Scale(int(found[1]), "lanczos" if found[2] == "lanczos" else "nearest")


def reduced(pixels: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """The reverse of `enlarged` by nearest: frames (factor H, factor W, 3), uint8 or 0..1, as (H, W, 3) float32 in 0..1. To the
    bit where the file is lossless; else the mean of what a pixel became, which loses less than one pixel would."""
    height, width = (side // factor for side in pixels.shape[:2])
    means = pixels.reshape(height, factor, width, factor, 3).mean((1, 3), dtype=np.float64).astype(np.float32)
    return means / np.float32(255) if pixels.dtype == np.uint8 else means
