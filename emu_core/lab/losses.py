"""Losses of the arms against steps, from the logs of their stages, where they can be compared; how fast an arm gets to a loss.

Validation is measured once, at a stage's end, so curves are of the loss of training: of a seed every arm has the same clips,
noise and timesteps at a step. A point is the mean of a tenth of the stage's steps up to it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from ..training.folder import LOG_FILE, RECIPE_FILE, read_rows
from .run import Lab

STAGES = {"stage1_256px": "half the resolution", "stage2_512px": "full resolution"}
REFERENCE = "design"
PACE = ((REFERENCE, "random_start"), ("adamw", "adamw_random"))
"""Pairs of arms of which it is asked how much slower the second is. How much higher its loss is over all of the first stage, by
Student's t over the seeds, is the measure of the identity start that was fixed beforehand."""
SHOWN = (
    REFERENCE,
    "random_start",
    "single_stage",
    "all_trained",
    "convolutions_alone",
    "attention_alone",
    "depthwise",
    "low_0",
    *PACE[1],
)
"""Arms of the curves, those of them whose losses are of the same targets: other schedules and predictions have others."""
SMOOTH = 10
"""The part of a stage's steps, one in so many, that a point is the mean of."""
POINTS = 60
Losses = NDArray[np.float64]


def stage_folder(lab: Lab, name: str, seed: int, stage: str) -> Path | None:
    """Where an arm trained a stage to its end; None if it has none, or is not done."""
    found = [path.parent for path in lab.place(name, seed).glob(f"*-{stage}/{LOG_FILE}")] if lab.is_done(name, seed) else []
    return found[0] if found else None


def smoothed(losses: Sequence[float]) -> tuple[int, Losses]:
    """How many steps a point is the mean of, n // SMOOTH or 1, and the points: the first is that of this step."""
    window = max(1, len(losses) // SMOOTH)
    sums = np.cumsum([0.0, *losses])
    return window, (sums[window:] - sums[:-window]) / window


def comparable(recipe: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether losses of two recipes are of the same targets, clips and given frames."""
    same = all(recipe[part] == other[part] for part in ("schedule", "clips", "given", "world"))
    return same and all(recipe["method"][part] == other["method"][part] for part in ("image", "shared_noise"))


def _of_arm(lab: Lab, name: str, stage: str) -> list[tuple[int, dict[str, Any], list[dict[str, float]]]]:
    """(seed, recipe, rows of the log) of each seed that is done."""
    found = []
    for seed in lab.seeds(lab.arms[name]):
        if folder := stage_folder(lab, name, seed, stage):
            found.append((seed, json.loads((folder / RECIPE_FILE).read_text()), read_rows(folder / LOG_FILE)))
    return found


def curves(lab: Lab, stage: str) -> dict[str, Any]:
    """Of each arm of SHOWN: `points` of a stage (the mean over seeds, and the lowest and highest of them) and, of the stage's
    end, the `validation` loss of each seed."""
    usual, found = _of_arm(lab, REFERENCE, stage) if REFERENCE in lab.arms else [], {}
    for name in (name for name in SHOWN if usual and name in lab.arms):
        runs = [run for run in _of_arm(lab, name, stage) if comparable(run[1], usual[0][1])]
        if not runs:
            continue
        window, lines = zip(*(smoothed([row["loss"] for row in rows]) for _, _, rows in runs), strict=True)
        every = math.ceil(len(lines[0]) / POINTS)
        places = range(len(lines[0]) - 1, -1, -every)[::-1]  # the last point is always shown
        found[name] = {
            "seeds": len(runs),
            "points": [
                {"step": place + window[0], "value": float(np.mean(at)), "low": min(at), "high": max(at)}
                for place in places
                for at in [[float(line[place]) for line in lines]]
            ],
            "validation": [rows[-1].get("val_loss") for _, _, rows in runs],
        }
    return found


def speed(lab: Lab, arm: str, slower: str, stage: str) -> dict[str, Any]:
    """At how many steps another arm has the smoothed loss that an arm has at half of a stage's steps: of each seed
    `half`, `loss`, the step that `reached` it and how many `times` half that is; None where it did not. And by how much its loss
    is higher, at the same clips, noise and timesteps: over the `early` tenth of the stage and over the `whole`, and what the
    interval of the latter says of the paper's sign, the `verdict`: agrees, does not agree, or open where it holds 0."""
    ours, theirs = ({seed: rows for seed, _, rows in _of_arm(lab, name, stage)} for name in (arm, slower))
    seeds = []
    for seed in sorted(ours.keys() & theirs.keys()):
        (window, line), (other_window, other) = (smoothed([row["loss"] for row in of[seed]]) for of in (ours, theirs))
        half = max(len(ours[seed]) // 2, window)
        loss = float(line[half - window])
        places = np.flatnonzero(other <= loss)
        reached = int(places[0]) + other_window if len(places) else None
        told: dict[str, Any] = {"seed": seed, "half": half, "loss": loss, "reached": reached, "times": reached and reached / half}
        apart = [b["loss"] - a["loss"] for a, b in zip(ours[seed], theirs[seed], strict=False)]
        seeds.append({**told, "early": float(np.mean(apart[:window])), "whole": float(np.mean(apart))})
    times = [one["times"] for one in seeds if one["times"] is not None]
    mean = sum(times) / len(times) if times and len(times) == len(seeds) else None
    steps = len(next(iter(theirs.values()), []))
    higher = {part: of_seeds([one[part] for one in seeds]) for part in ("early", "whole")}
    low, high = higher["whole"]["low"], higher["whole"]["high"]
    verdict = "open" if low is None or high is None or low <= 0 <= high else "agrees" if low > 0 else "does not agree"
    found = {"than": arm, "arm": slower, "stage": stage, "steps": steps, "seeds": seeds, "mean": mean}
    return {**found, **higher, "verdict": verdict}


def of_seeds(values: Sequence[float]) -> dict[str, float | None]:
    """Their mean with the 95 % interval of Student's t; without one for fewer than two."""
    if len(values) < 2:
        return {"value": values[0] if values else None, "low": None, "high": None}
    mean = float(np.mean(values))
    half = float(scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return {"value": mean, "low": mean - half, "high": mean + half}


def of_lab(lab: Lab) -> dict[str, Any]:
    """Curves of both stages, and how fast an arm with random temporal layers is in each."""
    fast = [speed(lab, *pair, stage) for pair in PACE if {*pair} <= lab.arms.keys() for stage in STAGES]
    return {"curves": {stage: curves(lab, stage) for stage in STAGES}, "speed": [one for one in fast if one["seeds"]]}
