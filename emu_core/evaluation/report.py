"""What `emu-video evaluate` writes: one JSON, one Markdown table, and plots. Each file is whole or not there."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from .. import __version__
from ..media.files import whole_file
from .metrics import ARROWS, CHANGES, IS_FRAMES, IS_VIDEO, METRICS, NOT_COMPUTED, SET_METRICS, VIDEO_METRICS, Metric
from .plots import draw_all
from .sets import SPLITS, Evaluation, SetResult, class_balance
from .statistics import CONFIDENCE, RESAMPLES, Interval, bootstrap_difference

JSON_FILE, TABLE_FILE = "evaluation.json", "evaluation.md"
_SHOWN = 5  # files named in the table before "and n more"


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
