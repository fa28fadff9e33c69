"""What a study has found, apart from where it is stored: read from the store or an exported file, taken by the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

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
        return self.quality if question == "quality" else self.faithfulness


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
        return f"{self.prompt}: {self.first} - {self.second}"


@dataclass(frozen=True)
class Results:
    """uid: the study's own, also in its copies; raters: votes that a pair needs; prompts: key -> text."""

    uid: str
    title: str
    raters: int
    systems: tuple[str, ...]
    prompts: dict[str, str] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
