"""A report as Markdown."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from .questions import QUESTIONS

SIDES = (("first", "second"), ("second", "first"))


def cell(text: object) -> str:
    """Text of a user inside a table: it can neither end the cell nor become HTML or a link."""
    shown = html.escape(" ".join(str(text).split()), quote=False)
    for mark in "\\`*_[]|~":
        shown = shown.replace(mark, f"\\{mark}")
    return shown


def percent(share: float | None) -> str:
    """A share of 1 as per cent; "-" for None, as below."""
    return "-" if share is None else f"{100 * share:.1f} %"


def interval(ends: Sequence[float] | None) -> str:
    """Both ends of an interval of shares as per cent."""
    return "-" if ends is None else f"{100 * ends[0]:.1f} .. {100 * ends[1]:.1f}"


def number(value: float | None) -> str:
    """Two decimals, never -0.00."""
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table, and an empty one."""
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
        lines += [f"## {question.title}: {question.text}", "", *_comparisons(found)]
        head = ["wins of", "over", "votes", *(reason.name for reason in question.reasons)]
        rows = [_reasons(row, side, other) for row in found["comparisons"] for side, other in SIDES]
        lines += ["### Reasons for wins", "", *table(head, rows)]
    lines += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})\n" for name in plots]
    lines += ["## Raters", "", *_raters(report)]
    winners = [f"{question.title}: winner" for question in QUESTIONS]
    lines += ["## Prompts", "", *table(["prompt", "text", "pair", *winners], map(_prompt, report["prompts"]))]
    short = [[*_pair(row), row["votes"], row["missing"]] for row in report["short"]]
    lines += ["## Pairs short of votes", ""]
    lines += table(["prompt", "text", "pair", "votes", "missing"], short) if short else ["None.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _comparisons(found: dict[str, Any]) -> list[str]:
    head = ["win rate of", "against", "prompts", "wins", "win rate", "Wilson", "bootstrap", "single votes"]
    lines = table([*head, "split", "partial", "complete", "kappa"], map(_comparison, found["comparisons"]))
    if len(found["systems"]) > 2:
        rows = [[cell(row["system"]), row["pairs"], row["wins"], *_win_rate(row)] for row in found["systems"]]
        lines += table(["system against all others", "pairs", "wins", "win rate", "bootstrap"], rows)
    kinds = ", ".join(f"{kind} {count}" for kind, count in found["agreement"].items())
    return [*lines, f"All pairs: {kinds}; Fleiss' kappa {number(found['kappa'])}.", ""]


def _win_rate(row: dict[str, Any], *between: str) -> list[str]:
    return [f"**{percent(row['win_rate'])}**", *between, interval(row["bootstrap"])]


def _comparison(row: dict[str, Any]) -> list[object]:
    start = [cell(row["first"]), cell(row["second"]), row["prompts"], f"{row['wins_first']} : {row['wins_second']}"]
    rates = [*_win_rate(row, interval(row["wilson"])), percent(row["vote_share"])]
    return [*start, *rates, *row["agreement"].values(), number(row["kappa"])]


def _reasons(row: dict[str, Any], side: str, other: str) -> list[object]:
    reasons = row["reasons"][side]
    return [cell(row[side]), cell(row[other]), reasons["votes"], *map(percent, reasons["share"].values())]


def _raters(report: dict[str, Any]) -> list[str]:
    """Agreement, habits: who always takes the left one, or answers in a second, was not looking."""
    head, keys = ["rater", "votes"], ("with_majority", "with_others", "left_share")
    for question in QUESTIONS:
        head += [f"{question.title}: with majority", "with most others", "took left", "median s"]
    rows = []
    for row in report["raters"]:
        own = [row[question.key] for question in QUESTIONS]
        habits = [[*(percent(each[key]) for key in keys), each["median_seconds"]] for each in own]
        rows.append([cell(row["rater"]), row["votes"], *sum(habits, [])])
    return table(head, rows)


def _pair(row: dict[str, Any]) -> list[str]:
    return [cell(row["prompt"]), cell(row["text"]), f"{cell(row['first'])} - {cell(row['second'])}"]


def _prompt(row: dict[str, Any]) -> list[str]:
    verdicts = [row[question.key] for question in QUESTIONS]
    return [*_pair(row), *(f"{cell(verdict['winner'])} ({verdict['votes']})" for verdict in verdicts)]
