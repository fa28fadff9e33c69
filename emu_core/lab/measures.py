"""What the report shows of the exact judge, of single arms and of the difference between two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..evaluation.statistics import bootstrap_mean
from ..toy.measure import Row


@dataclass(frozen=True)
class Measure:
    """`key`: in rows of `toy.measure.row`; `unit`: "%" for shares of 1, which are shown times 100."""

    key: str
    name: str
    unit: str
    better: str = "higher"

    @property
    def label(self) -> str:
        """As tables call it."""
        return f"{self.name}, {self.unit}"

    @property
    def times(self) -> int:
        """What it is shown times."""
        return 100 if self.unit == "%" else 1


MEASURES = (
    Measure("figure", "figure right", "%"),
    Measure("colour", "colour right", "%"),
    Measure("motion", "motion right", "%"),
    Measure("amount", "motion right with its amount", "%"),
    Measure("last_frame_shape", "last frame whole", "%"),
    Measure("edge_error_px", "edge error", "px", "lower"),
    Measure("wobble_px", "wobble", "px", "lower"),
    Measure("frame0_psnr_db", "frame 0", "dB"),
)
DIFFERENCES = ("figure", "motion", "amount", "edge_error_px", "wobble_px")
"""Of the claims."""
OF = {measure.key: measure for measure in MEASURES}
Rows = Sequence[Sequence[Row]]
"""(seeds, prompts)."""


def pooled(rows: Rows) -> dict[str, Any]:
    """Each measure's mean with its 95 % interval over the prompts, whose seeds hang together."""
    return {key: asdict(bootstrap_mean([_mean([row.get(key, math.nan) for row in one]) for one in _prompts(rows)])) for key in OF}


def differences(first: Rows, second: Rows) -> dict[str, Any]:
    """Of DIFFERENCES the mean of first - second over the prompts with its 95 % interval. A prompt's is the mean over its seeds;
    a video that lacks a measure, such as the outline of a figure that is none, leaves its pair out."""
    pairs = [list(zip(one, other, strict=True)) for one, other in zip(_prompts(first), _prompts(second), strict=True)]
    return {
        key: asdict(bootstrap_mean([_mean([a.get(key, math.nan) - b.get(key, math.nan) for a, b in of]) for of in pairs]))
        for key in DIFFERENCES
    }


def _prompts(rows: Rows) -> list[tuple[Row, ...]]:
    return list(zip(*rows, strict=True))


def _mean(values: Sequence[float]) -> float:
    """Of those that are numbers; nan if none is."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
