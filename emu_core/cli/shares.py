"""Who makes which batches of many videos: this process, several that torch's launcher started, or a Ray cluster."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import IO, Any

import torch
import torch.distributed as dist

from ..data.engines import RayEngine
from ..errors import Stopped, UserError
from ..evaluation.names import claim
from ..many import manifest
from ..many.plan import Video, batches
from ..training.processes import Processes, processes
from .batch import Maker, Work
from .options import choose_device, progress_bar
from .said import tell

MOST_ALIKE = 3
"""So many videos that fail alike, and none that does not, are no fault of their prompts."""


@dataclass(frozen=True)
class Share:
    """What is still to be made: the batches, each with the names of those of its videos that are missing."""

    batches: list[tuple[list[Video], list[str]]]
    missing: int

    def of(self, rank: int, world: int) -> list[tuple[list[Video], list[str]]]:
        """Those of one process of several."""
        return self.batches[rank::world]


def open_run(work: Work, fitting: Callable[[], int]) -> Share:
    """Begin the run in its folder, which is claimed, or go on with it. `fitting`: finds how many clips fit."""
    run = work.check()
    wanted = None if work.options.batch == "auto" else int(work.options.batch)
    if run is None:
        size = fitting() if wanted is None else wanted
        if work.frames is not None:
            work.frames.mkdir(exist_ok=True)
            claim(work.frames, [f"{video.stem}.png" for video in work.videos], [])
        manifest.begin(work.out, work.facts, work.files, size)
        for place, why in work.left_out:
            manifest.append(work.out, {"entry": place, "failed": why})
    else:
        size = int(run["batch"])
        if wanted not in (None, size):
            raise UserError(f"{work.out} was begun with --batch {size}, found {wanted}: leave it out, or name another folder")
    missing = {video.stem for video in manifest.missing(work.out, work.videos, work.suffix, work.entry)}
    pending = [(each, names) for each in batches(work.videos, size) if (names := [v.stem for v in each if v.stem in missing])]
    return Share(pending, len(missing))


def make_share(work: Work) -> tuple[int, list[dict[str, Any]]]:
    """This process's share of the videos: all of them, unless torch's launcher started others beside it. The first process
    looks at the folder and tells the others what is missing; from then on none waits for another. Gives its rank and its lines.
    """
    with ExitStack() as kept:
        with processes(accelerated=False) as here:
            if here.world > 1:
                Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
            if here.main:
                work.check()
            maker = Maker(work, _device(work.options.device, here), here.main)
            work.out.mkdir(exist_ok=True)
            if here.main:
                kept.enter_context(manifest.claimed(work.out))
            share = _agreed(here, lambda: open_run(work, maker.fitting))
            if not here.main:
                kept.enter_context(manifest.claimed(work.out, here.rank))
        made = kept.enter_context(_tally(work, share, here.main))
        for batch, names in share.of(here.rank, here.world):
            made.take(maker.make(batch, names))
    return here.rank, made.entries


def _end_with(launcher: int) -> None:
    """A launcher that was killed cannot end its processes, and they would keep the folder."""
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(1)


def _device(name: str, here: Processes) -> str | None:
    if name != "auto" or here.world == 1 or not torch.accelerator.is_available():
        return None
    return f"{choose_device(name).type}:{int(os.environ.get('LOCAL_RANK', '0')) % torch.accelerator.device_count()}"


def _agreed(here: Processes, made: Callable[[], Share]) -> Share:
    """What the first process makes, in all of them."""
    found = [made() if here.main else None]
    if here.world > 1:
        dist.broadcast_object_list(found)
    assert found[0] is not None
    return found[0]


def by_ray(work: Work) -> None:
    """Make the videos on a Ray cluster, whose workers load the models once each and write the files themselves."""
    options = work.options
    work.check()
    engine = RayEngine(options.address, None if options.address else options.processes, _needs_gpu(options.device), retries=3)
    try:
        work.out.mkdir(exist_ok=True)
        with manifest.claimed(work.out):
            share = open_run(work, lambda: next(engine.map(_fitting_there, [work])))
            with _tally(work, share, True) as made:
                for answer in engine.map(partial(_make_there, work), share.batches, partial(_lost, work)):
                    if isinstance(answer, str):
                        raise Stopped(answer)
                    made.take(answer)
    finally:
        engine.close()


def _needs_gpu(device: str) -> bool | None:
    """Of a task; None: if the cluster has any."""
    return None if device == "auto" else device.startswith("cuda")


_makers: dict[str, Maker] = {}
"""In a worker of a cluster: the models of the request that it works on."""


def _maker_of(work: Work) -> Maker:
    key = json.dumps([str(work.out), work.facts])
    if key not in _makers:
        _makers.clear()
        _makers[key] = Maker(work)
    return _makers[key]


def _fitting_there(work: Work) -> int:
    return _maker_of(work).fitting()


def _make_there(work: Work, item: tuple[list[Video], list[str]]) -> list[dict[str, Any]] | str:
    try:
        return [*_maker_of(work).make(*item)]
    except (UserError, OSError) as error:  # which Ray would hand on with a page around it
        return str(error)


def _lost(work: Work, item: tuple[list[Video], list[str]]) -> list[dict[str, Any]]:
    """The lines of a batch that killed every worker that took it."""
    why = "its worker died again and again, perhaps for want of memory"
    lines = [work.failed(video, why) for video in item[0] if video.stem in item[1]]
    for line in lines:
        manifest.append(work.out, line)
    return lines


class _Tally:
    """The lines of what was made, and a bar that counts what all processes have made."""

    def __init__(self, tell: Callable[[int], Any], lines: IO[bytes]) -> None:
        self.entries: list[dict[str, Any]] = []
        self._tell, self._lines = tell, lines

    def take(self, entries: Iterable[dict[str, Any]]) -> None:
        """Stopped where the first all fail alike."""
        for entry in entries:
            self.entries.append(entry)
            self._tell(self._lines.read().count(b"\n"))
        reasons = [entry.get("failed") for entry in self.entries[: MOST_ALIKE + 1]]
        if len(reasons) >= MOST_ALIKE and len({*reasons}) == 1 and reasons[0]:
            raise Stopped(f"the first {len(reasons)} videos all failed alike: {reasons[0]}")


@contextmanager
def _tally(work: Work, share: Share, shown: bool) -> Iterator[_Tally]:
    """What takes the lines of one process. `shown`: with a bar; whatever stops the work is told with what is there by then."""
    with ExitStack() as opened:
        lines = opened.enter_context(open(work.out / manifest.MANIFEST, "a+b"))
        total = len(work.videos)
        bar = opened.enter_context(progress_bar("videos", total, done=total - share.missing)) if shown else lambda number: None
        try:
            yield _Tally(bar, lines)
        except KeyboardInterrupt:
            if shown:
                tell(work.where_it_stands())
            raise
        except (UserError, OSError) as error:
            said = f"{work.out}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
            raise Stopped(f"{said.rstrip('.')}. {work.where_it_stands()}") from error
