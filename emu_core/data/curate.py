"""From videos with captions to shards: examine, write, put together.

The driver lists and keeps the order; workers, local or on a cluster, examine one video or write one shard at a time, and only
metadata pass between them. A shard is whole once its part of the table is there, which is the only memory of an unfinished
run: shards are filled in the order of the listing, so what a resumed run writes does not depend on where it was stopped.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from itertools import count as counting
from pathlib import Path
from threading import Thread
from typing import Any

from . import table
from .engines import Engine, ProcessEngine
from .files import TarWriter
from .motion import look, motion_summary, transcode
from .sources import Item, check_sources, count, listing, read_caption

SETTINGS, LEFT_OUT, LOCK = "curate.json", "left_out.jsonl", ".curate.lock"
KNOWN_BATCH = 64
MAX_MEMBER = 2**32 - 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
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
class LeftOut:
    key: str
    source: str
    root: str
    reason: str


@dataclass(frozen=True)
class Found:
    """An examined clip: facts for its row, and the state of its file (bytes, file's bytes, time)."""

    item: Item
    facts: dict[str, Any]
    state: tuple[int, int, int]


Outcome = Found | LeftOut | None
"""None: already in a shard, and unchanged."""


@dataclass
class Summary:
    """What a run did: clips added, clips found again, items left out, clips in all."""

    added: int = 0
    known: int = 0
    left_out: int = 0
    total: int = 0


# -- what workers do


def examine(settings: Settings, batch: Sequence[tuple[Item, int | None]]) -> list[Outcome]:
    """Look at each item; with it comes the identity under which its key is in a shard already, or None."""
    return [_examine(settings, item, known) for item, known in batch]


def _examine(settings: Settings, item: Item, known: int | None) -> Outcome:
    try:
        if item.problem:
            raise ValueError(item.problem)
        caption = read_caption(item)
        assert item.video is not None
        state = item.video.state()
        identity = identity_of(caption, state[0])
        if known is not None:
            if known != identity:
                raise ValueError("changed since it was put in a shard, which stays as it is; curate into a new folder to have it")
            return None
        if state[0] == 0:
            raise ValueError("empty file")
        if state[0] > MAX_MEMBER:
            raise ValueError("more than 4 GiB; cut it into clips first")
        return Found(item, _facts(settings, item, caption, state[0], identity), state)
    except OSError as problem:
        return _left_out(item, f"cannot be read ({problem.strerror or problem})")
    except ValueError as problem:
        return _left_out(item, str(problem).removeprefix(f"{item.source}: ").rstrip("."))


def _left_out(item: Item, reason: str) -> LeftOut:
    return LeftOut(item.key, item.source, item.root, " ".join(reason.split()))


def _crashed(batch: Sequence[tuple[Item, int | None]]) -> list[Outcome]:
    return [_left_out(item, "the process that decoded it was killed, by the decoder or for want of memory") for item, _ in batch]


def _facts(settings: Settings, item: Item, caption: str, size: int, identity: int) -> dict[str, Any]:
    """The row of one clip, but for where it will lie. Raises ValueError for a video that cannot be used."""
    assert item.video is not None
    with item.video.open() as file:
        seen = look(file, settings.motion_fps, settings.motion_height, item.source, first=settings.clip is not None)
    score, least = motion_summary(seen.scores)
    clip_score, aesthetic = None, None
    if settings.clip is not None:
        from .scores import scorer

        assert seen.first is not None
        clip_score, aesthetic = scorer(settings.clip, settings.aesthetic, settings.device).score(caption, seen.first)
    return {
        "key": item.key,
        "caption": caption,
        "duration": seen.duration,
        "fps": seen.fps,
        "frames": seen.frames,
        "width": seen.width if seen.is_mp4 else seen.width // 2 * 2,
        "height": seen.height if seen.is_mp4 else seen.height // 2 * 2,
        "codec": seen.codec,
        "transcoded": not seen.is_mp4,
        "motion_score": score,
        "motion_min": least,
        "scene_cuts": len(seen.cuts),
        "cut_times": seen.cuts,
        "clip_score": clip_score,
        "aesthetic": aesthetic,
        "source": item.source,
        "source_size": size,
        "identity": identity,
    }


def identity_of(caption: str, size: int) -> int:
    """64 bits by which a changed caption or video is noticed without reading the video."""
    return int.from_bytes(blake2b(f"{size}\0{caption}".encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Spec:
    """A shard to be written."""

    folder: Path
    number: int
    clips: list[Found]


def write_shard(spec: Spec) -> tuple[int, list[LeftOut]]:
    """Write one shard and then its part of the table; returns the number of clips in it and what could not be put there."""
    path, rows, left = spec.folder / table.shard_name(spec.number), [], []
    try:
        with table.whole(path) as part, open(part, "wb") as file:
            tar = TarWriter(file)
            for found in spec.clips:
                try:
                    rows.append({**found.facts, "shard": spec.number, **_write_clip(tar, found)})
                except ValueError as problem:
                    left.append(_left_out(found.item, str(problem).removeprefix(f"{found.item.source}: ").rstrip(".")))
            tar.close()
        if rows:
            table.write_table(table.part_path(spec.folder, spec.number), rows)
        else:
            path.unlink()
    except OSError as problem:
        raise ValueError(
            f"{path}: expected to write the shard, found {problem.strerror or problem}; "
            f"mend that and run the same command again, it goes on from here."
        ) from problem
    return len(rows), left


def _write_clip(tar: TarWriter, found: Found) -> dict[str, int]:
    """Where the two members lie. ValueError, and the tar as before, where the source is no longer what was examined."""
    before, place = tar.position, found.item.video
    assert place is not None
    key = found.item.key
    try:
        with _readable(found) as file:
            if found.facts["transcoded"]:
                made = io.BytesIO()
                transcode(file, made, found.item.source)
                file, size = io.BytesIO(made.getvalue()), len(made.getvalue())
            else:
                size = found.state[0]
            video = tar.add(f"{key}.mp4", file, size)
        about = {name: value for name, value in found.facts.items() if name not in table.LOCATION}
        text = json.dumps(about, ensure_ascii=False, sort_keys=True).encode()
        offset = tar.add(f"{key}.json", io.BytesIO(text), len(text))
    except BaseException:
        tar.back_to(before)
        raise
    return {"video_offset": video, "video_size": size, "json_offset": offset, "json_size": len(text)}


@contextmanager
def _readable(found: Found) -> Iterator[Any]:
    place = found.item.video
    assert place is not None
    try:
        same, file = place.state() == found.state, place.open()
    except OSError as problem:
        raise ValueError(f"cannot be read any more ({problem.strerror or problem})") from problem
    with file:
        if not same:
            raise ValueError("changed while curate ran")
        yield file


# -- the driver


def curate(
    sources: Sequence[str], out: str | Path, settings: Settings, engine: Engine | None = None, progress: bool = False
) -> Summary:
    """Add what is new in the sources to the shards in `out`, which is made if missing; `engine`: by default this process.

    Raises ValueError, before any work, for sources, models or settings that cannot be used; afterwards only for a full disk
    and the like. What single items have wrong with them goes to left_out.jsonl.
    """
    folder, engine = Path(out), engine or ProcessEngine(1)
    _check(sources, folder, settings)
    with _locked(folder):
        _check_settings(folder, settings)
        _clean(folder)
        run = _Run(folder, list(sources), settings, engine, progress)
        summary = run.run()
        if table.part_numbers(folder) or not table.is_merged(folder):
            table.merge(folder)
        if (folder / table.PARTS).is_dir():
            (folder / table.PARTS).rmdir()
        summary.total = table.rows_in(folder)
    return summary


class _Run:
    """One pass over the sources."""

    def __init__(self, folder: Path, sources: list[str], settings: Settings, engine: Engine, progress: bool) -> None:
        self.folder, self.sources, self.settings, self.engine = folder, sources, settings, engine
        self.known, last = table.known_keys(folder)
        taken = set(table.part_numbers(folder))
        self.numbers = (number for number in counting(last + 1) if number not in taken)
        self.summary, self.bar = Summary(), _bar(sources) if progress else None
        (folder / table.PARTS).mkdir(exist_ok=True)

    def run(self) -> Summary:
        late: list[LeftOut] = []
        with table.whole(self.folder / LEFT_OUT) as part, open(part, "w", encoding="utf-8") as self.left_out:
            for line in _others(self.folder / LEFT_OUT, self.sources):
                self.left_out.write(line)
            for added, left in self.engine.map(write_shard, self._specs()):
                self.summary.added += added
                late += left
            for entry in late:  # last, so that the file does not depend on when shards are written
                self._leave_out(entry)
        if self.bar is not None:
            self.bar.close()
        return self.summary

    def _leave_out(self, entry: LeftOut) -> None:
        self.summary.left_out += 1
        self.left_out.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")

    def _specs(self) -> Iterator[Spec]:
        clips: list[Found] = []
        size = 0
        for outcome in self._outcomes():
            if self.bar is not None:
                self.bar.update(1)
            if isinstance(outcome, LeftOut):
                self._leave_out(outcome)
            elif outcome is None:
                self.summary.known += 1
            else:
                clips.append(outcome)
                size += outcome.state[0]
            # Only the clips inside decide where a shard ends, so that a resumed run cuts at the same places.
            if len(clips) >= self.settings.shard_clips or size >= self.settings.shard_bytes:
                yield Spec(self.folder, next(self.numbers), clips)
                clips, size = [], 0
        if clips:
            yield Spec(self.folder, next(self.numbers), clips)

    def _outcomes(self) -> Iterator[Outcome]:
        for batch in self.engine.map(partial(examine, self.settings), self._batches(), _crashed):
            yield from batch

    def _batches(self) -> Iterator[list[tuple[Item, int | None]]]:
        """New items one by one, since each is long work; what takes no time many at once."""
        seen, quick = table.KeyTable(), []
        for item in listing(self.sources):
            known = self.known.get(item.key)
            if item.problem:
                known = None
            elif seen.get(item.key) is not None:
                problem = "duplicate key: another item has the same source name and path; rename the folder or list of one"
                item, known = Item(item.key, item.source, item.root, problem=problem), None
            else:
                seen.add(item.key)
            if item.problem or known is not None:
                quick.append((item, known))
            if quick and (len(quick) >= KNOWN_BATCH or not (item.problem or known is not None)):
                yield quick
                quick = []
            if not (item.problem or known is not None):
                yield [(item, None)]
        if quick:
            yield quick


def _bar(sources: list[str]) -> Any:
    """A progress bar whose end is counted meanwhile."""
    from tqdm import tqdm

    bar: Any = tqdm(unit=" items", mininterval=1.0, smoothing=0.05)

    def find_total() -> None:
        try:
            bar.total = count(sources)
        except (OSError, ValueError):  # the listing itself says what is wrong
            logger.debug("the number of items could not be counted", exc_info=True)

    Thread(target=find_total, daemon=True).start()
    return bar


def _others(path: Path, sources: Sequence[str]) -> Iterator[str]:
    """Lines of an earlier left_out.jsonl about sources that are not part of this run."""
    if path.exists():
        with open(path, encoding="utf-8") as lines:
            yield from (line for line in lines if json.loads(line)["root"] not in sources)


# -- the folder


def _check(sources: Sequence[str], folder: Path, settings: Settings) -> None:
    from .scores import check_models

    check_sources(sources)
    check_models(settings.clip, settings.aesthetic)
    if settings.shard_clips < 1 or settings.shard_bytes < 1:
        raise ValueError(
            f"shards: expected at least 1 clip and 1 byte each, found {settings.shard_clips} and {settings.shard_bytes}."
        )
    if settings.clip:
        from .scores import Scorer

        Scorer(settings.clip, settings.aesthetic, settings.device)
    for source in sources:
        if folder.resolve().is_relative_to(Path(source).resolve()):
            raise ValueError(f"{folder}: expected OUT outside of the sources, found it in {source}; choose another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"probe.{os.getpid()}.part"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as problem:
        raise ValueError(
            f"{folder}: expected a folder to write into, found {problem.strerror or problem}; choose another."
        ) from problem


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one curate at a time in a folder. The system lets go of the lock when a process dies."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(folder / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            raise ValueError(f"{folder}: expected no other curate at work in it, found one; wait until it ends.") from problem
        yield


def _check_settings(folder: Path, settings: Settings) -> None:
    """Scores of one folder must be comparable: the first run's settings hold for all."""
    from .scores import fingerprint

    mine = {
        "motion_fps": settings.motion_fps,
        "motion_height": settings.motion_height,
        "clip": settings.clip and fingerprint(settings.clip),
        "aesthetic": settings.aesthetic and fingerprint(settings.aesthetic),
    }
    path = folder / SETTINGS
    if not path.exists():
        with table.whole(path) as part:
            part.write_text(json.dumps(mine, indent=2), encoding="utf-8")
    earlier = json.loads(path.read_text(encoding="utf-8"))
    for name, value in mine.items():
        if earlier.get(name) != value:
            raise ValueError(
                f"{folder}: expected --{name.replace('_', '-')} as when the folder was begun ({earlier.get(name)}), "
                f"found {value}; use the same, or curate into a new folder."
            )


def _clean(folder: Path) -> None:
    """Take away what a killed run left half-written, and parts that are in the table already."""
    for stale in (*folder.glob("*.part"), *(folder / table.PARTS).glob("*.part")):
        stale.unlink(missing_ok=True)
    last = table.last_shard(folder)
    for number in table.part_numbers(folder):
        if number <= last:
            table.part_path(folder, number).unlink()
