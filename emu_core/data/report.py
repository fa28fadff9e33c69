"""The pictures that `curate` leaves for a person to look at."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from ..limits import json_of
from ..media import contact_sheet, fit, write_image
from ..media.files import whole_file
from .clips import read_at_times
from .curate import LEFT_OUT
from .shards import Shards
from .table import rows_in

SHEET_FRAMES = 32
SHEET_SIDE = 160
SHEET_LETTERS = 80
"""The end of a longer caption does not fit below a small frame, and is long to measure."""
MAX_REASONS = 12


def draw_report(folder: Path) -> None:
    """report.png: histograms, what was left out and why; sheet.png: some first frames with captions."""
    shards = Shards.open(folder) if rows_in(folder) else None
    names = ("duration", "motion_score", "width", "height")
    length, motion, width, height = (np.empty(0) if shards is None else shards.column(name) for name in names)
    charts = {"duration (s)": length, "motion score (px a frame)": motion, "shorter side (px)": np.minimum(width, height) * 1.0}
    figure = Figure(figsize=(11, 7))
    *axes, last = figure.subplots(2, 2).flat
    for axis, (title, values) in zip(axes, charts.items(), strict=True):
        axis.hist(values[~np.isnan(values)], bins=40)
        axis.set_title(title, fontsize=10)
        axis.set_ylabel("clips")
    reasons = count_reasons(folder)
    common = reasons.most_common(MAX_REASONS)[::-1]
    last.barh(range(len(common)), [number for _, number in common], color="tab:red")
    last.set_yticks(range(len(common)), [reason[:48] for reason, _ in common], fontsize=7)
    last.set_title(f"left out: {sum(reasons.values())}", fontsize=10)
    figure.suptitle(f"{0 if shards is None else len(shards)} clips")
    figure.tight_layout()
    with whole_file(folder / "report.png") as part:
        figure.savefig(part, dpi=80, format="png")
    if shards is not None:
        _draw_sheet(folder, shards)


def count_reasons(folder: Path) -> Counter[str]:
    """How often each reason stands in left_out.jsonl, numbers and details aside."""
    with open(folder / LEFT_OUT, encoding="utf-8") as lines:
        reasons = (re.sub(r" \(.*\)|[;:].*", "", reason_in(line)) for line in lines)
        return Counter(re.sub(r"\d+(\.\d+)?", "#", reason) for reason in reasons)


def reason_in(line: str) -> str:
    """Of a line of left_out.jsonl, which somebody may have damaged."""
    try:
        return str(json_of(line)["reason"])
    except (ValueError, KeyError, TypeError):
        return "a line that cannot be read"


def _draw_sheet(folder: Path, shards: Shards) -> None:
    """sheet.png: first frames of clips at even distances."""
    rows = np.unique(np.linspace(0, len(shards) - 1, min(SHEET_FRAMES, len(shards))).astype(int)).tolist()
    frames = []
    for row in rows:
        with shards.open_video(row) as file:
            first = read_at_times(file, [0.0], f"row {row}")
        frames.append(fit(torch.from_numpy(np.stack(first)).float() / 255, SHEET_SIDE, SHEET_SIDE))
    captions = [shards.caption(row)[:SHEET_LETTERS] for row in rows]
    write_image(folder / "sheet.png", contact_sheet(torch.cat(frames), labels=captions))
