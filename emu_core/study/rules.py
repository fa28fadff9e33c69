"""What a rater may send: names, tokens, answers. What cannot be is refused before the store is asked."""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from typing import Any

from ..errors import UserError
from .questions import ordered_reasons

MAX_MS = 24 * 3600 * 1000
NAME_LENGTH = 40
TOKEN_LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # without 0 O 1 I, which people mix up


class Refused(UserError):
    """A rater's request that breaks a rule; status: what HTTP calls it. Nothing was stored."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def token_hash(token: str) -> str:
    """Tokens are random and long, so a plain hash cannot be searched; case, spaces and dashes do not matter."""
    return hashlib.sha256("".join(token.upper().split()).replace("-", "").encode()).hexdigest()


def new_token() -> str:
    """80 random bits in four groups."""
    return "-".join("".join(secrets.choice(TOKEN_LETTERS) for _ in range(4)) for _ in range(4))


def check_key(key: object) -> None:
    """Refused 422: no name that a pair could have."""
    if not isinstance(key, str) or not key.isascii():
        raise Refused(422, "A pair is named by letters and digits.")


def clean_name(name: object) -> str:
    """A rater's name as it is stored. Refused 422: empty, longer than 40, or with characters that do not print."""
    text = " ".join(unicodedata.normalize("NFC", name).split()) if isinstance(name, str) else ""
    if not 1 <= len(text) <= NAME_LENGTH or not text.isprintable():
        raise Refused(422, f"Enter a name of 1 to {NAME_LENGTH} characters; initials or an invented one will do.")
    return text


def read_answer(question: str, given: object) -> dict[str, Any]:
    """What the page sent, checked: choice ("left" or "right" on the screen), reasons in order, whole ms. Refused 422."""
    if not isinstance(given, dict) or set(given) != {"choice", "reasons", "ms"}:
        raise Refused(422, f"{question}: an answer has a choice, reasons and ms, nothing else.")
    if given["choice"] not in ("left", "right"):
        raise Refused(422, f"{question}: the choice is left or right; there is no other side.")
    try:
        reasons = ordered_reasons(question, given["reasons"])
    except ValueError as problem:
        raise Refused(422, str(problem)) from problem
    ms = given["ms"]
    if isinstance(ms, bool) or not isinstance(ms, (int, float)) or not 0 <= ms < float("inf"):
        raise Refused(422, f"{question}: ms is a number of milliseconds from 0.")
    return {"choice": given["choice"], "reasons": reasons, "ms": min(int(ms), MAX_MS)}
