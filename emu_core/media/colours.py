"""Colours that BT.709 does not have, shown in BT.709: high dynamic range is tone-mapped, a wide gamut converted.

HDR [BT.2100]: PQ gives cd/m2; HLG gives them through its OOTF for a display of 1000 cd/m2 (gamma 1.2). 203 cd/m2 are the white of
graphics [BT.2408] and become 1. Primaries are converted in linear light. Then a Moebius curve: up to KNEE everything stays as it
is, above that the brightest of R, G and B is bent so that the most the signal can carry becomes 1, and the other two keep their
ratio to it. What lies outside of BT.709 is clipped, and the result is encoded for a display of gamma 2.4 [BT.1886]. The same code
always gives the same colour: what a file says of its own brightest pixel is not used. FFmpeg's zscale and tonemap=mobius are of
the same formulae. Wide gamut without HDR: linear light, BT.709's primaries, clipped, the same curve back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

Conversion = Callable[[NDArray[np.uint16]], NDArray[np.uint8]]
BT709, BT2020, PQ, HLG, SRGB = 1, 9, 16, 18, 13
D65 = (0.3127, 0.3290)
PRIMARIES = {
    BT709: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65),
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),  # P3 of cinemas
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),  # Display P3
}
"""x and y of red, green, blue and white, by the numbers of ITU-T H.273, as are all numbers of transfers and primaries here."""
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
"""Of transfers; all others of standard dynamic range are shown with gamma 2.4, whatever a camera did."""
LUMINANCE = np.array([[0.2627], [0.6780], [0.0593]], dtype=np.float32)
"""Of BT.2020's red, green and blue."""
WHITE = 203.0
KNEE = 0.3
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
LEVELS = 1 << 16
STRIP = 1 << 16
"""Pixels that are converted at a time: what is held stays small, and in the processor's cache."""


@cache
def to_bt709(transfer: int, primaries: int) -> Conversion | None:
    """What makes (H, W, 3) uint16 of these colours (H, W, 3) uint8 of BT.709; None where they are shown as they are."""
    hdr = transfer in (PQ, HLG)
    if not hdr and (primaries not in PRIMARIES or primaries == BT709):
        return None
    codes = np.linspace(0, 1, LEVELS)
    light, decoded = _decoded(codes, transfer).astype(np.float32), codes**2
    encoded = _encoded(decoded, transfer)
    shown = np.rint(255 * encoded).astype(np.uint8)
    matrix = _between(primaries if primaries in PRIMARIES else BT2020).T.astype(np.float32)
    peak = (10_000 if transfer == PQ else 1000) / WHITE

    def strip(pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
        linear = light[pixels]
        if transfer == HLG:  # the display's part: by the luminance that a camera saw
            linear *= np.power(_times(linear, LUMINANCE), np.float32(0.2)) * np.float32(1000 / WHITE)
        linear = _times(linear, matrix)
        if hdr:
            most = np.maximum(np.maximum(linear[:, :1], linear[:, 1:2]), linear[:, 2:])
            linear *= _bent(most, peak) / np.maximum(most, np.float32(1e-6))
        # Square roots as the table's index: dark levels lie close together in linear light.
        return shown[(np.sqrt(np.clip(linear, 0, 1)) * (LEVELS - 1) + np.float32(0.5)).astype(np.uint16)]

    def convert(pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
        flat = pixels.reshape(-1, 3)
        return np.concatenate([strip(flat[at : at + STRIP]) for at in range(0, len(flat), STRIP)]).reshape(pixels.shape)

    return convert


def _times(pixels: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """pixels (n, 3) @ matrix (3, m), by hand: BLAS starts all of its threads for so narrow a product, and takes longer."""
    return pixels[:, :1] * matrix[0] + pixels[:, 1:2] * matrix[1] + pixels[:, 2:] * matrix[2]


def _decoded(codes: NDArray[np.float64], transfer: int) -> NDArray[np.float64]:
    """Linear light of code values 0..1: 1 is white, and for HLG what the camera saw at most."""
    if transfer == PQ:
        power = codes ** (1 / 78.84375)
        return 10_000 / WHITE * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    if transfer == HLG:
        return np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    if transfer == SRGB:
        return np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    return codes ** GAMMAS.get(transfer, 2.4)


def _encoded(light: NDArray[np.float64], transfer: int) -> NDArray[np.float64]:
    """Code values of linear light, for the display that the file is for if it is of standard dynamic range."""
    if transfer == SRGB:
        return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return light ** (1 / (GAMMAS[transfer] if transfer in (4, 5) else 2.4))


def _bent(light: NDArray[np.float32], peak: float) -> NDArray[np.float32]:
    """The Moebius curve: smooth, the identity up to KNEE, and 1 at the peak."""
    a = -(KNEE**2) * (peak - 1) / (KNEE**2 - 2 * KNEE + peak)
    b = (KNEE**2 - 2 * KNEE * peak + peak) / (peak - 1)
    scale = (b**2 + 2 * b * KNEE + KNEE**2) / (b - a)
    return np.where(light <= KNEE, light, scale * (light + a) / (light + b)).astype(np.float32)


def _between(primaries: int) -> NDArray[np.float64]:
    """The matrix from linear RGB of these primaries to BT.709's, white to white [Bradford]."""
    cones = [BRADFORD @ _xyz(PRIMARIES[number]) for number in (primaries, BT709)]
    adapted = np.diag(cones[1].sum(axis=1) / cones[0].sum(axis=1)) @ cones[0]
    return np.asarray(np.linalg.solve(cones[1], adapted), dtype=np.float64)


def _xyz(places: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    """The matrix from linear RGB to CIE XYZ."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in places]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])
