"""What the votes say: win rates, agreement, reasons, raters. Everything depends on the votes alone, so it repeats to the byte."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from .questions import QUESTIONS, reason_keys
from .results import SIDES, Pair, Results, Side, Vote
from .statistics import CONFIDENCE, RESAMPLES, bootstrap, fleiss_kappa, wilson

log = logging.getLogger(__name__)

AGREEMENT = ("split", "partial", "complete")


def tally(pair: Pair, question: str) -> tuple[int, int]:
    """Votes for the first and for the second system."""
    first = sum(vote.answer(question).choice == "first" for vote in pair.votes)
    return first, len(pair.votes) - first


def majority(pair: Pair, question: str) -> Side:
    """The winner; the number of votes of a complete pair is odd."""
    first, second = tally(pair, question)
    return "first" if first > second else "second"


def agreement(pair: Pair, question: str) -> str:
    """complete: all for one (5-0); split: as near as can be (3-2); partial: between (4-1)."""
    smaller = min(tally(pair, question))
    return "complete" if smaller == 0 else "split" if smaller == len(pair.votes) // 2 else "partial"


def build_report(results: Results) -> dict[str, Any]:
    """The report as JSON holds it. Pairs that are short of votes are listed and left out of all but the raters' figures."""
    complete = [pair for pair in results.pairs if len(pair.votes) >= results.raters]
    short = [pair for pair in results.pairs if len(pair.votes) < results.raters]
    return {
        "study": {
            "uid": results.uid,
            "title": results.title,
            "raters_per_pair": results.raters,
            "systems": list(results.systems),
            "prompts": len(results.prompts),
            "pairs": len(results.pairs),
            "complete_pairs": len(complete),
            "votes": sum(len(pair.votes) for pair in results.pairs),
            "raters": len({vote.rater for pair in results.pairs for vote in pair.votes}),
        },
        "method": {
            "win_rate": f"share of prompts whose majority of {results.raters} raters picks the system",
            "wilson": f"{CONFIDENCE:.0%} Wilson interval of the win rate, prompts taken as independent",
            "bootstrap": f"{CONFIDENCE:.0%} percentile interval, {RESAMPLES} draws of whole prompts, seed 0",
            "kappa": "Fleiss' kappa; the classes are the two systems; none if all votes are for one",
        },
        "questions": {question.key: _question(results, complete, question.key) for question in QUESTIONS},
        "raters": _raters(results, complete),
        "prompts": [_prompt(results, pair) for pair in complete],
        "short": [
            {**_named(results, pair), "votes": len(pair.votes), "missing": results.raters - len(pair.votes)} for pair in short
        ],
    }


def _named(results: Results, pair: Pair) -> dict[str, Any]:
    return {"prompt": pair.prompt, "text": results.prompts[pair.prompt], "first": pair.first, "second": pair.second}


def _prompt(results: Results, pair: Pair) -> dict[str, Any]:
    row = _named(results, pair)
    for question in QUESTIONS:
        winner = pair.first if majority(pair, question.key) == "first" else pair.second
        row[question.key] = {"winner": winner, "votes": "-".join(map(str, tally(pair, question.key)))}
    return row


def _question(results: Results, complete: Sequence[Pair], question: str) -> dict[str, Any]:
    compared = []
    for first, second in combinations(results.systems, 2):
        pairs = [pair for pair in complete if (pair.first, pair.second) == (first, second)]
        if pairs:
            compared.append(_comparison(results, pairs, question))
    return {
        "comparisons": compared,
        "systems": [_system(results, complete, question, system) for system in results.systems],
        **_agreement(complete, question),
    }


def _agreement(pairs: Sequence[Pair], question: str) -> dict[str, Any]:
    kinds = Counter(agreement(pair, question) for pair in pairs)
    return {
        "agreement": {kind: kinds[kind] for kind in AGREEMENT},
        "kappa": fleiss_kappa([tally(pair, question) for pair in pairs]),
    }


def _clusters(results: Results, rows: Iterable[tuple[Pair, int, int]]) -> list[tuple[int, int]]:
    """(successes, trials) of each prompt text: the same text twice is one cluster."""
    sums: dict[str, list[int]] = {}
    for pair, successes, trials in rows:
        entry = sums.setdefault(results.prompts[pair.prompt], [0, 0])
        entry[0] += successes
        entry[1] += trials
    return [(successes, trials) for successes, trials in sums.values()]


def _comparison(results: Results, pairs: Sequence[Pair], question: str) -> dict[str, Any]:
    """Two systems: the win rate and the share of single votes are the first one's."""
    wins = sum(majority(pair, question) == "first" for pair in pairs)
    votes = sum(tally(pair, question)[0] for pair in pairs)
    total = sum(len(pair.votes) for pair in pairs)
    return {
        "first": pairs[0].first,
        "second": pairs[0].second,
        "prompts": len(pairs),
        "wins_first": wins,
        "wins_second": len(pairs) - wins,
        "win_rate": wins / len(pairs),
        "wilson": wilson(wins, len(pairs)),
        "bootstrap": bootstrap(_clusters(results, ((pair, int(majority(pair, question) == "first"), 1) for pair in pairs))),
        "vote_share": votes / total,
        "vote_share_bootstrap": bootstrap(_clusters(results, ((p, tally(p, question)[0], len(p.votes)) for p in pairs))),
        **_agreement(pairs, question),
        "reasons": {side: _reasons(pairs, question, side) for side in SIDES},
    }


def _reasons(pairs: Sequence[Pair], question: str, side: Side) -> dict[str, Any]:
    """Of the votes for the winner in pairs that this side won: how many gave each reason."""
    answers = [
        vote.answer(question)
        for pair in pairs
        if majority(pair, question) == side
        for vote in pair.votes
        if vote.answer(question).choice == side
    ]
    counts = Counter(reason for answer in answers for reason in answer.reasons)
    return {
        "votes": len(answers),
        "given": {key: counts[key] for key in reason_keys(question)},
        "share": {key: counts[key] / len(answers) if answers else None for key in reason_keys(question)},
    }


def _system(results: Results, complete: Sequence[Pair], question: str, system: str) -> dict[str, Any]:
    """One system against all others: pairs of one prompt hang together, so the interval comes from drawing prompts."""
    rows = []
    reasons: Counter[str] = Counter()
    votes = 0
    for pair in complete:
        if system not in (pair.first, pair.second):
            continue
        side: Side = "first" if system == pair.first else "second"
        won = majority(pair, question) == side
        rows.append((pair, int(won), 1))
        for answer in (vote.answer(question) for vote in pair.votes if won):
            if answer.choice == side:
                votes += 1
                reasons.update(answer.reasons)
    wins = sum(row[1] for row in rows)
    return {
        "system": system,
        "pairs": len(rows),
        "wins": wins,
        "win_rate": wins / len(rows) if rows else None,
        "bootstrap": bootstrap(_clusters(results, rows)),
        "reasons": {key: reasons[key] / votes if votes else None for key in reason_keys(question)},
    }


def _raters(results: Results, complete: Sequence[Pair]) -> list[dict[str, Any]]:
    """Each rater: agreement with the majority (their own vote in it), with most of the others, habits."""
    votes: dict[str, list[Vote]] = {}
    for pair in results.pairs:
        for vote in pair.votes:
            votes.setdefault(vote.rater, []).append(vote)
    counted = {name: {question.key: [0, 0, 0, 0] for question in QUESTIONS} for name in votes}
    for pair in complete:
        for question in QUESTIONS:
            first, second = tally(pair, question.key)
            for vote in pair.votes:
                choice = vote.answer(question.key).choice
                with_rater, against = (first, second) if choice == "first" else (second, first)
                entry = counted[vote.rater][question.key]
                entry[0] += with_rater > against
                entry[1] += 1
                if with_rater - 1 != against:  # the others are divided equally: no majority of theirs to agree with
                    entry[2] += with_rater - 1 > against
                    entry[3] += 1
    rows = []
    for name in sorted(votes):
        row: dict[str, Any] = {"rater": name, "votes": len(votes[name])}
        for question in QUESTIONS:
            own, pairs, others, decided = counted[name][question.key]
            answers = [vote.answer(question.key) for vote in votes[name]]
            left = sum(answer.choice == vote.shown_left for answer, vote in zip(answers, votes[name], strict=True))
            row[question.key] = {
                "with_majority": own / pairs if pairs else None,
                "with_others": others / decided if decided else None,
                "left_share": left / len(answers),
                "median_seconds": round(median(answer.ms for answer in answers) / 1000, 1),
            }
        rows.append(row)
    return rows


def write_report(results: Results, folder: str | Path) -> list[Path]:
    """report.json, report.md and the plots as PNG, each whole or untouched. Returns the files."""
    from ..media.files import whole_file
    from . import plots
    from .tables import markdown

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder for the report, found a file; choose another name.")
    folder.mkdir(parents=True, exist_ok=True)
    report = build_report(results)
    try:
        drawn = plots.draw(report)
    except ImportError:
        log.warning("The report has no plots: matplotlib is not installed (pip install matplotlib).")
        drawn = {}
    files = {"report.json": report_json(report).encode(), "report.md": markdown(report, list(drawn)).encode(), **drawn}
    for name, content in files.items():
        with whole_file(folder / name) as part:
            part.write_bytes(content)
    return [folder / name for name in files]


def report_json(report: dict[str, Any]) -> str:
    return json.dumps(report, indent=1, ensure_ascii=False) + "\n"
