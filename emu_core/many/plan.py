"""Which videos a list of prompts asks for, and in which batches. Pure data: the same list gives the same plan everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ..errors import UserError
from ..evaluation.prompts import LeftOut, Prompt, file_stems
from ..model.streams import derived
from ..settings import check_prompt

MOST_VIDEOS = 1_000_000


@dataclass(frozen=True)
class Video:
    """A video that is to be made: of which prompt, the number of the sample from 0, its seed, the name of its file without an
    extension, and the picture that it starts from, where one is given."""

    id: str
    prompt: str
    sample: int
    seed: int
    stem: str
    image: Path | None = None


def seed_of(seed: int, prompt_id: str, sample: int) -> int:
    """The seed of a sample of a prompt: 53 bits, which every reader of JSON takes whole. It depends neither on the other prompts
    nor on who makes the video."""
    return derived(seed, "video", prompt_id, sample) >> 10


def stems(prompts: Sequence[Prompt], samples: int) -> list[list[str]]:
    """Names for the samples of each prompt, as `evaluation.videos.match` finds them: NNN-slug, and with -K behind it where there
    are several. None is another prompt's id."""
    if samples == 1:
        return [[stem] for stem in file_stems(prompts)]
    ids, found = {prompt.id.casefold() for prompt in prompts}, []
    for stem in file_stems(prompts):
        names = ([f"{stem}{'-' * hyphens}{sample}" for sample in range(samples)] for hyphens in count(1))
        found.append(next(each for each in names if not ids & {*each}))
    return found


def planned(prompts: Sequence[Prompt], samples: int, seed: int, left_out: LeftOut) -> list[Video]:
    """The videos of all prompts, prompt by prompt. `left_out` takes in prompts that cannot be read as such, with the reason.
    ValueError for too few or too many samples, or where no prompt is left."""
    if samples < 1 or samples * len(prompts) > MOST_VIDEOS:
        most = f"1 or more, and at most {MOST_VIDEOS:,} videos in all"
        raise UserError(f"--samples must be {most}, found {samples} of {len(prompts)} prompts")
    videos, reasons = [], LeftOut()
    for prompt, names in zip(prompts, stems(prompts, samples), strict=True):
        try:
            text = check_prompt(prompt.text)
        except UserError as problem:
            reasons.append((f"prompt {prompt.id}", str(problem)))
            continue
        numbered = enumerate(names)
        videos += [Video(prompt.id, text, k, seed_of(seed, prompt.id, k), stem, prompt.image) for k, stem in numbered]
    if not videos:
        raise UserError(f"no prompt can be used, the first because {reasons[0][1]}")
    left_out += reasons
    return videos


def batches(videos: Sequence[Video], size: int) -> list[list[Video]]:
    """The videos in batches of `size`, by their places in the whole list: who makes a batch, and when, changes nothing."""
    return [[*videos[start : start + size]] for start in range(0, len(videos), size)]
