"""A report as Markdown."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from .questions import QUESTIONS


def cell(text: object) -> str:
    """Text of a user inside a table: it can neither end the cell nor become HTML or a link."""
    shown = html.escape(" ".join(str(text).split()), quote=False)
    for mark in "\\`*_[]|~":
        shown = shown.replace(mark, f"\\{mark}")
    return shown


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def interval(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{100 * ends[0]:.1f} .. {100 * ends[1]:.1f}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"  # never -0.00


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def markdown(report: dict[str, Any], plots: Sequence[str] = ()) -> str:
    """The whole report; plots: names of pictures beside it."""
    study, method = report["study"], report["method"]
    lines = [
        f"# {cell(study['title'])}",
        "",
        f"{study['votes']} votes of {study['raters']} raters on {study['pairs']} pairs of {study['prompts']} prompts; "
        f"{study['complete_pairs']} pairs have their {study['raters_per_pair']} votes and are counted below.",
        "",
        f"Win rate: {method['win_rate']}. Wilson: {method['wilson']}. Bootstrap: {method['bootstrap']}. "
        f"Kappa: {method['kappa']}.",
        "",
    ]
    for question in QUESTIONS:
        found = report["questions"][question.key]
        lines += [f"## {question.title}: {question.text}", ""]
        lines += _comparisons(found)
        lines += ["### Reasons for wins", ""]
        lines += _reasons(question.key, found)
    lines += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})\n" for name in plots]
    lines += ["## Raters", "", *_raters(report)]
    lines += ["## Prompts", "", *_prompts(report)]
    lines += ["## Pairs short of votes", "", *_short(report)]
    return "\n".join(lines).rstrip() + "\n"


def _comparisons(found: dict[str, Any]) -> list[str]:
    head = ["win rate of", "against", "prompts", "wins", "win rate", "Wilson", "bootstrap", "single votes"]
    head += ["split", "partial", "complete", "kappa"]
    rows = [
        [
            cell(row["first"]), cell(row["second"]), row["prompts"], f"{row['wins_first']} : {row['wins_second']}",
            f"**{percent(row['win_rate'])}**", interval(row["wilson"]), interval(row["bootstrap"]), percent(row["vote_share"]),
            *row["agreement"].values(), number(row["kappa"]),
        ]
        for row in found["comparisons"]
    ]  # fmt: skip
    lines = table(head, rows)
    overall = [
        [cell(row["system"]), row["pairs"], row["wins"], f"**{percent(row['win_rate'])}**", interval(row["bootstrap"])]
        for row in found["systems"]
    ]
    if len(overall) > 2:
        lines += table(["system against all others", "pairs", "wins", "win rate", "bootstrap"], overall)
    kinds = found["agreement"]
    lines += [
        f"All pairs: split {kinds['split']}, partial {kinds['partial']}, complete {kinds['complete']}; "
        f"Fleiss' kappa {number(found['kappa'])}.",
        "",
    ]
    return lines


def _reasons(question: str, found: dict[str, Any]) -> list[str]:
    names = next(entry for entry in QUESTIONS if entry.key == question).reasons
    head = ["wins of", "over", "votes", *(reason.name for reason in names)]
    rows = []
    for row in found["comparisons"]:
        for side, other in (("first", "second"), ("second", "first")):
            reasons = row["reasons"][side]
            rows.append([cell(row[side]), cell(row[other]), reasons["votes"], *(percent(s) for s in reasons["share"].values())])
    return table(head, rows)


def _raters(report: dict[str, Any]) -> list[str]:
    """Agreement, habits: who always takes the left one, or answers in a second, was not looking."""
    head = ["rater", "votes"]
    for question in QUESTIONS:
        head += [f"{question.title}: with majority", "with most others", "took left", "median s"]
    rows = []
    for row in report["raters"]:
        cells: list[object] = [cell(row["rater"]), row["votes"]]
        for question in QUESTIONS:
            own = row[question.key]
            cells += [
                percent(own["with_majority"]),
                percent(own["with_others"]),
                percent(own["left_share"]),
                own["median_seconds"],
            ]
        rows.append(cells)
    return table(head, rows)


def _prompts(report: dict[str, Any]) -> list[str]:
    head = ["prompt", "text", "pair", *(f"{question.title}: winner" for question in QUESTIONS)]
    rows = [
        [cell(row["prompt"]), cell(row["text"]), f"{cell(row['first'])} - {cell(row['second'])}"]
        + [f"{cell(row[question.key]['winner'])} ({row[question.key]['votes']})" for question in QUESTIONS]
        for row in report["prompts"]
    ]
    return table(head, rows)


def _short(report: dict[str, Any]) -> list[str]:
    if not report["short"]:
        return ["None.", ""]
    rows = [
        [cell(row["prompt"]), cell(row["text"]), f"{cell(row['first'])} - {cell(row['second'])}", row["votes"], row["missing"]]
        for row in report["short"]
    ]
    return table(["prompt", "text", "pair", "votes", "missing"], rows)
