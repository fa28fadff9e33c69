"""The report of the laboratory: the paper's figures and ours side by side, curves, and sheets of what was made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..media import contact_sheet, write_image
from ..media.files import write_text
from ..study.tables import cell, table
from ..training.folder import write_json
from . import figures, tables, votes
from .arms import Claim
from .plots import draw_all
from .run import Lab

REPORT, NUMBERS, NOTES = "lab.md", "lab.json", ".notes.md"
SHOWN, COMPARED = 4, 2
"""Prompts of an arm's sheet, and of a claim's."""
ACROSS = 2
"""Sheets beside each other on the page."""


def write_report(lab: Lab, to: str | Path | None = None, study: str | Path | None = None) -> Path:
    """Write the report, its JSON and its pictures of all that is done; `to`: a file with a name in .md, else `lab.md` in the
    laboratory's folder. What somebody wrote of it, beside it as `lab.notes.md`, is put below its first lines. `study`: also a new
    folder with the same pairs as studies for people. Returns the report's path.
    UserError, before anything is computed: `study` is there already."""
    path = Path(to) if to else lab.folder / REPORT
    if study and (Path(study).is_file() or (Path(study).is_dir() and any(Path(study).iterdir()))):
        raise UserError(f"{study}: expected a new or empty folder for the studies, found something there; name another")
    found = figures.everything(lab)
    pictures = path.parent / "images" if to else path.parent
    pictures.mkdir(parents=True, exist_ok=True)
    drawn = draw_all(found, pictures)
    ready = [claim for claim in lab.claims if votes.is_ready(lab, claim)]
    claims = {_named(claim): draw_pairs(lab, claim, pictures) for claim in ready}
    shown = {name for claim in ready for name in (claim.arm, claim.against)}
    arms = {f"`{name}`": draw_sheet(lab, name, pictures) for name in found["arms"] if name not in shown}
    for claim in ready if study else ():
        votes.make_study(lab, claim, Path(study or "") / f"{claim.arm}-{claim.against}")
    write_json(path.with_name(NUMBERS), _plain(found))
    place = pictures.relative_to(path.parent).as_posix()
    notes = path.with_suffix(NOTES)
    reading = notes.read_text(encoding="utf-8") if notes.is_file() else ""
    write_text(path, markdown(found, drawn, claims, arms, lab.captions, "" if place == "." else f"{place}/", reading))
    return path


def _plain(value: Any) -> Any:
    """The same with null for what is no number, which JSON has not."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw_sheet(lab: Lab, name: str, folder: Path) -> str:
    """The first videos of an arm, a row each. Returns the file's name."""
    return _write(lab.run(name, lab.budget.first_seed).videos[:SHOWN], folder / f"lab_{name}.jpg")


def draw_pairs(lab: Lab, claim: Claim, folder: Path) -> str:
    """The first videos of a claim's arms, those of one prompt below each other. Returns the file's name."""
    both = [lab.run(name, lab.budget.first_seed).videos[:COMPARED] for name in (claim.arm, claim.against)]
    return _write(torch.stack(both, 1).flatten(0, 1), folder / f"lab_{claim.arm}-{claim.against}.jpg")


def _write(videos: Tensor, path: Path) -> str:
    write_image(path, contact_sheet(videos.flatten(0, 1), columns=videos.shape[1], scale=1))
    return path.name


def _named(claim: Claim) -> str:
    return f"`{claim.arm}` above `{claim.against}`"


def markdown(
    found: dict[str, Any],
    drawn: Mapping[str, str],
    claims: Mapping[str, str],
    arms: Mapping[str, str],
    captions: Sequence[str],
    place: str,
    reading: str = "",
) -> str:
    """The report as text. `drawn`, `claims`, `arms`: what a picture is of -> the name of its file, which is in `place`;
    `reading`: what somebody wrote of it."""
    pictures = {name: f"{place}{file}" for name, file in drawn.items()}
    asked = [f"{number}. {cell(caption)}" for number, caption in enumerate(captions[:SHOWN], 1)]
    sections = [
        tables.opening(found),
        [*reading.splitlines(), ""] if reading else [],
        tables.claims(found),
        tables.systems(found),
        tables.automatic(found, pictures),
        tables.raters(found, pictures),
        tables.curves(found, pictures),
        tables.probes(found, pictures),
        tables.arms(found),
        ["## Sheets", "", f"Eight frames of 64 pixels each, of the first seed and the first {SHOWN} prompts:", "", *asked, ""],
        [f"### The claims' arms, of the first {COMPARED} prompts", "", *_gallery(claims, place)] if claims else [],
        ["### Arms of no claim", "", *_gallery(arms, place)] if arms else [],
    ]
    return "\n".join(line for section in sections for line in section).rstrip() + "\n"


def _gallery(sheets: Mapping[str, str], place: str) -> list[str]:
    """A table of pictures, each below what it is of."""
    cells = [f"{of}<br>![{Path(file).stem}]({place}{file})" for of, file in sheets.items()]
    rows = [cells[start : start + ACROSS] for start in range(0, len(cells), ACROSS)]
    return table([" "] * ACROSS, [row + [""] * (ACROSS - len(row)) for row in rows]) if rows else []
