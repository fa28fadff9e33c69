"""What the votes say: win rates, agreement, reasons, raters. Everything depends on the votes alone, so it repeats to the byte."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import UserError
from ..evaluation.statistics import CONFIDENCE, bootstrap_share, fleiss_kappa, wilson
from .questions import KEYS, reason_keys
from .results import SIDES, Pair, Results, Vote
from .tables import markdown

log = logging.getLogger(__name__)

RESAMPLES = 10_000


def tally(pair: Pair, question: str) -> tuple[int, int]:
    """Votes for the first and for the second system."""
    first = sum(vote.answer(question).choice == "first" for vote in pair.votes)
    return first, len(pair.votes) - first


def winner(pair: Pair, question: str) -> str:
    """The system that most are for; the number of votes of a complete pair is odd."""
    first, second = tally(pair, question)
    return pair.first if first > second else pair.second


def build_report(results: Results) -> dict[str, Any]:
    """The report as JSON holds it. Pairs that are short of votes are listed and left out of all but the raters' figures."""
    complete, short, prompts = [], [], []
    for pair in results.pairs:
        named = {"prompt": pair.prompt, "text": results.prompts[pair.prompt], "first": pair.first, "second": pair.second}
        missing = results.raters - len(pair.votes)
        if missing > 0:
            short.append({**named, "votes": len(pair.votes), "missing": missing})
        else:
            complete.append(pair)
            verdicts = {key: {"winner": winner(pair, key), "votes": "{}-{}".format(*tally(pair, key))} for key in KEYS}
            prompts.append(named | verdicts)
    votes = [vote for pair in results.pairs for vote in pair.votes]
    study = {"uid": results.uid, "title": results.title, "raters_per_pair": results.raters, "systems": list(results.systems)}
    study |= {"note": results.note} if results.note else {}
    study |= {"prompts": len(results.prompts), "pairs": len(results.pairs), "complete_pairs": len(complete)}
    return {
        "study": {**study, "votes": len(votes), "raters": len({vote.rater for vote in votes})},
        "method": {
            "win_rate": f"share of prompts whose majority of {results.raters} raters picks the system",
            "wilson": f"{CONFIDENCE:.0%} Wilson interval of the win rate, prompts taken as independent",
            "bootstrap": f"{CONFIDENCE:.0%} percentile interval, {RESAMPLES} draws of whole prompts, seed 0",
            "kappa": "Fleiss' kappa; the classes are the two systems; none if all votes are for one",
        },
        "questions": {key: _question(results, complete, key) for key in KEYS},
        "raters": _raters(results),
        "prompts": prompts,
        "short": short,
    }


def _question(results: Results, complete: Sequence[Pair], question: str) -> dict[str, Any]:
    groups = [[pair for pair in complete if (pair.first, pair.second) == two] for two in combinations(results.systems, 2)]
    return {
        "comparisons": [_comparison(results, pairs, question) for pairs in groups if pairs],
        "systems": [_system(results, complete, question, system) for system in results.systems],
        **_agreement(complete, question),
    }


def _agreement(pairs: Sequence[Pair], question: str) -> dict[str, Any]:
    """complete: all for one (5-0); split: as near as can be (3-2); partial: between (4-1)."""
    tallies = [tally(pair, question) for pair in pairs]
    kinds = {"split": 0, "partial": 0, "complete": 0}
    for votes in tallies:
        kinds["complete" if min(votes) == 0 else "split" if min(votes) == sum(votes) // 2 else "partial"] += 1
    return {"agreement": kinds, "kappa": fleiss_kappa(tallies)}


def _proportion(results: Results, rows: Iterable[tuple[Pair, int, int]]) -> tuple[int, float | None, tuple[float, float] | None]:
    """Successes, their share, and its interval, of (pair, successes, trials): prompts are drawn, the same text twice is one."""
    hits, trials = Counter[str](), Counter[str]()
    for pair, successes, tried in rows:
        hits[results.prompts[pair.prompt]] += successes
        trials[results.prompts[pair.prompt]] += tried
    interval = bootstrap_share([(hits[text], tried) for text, tried in trials.items()], RESAMPLES)
    return hits.total(), hits.total() / trials.total() if trials else None, interval


def _comparison(results: Results, pairs: Sequence[Pair], question: str) -> dict[str, Any]:
    """Two systems: the win rate and the share of single votes are the first one's."""
    first, second = pairs[0].first, pairs[0].second
    wins, rate, bootstrap = _proportion(results, ((pair, winner(pair, question) == first, 1) for pair in pairs))
    _, share, share_bootstrap = _proportion(results, ((pair, tally(pair, question)[0], len(pair.votes)) for pair in pairs))
    return {
        "first": first,
        "second": second,
        "prompts": len(pairs),
        "wins_first": wins,
        "wins_second": len(pairs) - wins,
        "win_rate": rate,
        "wilson": wilson(wins, len(pairs)),
        "bootstrap": bootstrap,
        "vote_share": share,
        "vote_share_bootstrap": share_bootstrap,
        **_agreement(pairs, question),
        "reasons": {"first": _reasons(pairs, question, first), "second": _reasons(pairs, question, second)},
    }


def _system(results: Results, complete: Sequence[Pair], question: str, system: str) -> dict[str, Any]:
    """One system against all others: pairs of one prompt hang together, so the interval comes from drawing prompts."""
    pairs = [pair for pair in complete if system in (pair.first, pair.second)]
    wins, rate, bootstrap = _proportion(results, ((pair, winner(pair, question) == system, 1) for pair in pairs))
    told = {"system": system, "pairs": len(pairs), "wins": wins, "win_rate": rate, "bootstrap": bootstrap}
    return {**told, "reasons": _reasons(pairs, question, system)["share"]}


def _reasons(pairs: Sequence[Pair], question: str, system: str) -> dict[str, Any]:
    """Of the votes for this system in the pairs that it won: how many gave each reason."""
    answers = [(pair, vote.answer(question)) for pair in pairs if winner(pair, question) == system for vote in pair.votes]
    given = [answer.reasons for pair, answer in answers if getattr(pair, answer.choice) == system]
    counts = {key: sum(key in reasons for reasons in given) for key in reason_keys(question)}
    share = {key: count / len(given) if given else None for key, count in counts.items()}
    return {"votes": len(given), "given": counts, "share": share}


def _share(found: Collection[bool]) -> float | None:
    return sum(found) / len(found) if found else None


def _raters(results: Results) -> list[dict[str, Any]]:
    """Each rater: agreement with the majority (their own vote in it), with most of the others, habits."""
    given: dict[str, list[tuple[Pair, Vote]]] = defaultdict(list)
    for pair in results.pairs:
        for vote in pair.votes:
            given[vote.rater].append((pair, vote))
    return [
        {"rater": rater, "votes": len(votes), **{key: _habits(votes, key, results.raters) for key in KEYS}}
        for rater, votes in sorted(given.items())
    ]


def _habits(votes: Sequence[tuple[Pair, Vote]], question: str, raters: int) -> dict[str, Any]:
    """One rater's; agreement on complete pairs only."""
    whole = [(pair, vote) for pair, vote in votes if len(pair.votes) >= raters]
    like = [(len(pair.votes), tally(pair, question)[SIDES.index(vote.answer(question).choice)]) for pair, vote in whole]
    margins = [2 * same - given for given, same in like]  # votes like the rater's, their own included, minus the others
    return {
        "with_majority": _share([margin > 0 for margin in margins]),
        "with_others": _share([margin > 1 for margin in margins if margin != 1]),  # 1: the others are divided equally
        "left_share": _share([vote.answer(question).choice == vote.shown_left for _, vote in votes]),
        "median_seconds": round(median(vote.answer(question).ms for _, vote in votes) / 1000, 1),
    }


def write_report(results: Results, folder: str | Path) -> list[Path]:
    """report.json, report.md and the plots as PNG; see `write_files`."""
    return write_files(build_report(results), folder, "report", markdown)


def write_files(
    found: dict[str, Any], folder: str | Path, name: str, text: Callable[[dict[str, Any], Sequence[str]], str]
) -> list[Path]:
    """NAME.json, NAME.md (of what was found and the names of its plots) and the plots as PNG, each whole or untouched. Returns
    the files.

    ValueError: the folder is a file, or cannot be written into.
    """
    from ..media.files import whole_file  # its package takes a third of a second, which a printed report need not wait

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: expected a folder for the report, found a file; choose another name.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        from .plots import PLOTS  # matplotlib is optional

        drawn = PLOTS[name](found)
    except ImportError:
        log.warning("The report has no plots: matplotlib is not installed (pip install matplotlib).")
        drawn = {}
    files = {f"{name}.json": report_json(found).encode(), f"{name}.md": text(found, list(drawn)).encode(), **drawn}
    for file, content in files.items():
        with whole_file(folder / file) as part:
            part.write_bytes(content)
    return [folder / file for file in files]


def report_json(report: dict[str, Any]) -> str:
    """What report.json holds."""
    return json.dumps(report, indent=1, ensure_ascii=False) + "\n"
