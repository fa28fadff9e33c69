"""Two things at once: items are made in this thread, and consumed in another, a few items behind."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 2
"""Items that may wait: a slow consumer holds up who makes them, and memory stays what it is."""
_LOOK = 0.1  # seconds between looks whether the other thread is still there


class GivenUp(Exception):
    """Seen by the consumer alone: no more items come, and those that came are not all."""


class _End:
    """Behind the last item."""


def beside(consume: Callable[[Iterator[Item]], Result], items: Iterable[Item]) -> Result:
    """`consume(iter(items))`, in a thread of its own, while this one makes the items.

    What either raises is raised here, and no sooner than both have stopped: an error of the consumer, of the items, or Ctrl-C,
    which comes to this thread. The consumer learns that no more items come by `GivenUp` from its iterator.
    """
    waiting: queue.Queue[Item | _End] = queue.Queue(AHEAD)
    stopped = Event()
    with ThreadPoolExecutor(1, thread_name_prefix="beside") as pool:
        try:
            done = pool.submit(copy_context().run, consume, _taken(waiting, stopped))
            for item in items:
                if not _put(waiting, item, done):
                    break
            _put(waiting, _End(), done)
        except BaseException:
            stopped.set()
            raise
        return done.result()


def _taken(waiting: queue.Queue[Item | _End], stopped: Event) -> Iterator[Item]:
    while True:
        if stopped.is_set():
            raise GivenUp
        try:
            item = waiting.get(timeout=_LOOK)
        except queue.Empty:
            continue
        if isinstance(item, _End):
            return
        yield item


def _put(waiting: queue.Queue[Item | _End], item: Item | _End, done: Future[Result]) -> bool:
    """Whether the consumer may still take it: one that has ended, well or not, takes nothing."""
    while not done.done():
        try:
            waiting.put(item, timeout=_LOOK)
        except queue.Full:
            continue
        return True
    return False
