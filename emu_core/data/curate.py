"""From videos with captions to shards: examine, write, put together.

The driver lists and keeps the order; workers, local or on a cluster, examine one video or write one shard at a time, and only
metadata pass between them. A shard is whole once its part of the table is there, which is the only memory of an unfinished
run: shards are filled in the order of the listing, so what a resumed run writes does not depend on where it was stopped.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count, groupby, islice
from pathlib import Path
from tempfile import TemporaryFile
from threading import Thread
from typing import Any

from tqdm import tqdm

from ..errors import UserError
from ..limits import json_of
from ..media.files import whole_file, write_text
from ..media.writing import transcode
from . import table
from .engines import Engine, ProcessEngine
from .files import TarWriter, locked
from .motion_score import look, motion_summary
from .sources import Item, check_sources, listing, read_captions

MEASURED_BY, LEFT_OUT, LOCK = "curate.json", "left_out.jsonl", ".curate.lock"
KNOWN_BATCH = 64
MAX_MEMBER = 2**32 - 1
DUPLICATE = "duplicate key: another item has the same source name and path; rename one, or its folder or list"
CHANGED = "changed since it was put in a shard, which stays as it is; curate into a new folder to have it"
KILLED = "the process that decoded it was killed, by the decoder or for want of memory"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Curation:
    """How clips are measured and shards cut. motion_fps, motion_height: what videos are brought to before their motion is
    measured (None: as they are). clip, aesthetic: local model folder and head, or None. A shard is closed once it has
    `shard_clips` clips or `shard_bytes` bytes of sources."""

    motion_fps: float | None = 24.0
    motion_height: int | None = 256
    clip: str | None = None
    aesthetic: str | None = None
    device: str = "cpu"
    shard_clips: int = 1000
    shard_bytes: int = 10**9


@dataclass(frozen=True)
class Found:
    """An examined clip: facts for its row, and the state of its file (bytes, file's bytes, time)."""

    item: Item
    facts: dict[str, Any]
    state: tuple[int, int, int]


@dataclass
class Summary:
    """What a run did: clips added, clips found again, items left out, clips in all."""

    added: int = 0
    known: int = 0
    left_out: int = 0
    total: int = 0


Candidate = tuple[Item, int | None]
"""An item, and the identity under which its key is in a shard already."""
LeftOut = dict[str, str]
"""key, source, root and reason of an item that is not in the shards: a line of left_out.jsonl."""
Outcome = Found | LeftOut | None
"""None: already in a shard, and unchanged."""


def examine(curation: Curation, batch: Sequence[Candidate]) -> list[Outcome]:
    """Look at each item, and measure those that are in no shard."""
    return [_examine(curation, item, known) for item, known in batch]


def _examine(curation: Curation, item: Item, known: int | None) -> Outcome:
    try:
        if item.problem:
            raise UserError(item.problem)
        captions, state = read_captions(item), item.video.state()
        # a change of caption or video is noticed without reading the video
        identity = table.hashed("\0".join([str(state[0]), *captions]))
        if known == identity:
            return None
        if known is not None:
            raise UserError(CHANGED)
        if state[0] == 0:
            raise UserError("empty file")
        if state[0] > MAX_MEMBER:
            raise UserError("more than 4 GiB; cut it into clips first")
        with item.video.source() as source:
            seen = look(source, curation.motion_fps, curation.motion_height, item.source, first=curation.clip is not None)
        facts: dict[str, Any] = {"key": item.key, "caption": captions[0], "source": item.source, "identity": identity}
        facts |= {table.CAPTIONS: captions} if len(captions) > 1 else {}
        facts |= {name: getattr(seen, name) for name in ("duration", "fps", "frames", "codec")}
        grid = 1 if seen.is_mp4 else 2  # sides of what is transcoded are even
        facts |= {"width": seen.width // grid * grid, "height": seen.height // grid * grid, "transcoded": not seen.is_mp4}
        facts |= {"scene_cuts": len(seen.cuts), "cut_times": seen.cuts, "source_size": state[0]}
        facts["motion_score"], facts["motion_min"] = motion_summary(seen.scores)
        facts["clip_score"] = facts["aesthetic"] = None
        if curation.clip is not None and seen.first is not None:
            from .scores import scorer  # here: torch need not be loaded where nobody asks for scores

            network = scorer(curation.clip, curation.aesthetic, curation.device)
            facts["clip_score"], facts["aesthetic"] = network.score(captions[0], seen.first)
        return Found(item, facts, state)
    except Exception as problem:  # whatever is wrong with one item, the others go on
        return _left_out(item, _reason(problem))


def _reason(problem: Exception) -> str:
    """Why an item is left out."""
    if isinstance(problem, UserError):
        return str(problem)
    if isinstance(problem, OSError):
        return f"cannot be read ({problem.strerror or problem})"
    if isinstance(problem, MemoryError):
        return "not enough memory for it; use fewer workers"
    place = traceback.extract_tb(problem.__traceback__)[-1]
    where = f"{type(problem).__name__}: {problem}, {Path(place.filename).name} line {place.lineno}"
    return f"a fault of this program, which its makers would like to know ({where})"


def _crashed(batch: Sequence[Candidate]) -> list[Outcome]:
    return [_left_out(item, KILLED) for item, _ in batch]


def _left_out(item: Item, reason: str) -> LeftOut:
    text = reason.removeprefix(f"{item.source}: ").rstrip(".") + (f" ({item.row})" if item.row else "")
    return {"key": item.key, "source": item.source, "root": item.root, "reason": " ".join(text.split())}


def write_shard(folder: Path, shard: tuple[int, Sequence[Found]]) -> tuple[int, list[LeftOut]]:
    """Write a shard, of a number and clips, and then its part of the table; returns the number of clips in it and what could
    not be put there. Raises ValueError for a full disk and the like."""
    number, clips = shard
    path = folder / table.shard_name(number)
    rows, left = [], []
    try:
        with whole_file(path) as part, open(part, "wb") as file:
            tar = TarWriter(file)
            for found in clips:
                try:
                    rows.append({**found.facts, "shard": number, **_write_clip(tar, found)})
                except OSError:  # of the shard
                    raise
                except Exception as problem:
                    left.append(_left_out(found.item, _reason(problem)))
            tar.close()
        if rows:
            table.write_table(table.part_path(folder, number), rows)
        else:
            path.unlink()
    except (OSError, ValueError) as problem:
        reason = getattr(problem.__cause__ or problem, "strerror", None) or problem
        again = "mend that and run the same command again, it goes on from here"
        raise UserError(f"{path}: expected to write the shard, found {reason}; {again}.") from problem
    return len(rows), left


@contextmanager
def _of_the_source() -> Iterator[None]:
    """An OSError here is not the shard's."""
    try:
        yield
    except OSError as problem:
        raise UserError(f"cannot be read any more ({problem.strerror or problem})") from problem


def _write_clip(tar: TarWriter, found: Found) -> dict[str, int]:
    """Where the two members lie. ValueError, and the tar as before, where the source is no longer what was examined."""
    key, place, size = found.item.key, found.item.video, found.state[0]
    with _of_the_source():
        same, source = place.state() == found.state, place.source()
    with source as video, tar.all_or_nothing():
        if not same:
            raise UserError("changed while curate ran")
        if found.facts["transcoded"] or isinstance(video, str):
            made = io.BytesIO()
            with _of_the_source():
                transcode(video, made, found.item.source)
            video, size = io.BytesIO(made.getvalue()), len(made.getvalue())
        offset = tar.add(f"{key}.mp4", video, size)  # what the source lacks or cannot give is a ValueError
        about = {name: value for name, value in found.facts.items() if name not in table.LOCATION}
        text = json.dumps(about, ensure_ascii=False, sort_keys=True).encode()
        json_offset = tar.add(f"{key}.json", io.BytesIO(text), len(text))
    return {"video_offset": offset, "video_size": size, "json_offset": json_offset, "json_size": len(text)}


def curate(
    sources: Sequence[str], out: str | Path, curation: Curation, engine: Engine | None = None, progress: bool = False
) -> Summary:
    """Add what is new in the sources to the shards in `out`, which is made if missing; `engine`: by default this process.

    Raises ValueError, before any work, for sources, models or settings that cannot be used; afterwards only for a full disk
    and the like. What single items have wrong with them goes to left_out.jsonl.
    """
    folder = Path(out)
    _check(sources, folder, curation)
    with locked(folder / LOCK, f"{folder}: expected no other curate at work in it, found one; wait until it ends."):
        _check_measures(folder, curation)
        # what a killed run left half-written, and parts that are in the table already
        for stale in (*folder.glob("*.part"), *(folder / table.PARTS).glob("*.part")):
            stale.unlink(missing_ok=True)
        last = table.last_shard(folder)
        for number in table.part_numbers(folder):
            if number <= last:
                table.part_path(folder, number).unlink()
        (folder / table.PARTS).mkdir(exist_ok=True)
        summary = _Run(folder, sources, curation, engine or ProcessEngine(0)).run(progress)
        summary.total = table.merge(folder)
        # not rmdir: workers of a killed run may only now be ending, and what they leave is half-written or in the table already
        shutil.rmtree(folder / table.PARTS, ignore_errors=True)
    return summary


def _try_writing(found: Found) -> bool:
    """Do with a clip what killed a process that wrote a shard; what is wrong with it otherwise, writing says."""
    with suppress(Exception):
        _write_clip(TarWriter(io.BytesIO()), found)
    return True


class _Run:
    """One pass over the sources."""

    def __init__(self, folder: Path, sources: Sequence[str], curation: Curation, engine: Engine) -> None:
        self.folder, self.sources, self.curation, self.engine, self.summary = folder, sources, curation, engine, Summary()

    def run(self, progress: bool) -> Summary:
        """Writes the shards and left_out.jsonl; progress: with a bar on the terminal."""

        def find_total() -> None:
            """The bar's end is counted while the work has begun."""
            try:
                self.bar.total = sum(1 for _ in listing(self.sources))
            except (OSError, ValueError):  # the listing itself says what is wrong
                logger.debug("the number of items could not be counted", exc_info=True)

        path, late = self.folder / LEFT_OUT, []
        self.bar = tqdm(unit=" items", mininterval=1.0, smoothing=0.05, disable=not progress)
        if progress:
            Thread(target=find_total, daemon=True).start()
        with self.bar, TemporaryFile("w+", encoding="utf-8", dir=self.folder) as self.left_out:
            for added, left in self.engine.map(partial(write_shard, self.folder), self._shards(), self._rescued):
                self.summary.added += added
                late += left
            for entry in late:  # last, so that the file does not depend on when shards are written
                self._leave_out(entry)
            self.left_out.seek(0)
            with whole_file(path) as part, open(part, "w", encoding="utf-8") as file:
                if path.exists():
                    with open(path, encoding="utf-8") as earlier:  # of sources that are not part of this run
                        file.writelines(line for line in earlier if _root(line) not in self.sources)
                shutil.copyfileobj(self.left_out, file)
        return self.summary

    def _rescued(self, shard: tuple[int, Sequence[Found]]) -> tuple[int, list[LeftOut]]:
        """Write a shard whose writing killed a process, without the clips whose decoding does."""
        number, clips = shard
        lives = self.engine.map(_try_writing, clips, lambda _: False)
        fine, left = [], []
        for found, alive in zip(clips, lives, strict=True):
            fine.append(found) if alive else left.append(_left_out(found.item, KILLED))
        (written,) = self.engine.map(partial(write_shard, self.folder), [(number, fine)])
        return written[0], [*left, *written[1]]

    def _leave_out(self, entry: LeftOut) -> None:
        self.summary.left_out += 1
        self.left_out.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def _shards(self) -> Iterator[tuple[int, list[Found]]]:
        """Numbers and clips of the shards to be written."""
        taken = set(table.part_numbers(self.folder))
        numbers = (number for number in count(table.last_shard(self.folder) + 1) if number not in taken)
        clips: list[Found] = []
        size = 0
        for outcome in chain.from_iterable(self.engine.map(partial(examine, self.curation), self._batches(), _crashed)):
            self.bar.update(1)
            if isinstance(outcome, dict):
                self._leave_out(outcome)
            elif outcome is None:
                self.summary.known += 1
            else:
                clips.append(outcome)
                size += outcome.state[0]
            # Only the clips inside decide where a shard ends, so that a resumed run cuts at the same places.
            if len(clips) >= self.curation.shard_clips or size >= self.curation.shard_bytes:
                yield next(numbers), clips
                clips, size = [], 0
        if clips:
            yield next(numbers), clips

    def _batches(self) -> Iterator[list[Candidate]]:
        """New items one by one, since each is long work; what takes no time many at once."""
        known, seen = table.known_keys(self.folder), table.KeyTable()

        def candidates() -> Iterator[Candidate]:
            for item in listing(self.sources):
                if not item.problem and seen.get(item.key) is not None:
                    item = replace(item, problem=DUPLICATE)
                if item.problem:
                    yield item, None
                else:
                    seen.add(item.key)
                    yield item, known.get(item.key)

        for quick, group in groupby(candidates(), lambda one: bool(one[0].problem) or one[1] is not None):
            while batch := list(islice(group, KNOWN_BATCH if quick else 1)):
                yield batch


def _root(line: str) -> str | None:
    """The source that a line of an earlier run is of."""
    try:
        return str(json_of(line)["root"])
    except (ValueError, KeyError, TypeError):  # a damaged line tells nothing, and is kept
        return None


def _check(sources: Sequence[str], folder: Path, curation: Curation) -> None:
    check_sources(sources)
    if curation.aesthetic and not curation.clip:
        raise UserError("--aesthetic: expected --clip FOLDER with it, since it works on CLIP's image embedding; give both.")
    if curation.shard_clips < 1 or curation.shard_bytes < 1:
        found = f"{curation.shard_clips} and {curation.shard_bytes}"
        raise UserError(f"shards: expected at least 1 clip and 1 byte each, found {found}.")
    if curation.clip:
        from .scores import Scorer

        Scorer(curation.clip, curation.aesthetic, curation.device)  # not kept: the workers have their own
    for source in sources:
        if folder.resolve().is_relative_to(Path(source).resolve()):
            raise UserError(f"{folder}: expected OUT outside of the sources, found it in {source}; choose another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as problem:
        reason = problem.strerror or problem
        raise UserError(f"{folder}: expected a folder to write into, found {reason}; choose another.") from problem


def _check_measures(folder: Path, curation: Curation) -> None:
    """Scores of one folder must be comparable: the first run's settings hold for all."""
    mine: dict[str, Any] = {"motion_fps": curation.motion_fps, "motion_height": curation.motion_height}
    for name, file in (("clip", curation.clip), ("aesthetic", curation.aesthetic)):
        mine[name] = file
        if file:
            from ..networks import sha256

            mine[name] = sha256(file)
    path = folder / MEASURED_BY
    if not path.exists():
        write_text(path, json.dumps(mine, indent=2))
    earlier = json_of(path.read_bytes())
    if not isinstance(earlier, dict):
        raise UserError(f"{path}: expected the settings of an earlier run, found something else; curate into a new folder.")
    for name, value in mine.items():
        if earlier.get(name) != value:
            same = f"--{name.replace('_', '-')} as when the folder was begun ({earlier.get(name)})"
            raise UserError(f"{folder}: expected {same}, found {value}; use the same, or curate into a new folder.")
