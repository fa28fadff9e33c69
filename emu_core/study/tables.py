"""A report as Markdown."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from .questions import KEYS, QUESTIONS
from .results import SIDES


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
        f"# {cell(study['title'])}\n",
        *([f"**{cell(study['note'])}**\n"] if "note" in study else []),
        f"{study['votes']} votes of {study['raters']} raters on {study['pairs']} pairs of {study['prompts']} prompts; "
        f"{study['complete_pairs']} pairs have their {study['raters_per_pair']} votes and are counted below.\n",
        f"Win rate: {method['win_rate']}. Wilson: {method['wilson']}. Bootstrap: {method['bootstrap']}. "
        f"Kappa: {method['kappa']}.\n",
    ]
    for question in QUESTIONS:
        found = report["questions"][question.key]
        lines += [f"## {question.title}: {question.text}\n", *_comparisons(found), "### Reasons for wins\n"]
        rows: list[list[object]] = []
        for row in found["comparisons"]:
            for side, other in (SIDES, SIDES[::-1]):
                given = row["reasons"][side]
                rows.append([cell(row[side]), cell(row[other]), given["votes"], *map(percent, given["share"].values())])
        lines += table(["wins of", "over", "votes", *(reason.name for reason in question.reasons)], rows)
    lines += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})\n" for name in plots]
    lines += ["## Raters\n", *_raters(report), "## Prompts\n"]
    verdicts = [
        [*_pair(row), *(f"{cell(row[key]['winner'])} ({row[key]['votes']})" for key in KEYS)] for row in report["prompts"]
    ]
    lines += table(["prompt", "text", "pair", *(f"{question.title}: winner" for question in QUESTIONS)], verdicts)
    short = [[*_pair(row), row["votes"], row["missing"]] for row in report["short"]]
    lines.append("## Pairs short of votes\n")
    lines += table(["prompt", "text", "pair", "votes", "missing"], short) if short else ["None."]
    return "\n".join(lines).rstrip() + "\n"


def _comparisons(found: dict[str, Any]) -> list[str]:
    """Win rates of every two systems, of each against all others if there are more than two, and how united the raters were."""
    head = ["win rate of", "against", "prompts", "wins", "win rate", "Wilson", "bootstrap", "single votes"]
    rows: list[list[object]] = []
    for row in found["comparisons"]:
        names = [cell(row["first"]), cell(row["second"])]
        rates = [
            f"**{percent(row['win_rate'])}**",
            interval(row["wilson"]),
            interval(row["bootstrap"]),
            percent(row["vote_share"]),
        ]
        united = [*row["agreement"].values(), number(row["kappa"])]
        rows.append([*names, row["prompts"], f"{row['wins_first']} : {row['wins_second']}", *rates, *united])
    lines = table([*head, "split", "partial", "complete", "kappa"], rows)
    if len(found["systems"]) > 2:
        rows = [
            [cell(row["system"]), row["pairs"], row["wins"], f"**{percent(row['win_rate'])}**", interval(row["bootstrap"])]
            for row in found["systems"]
        ]
        lines += table(["system against all others", "pairs", "wins", "win rate", "bootstrap"], rows)
    kinds = ", ".join(f"{kind} {count}" for kind, count in found["agreement"].items())
    return [*lines, f"All pairs: {kinds}; Fleiss' kappa {number(found['kappa'])}.\n"]


def _raters(report: dict[str, Any]) -> list[str]:
    """Agreement, habits: who always takes the left one, or answers in a second, was not looking."""
    head = ["rater", "votes"]
    for question in QUESTIONS:
        head += [f"{question.title}: with majority", "with most others", "took left", "median s"]
    rows = [[cell(row["rater"]), row["votes"]] for row in report["raters"]]
    for line, row in zip(rows, report["raters"], strict=True):
        for own in (row[key] for key in KEYS):
            shares = (percent(own[key]) for key in ("with_majority", "with_others", "left_share"))
            line += [*shares, own["median_seconds"]]
    return table(head, rows)


def _pair(row: dict[str, Any]) -> list[str]:
    return [cell(row["prompt"]), cell(row["text"]), f"{cell(row['first'])} - {cell(row['second'])}"]
