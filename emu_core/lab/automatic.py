"""Automatic measures of the arms against the votes on them: one study of all pairs with the design, for `study.correlation`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..study.correlation import AutomaticMetric, correlate
from ..study.results import Results
from ..toy.measure import Row
from .classifier import FVD_LAB, IS_LAB
from .measures import MEASURES, Measure

DESIGN = "design"
"""The arm that the others' win rates are against."""
Rows = Mapping[str, Mapping[str, Row]]
"""Arm -> the prompt's key in the studies -> its row of figures."""


def together(studies: Sequence[Results]) -> Results:
    """One study of the pairs of all, which have prompts of the same keys."""
    systems = tuple(dict.fromkeys(system for study in studies for system in study.systems))
    prompts = {key: text for study in studies for key, text in study.prompts.items()}
    pairs = tuple(pair for study in studies for pair in study.pairs)
    return Results("", "The laboratory's arms", studies[0].raters, systems, prompts, pairs, studies[0].note)


def metrics(arms: Mapping[str, Any], rows: Rows) -> list[AutomaticMetric]:
    """Of whole sets FVD and IS by the laboratory's classifier, and of each video the exact measures. The design has no figures of
    whole sets here: its win rate against itself is none."""
    others = [name for name in arms if name != DESIGN]
    found = [
        AutomaticMetric(of.key, of.label, of.better or "", {name: arms[name][of.key]["value"] for name in others})
        for of in (FVD_LAB, IS_LAB)
    ]
    for measure in MEASURES:
        each = {name: _finite(measure, of_arm) for name, of_arm in rows.items()}
        whole = {name: sum(each[name].values()) / len(each[name]) for name in others if each.get(name)}
        found.append(AutomaticMetric(measure.key, measure.name, measure.better, whole, each))
    return found


def _finite(measure: Measure, rows: Mapping[str, Row]) -> dict[str, float]:
    values = {key: row.get(measure.key, math.nan) for key, row in rows.items()}
    return {key: value for key, value in values.items() if math.isfinite(value)}


def against_votes(studies: Sequence[Results], arms: Mapping[str, Any], rows: Rows) -> dict[str, Any] | None:
    """What `study.correlation.correlate` says, over all arms that were compared with the design; None for fewer than two."""
    compared = [study for study in studies if DESIGN in study.systems]
    if len({system for study in compared for system in study.systems if system in arms} - {DESIGN}) < 2:
        return None
    return correlate(together(compared), metrics(arms, rows))
