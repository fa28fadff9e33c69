"""Where the work on many items is done: in this process, in several of this machine, or on a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import connection
from threading import Thread
from typing import Any, TypeVar

from ..errors import UserError
from ..limits import in_environment

AHEAD = 4
"""Tasks under way for each worker."""

T = TypeVar("T")
R = TypeVar("R")


def _killed(item: Any) -> Any:
    raise OSError("a worker process was killed, perhaps for want of memory; run the same command again.")


class ProcessEngine:
    """Processes on this machine. 0 workers: everything runs in this very process, which an item that crashes takes along."""

    def __init__(self, workers: int) -> None:
        if workers < 0:
            raise UserError(f"--workers: expected at least 1, found {workers}.")
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[T], R], items: Iterable[T], crashed: Callable[[T], R] = _killed) -> Iterator[R]:
        """Results in the order of the items, of which only a bounded number is taken ahead. `crashed(item)` gives the result of
        an item that kills its worker; by default that is an OSError."""
        if not self.workers:
            yield from map(function, items)
            return
        for item, future in _ahead(partial(self._submit, function), items, lambda: AHEAD * self.workers):
            try:
                result = future.result()
            except BrokenProcessPool:  # by this item or by one beside it: once more, in a process of its own
                with _pool(1) as alone:
                    try:
                        result = alone.submit(function, item).result()
                    except BrokenProcessPool:
                        result = crashed(item)
            yield result

    def _submit(self, function: Callable[[T], R], item: T) -> Any:
        self._pool = self._pool or _pool(self.workers)
        try:
            return self._pool.submit(function, item)
        except BrokenProcessPool:
            self._pool = _pool(self.workers)
            return self._pool.submit(function, item)

    def close(self) -> None:
        """Let the workers go."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _ahead(submit: Callable[[T], Any], items: Iterable[T], most: Callable[[], int]) -> Iterator[tuple[T, Any]]:
    """Items and what submitting them gave, in order, `most()` of them submitted ahead."""
    waiting: deque[tuple[T, Any]] = deque()
    for item in items:
        waiting.append((item, submit(item)))
        while len(waiting) >= most():
            yield waiting.popleft()
    yield from waiting


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=start_worker)


def start_worker() -> None:
    """Ctrl-C is the driver's to handle; and a worker whose driver was killed must not go on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent: Any = multiprocessing.parent_process()

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


class RayEngine:
    """Tasks of a Ray cluster, or of a local Ray if no address is given. All machines must see sources and OUT by the same
    paths and have this package installed. workers: of a local Ray; None is as many as there are cores, or in the cluster, which
    may grow and shrink. gpus: whether a task needs a GPU to itself; None: if the cluster has any. retries: how often an item is
    taken again whose worker died."""

    def __init__(
        self, address: str | None = None, workers: int | None = None, gpus: bool | None = False, retries: int = 1
    ) -> None:
        try:
            import ray  # heavy, and of an extra of its own
        except ImportError as problem:
            raise UserError("--engine ray: expected the package ray, found none; install the extra 'cluster'.") from problem
        self._ray: Any = ray
        self._mine = not ray.is_initialized()
        if self._mine:
            env = {"env_vars": in_environment()}  # other machines know nothing of this one's
            try:
                ray.init(address, num_cpus=workers, include_dashboard=False, logging_level=logging.WARNING, runtime_env=env)
            except (ConnectionError, RuntimeError, ValueError) as problem:
                found = f"expected a Ray cluster, found none that answers ({problem})"
                raise UserError(f"--address {address}: {found}.") from problem
        self._fixed, gpus = workers, "GPU" in ray.cluster_resources() if gpus is None else gpus
        self._kind = "GPU" if gpus else "CPU"
        self._call: Any = ray.remote(max_retries=retries, num_gpus=int(gpus))(_call)

    @property
    def workers(self) -> int:
        """How many tasks run at once, as the cluster is now."""
        return self._fixed or max(1, int(self._ray.cluster_resources().get(self._kind, 1)))

    def map(self, function: Callable[[T], R], items: Iterable[T], crashed: Callable[[T], R] = _killed) -> Iterator[R]:
        """As that of ProcessEngine."""
        errors, shared = self._ray.exceptions, self._ray.put(function)
        killed = (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError)
        for item, promise in _ahead(partial(self._call.remote, shared), items, lambda: AHEAD * self.workers):
            try:
                result = self._ray.get(promise)
            except killed:
                result = crashed(item)
            yield result

    def close(self) -> None:
        """Let the cluster go, if it was begun here."""
        if self._mine:
            self._ray.shutdown()


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)


Engine = ProcessEngine | RayEngine


def open_engine(kind: str, workers: int, address: str | None = None) -> Engine:
    """The engine of a kind, processes or ray; address: of a Ray cluster. Raises ValueError for what there is not."""
    if kind == "ray":
        return RayEngine(address, workers if address is None else None)
    if address:
        raise UserError("--address: expected --engine ray with it, found none; add it or leave the address out.")
    if workers < 1:
        raise UserError(f"--workers: expected at least 1, found {workers}.")
    return ProcessEngine(workers)
