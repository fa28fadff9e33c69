"""The two questions and their reasons. The wording in quotes on the page is the paper's; definitions and keys are ours."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError


@dataclass(frozen=True)
class Reason:
    """key: in votes and exports; name: the paper's words; letter: the key that ticks it; meaning: in plain words, ours."""

    key: str
    name: str
    letter: str
    meaning: str


@dataclass(frozen=True)
class Question:
    """key: in votes and exports; text, factors: the paper's questions; shows_prompt: whether the rater sees the prompt."""

    key: str
    title: str
    text: str
    shows_prompt: bool
    factors: str
    reasons: tuple[Reason, ...]


FACTORS = "Which factors contributed towards making this choice? (Select all that apply)"
OF_QUALITY = (
    Reason("motion_smoothness", "Motion smoothness", "m", "Things move evenly, without jumps, stutter or flicker."),
    Reason("consistency", "Object/scene consistency", "c", "Things and places stay the same from the first moment to the last."),
    Reason("sharpness", "Pixel sharpness", "s", "The picture is crisp and clear, not blurred, blocky or noisy."),
    Reason("recognizable", "Recognizable objects/scenes", "r", "You can tell what you see; shapes are whole, not distorted."),
    Reason("motion_amount", "Amount of motion", "a", "It moves as much as you would like: not frozen, not frantic."),
)
OF_FAITHFULNESS = (
    Reason("spatial", "Spatial text alignment", "s", "The right things, colours, number, places and style are in the picture."),
    Reason("temporal", "Temporal text alignment", "t", "What the text says should happen does happen, in that order."),
)
QUESTIONS = (
    Question("quality", "Quality", "Which video do you prefer?", False, FACTORS, OF_QUALITY),
    Question("faithfulness", "Faithfulness", "Which video aligns better with the text prompt?", True, FACTORS, OF_FAITHFULNESS),
)
KEYS = tuple(question.key for question in QUESTIONS)


def reason_keys(question: str) -> tuple[str, ...]:
    """The keys of a question's reasons, in the questionnaire's order."""
    return next(tuple(reason.key for reason in each.reasons) for each in QUESTIONS if each.key == question)


def ordered_reasons(question: str, reasons: object) -> tuple[str, ...]:
    """The reasons of a vote in the questionnaire's order. ValueError: none, one twice, or one that the question does not have."""
    known = reason_keys(question)
    if not isinstance(reasons, (list, tuple)) or not reasons:
        raise UserError(f"{question}: expected at least one reason of {', '.join(known)}, found none; tick one.")
    for reason in reasons:
        if reason not in known:
            raise UserError(f"{question}: expected reasons of {', '.join(known)}, found {str(reason)[:40]!r}; use those.")
    if len(set(reasons)) != len(reasons):
        raise UserError(f"{question}: expected each reason once, found one twice; send it once.")
    return tuple(key for key in known if key in reasons)
