"""A new study from folders of videos."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from .prompts import find_videos, read_prompts
from .store import VIDEOS, Study
from .videos import prepare_video

Progress: TypeAlias = "Callable[[Sequence[tuple[int, str]]], Iterable[tuple[int, str]]]"


def named_systems(folders: Sequence[str]) -> dict[str, Path]:
    """System name -> folder, from FOLDER (its last part is the name) or NAME=FOLDER. ValueError: a name twice, under two."""
    systems: dict[str, Path] = {}
    for given in folders:
        name, equals, path = given.partition("=")
        if not equals or Path(given).exists():
            name, path = Path(given).resolve().name, given
        if not name or not name.isprintable():
            raise ValueError(f"{given}: expected a folder with a name, or NAME=FOLDER, found no name; give one.")
        if name in systems:
            raise ValueError(f"{given}: expected systems with different names, found {name!r} twice; write NAME={path}.")
        systems[name] = Path(path)
    if len(systems) < 2:
        raise ValueError(f"systems: expected at least two folders to compare, found {len(systems)}; give another.")
    return systems


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
    if against is not None and against not in systems:
        raise ValueError(f"--against: expected one of {', '.join(systems)}, found {against!r}; name one of those.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: expected a new or empty folder for the study, found something there; choose another.")
    if not out.parent.is_dir():
        raise ValueError(f"{out}: expected the folder {out.parent} to write into, found none; create it.")
    texts = read_prompts(prompts)
    files = {name: find_videos(folder, texts) for name, folder in systems.items()}
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
                    study.insert_prompt(texts[index].key, texts[index].text, ready, against)
                    ready = {}
            counts = study.counts()
        if out.exists():
            out.rmdir()
        os.rename(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {**counts, "reencoded": reencoded}
