"""Prompts for ranges of a video's frames, and for the videos of a batch, as CONDITIONING. ComfyUI's Conditioning (Combine) joins
those for ranges; samplers that know nothing of them pass over the ranges."""

from __future__ import annotations

from math import lcm
from typing import Any

import torch

from ..emu_core.errors import UserError
from ..emu_core.model.timeline import is_range, parse_prompts
from .adapter.schema import Node, answer, io, links

RANGE = "emu_video_range"
"""In an entry of a CONDITIONING: the range that it holds for, as it was typed."""
ELSEWHERE = "the prompt without a range"


def by_range(conditioning: list[Any]) -> tuple[list[str], dict[str, list[Any]]]:
    """The ranges as `parse_prompts` takes them, each with a name for its prompt, and the entries by these names. ValueError for a
    CONDITIONING that holds nothing."""
    if not conditioning:
        raise UserError("positive holds no prompt: connect CLIP Text Encode, or Prompt for a Range")
    groups: dict[str | None, list[Any]] = {}
    for entry in conditioning:
        groups.setdefault(entry[1].get(RANGE), []).append(entry)
    names = {place: ELSEWHERE if place is None else f"prompt {number}" for number, place in enumerate(groups, 1)}
    texts = [name if place is None else f"{place}: {name}" for place, name in names.items()]
    return texts, {names[place]: entries for place, entries in groups.items()}


def refuse_ranges(**conditionings: list[Any]) -> None:
    """ValueError for conditionings by name of which one holds for a range."""
    for name, conditioning in conditionings.items():
        for _, values in conditioning:
            if RANGE in values:
                raise UserError(
                    f"{name} holds for a range of frames, {values[RANGE]}, and has to hold for all here: connect it without a "
                    "range; Extend Video, Loop and Keyframes follow such prompts as their positive"
                )


def _check(frames: str | None) -> None:
    """ValueError for what is no range; None is linked, known when the node runs."""
    if frames is None:
        return
    if not is_range(frames):
        raise UserError(
            f"range should be such as 0-2s, 2s- or 0-16: from the first up to, and without, the second, in seconds with an s, in "
            f"frames without; found {frames!r}"
        )
    parse_prompts([f"{frames}: this", "elsewhere"], 10**9, 1e3)  # its order, before any length or rate is known


class EmuVideoPromptRange(Node):
    """CONDITIONING -> the same, for some of a video's frames."""

    sought = "prompt schedule, prompt travel, batch prompt schedule, timed prompt, prompt by frame, conditioning set range"
    inputs = [io.Conditioning.Input("conditioning"), io.String.Input("range", default="0-2s")]
    outputs = {"CONDITIONING": io.Conditioning}

    @classmethod
    def validate_inputs(cls, range: str | None = None) -> bool | str:  # noqa: A002
        """A range that is one."""
        return answer(_check, range)

    @classmethod
    def execute(cls, conditioning, range) -> io.NodeOutput:  # noqa: A002
        """Each entry gets the range."""
        _check(range)
        if not conditioning:
            raise UserError("conditioning holds no prompt: connect CLIP Text Encode")
        return io.NodeOutput([[text, {**values, RANGE: range.strip()}] for text, values in conditioning])


def prompt_lines(text: str) -> list[str]:
    """The lines that are not empty. ValueError where there are none."""
    if not (lines := [*filter(None, map(str.strip, text.splitlines()))]):
        raise UserError("the prompt is empty: say what should be seen, in one line or several")
    return lines


def read_lines(text: str) -> list[tuple[str | None, str]]:
    """Each line that is not empty: its range, or None, and its prompt. ValueError for a line without a prompt, and for none."""
    result: list[tuple[str | None, str]] = []
    for line in prompt_lines(text):
        before, _, after = line.partition(":")
        found = (before.strip(), after.strip()) if is_range(before) else (None, line)
        if not found[1]:
            raise UserError(f"the line {line!r} has no prompt behind its range: say what these frames should show")
        _check(found[0])
        result.append(found)
    return result


class EmuVideoPrompts(Node):
    """Text, a line for each range of a video's frames -> CONDITIONING."""

    sought = "prompt schedule, prompt travel, batch prompt schedule, timed prompts, several prompts, storyboard"
    inputs = [*links(clip=io.Clip), io.String.Input("text", multiline=True, dynamic_prompts=True)]
    outputs = {"CONDITIONING": io.Conditioning}

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        """Lines that can be read. None: linked, known when the node runs."""
        return True if text is None else answer(read_lines, text)

    @classmethod
    def execute(cls, clip, text) -> io.NodeOutput:
        """As CLIP Text Encode, a line at a time, Prompt for a Range, and Conditioning (Combine)."""
        result = []
        for place, prompt in read_lines(text):
            encoded = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
            result += [[states, values if place is None else {**values, RANGE: place}] for states, values in encoded]
        return io.NodeOutput(result)


class EmuVideoPromptBatch(Node):
    """Text, a line for each video of a batch -> CONDITIONING."""

    sought = "batch prompts, prompt list, several prompts, prompts from text, multiple prompts"
    inputs = [*links(clip=io.Clip), io.String.Input("text", multiline=True, dynamic_prompts=True)]
    outputs = {"CONDITIONING": io.Conditioning, "videos": io.Int}

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        """A prompt, at least. None: linked, known when the node runs."""
        return True if text is None else answer(prompt_lines, text)

    @classmethod
    def execute(cls, clip, text) -> io.NodeOutput:
        """One entry with a row for each line: of the states of the shorter texts as many, by repeating them, which attention does
        not see."""
        encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(line))[0] for line in prompt_lines(text)]
        tokens = lcm(*(states.shape[1] for states, _ in encoded))
        states = torch.cat([one.repeat(1, tokens // one.shape[1], 1) for one, _ in encoded])
        pooled = [values.get("pooled_output") for _, values in encoded]
        own = {} if pooled[0] is None else {"pooled_output": torch.cat(pooled)}
        return io.NodeOutput([[states, {**encoded[0][1], **own}]], len(encoded))
