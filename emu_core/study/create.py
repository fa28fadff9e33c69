"""A new study from folders of videos."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from ..evaluation.prompts import Prompt, file_stem, read_prompts
from ..evaluation.videos import VideoSet, match, open_set
from .store import VIDEOS, Study
from .videos import prepare_video

Progress: TypeAlias = "Callable[[Sequence[tuple[int, str]]], Iterable[tuple[int, str]]]"


log = logging.getLogger(__name__)


def one_video_each(videos: VideoSet, prompts: Sequence[Prompt]) -> list[Path]:
    """The video of each prompt, found as `evaluate` finds it. ValueError, naming prompt and folder: none, or more than one."""
    found = match(videos, prompts)
    files = {prompt.id: matches for prompt, matches in found.found}
    for number, prompt in enumerate(prompts):
        matches = files.get(prompt.id, [])
        if len(matches) != 1:
            seen = "none" if not matches else " and ".join(file.name for file in matches)
            raise ValueError(
                f"{videos.folder}: expected exactly one video of the prompt {prompt.text!r} (such as {prompt.id}.mp4 or "
                f"{file_stem(number, prompt.text)}.mp4), found {seen}; add or remove one."
            )
    if found.extra:
        name = found.extra[0][0].name
        log.warning("%s: %d videos belong to no prompt and are left out, such as %s.", videos.folder, len(found.extra), name)
    return [files[prompt.id][0] for prompt in prompts]


def create_study(
    out: str | Path,
    systems: dict[str, Path],
    prompts: str | Path,
    raters: int = 5,
    title: str = "Which video is better?",
    against: str | None = None,
    seed: int | None = None,
    lease_seconds: float = 900,
    progress: Progress = lambda work: work,
) -> dict[str, int]:
    """Make the study's folder; it is there whole or not at all. Returns its counts, and `reencoded`.

    systems: name -> folder with one video of every prompt. against: only pairs with this system, else every two systems.
    progress: wraps the list of (prompt's index, system) that are prepared, as tqdm does.
    ValueError: a video that is missing or broken, an unknown system, a folder that exists; nothing is left then.
    """
    out = Path(os.path.realpath(out))
    if len(systems) < 2:
        raise ValueError(f"systems: expected at least two folders to compare, found {len(systems)}; give another.")
    if against is not None and against not in systems:
        raise ValueError(f"--against: expected one of {', '.join(systems)}, found {against!r}; name one of those.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: expected a new or empty folder for the study, found something there; choose another.")
    if not out.parent.is_dir():
        raise ValueError(f"{out}: expected the folder {out.parent} to write into, found none; create it.")
    texts = read_prompts(prompts)
    files = {name: one_video_each(open_set(name, folder), texts) for name, folder in systems.items()}
    part = out.parent / f".{secrets.token_hex(8)}.part"
    try:
        with Study.create(part, title, raters, lease_seconds, seed) as study:
            reencoded = 0
            ready = {}
            for index, name in progress([(index, name) for index in range(len(texts)) for name in systems]):
                target = part / VIDEOS / f"{secrets.token_hex(8)}.mp4"
                ready[name] = prepare_video(files[name][index], target)
                reencoded += ready[name].reencoded
                if len(ready) == len(systems):
                    study.insert_prompt(texts[index].id, texts[index].text, ready, against)
                    ready = {}
            counts = study.counts()
        if out.exists():
            out.rmdir()
        os.rename(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {**counts, "reencoded": reencoded}
