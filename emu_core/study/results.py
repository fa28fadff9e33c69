"""What a study has found, apart from where it is stored: read from the store or an exported file, taken by the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from .questions import KEYS

Side: TypeAlias = Literal["first", "second"]
SIDES: tuple[Side, Side] = ("first", "second")


@dataclass(frozen=True)
class Answer:
    """choice: which of the pair's systems; reasons: keys in the questionnaire's order; ms: milliseconds from shown to chosen."""

    choice: Side
    reasons: tuple[str, ...]
    ms: int


@dataclass(frozen=True)
class Vote:
    """One rater's two answers on one pair. shown_left: which system stood left (above on a phone); time_ms: Unix time."""

    uid: str
    rater: str
    shown_left: Side
    quality: Answer
    faithfulness: Answer
    time_ms: int

    def answer(self, question: str) -> Answer:
        """The answer to the question of this key."""
        return getattr(self, question)

    def columns(self, joint: str) -> dict[str, Any]:
        """All but uid and rater as flat columns: in the store reasons are joined by ",", in CSV by ";"."""
        row: dict[str, Any] = {"time_ms": self.time_ms, "shown_left": self.shown_left}
        for key in KEYS:
            answer = self.answer(key)
            row |= {key: answer.choice, f"{key}_reasons": joint.join(answer.reasons), f"{key}_ms": answer.ms}
        return row

    @classmethod
    def from_columns(cls, uid: str, rater: str, row: Mapping[str, Any], joint: str) -> Vote:
        """The vote of `columns`; numbers may be text. ValueError, KeyError: they are not that."""
        quality, faithfulness = (
            Answer(row[key], tuple(row[f"{key}_reasons"].split(joint)), int(row[f"{key}_ms"])) for key in KEYS
        )
        return cls(uid, rater, row["shown_left"], quality, faithfulness, int(row["time_ms"]))


@dataclass(frozen=True)
class Pair:
    """Two systems' videos of one prompt (its key); sha256 of the files as they were shown; votes in the order of their uids."""

    prompt: str
    first: str
    second: str
    first_sha256: str
    second_sha256: str
    votes: tuple[Vote, ...] = ()

    @property
    def name(self) -> str:
        """For sentences about it."""
        return f"{self.prompt}: {self.first} - {self.second}"


@dataclass(frozen=True)
class Results:
    """uid: the study's own, also in its copies; raters: votes that a pair needs; prompts: key -> text; note: what the page and
    the report say first, empty where there is nothing to say."""

    uid: str
    title: str
    raters: int
    systems: tuple[str, ...]
    prompts: dict[str, str] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    note: str = ""
