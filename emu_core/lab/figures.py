"""The figures of the report: what the exact judge says of each arm, the distances of the laboratory's classifier, the claims."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from .. import __version__
from ..evaluation.statistics import wilson
from ..limits import json_of
from ..study.questions import KEYS
from ..study.report import build_report
from ..study.results import Results
from ..toy.worlds import LAB
from . import automatic, losses, published, videos, votes
from .arms import Arm, Claim
from .classifier import Budget as Lesson
from .classifier import Classes, Classifier, Seen, frechet, inception, trained_at
from .measures import differences, pooled
from .run import Lab

REAL = 400
"""Real clips of other prompts, that distances are to."""
PAPERS_KAPPA = 0.31
"""Fleiss' kappa of people's votes with reasons (Girdhar et al., arXiv 2311.10709)."""
CURVES = {
    "low": ("steps at half the resolution", ("low_0", "low_quarter", "design", "low_double")),
    "clips": ("clips of training", ("clips_sixteenth", "clips_quarter", "design")),
}
"""Arms that have more and more of something."""
PROBES = "probes"


def classifier_of(lab: Lab) -> Classifier:
    """The laboratory's classifier, trained unless it is there."""
    lesson, classes = Lesson(clips=32 * lab.budget.classifier), Classes(LAB.figures, LAB.motions)
    return trained_at(lab.folder / "classifier.safetensors", classes, lesson, clips=videos.lab_clips)


def seen(lab: Lab, classifier: Classifier, name: str) -> Seen:
    """What the classifier says of an arm's videos, of its first seed."""
    return classifier.look(lab.run(name, lab.budget.first_seed).videos.movedim(-1, 2) * 2 - 1)


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
            "threads": [one.threads for one in results],
            "measures": pooled([one.rows for one in results]),
            "fvd_lab": asdict(frechet(told, reference)),
            "is_lab": asdict(inception(told)),
        }
    return found


def of_claim(lab: Lab, claim: Claim, results: Results) -> dict[str, Any]:
    """The paper's win rates, ours with their intervals, and whether they say the same (`decided`: chance is outside of ours);
    what the raters agreed in and gave as reasons for the arm that won more, the win rate of each seed of training by itself; and
    the differences of the exact measures."""
    report, seeds = build_report(results), votes.both(lab, claim)
    first, second = ([lab.run(name, seed).rows for seed in seeds] for name in (claim.arm, claim.against))
    found: dict[str, Any] = {**asdict(claim), "seeds": len(seeds), "differences": differences(first, second)}
    for question in KEYS:
        one, theirs = report["questions"][question]["comparisons"][0], getattr(claim, question)
        rate, (low, high) = one["win_rate"], one["bootstrap"]
        agrees = None if theirs is None else (rate > 0.5) == (theirs > 50)
        decided = not low <= 0.5 <= high
        said = "preferred" if rate > 0.5 else "not preferred"
        verdict = "open" if not decided else said if agrees is None else "agrees" if agrees else "does not agree"
        found[f"our_{question}"] = {
            **{"win_rate": rate, "low": low, "high": high, "decided": decided, "agrees": agrees, "verdict": verdict},
            **{part: one[part] for part in ("kappa", "agreement")},
            "by_seed": [votes.win_rate(results, claim, question, seed) for seed in seeds],
            "winner": claim.arm if rate >= 0.5 else claim.against,
            "reasons": one["reasons"]["first" if rate >= 0.5 else "second"]["share"],
        }
    return found


def everything(lab: Lab) -> dict[str, Any]:
    """All numbers of the report, for JSON."""
    arms, ready = of_arms(lab), [claim for claim in lab.claims if votes.is_ready(lab, claim)]
    studies = [votes.vote(lab, claim) for claim in ready]
    rows = {name: votes.rows(lab, name, lab.seeds(lab.arms[name])) for name in arms}
    claims = [of_claim(lab, claim, results) for claim, results in zip(ready, studies, strict=True)]
    return {
        "budget": asdict(lab.budget),
        "machine": {**machine(), "threads": sorted({count for arm in arms.values() for count in arm["threads"] if count})},
        "hours": sum(sum(arm["seconds"]) for arm in arms.values()) / 3600,
        "least_if_all_won": (wilson(lab.budget.prompts, lab.budget.prompts) or (None,))[0],
        "claims": claims,
        "systems": [of_system(name, arms[name], claims) for name in published.SYSTEMS if name in arms],
        "published": published.beside(arms),
        "automatic": automatic.against_votes(studies, arms, rows),
        "kappa": of_kappa(claims),
        "curves": of_curves(lab, arms),
        "losses": losses.of_lab(lab),
        "probes": of_probes(lab),
        "arms": arms,
    }


def of_system(name: str, arm: dict[str, Any], claims: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A system's figures, and the design's win rates against it, None for the design itself."""
    against = next((one for one in claims if (one["arm"], one["against"]) == (automatic.DESIGN, name)), {})
    found = {key: arm[key] for key in ("fvd_lab", "is_lab", "measures")}
    return {"arm": name, "system": published.SYSTEMS[name], **found, **{f"our_{q}": against.get(f"our_{q}") for q in KEYS}}


def of_kappa(claims: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over the claims of Fleiss' kappa, by question; the paper's beside it."""
    found: dict[str, Any] = {"paper": PAPERS_KAPPA}
    for question in KEYS:
        known = [kappa for one in claims if (kappa := one[f"our_{question}"]["kappa"]) is not None]
        found[question] = sum(known) / len(known) if known else None
    return found


def of_curves(lab: Lab, arms: dict[str, Any]) -> dict[str, Any]:
    """Of each of CURVES the arms that are done with how much they have, the least first."""

    def amount(what: str, arm: Arm) -> int:
        budget = lab.budget
        return round(arm.low * budget.low if what == "low" else arm.changes.get("world.cache", 1) * budget.clips)

    return {
        what: {"x": x, "points": [{"arm": name, "x": amount(what, lab.arms[name])} for name in names if name in arms]}
        for what, (x, names) in CURVES.items()
    }


def of_probes(lab: Lab) -> dict[str, Any]:
    """Experiments on trained arms, each as it was kept."""
    return {file.stem: json_of(file.read_bytes()) for file in sorted((lab.folder / PROBES).glob("*.json"))}


def machine() -> dict[str, Any]:
    """What it ran on."""
    cpu = next((line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "emu": __version__,
    }


def _cpuinfo() -> list[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:  # not Linux
        return []
