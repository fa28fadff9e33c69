"""The eight grounds of the little world: three plain ones, and five with a texture that goes on without end."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .shapes import BACKGROUNDS

PLAIN = tuple(BACKGROUNDS)
PLACES = {
    "sea": ("in the sea", "in the ocean"),
    "sky": ("in the sky", "in the clouds"),
    "beach": ("on a beach", "along a beach"),
    "meadow": ("on a meadow", "on the grass"),
    "night": ("at night", "under the stars"),
}
"""The grounds with a texture, and how a caption says each."""
GROUNDS = (*PLAIN, *PLACES)
TILE = 256  # pixels after which a texture begins again
HORIZON = 16.0  # of the beach: pixels from the frame's upper edge, before the camera moves
COLOURS = {
    **BACKGROUNDS,
    "sea": (24, 98, 146),
    "sky": (150, 196, 236),
    "beach": (228, 204, 156),
    "meadow": (150, 188, 96),
    "night": (18, 20, 52),
}
"""The colour that most of each ground has."""


def noise(seed: int, low: float, high: float, stretch: float = 1.0) -> Tensor:
    """Periodic noise (TILE, TILE) of unit variance with waves of `low` to `high` pixels, `stretch` times as long in x."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfft2(torch.randn(TILE, TILE, generator=generator))
    y, x = torch.fft.fftfreq(TILE)[:, None], torch.fft.rfftfreq(TILE)[None] * stretch
    frequency = (x * x + y * y).sqrt()
    wave = torch.fft.irfft2(spectrum * ((frequency >= 1 / high) & (frequency <= 1 / low)), s=(TILE, TILE))
    return (wave - wave.mean()) / wave.std()


def _dots(seed: int, count: int, smallest: float, largest: float) -> Tensor:
    """How much of each pixel (TILE, TILE) dots at random places cover."""
    generator = torch.Generator().manual_seed(seed)
    x, y, size = torch.rand(3, count, 1, 1, generator=generator)
    axis = torch.arange(TILE) + 0.5
    dx, dy = (((axis - place * TILE + TILE / 2) % TILE) - TILE / 2 for place in (x[:, 0], y[:, 0]))
    distance = (dx[:, None, :].square() + dy[:, :, None].square()).sqrt()
    return (0.5 + smallest + (largest - smallest) * size - distance).clamp(0, 1).amax(0)


def _mix(base: tuple[int, int, int], *layers: tuple[Tensor, tuple[int, int, int]]) -> Tensor:
    """Layers of (share 0..1, colour) one over another, (3, TILE, TILE) in -1..1."""
    result = torch.tensor(base, dtype=torch.float32).view(3, 1, 1).expand(3, TILE, TILE)
    for share, colour in layers:
        result = result + share * (torch.tensor(colour, dtype=torch.float32).view(3, 1, 1) - result)
    return result / 127.5 - 1


@cache
def texture(ground: str) -> Tensor:
    """Colours (3, TILE + 1, TILE + 1) in -1..1; the last row and column are the first ones again, but for the beach, whose rows
    do not come round: its horizon lies in the middle."""
    base = COLOURS[ground]
    if ground in PLAIN:
        return _mix(base)[:, :1, :1].expand(3, TILE + 1, TILE + 1)
    if ground == "sea":
        swell, crest = noise(1, 12, 48, 3.0), noise(2, 6, 20, 4.0)
        tile = _mix(base, ((swell * 0.12).clamp(0, 0.3), (60, 150, 190)), (((crest - 1.1) * 0.9).clamp(0, 0.6), (150, 205, 225)))
    elif ground == "sky":
        tile = _mix(base, (((noise(3, 18, 80, 1.8) - 0.35) * 0.7).clamp(0, 0.9), (248, 250, 252)))
    elif ground == "meadow":
        blades = noise(5, 4, 14, 0.4)
        shade = (0.5 + 0.22 * blades).clamp(0, 1)
        tile = _mix((126, 164, 78), (shade, (174, 210, 114)), (_dots(6, 70, 0.7, 1.2), (250, 246, 236)))
    elif ground == "night":
        tile = _mix(base, ((noise(7, 24, 96) * 0.12).clamp(0, 0.3), (58, 48, 110)), (_dots(8, 130, 0.1, 0.9), (250, 246, 225)))
    else:
        sand = _mix((214, 188, 138), ((0.55 + 0.2 * noise(9, 4, 20, 2.0)).clamp(0, 1), (238, 216, 172)))
        row = torch.arange(TILE)[:, None].float() - TILE / 2
        surf = (0.5 + row + 1.2 * noise(10, 20, 60)).clamp(0, 1)  # sand below the line where the water ends
        water = _mix((64, 150, 184), ((row + 9.5).clamp(0, 1).expand(TILE, TILE), (40, 128, 168)))
        sky = _mix((168, 208, 238))
        above = torch.where(row < -9, sky, water)
        tile = above + surf * (sand - above)
        return F.pad(F.pad(tile, (0, 1, 0, 0), mode="circular"), (0, 0, 0, 1), mode="replicate")
    return F.pad(tile, (0, 1, 0, 1), mode="circular")
