"""The figures of the report: what the exact judge says of each arm, the distances of the laboratory's classifier, the claims."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from .. import __version__
from ..evaluation.statistics import bootstrap_mean
from ..toy.measure import Row
from ..toy.worlds import LAB
from . import videos, votes
from .arms import Claim
from .classifier import Budget as Lesson
from .classifier import Classes, Classifier, Seen, frechet, inception, trained_at
from .run import Lab

MEASURES = {
    "figure": "figure right, %",
    "colour": "colour right, %",
    "motion": "motion right, %",
    "amount": "with its amount, %",
    "last_frame_shape": "last frame whole, %",
    "edge_error_px": "edge error, px",
    "wobble_px": "wobble, px",
    "frame0_psnr_db": "frame 0, dB",
}
"""Of the exact judge, as tables call them."""
SHARES = ("figure", "colour", "motion", "amount", "last_frame_shape")
REAL = 400
"""Real clips of other prompts, that distances are to."""


def pooled(rows: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Of the rows of each seed, (seeds, prompts): each measure's mean with its 95 % interval over the prompts, whose seeds hang
    together."""
    found: dict[str, Any] = {}
    for name in MEASURES:
        each = []
        for of_one in zip(*rows, strict=True):
            values = [row[name] for row in of_one if math.isfinite(row.get(name, math.nan))]
            each.append(sum(values) / len(values) if values else math.nan)
        found[name] = asdict(bootstrap_mean(each))
    return found


def classifier_of(lab: Lab) -> Classifier:
    """The laboratory's classifier, trained unless it is there."""
    lesson, classes = Lesson(clips=32 * lab.budget.classifier), Classes(LAB.figures, LAB.motions)
    return trained_at(lab.folder / "classifier.safetensors", classes, lesson, clips=videos.lab_clips)


def seen(lab: Lab, classifier: Classifier, name: str) -> Seen:
    """What the classifier says of an arm's videos, of its first seed."""
    return classifier.look(lab.run(name, 0).videos.movedim(-1, 2) * 2 - 1)


def of_arms(lab: Lab) -> dict[str, Any]:
    """Of each arm all of whose seeds are done: seeds, seconds, measures, distances."""
    done = [name for name, arm in lab.arms.items() if all(lab.is_done(name, seed) for seed in lab.seeds(arm))]
    if not done:
        return {}
    classifier = classifier_of(lab)
    real = videos.real_videos(videos.prompts(min(REAL, 4 * lab.budget.prompts), videos.SEED + 1))
    reference = classifier.look(real.movedim(-1, 2) * 2 - 1)
    found = {}
    for name in done:
        results = [lab.run(name, seed) for seed in lab.seeds(lab.arms[name])]
        told = seen(lab, classifier, name)
        found[name] = {
            "about": lab.arms[name].about,
            "seeds": len(results),
            "seconds": [one.seconds for one in results],
            "measures": pooled([one.rows for one in results]),
            "fvd_lab": asdict(frechet(told, reference)),
            "is_lab": asdict(inception(told)),
        }
    return found


def of_claim(lab: Lab, claim: Claim) -> dict[str, Any]:
    """The paper's win rates, ours with their intervals, and whether they say the same; `decided`: chance is outside of ours."""
    report = votes.vote(lab, claim)
    found: dict[str, Any] = {**asdict(claim), "seeds": len(votes.both(lab, claim))}
    for question, theirs in (("quality", claim.quality), ("faithfulness", claim.faithfulness)):
        one = report["questions"][question]["comparisons"][0]
        turned = one["first"] != claim.arm
        rate = 1 - one["win_rate"] if turned else one["win_rate"]
        low, high = (1 - one["bootstrap"][1], 1 - one["bootstrap"][0]) if turned else one["bootstrap"]
        found[f"our_{question}"] = {
            "win_rate": rate,
            "low": low,
            "high": high,
            "decided": not low <= 0.5 <= high,
            "agrees": None if theirs is None else (rate > 0.5) == (theirs > 50),
            "kappa": one["kappa"],
            "agreement": one["agreement"],
            "reasons": one["reasons"]["second" if turned == (rate > 0.5) else "first"]["share"],
        }
    return found


def everything(lab: Lab) -> dict[str, Any]:
    """All numbers of the report, for JSON."""
    return {
        "budget": asdict(lab.budget),
        "machine": machine(),
        "arms": of_arms(lab),
        "claims": [of_claim(lab, claim) for claim in lab.claims if votes.is_ready(lab, claim)],
    }


def machine() -> dict[str, Any]:
    """What it ran on."""
    cpu = next((line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "emu": __version__,
    }


def _cpuinfo() -> list[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:  # not Linux
        return []
