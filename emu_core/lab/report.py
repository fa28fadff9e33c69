"""The report of the laboratory: the paper's figures and ours side by side, curves, and sheets of what was made."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from ..media import contact_sheet, write_image
from ..media.files import whole_file, write_text
from ..training.folder import write_json
from . import figures, votes
from .figures import MEASURES, SHARES
from .raters import NOTE
from .run import Lab

REPORT, NUMBERS = "lab.md", "lab.json"
SHOWN = 4
"""Prompts of each arm's sheet."""
CURVES = {
    "steps at half the resolution": ("low_0", "low_quarter", "design", "low_double"),
    "clips of training": ("clips_sixteenth", "clips_quarter", "design"),
}
"""Arms in the order in which they have more of something."""


def write_report(lab: Lab, to: str | Path | None = None, study: str | Path | None = None) -> Path:
    """Write the report, its JSON and its pictures of all that is done; `to`: a file with a name in .md, else `lab.md` in the
    laboratory's folder. `study`: also a new folder with the same pairs as studies for people. Returns the report's path."""
    path = Path(to) if to else lab.folder / REPORT
    found = figures.everything(lab)
    pictures = path.parent / "images" if to else path.parent
    pictures.mkdir(parents=True, exist_ok=True)
    for name in found["arms"]:
        draw_sheet(lab, name, pictures / f"lab_{name}.png")
    draw_curves(found, pictures / "lab_curves.png")
    if study:
        for claim in (claim for claim in lab.claims if votes.is_ready(lab, claim)):
            votes.make_study(lab, claim, Path(study) / f"{claim.arm}-{claim.against}")
    write_json(path.with_name(NUMBERS), _plain(found))
    write_text(path, markdown(found, pictures.relative_to(path.parent).as_posix()))
    return path


def _plain(value: Any) -> Any:
    """The same with null for what is no number, which JSON has not."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw_sheet(lab: Lab, name: str, path: Path) -> None:
    """The first videos of an arm, a row each."""
    made = lab.run(name, 0).videos[:SHOWN]
    write_image(path, contact_sheet(torch.cat(list(made)), columns=made.shape[1]))


def draw_curves(found: dict[str, Any], path: Path) -> None:
    """Motion and edge error against each of CURVES, with intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2 * len(CURVES)), layout="constrained")
    panels = figure.subplots(len(CURVES), 2, squeeze=False)
    for row, (title, names) in zip(panels, CURVES.items(), strict=True):
        there = [name for name in names if name in found["arms"]]
        for panel, measure in zip(row, ("motion", "edge_error_px"), strict=True):
            values = [found["arms"][name]["measures"][measure] for name in there]
            means = [one["value"] for one in values]
            ends = [[one["value"] - one["low"] for one in values], [one["high"] - one["value"] for one in values]]
            panel.errorbar(there, means, yerr=ends, marker="o", capsize=3)
            panel.set_title(f"{MEASURES[measure].removesuffix(', %')} against {title}", fontsize=9, loc="left")
            panel.tick_params(labelsize=8)
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=110)


def markdown(found: dict[str, Any], pictures: str) -> str:
    """The report as text."""
    budget, machine = found["budget"], found["machine"]
    lines = [
        "# The laboratory",
        "",
        f"**{NOTE} They say how the study's arithmetic turns known differences into win rates, and nothing of people.**",
        "",
        f"Budget `{budget['name']}`: {budget['low']} + {budget['full']} steps of 16 clips an arm, {budget['clips']} clips, "
        f"{budget['prompts']} held-out prompts, {budget['seeds']} seeds of training where a claim is decided. "
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}. Intervals are 95 % over the prompts.",
        "",
        "## Claims",
        "",
        "Win rates of the first arm in per cent, quality / faithfulness. *Open*: the interval holds 50.",
        "",
        "| claim | the paper | here: quality | faithfulness | sign | seeds |",
        "|---|---|---|---|---|---|",
        *map(_claim, found["claims"]),
        "",
        "## Arms",
        "",
        f"| arm | {' | '.join(MEASURES.values())} | FVD by the lab's classifier | IS by it | minutes a seed |",
        f"|---|{'---|' * (len(MEASURES) + 3)}",
        *(_arm(name, arm) for name, arm in found["arms"].items()),
        "",
        *(f"* `{name}`: {arm['about']}" for name, arm in found["arms"].items()),
        "",
        f"![curves]({pictures}/lab_curves.png)",
        "",
        "## Sheets",
        "",
        f"The first {SHOWN} prompts, eight frames each, seed 0.",
        "",
        *(line for name in found["arms"] for line in (f"`{name}`", "", f"![{name}]({pictures}/lab_{name}.png)", "")),
    ]
    return "\n".join(lines)


def _claim(claim: dict[str, Any]) -> str:
    paper = " / ".join("-" if claim[part] is None else f"{claim[part]:g}" for part in ("quality", "faithfulness"))
    ours, signs = [], []
    for part in ("our_quality", "our_faithfulness"):
        one = claim[part]
        ours.append(f"{100 * one['win_rate']:.0f} ({100 * one['low']:.0f} to {100 * one['high']:.0f})")
        said = "" if one["agrees"] is None else "agrees" if one["agrees"] else "does not agree"
        signs.append(" ".join(filter(None, [said, "" if one["decided"] else "(open)"])) or "-")
    what = f"{claim['says']} (`{claim['arm']}` against `{claim['against']}`)"
    return f"| {what} | {paper} | {ours[0]} | {ours[1]} | {' / '.join(signs)} | {claim['seeds']} |"


def _arm(name: str, arm: dict[str, Any]) -> str:
    cells = [_cell(arm["measures"][measure], 100 if measure in SHARES else 1) for measure in MEASURES]
    cells += [_cell(arm["fvd_lab"]), _cell(arm["is_lab"]), f"{sum(arm['seconds']) / len(arm['seconds']) / 60:.1f}"]
    return f"| `{name}` | {' | '.join(cells)} |"


def _cell(one: dict[str, float], times: float = 1) -> str:
    value, low, high = (times * one[part] for part in ("value", "low", "high"))
    digits = 0 if times > 1 else 2
    if value != value:
        return "-"
    return f"{value:.{digits}f}" + (f" ({low:.{digits}f} to {high:.{digits}f})" if low == low else "")
