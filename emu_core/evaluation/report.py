"""What `emu-video evaluate` writes: one JSON, one Markdown table, and plots. Each file is whole or not there."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import UserError, of_one_item
from ..media.files import write_text
from .metrics import ARROWS, CHANGES, IS_FRAMES, IS_VIDEO, METRICS, NOT_COMPUTED, SET_METRICS, VIDEO_METRICS, Metric
from .plots import draw_all
from .sets import SPLITS, Evaluation, SetResult
from .statistics import CONFIDENCE, RESAMPLES, Interval, bootstrap_difference

JSON_FILE, TABLE_FILE = "evaluation.json", "evaluation.md"
logger = logging.getLogger(__name__)
_SHOWN = 5  # files named in the table before "and n more"


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The whole content: plain values, nan as null."""
    prompts, reference = evaluation.prompts, evaluation.reference
    counts = {key: statistics.count for key, statistics in reference.statistics.items()}
    compared = {"source": reference.source, "videos": counts, "left_out": _named(reference.broken)} if counts else None
    return {
        "format": 1,
        "software": f"ComfyUI-EmuVideo {__version__}",
        "prompts": {
            "file": evaluation.prompts_name,
            "count": len(prompts),
            "with_image": sum(prompt.image is not None for prompt in prompts),
            "ids": [prompt.id for prompt in prompts],
            "texts": [prompt.text for prompt in prompts],
            "left_out": [{"prompt": place, "why": why} for place, why in evaluation.left_out],
        },
        "intervals": f"{CONFIDENCE:.0%}, percentile bootstrap over prompts, {RESAMPLES} resamples; Fréchet distances: "
        f"jackknife over groups of prompts; Inception scores: mean +- standard deviation over {SPLITS} splits",
        "networks": evaluation.networks.sources(),
        "reference": compared,
        "metrics": {m.key: {"label": m.label, "unit": m.unit, "better": m.better or None, "formula": m.formula} for m in METRICS},
        "systems": {result.videos.name: _system(result) for result in evaluation.results},
        "differences": [  # paired over the prompts that both systems have, first minus second
            {"a": a.videos.name, "b": b.videos.name, "metric": m.key}
            | _interval(bootstrap_difference(a.columns[m.key], b.columns[m.key]))
            for a, b in combinations(evaluation.results, 2)
            for m in VIDEO_METRICS
            if m.key not in a.reasons and m.key not in b.reasons
        ],
        "warnings": list(_warnings(evaluation)),
    }


def _system(result: SetResult) -> dict[str, Any]:
    figures = {metric.key: result.interval(metric) for metric in METRICS}
    reasons = {key: {NOT_COMPUTED.replace(" ", "_"): reason} for key, reason in result.reasons.items()}
    keys = [key for key in (*(m.key for m in VIDEO_METRICS), *CHANGES) if key not in reasons]
    return {
        "folder": str(result.videos.folder),
        "measured": result.measured,
        "videos_a_prompt": dict(zip(("fewest", "most"), result.balance, strict=True)),
        "shapes": dict(result.shapes),
        "broken": _named(result.broken),
        "missing": [prompt.id for prompt in result.matching.missing],
        "extra": _named(result.matching.extra),
        "notes": result.matching.notes + [f"{count} videos: {what}" for what, count in result.lacks.items()],
        "metrics": {key: reasons[key] if interval is None else _interval(interval) for key, interval in figures.items()},
        "per_prompt": {key: [_number(value) for value in result.columns[key]] for key in keys},
    }


def _named(files: Sequence[tuple[Path, str]]) -> list[dict[str, str]]:
    return [{"file": file.name, "why": why} for file, why in files]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _interval(interval: Interval) -> dict[str, Any]:
    ends = {name: _number(getattr(interval, name)) for name in ("value", "low", "high")}
    return {**ends, "count": interval.count}


def _warnings(evaluation: Evaluation) -> Iterator[str]:
    """What a reader must know before comparing the columns."""
    kinds = len({shape for result in evaluation.results for shape in result.shapes})
    if len(evaluation.results) > 1 and kinds > 1:
        yield f"The videos differ in size, length or rate ({kinds} kinds): make the sets alike with `emu-video equalise`."
    for result in evaluation.results:
        name, counted = result.videos.name, ", ".join(m.label for m in SET_METRICS if m.key in result.whole)
        if counted and result.measured < evaluation.samples:
            yield (
                f"{name}: {counted} rest on {result.measured} videos, the protocol asks for {evaluation.samples}; "
                "with fewer a Fréchet distance is too large and an Inception score too small."
            )
        fewest, most = result.balance
        if counted and most - fewest > 1:
            yield f"{name}: the classes are out of balance, {fewest} to {most} videos a prompt."


# -- Markdown


def as_markdown(evaluation: Evaluation) -> str:
    """Two tables, a column a system: the figures and the counts; below them what is missing, broken or to be kept in mind."""
    results, samples = evaluation.results, evaluation.samples
    figures = {f"{m.label} | {m.unit} | {ARROWS[m.better]}": [_cell(each, m, samples) for each in results] for m in METRICS}
    counts = {
        "measured | |": [result.measured for result in results],
        "broken | |": [len(result.broken) for result in results],
        "prompts without a video | |": [len(result.matching.missing) for result in results],
        "videos without a prompt | |": [len(result.matching.extra) for result in results],
    }
    lines = [
        f"# Evaluation on {evaluation.prompts_name} ({len(evaluation.prompts)} prompts)",
        "",
        f"Mean [{CONFIDENCE:.0%} interval over prompts]. ↑ higher is better, ↓ lower, – neither.",
        *_table("metric | unit |", evaluation.names, figures),
        *_table("videos | |", evaluation.names, counts),
    ]
    remarks = {"Keep in mind": _warnings, "Videos left out": _left_out, "Networks": _networks}
    for heading, of in remarks.items():
        if said := [f"* {each}" for each in of(evaluation)]:
            lines += ["", f"## {heading}", *said]
    return "\n".join(lines) + "\n"


def _table(first: str, names: Sequence[str], rows: Mapping[str, Sequence[object]]) -> list[str]:
    body = [f"| {label} | {' | '.join(map(str, cells))} |" for label, cells in rows.items()]
    return ["", f"| {first} | {' | '.join(map(_plain, names))} |", "|---|---|---|" + "---|" * len(names), *body]


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _cell(result: SetResult, metric: Metric, samples: int) -> str:
    interval = result.interval(metric)
    if interval is None:
        return f"{NOT_COMPUTED}: {_plain(result.reasons[metric.key])}"
    spread = f" [{metric.shown(interval.low)}, {metric.shown(interval.high)}]"
    if metric in (IS_VIDEO, IS_FRAMES):
        spread = f" ± {metric.shown(interval.high - interval.value)} over splits"
    few = f" (⚠ {result.measured} of {samples} videos)" if metric in SET_METRICS and result.measured < samples else ""
    return f"{metric.shown(interval.value)}{spread if math.isfinite(interval.low) else ''}{few}"


def _left_out(evaluation: Evaluation) -> Iterator[str]:
    for place, why in evaluation.left_out[:_SHOWN]:
        yield f"{evaluation.prompts_name}, {place}: {_plain(why)}"
    if len(evaluation.left_out) > _SHOWN:
        yield f"{evaluation.prompts_name}: {len(evaluation.left_out) - _SHOWN} more (all in {JSON_FILE})"
    for result in evaluation.results:
        name, matching = result.videos.name, result.matching
        files = {
            "broken": [f"`{file.name}` ({_plain(why)})" for file, why in result.broken],
            "no video of prompt": [f"`{prompt.id}`" for prompt in matching.missing],
            "no prompt for": [f"`{file.name}`" for file, _ in matching.extra],
        }
        for what, names in files.items():
            if names:
                more = f" and {len(names) - _SHOWN} more (all in {JSON_FILE})" if len(names) > _SHOWN else ""
                yield f"{name}, {what}: {', '.join(names[:_SHOWN])}{more}"
        yield from (f"{name}: {note}" for note in matching.notes)
        yield from (f"{name}, {count} videos: {what}" for what, count in result.lacks.items())


def _networks(evaluation: Evaluation) -> Iterator[str]:
    for key, facts in evaluation.networks.sources().items():
        yield f"{key}: `{facts['name']}`, sha256 `{facts['sha256']}`; {facts['preprocessing']}"
    if evaluation.reference.source:
        yield f"reference: {evaluation.reference.source}"


# -- files


def write_report(evaluation: Evaluation, out: Path) -> list[Path]:
    """Write the JSON, the table and the plots into a folder, which is made if it is not there; returns their paths. Plots that
    cannot be drawn are a warning."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder for the report, found a file; choose another name")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / JSON_FILE, json.dumps(as_json(evaluation), indent=1, ensure_ascii=False, allow_nan=False))
    write_text(out / TABLE_FILE, as_markdown(evaluation))
    try:
        plots = draw_all(evaluation, out)
    except Exception as problem:  # the figures are there, whatever a plot cannot show of them
        logger.warning("%s: the plots are not drawn (%s)", out, of_one_item(problem))
        plots = []
    return [out / JSON_FILE, out / TABLE_FILE, *plots]
