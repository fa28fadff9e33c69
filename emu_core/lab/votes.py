"""A study for each claim: the videos of two arms, prompt by prompt and seed by seed, and the votes of simulated raters."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..media import write_video
from ..study.create import create_study
from ..study.report import winner
from ..study.results import Results
from ..study.store import Study
from ..toy import measure
from ..training.folder import write_json
from . import raters
from .arms import Claim
from .run import Lab
from .videos import FPS

PROMPTS_FILE = "prompts.json"


def both(lab: Lab, claim: Claim) -> range:
    """The seeds that both arms of a claim have."""
    return min((lab.seeds(lab.arms[name]) for name in (claim.arm, claim.against)), key=len)


def is_ready(lab: Lab, claim: Claim) -> bool:
    """Whether all videos that a claim compares are made."""
    return all(lab.is_done(name, seed) for seed in both(lab, claim) for name in (claim.arm, claim.against))


def key(seed: int, number: int) -> str:
    """The name of a prompt in a study: the same text once for each seed."""
    return f"{seed}-{number:03d}"


def write_videos(lab: Lab, name: str, seeds: range, folder: Path) -> None:
    """An arm's videos as files that are named after the prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for number, video in enumerate(lab.run(name, seed).videos):
            write_video(folder / f"{key(seed, number)}.mp4", video, FPS)


def make_study(lab: Lab, claim: Claim, out: Path) -> None:
    """A study of a claim in the new folder `out`, without votes: for people, or for simulated raters."""
    seeds, parts = both(lab, claim), out.with_name(f"{out.name}.videos")
    systems = {name: parts / name for name in (claim.arm, claim.against)}
    try:
        for name, folder in systems.items():
            write_videos(lab, name, seeds, folder)
        prompts = [{"id": key(s, i), "prompt": caption} for s in seeds for i, caption in enumerate(lab.captions)]
        write_json(parts / PROMPTS_FILE, prompts)
        create_study(out, systems, parts / PROMPTS_FILE, title=claim.says, raters=lab.budget.raters, seed=0)
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def rows(lab: Lab, name: str, seeds: range) -> dict[str, measure.Row]:
    """What the exact judge says of each of an arm's videos, by the name of its prompt."""
    return {key(seed, number): row for seed in seeds for number, row in enumerate(lab.run(name, seed).rows)}


def vote(lab: Lab, claim: Claim) -> Results:
    """What was voted in a claim's study, which is made and voted on unless that was done before."""
    out = lab.folder / "studies" / f"{claim.arm}-{claim.against}"
    if not out.is_dir():
        out.parent.mkdir(exist_ok=True)
        make_study(lab, claim, out)
    raters.simulate(out, {name: rows(lab, name, both(lab, claim)) for name in (claim.arm, claim.against)}, lab.budget.raters)
    with Study(out) as study:
        return study.results()


def win_rate(results: Results, claim: Claim, question: str, seed: int) -> float:
    """The share of the prompts of one seed in which most raters prefer the claim's first arm."""
    won = [winner(pair, question) == claim.arm for pair in results.pairs if pair.prompt.startswith(f"{seed}-")]
    return sum(won) / len(won)
