"""Words of prompts that a word-level tokenizer has no token for: a user is told of them once."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .base import Base
from .prompts import plain

logger = logging.getLogger(__name__)

MOST_NAMED = 20
"""In one sentence."""


class UnknownWords:
    """Warns of words that a base does not know, of each once, in whatever prompts it comes and however it is written."""

    def __init__(self, base: Base) -> None:
        self._base, self._named = base, set[str]()

    def __call__(self, prompts: Iterable[str], speaks: bool = True) -> None:
        """Name the new ones of all these prompts in one sentence. `speaks`: false where another process does. ValueError for what
        `base.prompts` cannot read."""
        words = {word.casefold(): word for prompt in prompts for word in self._base.unknown_words(plain(prompt))}
        new = [word for small, word in words.items() if small not in self._named]
        if new and speaks:
            known = "" if self._named else f"; it knows: {' '.join(self._base.known_words() or [])}"
            shown = ", ".join(f'"{word}"' for word in new[:MOST_NAMED])
            more = f" and {len(new) - MOST_NAMED} more" if len(new) > MOST_NAMED else ""
            them = "it" if len(new) == 1 else "them"
            logger.warning("the model does not know %s%s and passes over %s%s", shown, more, them, known)
        self._named.update(words)
