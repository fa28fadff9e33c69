"""A folder of many videos: whose it is, what is to be there, what became of each.

`run.json` says how the videos are made and is written once; `manifest.jsonl` gets a line for each video as it is there, or as it
failed. A video's file is whole or not there, so files alone say what is still to be made.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evaluation.names import check_free, claim
from ..limits import json_of
from ..locks import OwnerLock, Taken, wait_for
from ..media import VideoReader
from ..media.files import write_text
from .plan import Video

logger = logging.getLogger(__name__)

RUN, MANIFEST = "run.json", "manifest.jsonl"
LOCKS = ".run-*.lock"
MOST_NAMED = 3


@contextmanager
def claimed(out: Path, rank: int = 0) -> Iterator[None]:
    """Meanwhile no other run writes into `out`, which has to be there. UserError if one does. Each process of a run holds a lock
    of its own; that of rank 0 begins first and looks at all of them."""
    lock = OwnerLock(out / LOCKS.replace("*", str(rank)))
    try:
        lock.take()
        for other in sorted(out.glob(LOCKS)) if rank == 0 else ():
            if other != lock.path:
                held = OwnerLock(other)
                held.take()
                held.release()
    except Taken as owner:
        lock.release()
        raise UserError(f"{out} is in use by {owner}: wait for it, or name another folder with --out") from owner
    try:
        yield
    finally:
        lock.release()


def check(out: Path, settings: Mapping[str, Any], files: Sequence[str], resume: bool) -> dict[str, Any] | None:
    """The run that the folder holds, as `run.json` has it; None where it holds none. UserError for a run that is not to be
    resumed or that is another, saying where it differs, and for files of others that would be overwritten."""
    if not (out / RUN).is_file():
        check_free(out, files, [RUN, MANIFEST])
        return None
    try:
        run = json_of((out / RUN).read_bytes())
        there = dict(run["settings"])
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{out / RUN}: expected what a run wrote of itself, found something else ({problem})") from problem
    changed = [
        f"{name} was {json.dumps(there.get(name))}, is {json.dumps(settings.get(name))} now"
        for name in sorted({*there, *settings})
        if there.get(name) != settings.get(name)
    ]
    if changed:
        more = f" (and {len(changed) - MOST_NAMED} settings more)" if len(changed) > MOST_NAMED else ""
        what = f"{out} holds videos of another run: {'; '.join(changed[:MOST_NAMED])}{more}"
        raise UserError(f"{what}: go on with the same, or name another folder with --out")
    if not resume:
        raise UserError(f"{out} holds a run already: make what is missing with --resume, or name another folder with --out")
    return run


def begin(out: Path, settings: Mapping[str, Any], files: Sequence[str], batch: int) -> None:
    """Write down whose the folder is and which files are going to be in it, before the first of them is."""
    claim(out, files, [RUN, MANIFEST])
    write_text(out / RUN, json.dumps({"format": 1, "batch": batch, "settings": dict(settings)}, indent=1, ensure_ascii=False))


def append(out: Path, entry: Mapping[str, Any]) -> None:
    """One more line of the manifest: whole, or not there where the disk is full. What a process that was killed left of a line
    gets an end first."""
    line = json.dumps(entry, ensure_ascii=False).encode(errors="replace") + b"\n"
    with open(out / MANIFEST, "a+b", buffering=0) as file:
        wait_for(file)
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        try:
            written = 0
            while written < len(line):
                written += file.write(line[written:]) or 0
        except OSError:
            file.truncate(size)
            raise


def entries(out: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What the manifest says of each sample of each prompt, (id, sample) -> its last line. Broken lines are passed over."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    if not (out / MANIFEST).is_file():
        return found
    with open(out / MANIFEST, "rb") as file:
        for line in file:
            try:
                entry = json_of(line)
                found[str(entry["id"]), int(entry["sample"])] = entry
            except (ValueError, KeyError, TypeError):
                continue
    return found


def missing(out: Path, videos: Sequence[Video], suffix: str, entry_of: Callable[[Video], dict[str, Any]]) -> list[Video]:
    """Those of which no file is there, or less than was written, which a warning says. One that is there, but not in the
    manifest, was written just before its process was killed: `entry_of` makes its line. UserError for a file of that name which
    is another's."""
    told, there = entries(out), {entry.name: entry for entry in os.scandir(out)}
    found = []
    for video in videos:
        name, line = f"{video.stem}{suffix}", told.get((video.id, video.sample), {})
        if name not in there:
            found.append(video)
        elif "file" not in line:
            _check_own(out / name, video)
            append(out, entry_of(video))
        elif there[name].is_file() and there[name].stat().st_size < line.get("bytes", 1):
            size = there[name].stat().st_size
            logger.warning("%s has %d bytes left of %d and is made again", out / name, size, line.get("bytes", 1))
            found.append(video)
    return found


def _check_own(file: Path, video: Video) -> None:
    if file.suffix == ".png" and file.is_file():
        return
    said = VideoReader(file).facts.metadata
    if (said.get("prompt"), said.get("seed")) != (video.prompt, str(video.seed)):
        expected = f"{file}: expected the video of {video.prompt!r} with seed {video.seed}, found another file"
        raise UserError(f"{expected}, which is not overwritten: move it away")
