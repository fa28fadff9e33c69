r"""How prompts are written, as ComfyUI reads them: weights in brackets, and texts of any length.

`(words)` weighs 1.1 times what is around it and `(words:1.3)` 1.3, whatever is around it; brackets may stand in brackets, `\(`
and `\)` are the signs themselves, and a bracket without its other half is one too. A text of more tokens than the text encoder
reads at once goes on in a second part, with a start and an end of its own.
"""

from __future__ import annotations

import math
import re
from typing import TypeAlias

from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from .vocabulary import reader

Tokens: TypeAlias = list[tuple[int, float]]
"""Numbers of tokens, each with its weight."""

MORE = 1.1  # what a bracket without a number multiplies the weight by
WORD = 8  # so many tokens of one weight are cut where a part ends; fewer go to the next part together
MOST_NESTED = 200
_ESCAPED = {"\\)": "\0\1", "\\(": "\0\2"}  # as two characters that no prompt has, while brackets are looked for
_EMBEDDING = re.compile(r"(?:^|(?<=\s))embedding:")


def weighted(prompt: str) -> list[tuple[str, float]]:
    """The pieces of a prompt, each with its weight. ValueError for a weight that is no finite number, for brackets in more than
    MOST_NESTED others, for half a sign, and for a textual inversion (`embedding:NAME`), which is not read here."""
    if half := re.search("[\ud800-\udfff]", prompt):  # what Python makes of bytes that are no text
        raise UserError(f"the prompt has bytes that are no text at sign {half.start() + 1}: write it in UTF-8")
    for escaped, mark in _ESCAPED.items():
        prompt = prompt.replace(escaped, mark)
    found = []
    waiting = [(piece, 1.0, 0) for piece in reversed(_pieces(prompt))]
    while waiting:
        piece, weight, depth = waiting.pop()
        if len(piece) > 1 and piece[0] == "(" and piece[-1] == ")":
            if depth == MOST_NESTED:
                raise UserError(rf"the prompt has brackets in more than {MOST_NESTED} others: write \( and \) for the signs")
            inner, weight = _weighed(piece[1:-1], weight)
            waiting += [(part, weight, depth + 1) for part in reversed(_pieces(inner))]
        else:
            found.append((_unescaped(piece), weight))
    for text, _ in found:
        if named := _EMBEDDING.search(text):
            what = " ".join(text[named.start() :].split()[:1])
            raise UserError(
                f"the prompt names {what!r}, a textual inversion, which only ComfyUI reads: leave it out, or write it as words,"
                " with a blank in front of the colon"
            )
    return found


def plain(prompt: str) -> str:
    """What a prompt says, without brackets and weights. ValueError as `weighted`."""
    return " ".join(" ".join(text for text, _ in weighted(prompt)).split())


def chunks(tokenizer: PreTrainedTokenizerBase, prompt: str, length: int) -> list[Tokens]:
    """A prompt as parts of `length` tokens, each with its start, its end and what fills it up; what is added weighs 1.

    ValueError as `weighted`.
    """
    read = reader(tokenizer)
    start, end = read("")
    room = length - 2
    parts: list[Tokens] = [[]]
    for text, weight in weighted(prompt):
        rest = [(token, weight) for token in read(text)[1:-1]]
        together = len(rest) < min(WORD, room + 1)
        while len(rest) > (free := room - len(parts[-1])):
            if not together:
                parts[-1] += rest[:free]
                rest = rest[free:]
            parts.append([])
        parts[-1] += rest
    padding = (tokenizer.pad_token_id, 1.0)
    return [[(start, 1.0), *part, (end, 1.0), *[padding] * (room - len(part))] for part in parts]


def _pieces(text: str) -> list[str]:
    """Outermost brackets and what is between them. One that is never closed goes to the end; after one that was never opened,
    the next closes nothing."""
    pieces, start, level = [], 0, 0
    for sign in re.finditer(r"[()]", text):
        if sign[0] == "(":
            if level == 0 and sign.start() > start:
                pieces.append(text[start : sign.start()])
                start = sign.start()
            level += 1
        else:
            level -= 1
            if level == 0:
                pieces.append(text[start : sign.end()])
                start = sign.end()
    return [*pieces, text[start:]] if start < len(text) else pieces


def _weighed(inner: str, around: float) -> tuple[str, float]:
    """What a bracket holds, without its weight, and the weight."""
    text, colon, number = inner.rpartition(":")
    if not (colon and text):
        return inner, around * MORE
    try:
        weight = float(number)
    except ValueError:
        return inner, around * MORE
    if not math.isfinite(weight):
        raise UserError(rf"the prompt has the weight {number.strip()} in a bracket: write a number, or \( and \) for the signs")
    return text, weight


def _unescaped(text: str) -> str:
    for escaped, mark in _ESCAPED.items():
        text = text.replace(mark, escaped[1])
    return text
