"""How well automatic metrics agree with the votes of a study: over systems by rank correlation, and prompt by prompt.

A sign of + always says that the metric puts systems into the order of the votes, whether its higher or its lower figures are the
better ones. All intervals draw whole prompts anew, never systems: they say what other prompts would have given for these systems.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
import scipy  # loads scipy.stats when it is first used: that takes half a second
from numpy.typing import NDArray

from ..data.rows import decoded
from ..errors import UserError
from ..evaluation.statistics import CONFIDENCE, RESAMPLES, bootstrap_clusters, bootstrap_share, kendall_tau, spearman_rho
from ..limits import json_of
from .questions import KEYS, QUESTIONS
from .report import winner
from .results import Pair, Results
from .tables import cell, interval, number, percent, table

FEWEST = 3
"""Systems of which an order says anything: two are in the same order or in the other one."""
Array = NDArray[np.float64]
Counts = NDArray[np.int64]
"""(n, prompts): how often each prompt was drawn, in n resamples."""


@dataclass(frozen=True)
class AutomaticMetric:
    """better: higher, lower, or empty where neither is (then higher figures are taken as such). whole: the figure of each system.
    prompts: system -> prompt's key in the study -> figure of its videos; empty for figures of whole sets, such as FVD."""

    key: str
    label: str
    better: str
    whole: Mapping[str, float]
    prompts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def sign(self) -> int:
        """1 where higher figures count as better, else -1."""
        return -1 if self.better == "lower" else 1

    def of_prompt(self, system: str, prompt: str) -> float:
        """The figure of a system's video of a prompt; nan where there is none."""
        return self.prompts.get(system, {}).get(prompt, nan)


def read_figures(path: str | Path, results: Results) -> list[AutomaticMetric]:
    """The metrics in an `evaluation.json` of `emu-video evaluate`, of the systems and prompts that it measured.

    ValueError: it is no such file, or its prompts have the names of the study's and other texts.
    """
    try:
        content = json_of(decoded(Path(path).read_bytes()))
        ids, texts = content["prompts"]["ids"], content["prompts"].get("texts", ())
        other = [key for key, text in zip(ids, texts, strict=False) if results.prompts.get(key, text) != text]
        systems, metrics = content["systems"], content["metrics"]
        found = [
            AutomaticMetric(
                key,
                str(about["label"]),
                about["better"] or "",
                {name: float(each["metrics"][key]["value"]) for name, each in systems.items() if _computed(each, key)},
                {name: _by_prompt(ids, each["per_prompt"][key]) for name, each in systems.items() if key in each["per_prompt"]},
            )
            for key, about in metrics.items()
        ]
    except OSError as problem:
        raise UserError(f"{path}: expected figures (evaluation.json), found {problem.strerror}; check the path.") from problem
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        wanted = f"{path}: expected the evaluation.json that `emu-video evaluate --out` writes"
        raise UserError(f"{wanted}, found something else ({type(problem).__name__}: {problem}); evaluate again.") from problem
    if other:
        found_text = f"found another text for {other[0]!r}"
        raise UserError(f"{path}: expected figures of the study's prompts, {found_text}; evaluate with the study's prompts.")
    return found


def _computed(system: Mapping[str, Any], key: str) -> bool:
    return system["metrics"].get(key, {}).get("value") is not None


def _by_prompt(ids: Sequence[str], values: Sequence[float | None]) -> dict[str, float]:
    return {key: float(value) for key, value in zip(ids, values, strict=True) if value is not None}


def correlate(results: Results, metrics: Sequence[AutomaticMetric]) -> dict[str, Any]:
    """What is known of each metric, as JSON holds it, for both questions. Pairs that are short of votes are left out.

    ValueError: fewer than two systems have both votes and figures.
    """
    complete = [pair for pair in results.pairs if len(pair.votes) >= results.raters]
    voted = {system for pair in complete for system in (pair.first, pair.second)}
    measured = {system for metric in metrics for system in metric.whole}
    both = [system for system in results.systems if system in voted & measured]
    if len(both) < 2:
        names = f"votes on {', '.join(sorted(voted)) or 'none'}, figures of {', '.join(sorted(measured)) or 'none'}"
        wanted = f"expected {FEWEST} or more systems with votes and figures"
        raise UserError(f"{wanted}, found {names}; name them alike (NAME=FOLDER).")
    about: dict[str, Any] = {"uid": results.uid, "title": results.title, **({"note": results.note} if results.note else {})}
    about |= {"systems": both, "without_figures": sorted(voted - measured), "without_votes": sorted(measured - voted)}
    return {
        "study": {**about, "prompts": len({results.prompts[pair.prompt] for pair in complete}), "complete_pairs": len(complete)},
        "method": {
            "kendall_tau": f"Kendall's tau-b over systems, of {FEWEST} or more; p: two-sided, that tau of unrelated orders is as "
            "far from 0 (scipy), uncorrected for the number of metrics",
            "spearman_rho": "Spearman's rank correlation over systems",
            "agreement": "share of complete pairs in which the metric prefers the video that most raters do; equal figures half",
            "intervals": f"{CONFIDENCE:.0%} percentile intervals, {RESAMPLES} draws of whole prompts, seed 0, the systems as "
            "they are; of figures of whole sets only the votes are drawn",
            "figures": "means over the study's prompts where there are figures of prompts, else the figure of the whole set",
        },
        "questions": {key: _question(results, complete, metrics, both, key) for key in KEYS},
    }


class _Votes:
    """Wins and pairs of each system by prompt, the same text twice being one prompt: arrays (prompts, systems)."""

    def __init__(self, results: Results, complete: Sequence[Pair], question: str) -> None:
        self.systems = list(results.systems)
        texts = {pair.prompt: results.prompts[pair.prompt] for pair in complete}
        self.rows = {text: row for row, text in enumerate(dict.fromkeys(texts.values()))}
        self.row_of = {key: self.rows[text] for key, text in texts.items()}
        self.wins, self.pairs = np.zeros((2, len(self.rows), len(self.systems)))
        for pair in complete:
            for system in (pair.first, pair.second):
                place = self.row_of[pair.prompt], self.systems.index(system)
                self.pairs[place] += 1
                self.wins[place] += winner(pair, question) == system

    def rates(self, drawn: Counts, systems: Sequence[str]) -> Array:
        """Win rates (n, systems) against all others."""
        columns = [self.systems.index(system) for system in systems]
        return _share(drawn @ self.wins[:, columns], drawn @ self.pairs[:, columns])

    def figures(self, metric: AutomaticMetric, drawn: Counts, systems: Sequence[str]) -> Array:
        """Figures (n, systems) of a metric: means over the prompts drawn, or those of the whole set."""
        if not _has_prompts(metric, systems, self.row_of):
            return np.broadcast_to([metric.whole[system] for system in systems], (len(drawn), len(systems)))
        sums, counts = np.zeros((2, len(self.rows), len(systems)))
        for column, system in enumerate(systems):
            for key, row in self.row_of.items():
                if isfinite(value := metric.of_prompt(system, key)):
                    sums[row, column] += value
                    counts[row, column] += 1
        return _share(drawn @ sums, drawn @ counts)


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full(part.shape, nan), where=whole > 0)


def _has_prompts(metric: AutomaticMetric, systems: Sequence[str], keys: Mapping[str, int]) -> bool:
    return all(any(isfinite(metric.of_prompt(system, key)) for key in keys) for system in systems)


def _question(
    results: Results, complete: Sequence[Pair], metrics: Sequence[AutomaticMetric], both: Sequence[str], question: str
) -> dict[str, Any]:
    votes = _Votes(results, complete, question)
    usable = [(metric, [system for system in both if system in metric.whole]) for metric in metrics]
    ranked = [(metric, systems) for metric, systems in usable if len(systems) >= FEWEST]

    def correlations(drawn: Counts) -> Array:
        columns = []
        for metric, systems in ranked:
            rates, figures = votes.rates(drawn, systems), metric.sign * votes.figures(metric, drawn, systems)
            columns += [kendall_tau(rates, figures), spearman_rho(rates, figures)]
        return np.stack(columns, axis=-1)

    once = np.ones((1, len(votes.rows)), dtype=np.int64)
    known: dict[str, list[dict[str, float | None]]] = {}
    if ranked:
        ends = bootstrap_clusters(correlations, len(votes.rows))
        values = [_interval(value, two) for value, two in zip(correlations(once)[0], ends, strict=True)]
        known = {metric.key: values[2 * place : 2 * place + 2] for place, (metric, _) in enumerate(ranked)}
    rates = dict(zip(both, votes.rates(once, both)[0].tolist(), strict=True))
    entries = []
    for metric, systems in usable:
        figures = votes.figures(metric, once, systems)[0]
        tau, rho = known.get(metric.key, [_interval(nan, (nan, nan))] * 2)
        entry: dict[str, Any] = {"key": metric.key, "label": metric.label, "better": metric.better or None}
        entry |= {"figures": dict(zip(systems, figures.tolist(), strict=True)), "kendall_tau": tau, "spearman_rho": rho}
        if tau["value"] is None:
            few = f"needs {FEWEST} or more systems with this figure and votes, found {len(systems)}"
            entry["not_computed"] = few if len(systems) < FEWEST else "all systems have the same figure, or the same win rate"
        else:
            rated = [rates[system] for system in systems]
            entry["p"] = float(scipy.stats.kendalltau(rated, metric.sign * figures).pvalue)
        entries.append(entry | {"agreement": _agreement(results, complete, metric, question)})
    return {"win_rates": rates, "metrics": entries}


def _interval(value: float, ends: tuple[float, float]) -> dict[str, float | None]:
    named = {"value": value, "low": ends[0], "high": ends[1]}
    return {name: float(each) if isfinite(value) and isfinite(each) else None for name, each in named.items()}


def _agreement(results: Results, complete: Sequence[Pair], metric: AutomaticMetric, question: str) -> dict[str, Any]:
    """Of the pairs of which both videos have a figure; halves are counted, so that equal figures give one of two."""
    halves: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    pairs = 0
    for pair in complete:
        first, second = (metric.sign * metric.of_prompt(system, pair.prompt) for system in (pair.first, pair.second))
        if isfinite(first) and isfinite(second):
            pairs += 1
            preferred = pair.first if first > second else pair.second
            counts = halves[results.prompts[pair.prompt]]
            counts[0] += 1 if first == second else 2 * (preferred == winner(pair, question))
            counts[1] += 2
    ends = bootstrap_share([(hits, tried) for hits, tried in halves.values()], RESAMPLES) or (nan, nan)
    value = sum(hits for hits, _ in halves.values()) / (2 * pairs) if pairs else nan
    return {**_interval(value, ends), "pairs": pairs}


# -- Markdown


def as_markdown(found: dict[str, Any], plots: Sequence[str] = ()) -> str:
    """A table a question; plots: names of pictures beside it."""
    study, method = found["study"], found["method"]
    systems = ", ".join(map(cell, study["systems"]))
    lines = [f"# {cell(study['title'])}: automatic metrics against votes\n"]
    lines += [f"**{cell(study['note'])}**\n"] if "note" in study else []
    lines.append(
        f"On {len(study['systems'])} systems ({systems}), {study['prompts']} prompts and {study['complete_pairs']} pairs that "
        "have all their votes. + : the metric's order is that of the votes.\n"
    )
    for what in ("without_figures", "without_votes"):
        if study[what]:
            lines.append(f"Left out, {what.replace('_', ' ')}: {', '.join(map(cell, study[what]))}.\n")
    lines.append(
        f"Tau: {method['kendall_tau']}. Rho: {method['spearman_rho']}. Agreement: {method['agreement']}. "
        f"Intervals: {method['intervals']}. Figures: {method['figures']}.\n"
    )
    for question in QUESTIONS:
        lines += [f"## {question.title}: {question.text}\n", *metrics_table(found, question.key)]
    lines += [f"![{name.removesuffix('.png')}]({name})\n" for name in plots]
    return "\n".join(lines).rstrip() + "\n"


def metrics_table(found: dict[str, Any], question: str) -> list[str]:
    """The lines of a question's table, a row a metric."""
    head = ["metric", "better", "systems", "tau", "interval", "p", "rho", "interval", "agreement", "interval", "pairs"]
    return table(head, map(_row, found["questions"][question]["metrics"]))


def _row(entry: dict[str, Any]) -> list[object]:
    tau, rho, agreement = entry["kendall_tau"], entry["spearman_rho"], entry["agreement"]
    row: list[object] = [cell(entry["label"]), entry["better"] or "neither (higher)", len(entry["figures"])]
    if tau["value"] is None:
        row += [f"not computed: {entry['not_computed']}", "-", "-", "-", "-"]
    else:
        row += [f"**{number(tau['value'])}**", _ends(tau), f"{entry['p']:.2g}", number(rho["value"]), _ends(rho)]
    shares = None if agreement["low"] is None else (agreement["low"], agreement["high"])
    return [*row, percent(agreement["value"]), interval(shares), agreement["pairs"]]


def _ends(found: dict[str, float | None]) -> str:
    return "-" if found["low"] is None else f"{number(found['low'])} .. {number(found['high'])}"
