"""What `emu-video evaluate` writes: one JSON, one Markdown table, and plots. Each file is whole or not there."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

import numpy as np

from .. import __version__
from ..media.files import whole_file
from ..networks import Networks
from .metrics import (
    CHANGES,
    CONSISTENCY,
    IS_FRAMES,
    IS_VIDEO,
    METRICS,
    MOTION,
    SAMPLES,
    SET_METRICS,
    SPLITS,
    VIDEO_METRICS,
    Metric,
    SetResult,
    class_balance,
)  # fmt: skip
from .prompts import Prompt
from .statistics import CONFIDENCE, RESAMPLES, Interval, bootstrap_difference

JSON_FILE, TABLE_FILE = "evaluation.json", "evaluation.md"
NOT_COMPUTED = "not computed"
ARROWS = {"higher": "↑", "lower": "↓", "": "–"}
_SHOWN = 5  # files named in the table before "and n more"


@dataclass(frozen=True)
class Evaluation:
    """Everything that is reported. networks: what was given, for names and hashes; reference: where the Fréchet distances'
    reference came from, its number of videos and those that could not be used."""

    results: Sequence[SetResult]
    prompts: Sequence[Prompt]
    prompts_name: str
    networks: Networks = field(default_factory=Networks)
    reference: dict[str, Any] | None = None
    samples: int = SAMPLES

    @property
    def names(self) -> list[str]:
        return [result.videos.name for result in self.results]


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The whole content: plain values, nan as null."""
    return {
        "format": 1,
        "software": f"ComfyUI-EmuVideo {__version__}",
        "prompts": {
            "file": evaluation.prompts_name,
            "count": len(evaluation.prompts),
            "with_image": sum(prompt.image is not None for prompt in evaluation.prompts),
            "ids": [prompt.id for prompt in evaluation.prompts],
        },
        "intervals": f"{CONFIDENCE:.0%}, percentile bootstrap over prompts, {RESAMPLES} resamples; Fréchet distances: "
        f"jackknife over groups of prompts; Inception scores: mean +- standard deviation over {SPLITS} splits",
        "networks": evaluation.networks.sources(),
        "reference": evaluation.reference,
        "metrics": {m.key: {"label": m.label, "unit": m.unit, "better": m.better or None, "formula": m.formula} for m in METRICS},
        "systems": {result.videos.name: _system(result, evaluation) for result in evaluation.results},
        "differences": _differences(evaluation),
        "warnings": warnings(evaluation),
    }


def _system(result: SetResult, evaluation: Evaluation) -> dict[str, Any]:
    fewest, most = class_balance(result, evaluation.prompts)
    return {
        "folder": str(result.videos.folder),
        "measured": result.measured,
        "videos_a_prompt": {"fewest": fewest, "most": most},
        "shapes": dict(result.shapes),
        "broken": [{"file": file.name, "why": why} for file, why in result.broken],
        "missing": [prompt.id for prompt in result.matching.missing],
        "extra": [{"file": file.name, "why": why} for file, why in result.matching.extra],
        "notes": result.notes + [f"{count} videos: {what}" for what, count in result.lacks.items()],
        "metrics": {metric.key: _figure(result, metric) for metric in METRICS},
        "per_prompt": {
            key: [_number(value) for value in result.columns[key]]
            for key in (*(m.key for m in VIDEO_METRICS), *CHANGES)
            if key not in result.reasons
        },
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _interval(interval: Interval) -> dict[str, Any]:
    return {
        "value": _number(interval.value), "low": _number(interval.low), "high": _number(interval.high), "count": interval.count,
    }  # fmt: skip


def _figure(result: SetResult, metric: Metric) -> dict[str, Any]:
    interval = result.interval(metric)
    return {NOT_COMPUTED.replace(" ", "_"): result.reasons[metric.key]} if interval is None else _interval(interval)


def _differences(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Paired over the prompts that both systems have, first minus second."""
    found = []
    for a, b in combinations(evaluation.results, 2):
        for metric in VIDEO_METRICS:
            if metric.key not in a.reasons and metric.key not in b.reasons:
                interval = bootstrap_difference(a.columns[metric.key], b.columns[metric.key])
                found.append({"a": a.videos.name, "b": b.videos.name, "metric": metric.key, **_interval(interval)})
    return found


def warnings(evaluation: Evaluation) -> list[str]:
    """What a reader must know before comparing the columns."""
    said = []
    shapes = {shape for result in evaluation.results for shape in result.shapes}
    if len(evaluation.results) > 1 and len(shapes) > 1:
        said.append(
            f"The videos differ in size, length or rate ({len(shapes)} kinds): make the sets alike with `emu-video equalise`."
        )
    for result in evaluation.results:
        counted = [metric for metric in SET_METRICS if metric.key in result.whole]
        if counted and result.measured < evaluation.samples:
            said.append(
                f"{result.videos.name}: {', '.join(m.label for m in counted)} rest on {result.measured} videos, the protocol "
                f"asks for {evaluation.samples}; with fewer a Fréchet distance is too large and an Inception score too small."
            )
        fewest, most = class_balance(result, evaluation.prompts)
        if counted and most - fewest > 1:
            said.append(f"{result.videos.name}: the classes are out of balance, {fewest} to {most} videos a prompt.")
    return said


# -- Markdown


def as_markdown(evaluation: Evaluation) -> str:
    """One table, a column a system; below it what is missing, broken or to be kept in mind."""
    lines = [
        f"# Evaluation on {evaluation.prompts_name} ({len(evaluation.prompts)} prompts)",
        "",
        f"Mean [{CONFIDENCE:.0%} interval over prompts]. ↑ higher is better, ↓ lower, – neither.",
        "",
        "| metric | unit | | " + " | ".join(map(_cell_text, evaluation.names)) + " |",
        "|---|---|---|" + "---|" * len(evaluation.names),
    ]
    for metric in METRICS:
        cells = [_cell(result, metric, evaluation.samples) for result in evaluation.results]
        lines.append(f"| {metric.label} | {metric.unit} | {ARROWS[metric.better]} | {' | '.join(cells)} |")
    lines += [
        "",
        "| videos | | | " + " | ".join(map(_cell_text, evaluation.names)) + " |",
        "|---|---|---|" + "---|" * len(evaluation.names),
    ]
    for label, values in _counts(evaluation):
        lines.append(f"| {label} | | | {' | '.join(map(str, values))} |")
    for heading, said in (
        ("Keep in mind", warnings(evaluation)),
        ("Videos left out", _left_out(evaluation)),
        ("Networks", _networks(evaluation)),
    ):
        if said:
            lines += ["", f"## {heading}", *(f"* {each}" for each in said)]
    return "\n".join(lines) + "\n"


def _cell_text(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _cell(result: SetResult, metric: Metric, samples: int) -> str:
    interval = result.interval(metric)
    if interval is None:
        return f"{NOT_COMPUTED}: {_cell_text(result.reasons[metric.key])}"
    value = _digits(interval.value, metric)
    if metric in (IS_VIDEO, IS_FRAMES):
        spread = f" ± {_digits(interval.high - interval.value, metric)} over splits" if math.isfinite(interval.high) else ""
    elif math.isfinite(interval.low):
        spread = f" [{_digits(interval.low, metric)}, {_digits(interval.high, metric)}]"
    else:
        spread = ""
    few = f" (⚠ {result.measured} of {samples} videos)" if metric in SET_METRICS and result.measured < samples else ""
    return f"{value}{spread}{few}"


def _digits(value: float, metric: Metric) -> str:
    """With the metric's usual digits, or more where they would say nothing."""
    small = 0 < abs(value) < 10 ** (1 - metric.digits)
    return f"{value:.2g}" if small else f"{value:.{metric.digits}f}"


def _counts(evaluation: Evaluation) -> list[tuple[str, list[int]]]:
    results = evaluation.results
    return [
        ("measured", [result.measured for result in results]),
        ("broken", [len(result.broken) for result in results]),
        ("prompts without a video", [len(result.matching.missing) for result in results]),
        ("videos without a prompt", [len(result.matching.extra) for result in results]),
    ]


def _left_out(evaluation: Evaluation) -> list[str]:
    said = []
    for result in evaluation.results:
        name = result.videos.name
        said += _some(f"{name}, broken", [f"`{file.name}` ({_cell_text(why)})" for file, why in result.broken])
        said += _some(f"{name}, no video of prompt", [f"`{prompt.id}`" for prompt in result.matching.missing])
        said += _some(f"{name}, no prompt for", [f"`{file.name}`" for file, _ in result.matching.extra])
        said += [f"{name}: {note}" for note in result.notes]
        said += [f"{name}, {count} videos: {what}" for what, count in result.lacks.items()]
    return said


def _some(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more (all in {JSON_FILE})" if len(names) > _SHOWN else ""
    return [f"{what}: {', '.join(names[:_SHOWN])}{more}"]


def _networks(evaluation: Evaluation) -> list[str]:
    said = [
        f"{key}: `{f['name']}`, sha256 `{f['sha256']}`; {f['preprocessing']}" for key, f in evaluation.networks.sources().items()
    ]
    if evaluation.reference is not None:
        said.append(f"reference: {evaluation.reference['source']}")
    return said


# -- files


def write_report(evaluation: Evaluation, out: Path) -> list[Path]:
    """Write the JSON, the table and the plots into a folder, which is made if it is not there; returns their paths."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: expected a folder for the report, found a file; choose another name")
    out.mkdir(parents=True, exist_ok=True)
    written = [out / JSON_FILE, out / TABLE_FILE]
    for path, text in zip(written, (_dump(as_json(evaluation)), as_markdown(evaluation)), strict=True):
        with whole_file(path) as part:
            part.write_text(text, encoding="utf-8")
    return written + draw_all(evaluation, out)


def _dump(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


# -- plots

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe & Ito: told apart by everyone
GREY, DPI, COLUMNS = "#6b6b6b", 130, 3
_WIDE = 15
_DOTS = 1000  # a strip; more would only be a block of ink


def draw_all(evaluation: Evaluation, out: Path) -> list[Path]:
    """metrics.png, prompts.png and motion_consistency.png."""
    figures = {"metrics.png": draw_metrics, "prompts.png": draw_prompts, "motion_consistency.png": draw_motion}
    written = []
    for name, draw in figures.items():
        figure = draw(evaluation)
        with whole_file(out / name) as part:
            figure.savefig(part, format="png", dpi=DPI, facecolor="white")
        written.append(out / name)
    return written


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _grid(count: int, height: float, title: str) -> tuple[Any, list[Any]]:
    """A figure, without a window, with `count` panels of equal size; the rest of its last row stays empty."""
    from matplotlib.figure import Figure

    rows = math.ceil(count / COLUMNS)
    figure = Figure(figsize=(4.6 * COLUMNS, height * rows + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False).ravel())
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels[:count]


def _plain(panel: Any) -> None:
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
    """A panel a metric, a row a system: the figure as a dot, its interval as a line."""
    count = len(evaluation.results)
    figure, panels = _grid(len(METRICS), 0.9 + 0.3 * count, f"{evaluation.prompts_name}: mean and {CONFIDENCE:.0%} interval")
    for metric, panel in zip(METRICS, panels, strict=True):
        panel.set_title(_heading(metric), fontsize=9, loc="left")
        _plain(panel)
        reasons = {result.reasons.get(metric.key) for result in evaluation.results}
        if len(reasons) == 1 and None not in reasons:
            _say(panel, f"{NOT_COMPUTED}: {reasons.pop()}")
            continue
        for place, result in enumerate(evaluation.results):
            _dot(panel, result, metric, place)
        panel.set_yticks(range(count), [shorten(name, 24, placeholder="…") for name in evaluation.names])
        panel.set_ylim(count - 0.5, -0.5)
        panel.margins(x=0.12)
    return figure


def _dot(panel: Any, result: SetResult, metric: Metric, place: int) -> None:
    interval = result.interval(metric)
    if interval is None:
        text = shorten(f"{NOT_COMPUTED}: {result.reasons[metric.key]}", 60, placeholder="…")
        panel.text(0.02, place, text, fontsize=7, color=GREY, va="center", transform=panel.get_yaxis_transform())
        return
    if math.isfinite(interval.low):
        ends = [[interval.value - interval.low], [interval.high - interval.value]]
        panel.errorbar([interval.value], [place], xerr=np.maximum(ends, 0), color=_colour(place), linewidth=1.8, capsize=4)
    panel.plot([interval.value], [place], "o", color=_colour(place), markersize=5)


def draw_prompts(evaluation: Evaluation) -> Any:
    """A panel a metric, a strip a system, a dot a prompt; the same prompt's dots are joined where there are few."""
    shown = [m for m in VIDEO_METRICS if any(m.key not in result.reasons for result in evaluation.results)]
    left_out = [metric.label for metric in VIDEO_METRICS if metric not in shown]
    title = f"{evaluation.prompts_name}: a dot a prompt, bar: mean" + (
        f". {NOT_COMPUTED}: {', '.join(left_out)}" if left_out else ""
    )
    figure, panels = _grid(max(1, len(shown)), 2.6, fill(title, 150))
    if not shown:
        _say(panels[0], f"{NOT_COMPUTED}: needs readable videos")
    for metric, panel in zip(shown, panels, strict=False):
        panel.set_title(_heading(metric), fontsize=9, loc="left")
        _plain(panel)
        panel.grid(False, axis="x")
        _strips(panel, evaluation, metric)
    return figure


def _strips(panel: Any, evaluation: Evaluation, metric: Metric) -> None:
    values = np.array([result.columns[metric.key] for result in evaluation.results], dtype=np.float64)
    drawn = np.random.default_rng(0).permutation(values.shape[1])[:_DOTS]
    shift = np.random.default_rng(1).uniform(-0.16, 0.16, len(drawn))
    places = np.arange(len(values))[:, None] + shift
    few = len(drawn) <= 60 and len(values) > 1
    if few:
        panel.plot(places, values[:, drawn], color="#bbbbbb", linewidth=0.5, zorder=1)
    for place, row in enumerate(values):
        panel.plot(places[place], row[drawn], "o", color=_colour(place), markersize=3.2, alpha=0.65 if few else 0.35, zorder=2)
        if np.isfinite(row).any():
            panel.hlines(np.nanmean(row), place - 0.3, place + 0.3, color="black", linewidth=1.8, zorder=3)
        else:
            panel.text(
                place, 0.5, fill(NOT_COMPUTED, 8), fontsize=7, color=GREY, ha="center", transform=panel.get_xaxis_transform()
            )
    panel.set_xticks(range(len(values)), [shorten(name, 18, placeholder="…") for name in evaluation.names])
    panel.set_xlim(-0.6, len(values) - 0.4)


def draw_motion(evaluation: Evaluation) -> Any:
    """Motion against frame consistency, a dot a prompt: a video that hardly moves is consistent without effort."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    panel = figure.subplots()
    panel.set_title(f"{evaluation.prompts_name}: motion against consistency", fontsize=11, loc="left")
    _plain(panel)
    lacking = {r.reasons[m.key] for r in evaluation.results for m in (MOTION, CONSISTENCY) if m.key in r.reasons}
    scores: list[float] = []
    for place, result in enumerate(evaluation.results):
        x, y = np.asarray(result.columns[MOTION.key]), np.asarray(result.columns[CONSISTENCY.key])
        both = np.isfinite(x) & np.isfinite(y)
        if not both.any():
            continue
        name = shorten(result.videos.name, 30, placeholder="…")
        panel.plot(x[both], y[both], "o", color=_colour(place), markersize=4, alpha=0.5, label=name)
        panel.plot(x[both].mean(), y[both].mean(), "X", color=_colour(place), markersize=10, markeredgecolor="black")
        scores += x[both].tolist()
    if not scores:
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


# -- exports for other tools


def export_vbench(results: Sequence[SetResult], out: Path) -> int:
    """OUT/SYSTEM/PROMPT-K.mp4 with K from 0, as VBench names them, and OUT/SYSTEM.json: path -> prompt. Returns the videos."""
    return _export(results, out, lambda number, prompt, sample: f"{_file_name(prompt.text)}-{sample}")


def export_evalcrafter(results: Sequence[SetResult], out: Path) -> int:
    """OUT/SYSTEM/NNNN.mp4, the prompt's number from 0, as EvalCrafter names them; OUT/SYSTEM.json. Only the first sample."""
    return _export(results, out, lambda number, prompt, sample: "" if sample else f"{number:04d}")


def _file_name(text: str) -> str:
    """A prompt as VBench reads it back from a name, as far as file systems allow."""
    plain = "".join(" " if character in '/\\\0:*?"<>|' or ord(character) < 32 else character for character in text)
    return plain.encode()[:180].decode(errors="ignore").strip()


def _export(results: Sequence[SetResult], out: Path, named: Any) -> int:
    from .equalise import copy_video

    count = 0
    for result in results:
        folder = out / result.videos.name
        folder.mkdir(parents=True, exist_ok=True)
        broken = {file for file, _ in result.broken}
        told: dict[str, str] = {}
        for number, (prompt, files) in enumerate(result.matching.found):
            for sample, file in enumerate(file for file in files if file not in broken):
                name = named(number, prompt, sample)
                if name:
                    target = folder / f"{name}{'.mp4' if file.is_dir() else file.suffix.lower()}"
                    copy_video(file, target)
                    told[str(target.relative_to(out))] = prompt.text
                    count += 1
        with whole_file(out / f"{result.videos.name}.json") as part:
            part.write_text(json.dumps(told, indent=1, ensure_ascii=False), encoding="utf-8")
    return count
