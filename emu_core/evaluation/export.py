"""Videos under the names that other benchmarks' tools expect."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import of_one_item
from ..media.files import write_text
from .equalise import copy_video
from .names import LONGEST, check_free, check_written, claim, distinct, entries, plain
from .prompts import Prompt, places
from .sets import SetResult
from .videos import Matching, VideoSet, match

logger = logging.getLogger(__name__)

BARE = ".vbench.json"
"""End of the index by bare names, which VBench joins with its --videos_path."""


@dataclass(frozen=True)
class Copy:
    """A video to be copied: to which name, of which prompt, and whether the name says the whole prompt."""

    source: Path
    name: str
    prompt: str
    whole: bool = True


Layout = Callable[[Matching, Collection[Path]], list[Copy]]
"""What becomes of the videos of a set, but for those that are broken."""


def vbench_layout(matching: Matching, broken: Collection[Path] = ()) -> list[Copy]:
    """PROMPT-K.mp4 with K from 0, as VBench looks for them; prompts of equal text are one prompt with more samples.

    What no name can be is another: characters that some file system refuses become spaces, and a prompt that is too long, or
    whose name is another's on some file system, ends in 8 hexadecimal digits of its hash.
    """
    samples: dict[str, list[Path]] = {}
    for prompt, files in matching.found:
        samples.setdefault(prompt.text, []).extend(file for file in files if file not in broken)
    ends = [f"-{number}{_suffix(file)}" for files in samples.values() for number, file in enumerate(files)]
    room = LONGEST - max(map(len, ends), default=0)
    names = dict(zip(samples, distinct([*map(plain, samples)], [*samples], room), strict=True))
    return [
        Copy(file, f"{names[text]}-{number}{_suffix(file)}", text, names[text] == text)
        for text, files in samples.items()
        for number, file in enumerate(files)
    ]


def evalcrafter_layout(matching: Matching, broken: Collection[Path] = ()) -> list[Copy]:
    """NNNN.mp4, the prompt's number from 0 among all prompts, as EvalCrafter names them. Only the first sample of each."""
    numbers = {prompt.id: number for number, prompt in zip(places(matching.prompts), matching.prompts, strict=True)}
    firsts = [(prompt, next((file for file in files if file not in broken), None)) for prompt, files in matching.found]
    return [Copy(file, f"{numbers[prompt.id]:04d}{_suffix(file)}", prompt.text) for prompt, file in firsts if file is not None]


def export_vbench(results: Sequence[SetResult], out: Path) -> int:
    """OUT/SYSTEM/PROMPT-K.mp4 (`vbench_layout`), OUT/SYSTEM.json: path -> prompt of every export there, and
    OUT/SYSTEM.vbench.json: name -> prompt, which VBench takes as --prompt_file. Returns the videos. Raises ValueError as
    `check_export`, or where one is missing in the end."""
    return _export(results, out, vbench_layout)


def export_evalcrafter(results: Sequence[SetResult], out: Path) -> int:
    """OUT/SYSTEM/NNNN.mp4 (`evalcrafter_layout`); OUT/SYSTEM.json. Returns the videos. Raises ValueError as `export_vbench`."""
    return _export(results, out, evalcrafter_layout)


def check_export(layout: Layout, sets: Sequence[VideoSet], prompts: Sequence[Prompt], out: Path) -> None:
    """Before long work: ValueError for a file in OUT that would be overwritten and that no earlier export wrote, and for names of
    systems that some file system takes for one."""
    check_free(out, *_planned({each.name: layout(match(each, prompts), ()) for each in sets}, layout))


def _suffix(file: Path) -> str:
    return ".mp4" if file.is_dir() else file.suffix.lower()


def _planned(plans: dict[str, list[Copy]], layout: Layout) -> tuple[list[str], list[str]]:
    """The videos that are going to be written, and the indices."""
    ends = (".json", BARE) if layout is vbench_layout else (".json",)
    return [f"{name}/{copy.name}" for name, copies in plans.items() for copy in copies], [
        f"{n}{end}" for n in plans for end in ends
    ]


def _export(results: Sequence[SetResult], out: Path, layout: Layout) -> int:
    plans = {each.videos.name: layout(each.matching, {file for file, _ in each.broken}) for each in results}
    planned = _planned(plans, layout)
    check_free(out, *planned)
    for name in plans:
        (out / name).mkdir(parents=True, exist_ok=True)
    claim(out, *planned)
    for name, copies in plans.items():
        copies = [copy for copy in copies if _copied(copy, out / name / copy.name)]
        index, files = out / f"{name}.json", [f"{name}/{copy.name}" for copy in copies]
        older = {file: prompt for file, prompt in entries(index).items() if (out / file).is_file()}  # another export's, say
        _write_json(index, older | {file: copy.prompt for file, copy in zip(files, copies, strict=True)})
        if layout is vbench_layout:
            _write_json(out / f"{name}{BARE}", {copy.name: copy.prompt for copy in copies})
        check_written(out, files)
        plans[name] = copies
        if altered := len({copy.prompt for copy in copies if not copy.whole}):
            logger.warning(
                "%s: %d prompts cannot be names as they are, so theirs are altered; %s has them whole", out, altered, index
            )
    return sum(map(len, plans.values()))


def _copied(copy: Copy, target: Path) -> bool:
    """Whether a video could be copied; a warning says why not."""
    try:
        copy_video(copy.source, target)
    except Exception as problem:
        logger.warning("%s is not exported: %s", copy.source, of_one_item(problem))
        return False
    return True


def _write_json(path: Path, content: dict[str, str]) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False))
