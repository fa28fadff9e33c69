"""A new study from folders of videos."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evaluation.prompts import Prompt, file_stems, read_prompts
from ..evaluation.videos import VideoSet, match, open_set
from ..media.files import real_target, whole_folder
from .store import VIDEOS, Study
from .videos import prepare_video

log = logging.getLogger(__name__)


def one_video_each(videos: VideoSet, prompts: Sequence[Prompt]) -> list[Path]:
    """The video of each prompt, found as `evaluate` finds it. ValueError, naming prompt and folder: none, or more than one."""
    found = match(videos, prompts)
    files = {prompt.id: matches for prompt, matches in found.found}
    for stem, prompt in zip(file_stems(prompts), prompts, strict=True):
        seen = [file.name for file in files.get(prompt.id, [])]
        if len(seen) != 1:
            names = f"such as {prompt.id}.mp4 or {stem}.mp4"
            expected = f"{videos.folder}: expected exactly one video of the prompt {prompt.text!r} ({names})"
            raise UserError(f"{expected}, found {' and '.join(seen) or 'none'}; add or remove one.")
    if found.extra:
        name = found.extra[0][0].name
        log.warning("%s: %d videos belong to no prompt and are left out, such as %s.", videos.folder, len(found.extra), name)
    return [files[prompt.id][0] for prompt in prompts]


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder under a temporary name that is at `path` in the end. ValueError: something is there, or it cannot be written."""
    target = real_target(path)
    if not target.parent.is_dir():
        raise UserError(f"{path}: expected the folder {target.parent} to write into, found none; create it.")
    _check_new(path)
    with whole_folder(path) as part:
        yield part
        _check_new(path)  # somebody else may have been faster


def _check_new(path: str | Path) -> None:
    target = real_target(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{path}: expected a new or empty folder for the study, found something there; choose another.")


def create_study(
    out: str | Path,
    systems: Mapping[str, Path],
    prompts: str | Path,
    against: str | None = None,
    progress: Callable[[Sequence[tuple[int, str]]], Iterable[tuple[int, str]]] = lambda work: work,
    **of_study: Any,
) -> dict[str, int]:
    """Make the study's folder; it is there whole or not at all. Returns its counts, and how many videos were
    `reencoded` and `silenced`.

    systems: name -> folder with one video of every prompt. against: only pairs with this system, else every two systems.
    progress: wraps the list of (prompt's index, system) that are prepared, as tqdm does. of_study: as `Study.create` takes them.
    ValueError: a video that is missing or broken, an unknown system, a folder that exists; nothing is left then.
    """
    if len(systems) < 2:
        raise UserError(f"systems: expected at least two folders to compare, found {len(systems)}; give another.")
    if against is not None and against not in systems:
        raise UserError(f"--against: expected one of {', '.join(systems)}, found {against!r}; name one of those.")
    texts = read_prompts(prompts)
    files = {name: one_video_each(open_set(name, folder), texts) for name, folder in systems.items()}
    with new_folder(out) as part:
        reencoded, silenced, ready = 0, 0, {}
        with Study.create(part, **of_study) as study:
            for index, name in progress([(index, name) for index in range(len(texts)) for name in systems]):
                ready[name] = prepare_video(files[name][index], part / VIDEOS / f"{secrets.token_hex(8)}.mp4")
                reencoded += ready[name].reencoded
                silenced += ready[name].silenced
                if len(ready) == len(systems):
                    study.insert_prompt(texts[index].id, texts[index].text, ready, against)
                    ready = {}
            return {**study.counts(), "reencoded": reencoded, "silenced": silenced}
