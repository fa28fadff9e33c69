"""Raters that are simulated: they know of a video its row of exact measures, and vote as JUICE asks, five a pair, with noise.

Everything is a closed form but for what is drawn. What a video is worth by a reason is the mean of its parts' worths (`TABLE`),
each exp(-|measure - best| / scale), from 0 to 1. A rater weighs the reasons of a question by weights of their own, which are
drawn once and add up to 1; the worth of a video is the weighted sum, and the one that is worth more after noise was added to the
difference is chosen. With logistic noise of scale s a difference d wins a share 1 / (1 + exp(-d / s)) of votes: the model of
Bradley & Terry (1952). The reasons that are ticked are those that spoke most for the video that was chosen.

Nothing here is evidence of what people prefer: such votes say how the study's arithmetic turns known differences into win rates,
intervals and agreement. A study that holds them says so first, on its page and in its report (`NOTE`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import UserError
from ..media.files import PathLike
from ..model.streams import derived
from ..study.exchange import merge
from ..study.questions import KEYS, reason_keys
from ..study.results import SIDES, Answer, Pair, Vote
from ..study.store import Study
from ..toy.measure import Row

NOTE = "The raters of this study are simulated from exact measures of the videos; no person has voted."
NAME = "simulated"
NOISE = 0.05
SPREAD = 0.5
COUNTS = 0.5  # of what the strongest reason spoke for the chosen video, from which on another is ticked too
Rows = Mapping[str, Mapping[str, Row]]
"""System -> the prompt's key in the study -> what `toy.measure.row` says of that video."""


@dataclass(frozen=True)
class Part:
    """What one measure adds to a reason: exp(-|measure - best| / scale), counted `weight` times. A measure that a row lacks adds
    nothing, since the detectors leave out what is not there to be seen, such as the outline of a figure that is none."""

    measure: str
    scale: float
    best: float = 0.0
    weight: float = 1.0

    def worth(self, row: Row) -> float:
        """From 0 to 1."""
        value = row.get(self.measure, math.nan)
        return math.exp(-abs(value - self.best) / self.scale) if math.isfinite(value) else 0.0


def right(measure: str, weight: float = 1.0) -> Part:
    """A part that is right (1) or wrong (0): worth 1 or exp(-2) = 0.14."""
    return Part(measure, 0.5, 1.0, weight)


TABLE: dict[str, dict[str, tuple[Part, ...]]] = {
    "quality": {
        "motion_smoothness": (Part("wobble_px", 0.2, weight=2), Part("ground_flicker", 5), Part("colour_flicker", 5)),
        "consistency": (Part("colour_drift", 10), Part("area_variation", 0.1)),
        "sharpness": (Part("edge_error_px", 0.6),),
        "recognizable": (right("figure"), right("last_frame_shape")),
        "motion_amount": (right("amount"), Part("travel_ratio", 0.5, best=1), Part("still_drift_px", 2)),
    },
    "faithfulness": {
        "spatial": (right("figure"), right("colour"), right("ground"), right("size")),
        "temporal": (right("motion"), right("amount")),
    },
}
"""Question -> reason -> the measures that it rests on. Scales: pixels, levels of 255, shares. At a distance of one scale from the
best a measure is worth 0.37; they are about what the bundled model's videos have, so that differences between models count."""


def worth(row: Row, question: str) -> dict[str, float]:
    """What a video is worth by each reason of a question, 0..1, before any rater's weights."""
    return {
        reason: sum(part.weight * part.worth(row) for part in parts) / sum(part.weight for part in parts)
        for reason, parts in TABLE[question].items()
    }


def weights(seed: int, rater: int, question: str, spread: float = SPREAD) -> dict[str, float]:
    """How much each reason counts for a rater: exp of a normal number of deviation `spread`, made to add up to 1."""
    drawn = np.exp(spread * _generator(seed, "weights", rater, question).standard_normal(len(reason_keys(question))))
    return dict(zip(reason_keys(question), (drawn / drawn.sum()).tolist(), strict=True))


def simulate(
    study_folder: PathLike, rows: Rows, raters: int = 5, seed: int = 0, noise: float = NOISE, spread: float = SPREAD
) -> int:
    """Cast all votes of a study that `emu_core.study.create` made, and note in it that they are simulated. Returns how many are
    new: the same call again adds none. All are stored in one transaction, or none is.

    raters: how many there are; each pair is judged by as many of them as the study asks for. noise: scale of the logistic noise
    on the difference in worth of two videos (which is at most 1); 0: none. spread: how much the raters' weights differ.
    A vote depends on seed, rater, prompt, the two systems and their rows alone, not on sides, order or the study's other pairs.
    ValueError: a pair without a row, numbers that cannot be, or a study with votes of people or of another seed.
    """
    if not (0 <= noise < math.inf and 0 <= spread < math.inf):
        raise UserError(f"noise and spread: expected numbers from 0, found {noise} and {spread}; change them")
    with Study(study_folder) as study:
        results = study.results()
        if raters < results.raters:
            raise UserError(f"raters: expected at least the {results.raters} that each pair of the study needs, found {raters}")
        if people := {vote.rater for pair in results.pairs for vote in pair.votes if not vote.rater.startswith(f"{NAME} ")}:
            found = f"found some of {min(people)!r}; make another study"
            raise UserError(f"{study_folder}: expected a study without votes of people, {found}")
        tastes = {key: [weights(seed, rater, key, spread) for rater in range(raters)] for key in KEYS}
        pairs = []
        for pair in results.pairs:
            shown = [_row(rows, system, pair.prompt) for system in (pair.first, pair.second)]
            among = _generator(seed, "judges", *_place(pair)).permutation(raters)[: results.raters]
            votes = tuple(_vote(pair, shown, rater, tastes, seed, noise) for rater in sorted(among.tolist()))
            pairs.append(replace(pair, votes=votes))
        return merge(study, replace(results, pairs=tuple(pairs), note=NOTE))[0]


def _row(rows: Rows, system: str, prompt: str) -> Row:
    try:
        return rows[system][prompt]
    except KeyError:
        wanted = f"rows: expected the measures of {system}'s video of the prompt {prompt!r}"
        raise UserError(f"{wanted}, found none; measure every video of the study") from None


def _generator(seed: int, *use: str | int) -> np.random.Generator:
    return np.random.default_rng(derived(seed, "raters", *use))


def _place(pair: Pair) -> tuple[str, ...]:
    """A pair by names that do not depend on which system comes first."""
    return (pair.prompt, *sorted((pair.first, pair.second)))


def _vote(
    pair: Pair, shown: Sequence[Row], rater: int, tastes: Mapping[str, Sequence[Mapping[str, float]]], seed: int, noise: float
) -> Vote:
    """One rater's on one pair. Which video stands left and the vote's id are drawn too; it takes no time."""
    use: tuple[str | int, ...] = (rater, *_place(pair))
    answers = {key: _answer(pair, shown, tastes[key][rater], key, _generator(seed, key, *use), noise) for key in KEYS}
    left = SIDES[int(_generator(seed, "side", *use).integers(2))]
    uid = hashlib.sha256(repr((seed, *use)).encode()).hexdigest()[:32]
    return Vote(uid, f"{NAME} {rater + 1}", left, answers["quality"], answers["faithfulness"], 0)


def _answer(
    pair: Pair, shown: Sequence[Row], taste: Mapping[str, float], question: str, generator: np.random.Generator, noise: float
) -> Answer:
    """The choice between the videos of two rows, and its reasons. What both are equal in is decided by a coin."""
    first, second = (worth(row, question) for row in shown)
    speaks = {reason: weight * (first[reason] - second[reason]) for reason, weight in taste.items()}
    turned = 1 if pair.first <= pair.second else -1  # noise is for the system whose name comes first, wherever it stands
    added, coin = generator.logistic(), generator.random() - 0.5
    difference = math.fsum(speaks.values()) + turned * noise * added
    if difference < 0 or (difference == 0 and turned * coin < 0):
        return Answer("second", _reasons({reason: -value for reason, value in speaks.items()}, taste), 0)
    return Answer("first", _reasons(speaks, taste), 0)


def _reasons(speaks: Mapping[str, float], taste: Mapping[str, float]) -> tuple[str, ...]:
    """What spoke for the video at least `COUNTS` times as much as the strongest; where nothing did, what spoke least against it,
    and of equal ones what counts most for the rater."""
    most = max(speaks.values())
    if most > 0:
        return tuple(reason for reason, value in speaks.items() if value >= COUNTS * most)
    return (max(speaks, key=lambda reason: (speaks[reason], taste[reason])),)
