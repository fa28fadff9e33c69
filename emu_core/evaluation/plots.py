"""The plots of a report, without a window: figures with their intervals, a dot a prompt, motion against consistency.

matplotlib is imported as something is drawn: it takes a second, and only the command line has it.
"""

from __future__ import annotations

import math
from itertools import cycle
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

import numpy as np

from ..media.files import whole_file
from .metrics import ARROWS, CONSISTENCY, METRICS, MOTION, NOT_COMPUTED, VIDEO_METRICS, Metric
from .sets import Evaluation
from .statistics import CONFIDENCE

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe & Ito: told apart by everyone
GREY, DPI, COLUMNS = "#6b6b6b", 130, 3
_WIDE = 15
_DOTS = 1000  # a strip; more would only be a block of ink


def draw_all(evaluation: Evaluation, out: Path) -> list[Path]:
    """Write metrics.png, prompts.png and motion_consistency.png, each whole or not at all; returns their paths."""
    figures = {"metrics.png": draw_metrics, "prompts.png": draw_prompts, "motion_consistency.png": draw_motion}
    for name, draw in figures.items():
        with whole_file(out / name) as part:
            draw(evaluation).savefig(part, format="png", dpi=DPI, facecolor="white")
    return [out / name for name in figures]


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _grid(count: int, height: float, title: str) -> tuple[Any, list[Any]]:
    """A figure with `count` panels of equal size; the rest of its last row stays empty."""
    rows = math.ceil(count / COLUMNS)
    figure = _figure(4.6 * COLUMNS, height * rows + 0.6)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False).ravel())
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels[:count]


def _plain(panel: Any, title: str, size: int = 9) -> None:
    panel.set_title(title, fontsize=size, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
    panel.grid(True, color="#e6e6e6", linewidth=0.7)
    panel.set_axisbelow(True)


def _heading(metric: Metric) -> str:
    better = f"  {ARROWS[metric.better]} {metric.better} is better" if metric.better else ""
    return f"{metric.label}{f' [{metric.unit}]' if metric.unit else ''}{better}"


def _say(panel: Any, text: str) -> None:
    """A panel that has nothing but a sentence."""
    panel.set_xticks([])
    panel.set_yticks([])
    panel.grid(False)
    panel.spines[:].set_color("#cccccc")
    panel.text(0.5, 0.5, fill(text, 40), ha="center", va="center", fontsize=9, color=GREY, transform=panel.transAxes)


def draw_metrics(evaluation: Evaluation) -> Any:
    """A panel a metric, a row a system: the figure as a dot, its interval as a line. A matplotlib Figure."""
    count = len(evaluation.results)
    figure, panels = _grid(len(METRICS), 0.9 + 0.3 * count, f"{evaluation.prompts_name}: mean and {CONFIDENCE:.0%} interval")
    for metric, panel in zip(METRICS, panels, strict=True):
        _plain(panel, _heading(metric))
        reasons = {result.reasons.get(metric.key) for result in evaluation.results}
        if len(reasons) == 1 and None not in reasons:
            _say(panel, f"{NOT_COMPUTED}: {reasons.pop()}")
            continue
        for place, (result, colour) in enumerate(zip(evaluation.results, cycle(COLOURS))):
            found = result.interval(metric)
            if found is None:
                text = shorten(f"{NOT_COMPUTED}: {result.reasons[metric.key]}", 60, placeholder="…")
                panel.text(0.02, place, text, fontsize=7, color=GREY, va="center", transform=panel.get_yaxis_transform())
                continue
            if math.isfinite(found.low):
                ends = np.maximum([[found.value - found.low], [found.high - found.value]], 0)
                panel.errorbar([found.value], [place], xerr=ends, color=colour, linewidth=1.8, capsize=4)
            panel.plot([found.value], [place], "o", color=colour, markersize=5)
        panel.set_yticks(range(count), [shorten(name, 24, placeholder="…") for name in evaluation.names])
        panel.set_ylim(count - 0.5, -0.5)
        panel.margins(x=0.12)
    return figure


def draw_prompts(evaluation: Evaluation) -> Any:
    """A panel a metric, a strip a system, a dot a prompt; the same prompt's dots are joined where there are few. A matplotlib
    Figure."""
    shown = [m for m in VIDEO_METRICS if any(m.key not in result.reasons for result in evaluation.results)]
    left_out = ", ".join(metric.label for metric in VIDEO_METRICS if metric not in shown)
    title = f"{evaluation.prompts_name}: a dot a prompt, bar: mean" + (f". {NOT_COMPUTED}: {left_out}" if left_out else "")
    figure, panels = _grid(max(1, len(shown)), 2.6, fill(title, 150))
    if not shown:
        _say(panels[0], f"{NOT_COMPUTED}: needs readable videos")
    drawn = np.random.default_rng(0).permutation(len(evaluation.prompts))[:_DOTS]
    shift = np.random.default_rng(1).uniform(-0.16, 0.16, len(drawn))
    few = len(drawn) <= 60 and len(evaluation.results) > 1
    for metric, panel in zip(shown, panels, strict=False):
        _plain(panel, _heading(metric))
        panel.grid(False, axis="x")
        values = np.array([result.columns[metric.key] for result in evaluation.results], dtype=np.float64)
        places = np.arange(len(values))[:, None] + shift
        if few:
            panel.plot(places, values[:, drawn], color="#bbbbbb", linewidth=0.5, zorder=1)
        for place, (row, colour) in enumerate(zip(values, cycle(COLOURS))):
            panel.plot(places[place], row[drawn], "o", color=colour, markersize=3.2, alpha=0.65 if few else 0.35, zorder=2)
            if np.isfinite(row).any():
                panel.hlines(np.nanmean(row), place - 0.3, place + 0.3, color="black", linewidth=1.8, zorder=3)
            else:
                where = panel.get_xaxis_transform()
                panel.text(place, 0.5, fill(NOT_COMPUTED, 8), fontsize=7, color=GREY, ha="center", transform=where)
        panel.set_xticks(range(len(values)), [shorten(name, 18, placeholder="…") for name in evaluation.names])
        panel.set_xlim(-0.6, len(values) - 0.4)
    return figure


def draw_motion(evaluation: Evaluation) -> Any:
    """Motion against frame consistency, a dot a prompt: a video that hardly moves is consistent without effort. A matplotlib
    Figure."""
    figure = _figure(7.2, 5.2)
    panel = figure.subplots()
    _plain(panel, f"{evaluation.prompts_name}: motion against consistency", 11)
    scores: list[float] = []
    for result, colour in zip(evaluation.results, cycle(COLOURS)):
        pairs = np.array([result.columns[MOTION.key], result.columns[CONSISTENCY.key]])
        x, y = pairs[:, np.isfinite(pairs).all(axis=0)]
        if x.size:
            panel.plot(x, y, "o", color=colour, markersize=4, alpha=0.5, label=shorten(result.videos.name, 30, placeholder="…"))
            panel.plot(x.mean(), y.mean(), "X", color=colour, markersize=10, markeredgecolor="black")
            scores += x.tolist()
    if not scores:
        lacking = {r.reasons[m.key] for r in evaluation.results for m in (MOTION, CONSISTENCY) if m.key in r.reasons}
        _say(panel, f"{NOT_COMPUTED}: {'; '.join(sorted(lacking)) or 'needs a prompt with both'}")
        return figure
    wide = max(scores) > _WIDE * (float(np.median(scores)) or 1)  # a few that move wildly must not squeeze the rest
    if wide:
        panel.set_xscale("symlog", linthresh=1)
        panel.xaxis.set_major_formatter("{x:g}")
    panel.set_xlabel(f"{MOTION.label} [{MOTION.unit}{', logarithmic above 1' if wide else ''}]", fontsize=9)
    panel.set_ylabel(CONSISTENCY.label, fontsize=9)
    panel.legend(fontsize=8, frameon=False, title="X: mean", title_fontsize=8)
    return figure
