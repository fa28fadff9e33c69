"""FVD and IS of the systems on UCF-101, as papers give them, beside the laboratory's.

The published ones are distances of I3D's features and scores of C3D's classes on videos of people's actions, the laboratory's of
its own classifier on its own world, of arms that have a system's idea and neither its size nor its data. No value may be compared
with another's; whether both put the systems into one order is all that can be asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

import numpy as np

from ..evaluation.statistics import spearman_rho


@dataclass(frozen=True)
class Published:
    """A row. `arm`: the laboratory's, "" where there is none. `fvd`, and `inception` with its standard deviation `spread`; None
    where the paper gives none. `trained`: on UCF-101, else zero-shot. `earlier`: a figure that the same authors replaced."""

    system: str
    arm: str
    fvd: float | None
    inception: float | None
    source: str
    spread: float | None = None
    trained: bool = False
    earlier: bool = False


PUBLISHED = (
    Published("VGAN", "vgan", None, 8.31, "arXiv 2104.10157, table 2", 0.09, trained=True),
    Published("MoCoGAN", "mocogan", None, 12.42, "arXiv 2104.10157, table 2", 0.03, trained=True),
    Published("CogVideo (English)", "", 701.59, 25.27, "arXiv 2304.08818"),
    Published("Make-A-Video", "make_a_video", 367.23, 33.00, "arXiv 2209.14792; 2304.08818"),
    Published("MagicVideo", "magic_video", 655.00, None, "arXiv 2311.15127; 2311.10709 (arXiv 2304.08818 has 699.00)"),
    Published("Align Your Latents", "align_your_latents", 550.61, 33.45, "arXiv 2304.08818"),
    Published("PYoCo", "pyoco", 355.19, 47.76, "arXiv 2305.10474; 2401.12945"),
    Published("Stable Video Diffusion", "svd", 242.02, None, "arXiv 2311.15127"),
    Published("Emu Video, first version", "design", 606.20, 42.70, "arXiv 2311.10709; 2401.12945", earlier=True),
    Published("Emu Video, second version", "design", 317.1, 42.7, "arXiv 2311.10709, table 2"),
)
SYSTEMS = {
    "vgan": "VGAN",
    "mocogan": "MoCoGAN",
    "make_a_video": "Make-A-Video",
    "align_your_latents": "Align Your Latents",
    "pyoco": "PYoCo",
    "magic_video": "MagicVideo",
    "svd": "Stable Video Diffusion",
    "retrieval": "nearest clip of training",
    "real": "real clips",
    "design": "Emu Video (design)",
}
"""Arms that are systems, as tables call them."""
FEWEST = 3
"""Systems of which an order says anything."""


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> dict[str, float | None]:
    """Spearman's rho of two rankings (n,) with the exact two-sided p-value: the share of all n! orders of the second that are as
    far from 0. None for fewer than three, and where one ties all."""
    rho = p = None
    if len(first) >= FEWEST and np.isfinite(found := float(spearman_rho(first, second))):
        each = spearman_rho(np.asarray(first), np.array(list(permutations(second))))
        rho, p = found, float((np.abs(each) >= abs(found) - 1e-9).mean())
    return {"n": len(first), "rho": rho, "p": p}


def beside(arms: Mapping[str, Any]) -> dict[str, Any]:
    """The rows with the laboratory's own figures of those `arms` that are there, and the rank correlations over the systems that
    have both: of FVD with Emu Video's figure of the second version and with that of the first, and of IS."""
    rows = []
    for row in PUBLISHED:
        own = arms.get(row.arm, {})
        ours = {key: own[key]["value"] if own else None for key in ("fvd_lab", "is_lab")}
        rows.append({**asdict(row), **ours})

    def order(theirs: str, own: str, without: str) -> dict[str, Any]:
        both = [row for row in rows if row["system"] != without and None not in (row[theirs], row[own])]
        found = rank_correlation([row[theirs] for row in both], [row[own] for row in both])
        return {"of": theirs, "systems": [row["system"] for row in both], **found}

    first, second = "Emu Video, first version", "Emu Video, second version"
    return {
        "rows": rows,
        "orders": [order("fvd", "fvd_lab", first), order("fvd", "fvd_lab", second), order("inception", "is_lab", first)],
    }
