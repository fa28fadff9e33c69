"""Runs of the laboratory side by side, each in a process with its share of the cores: networks as small as these leave a core
idle that another run can use."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from ..data.engines import start_worker
from ..errors import UserError
from . import probes
from .run import Lab, in_order

LOGS = "logs"
GRACE = 60
"""Seconds in which a run that was told to stop may keep what it has."""


class Job(NamedTuple):
    """An arm of one seed; a probe if `seed` is None."""

    name: str
    seed: int | None = None

    def __str__(self) -> str:
        return self.name if self.seed is None else f"{self.name}-{self.seed}"


def run(lab: Lab, arms: Sequence[str], experiments: Sequence[str], at_once: int) -> None:
    """All seeds of these arms and of those that the probes are of, then these probes, `at_once` at a time, each with an equal
    share of the cores; what they print goes to files in `logs/`. When one fails, or on Ctrl-C or SIGTERM, the others are told to
    stop and keep a checkpoint. UserError, with the end of its log, for the one that failed, for fewer than one at a time, and as
    `in_order`."""
    if at_once < 1:
        raise UserError(f"--jobs: expected at least 1, found {at_once}.")
    needed = {*arms, *(arm for name in experiments for arm in probes.PROBES[name].arms)}
    ordered = [Job(*each) for each in in_order(lab, [name for name in lab.arms if name in needed])]
    if stacks := [job.seed for job in ordered if lab.arms[job.name].maker == "stack" and not _is_done(lab, job)]:
        lab.share(sorted({seed for seed in stacks if seed is not None}))
    _run_all(lab, ordered, at_once)
    _run_all(lab, [Job(name) for name in experiments], at_once)


def _run_all(lab: Lab, jobs: Sequence[Job], at_once: int) -> None:
    waiting = [job for job in jobs if not _is_done(lab, job)]
    running: dict[Job, Any] = {}
    spawn, threads = multiprocessing.get_context("spawn"), max(1, torch.get_num_threads() // at_once)
    (lab.folder / LOGS).mkdir(parents=True, exist_ok=True)
    with _told_to_stop(), tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc="laboratory") as bar:
        try:
            while waiting or running:
                for job in [one for one in waiting if not _comes_after(lab, one, [*waiting, *running])][: at_once - len(running)]:
                    waiting.remove(job)
                    running[job] = spawn.Process(target=_work, args=(lab, job, threads), name=str(job))
                    running[job].start()
                bar.set_postfix_str(", ".join(map(str, running)))
                connection.wait([process.sentinel for process in running.values()])
                for job in [one for one, process in running.items() if not process.is_alive()]:
                    process = running.pop(job)
                    if process.exitcode or not _is_done(lab, job):
                        raise UserError(f"{job} ended before its end, of which its log says:\n{_end(log_file(lab, job))}")
                    bar.update()
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.join(GRACE)


def log_file(lab: Lab, job: Job) -> Path:
    """What a job prints."""
    return lab.folder / LOGS / f"{job}.log"


def _end(path: Path, lines: int = 12) -> str:
    said = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return "\n".join([*said[-lines:], f"(the end of {path})"])


def _is_done(lab: Lab, job: Job) -> bool:
    return probes.is_done(lab, job.name) if job.seed is None else lab.is_done(job.name, job.seed)


def _comes_after(lab: Lab, job: Job, others: Sequence[Job]) -> bool:
    """Whether the arm that it starts from is among others, for no two may train it at once. Who comes alone trains it."""
    return job.seed is not None and Job(lab.arms[job.name].after, job.seed) in others


def _work(lab: Lab, job: Job, threads: int) -> None:
    start_worker()
    log = open(log_file(lab, job), "a", encoding="utf-8", buffering=1)  # noqa: SIM115, its last words come after this function
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.stdout = sys.stderr = log
    logging.basicConfig(stream=log, level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    if job.seed is None:
        probes.run(lab, job.name)
    else:
        lab.run(job.name, job.seed)


@contextlib.contextmanager
def _told_to_stop() -> Iterator[None]:
    """Meanwhile SIGTERM stops as Ctrl-C does, so that the runs are told as well."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
