"""A new study from folders of videos."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evaluation.prompts import Prompt, file_stems, read_prompts
from ..evaluation.videos import VideoSet, match, open_set
from ..media import Unreadable
from .database import VIDEOS, insert
from .folders import new_folder
from .store import Study
from .videos import Prepared, prepare_video

MOST_NAMED = 20
log = logging.getLogger(__name__)


def one_video_each(videos: VideoSet, prompts: Sequence[Prompt]) -> list[Path]:
    """The video of each prompt, found as `evaluate` finds it. ValueError, naming folder and prompts: none, or more than one."""
    found = match(videos, prompts)
    files, wrong = {prompt.id: matches for prompt, matches in found.found}, []
    for stem, prompt in zip(file_stems(prompts), prompts, strict=True):
        seen = [file.name for file in files.get(prompt.id, [])]
        if len(seen) != 1:
            names = f"such as {prompt.id}.mp4 or {stem}.mp4"
            expected = f"{videos.folder}: expected exactly one video of the prompt {prompt.text!r} ({names})"
            wrong.append(f"{expected}, found {' and '.join(seen) or 'none'}; add or remove one.")
    if wrong:
        more = [f"And {len(wrong) - MOST_NAMED} more prompts."] if len(wrong) > MOST_NAMED else []
        raise UserError("\n".join([*wrong[:MOST_NAMED], *more]))
    if found.extra:
        name = found.extra[0][0].name
        log.warning("%s: %d videos belong to no prompt and are left out, such as %s.", videos.folder, len(found.extra), name)
    return [files[prompt.id][0] for prompt in prompts]


class _Making:
    """A study in the making: its videos one after the other, and what became of them."""

    def __init__(self, study: Study, systems: Mapping[str, Path], against: str | None) -> None:
        self.study, self.systems, self.against = study, systems, against
        self.reencoded, self.silenced = 0, 0
        self.left_out: list[str] = []
        self._ready: dict[str, Prepared] = {}
        with study.transaction() as db:  # all of them, in the order given: the first video may be one that is left out
            for name in systems:
                insert(db, "systems", name=name)

    def take(self, system: str, file: Path) -> None:
        """One video; what cannot be read is listed, and its pairs are left out."""
        try:
            made = prepare_video(file, self.study.folder / VIDEOS / f"{secrets.token_hex(8)}.mp4")
        except Unreadable as problem:
            self.left_out.append(str(problem))
            return
        self.reencoded += made.reencoded
        self.silenced += made.silenced
        self._ready[system] = made

    def enter(self, prompt: Prompt) -> None:
        """The pairs of a prompt, of those of its videos that can be read."""
        ready, self._ready = self._ready, {}
        if len(ready) >= 2 and self.against in (None, *ready):
            self.study.insert_prompt(prompt.id, prompt.text, ready, self.against)
        else:
            for made in ready.values():
                made.path.unlink()

    def finish(self) -> None:
        """ValueError: no pair came of it."""
        if not self.study.counts()["pairs"]:
            named, more = self.left_out[:MOST_NAMED], len(self.left_out) - MOST_NAMED
            found = "\n".join(named + ([f"and {more} more"] if more > 0 else []))
            raise UserError(f"expected two videos of a prompt that can be read, found none:\n{found}")
        with self.study.transaction() as db:
            db.execute("DELETE FROM systems WHERE id NOT IN (SELECT system_id FROM videos)")


def create_study(
    out: str | Path,
    systems: Mapping[str, Path],
    prompts: str | Path,
    against: str | None = None,
    progress: Callable[[Sequence[tuple[int, str]]], Iterable[tuple[int, str]]] = lambda work: work,
    **of_study: Any,
) -> dict[str, Any]:
    """Make the study's folder; it is there whole or not at all. Returns its counts, how many videos were `reencoded` and
    `silenced`, and `left_out`: a sentence on each video that could not be read, whose pairs are not in the study.

    systems: name -> folder with one video of every prompt. against: only pairs with this system, else every two systems.
    progress: wraps the list of (prompt's index, system) that are prepared, as tqdm does. of_study: as `Study.create` takes them.
    ValueError: a video that is missing, no two that can be read, an unknown system, a folder that exists; nothing is left then.
    """
    if len(systems) < 2:
        raise UserError(f"systems: expected at least two folders to compare, found {len(systems)}; give another.")
    if against is not None and against not in systems:
        raise UserError(f"--against: expected one of {', '.join(systems)}, found {against!r}; name one of those.")
    texts = read_prompts(prompts)
    files = {name: one_video_each(open_set(name, folder), texts) for name, folder in systems.items()}
    with new_folder(out) as part, Study.begin(part, **of_study) as study:
        making, last = _Making(study, systems, against), list(systems)[-1]
        for index, name in progress([(index, name) for index in range(len(texts)) for name in systems]):
            making.take(name, files[name][index])
            if name == last:
                making.enter(texts[index])
        making.finish()
        facts = {"reencoded": making.reencoded, "silenced": making.silenced, "left_out": making.left_out}
        return {**study.counts(), **facts}
