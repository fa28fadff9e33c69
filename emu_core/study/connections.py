"""The stand-alone server's connections: how many there may be, how long each may wait, and what becomes of one too many.

aiohttp has no limit on connections and, in older versions, none on the time until the first request; when the process runs out of
files, asyncio writes a traceback for each connection that it cannot accept, for as long as it cannot.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ..errors import UserError
from .access import HEADERS, Sparing

LINES_A_MINUTE = 60
MAX_HEAD = 1 << 17
"""Bytes that may wait for the end of a request's head; aiohttp's own limits are on each line."""
AT_ONCE = 16
"""Connections accepted in one go: with more, files could run out before those that wait too long are closed."""
BACKLOG = 1024
"""Connections that the system keeps until they are accepted."""
SPARE_FILES = 128
log = logging.getLogger(__name__)
log.addFilter(Sparing(LINES_A_MINUTE))


@dataclass(frozen=True)
class Limits:
    """connections: at once, fewer where the system allows fewer files; head: seconds until the first request is there; idle:
    until a further one is; body: until a request's body is; answer: until the answer was taken, a video too."""

    connections: int = 500
    head: float = 10
    idle: float = 30
    body: float = 10
    answer: float = 300

    def __post_init__(self) -> None:
        if self.connections < 8 or min(self.head, self.idle, self.body, self.answer) <= 0:
            raise UserError(f"limits: expected at least 8 connections and times above 0 s, found {self}; change them.")


class Crowd:
    """The connections of one server, the one whose client kept it waiting the longest first."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.most = limits, files_for(limits.connections)
        self._members: dict[Connection, str] = {}

    def enter(self, connection: Connection, address: str) -> None:
        """Take a connection in. If there are too many, one gives way: of the address that has most, the longest waiting.

        So a host's idle connections make room for its own next ones, and never for those of nobody but others.
        """
        if len(self._members) >= self.most:
            crowded = Counter(self._members.values()).most_common(1)[0][0]
            next(member for member, theirs in self._members.items() if theirs == crowded).cut()
        self._members[connection] = address

    def leave(self, connection: Connection) -> None:
        """It is gone."""
        self._members.pop(connection, None)

    def stir(self, connection: Connection) -> bool:
        """It did something and waits from now on; False if it is gone."""
        address = self._members.pop(connection, None)
        if address is not None:
            self._members[connection] = address
        return address is not None


class Connection(web.RequestHandler):
    """aiohttp's, with a time for each of its waits, and its own failures in our words and with our headers."""

    def __init__(self, crowd: Crowd, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        times = {"keepalive_timeout": crowd.limits.idle, "lingering_time": min(2.0, crowd.limits.body)}
        settings: dict[str, Any] = {"logger": log, "access_log": None, "auto_decompress": False, **times}
        super().__init__(server, loop=loop, **settings)
        self._crowd, self._line, self._head = crowd, asyncio.Transport(), 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enter the crowd; the first request has to come soon."""
        assert isinstance(transport, asyncio.Transport)
        self._line = transport
        peer = transport.get_extra_info("peername")
        self._crowd.enter(self, str(peer[0]) if isinstance(peer, tuple) else "")
        super().connection_made(transport)
        self._until(self._crowd.limits.head)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Leave the crowd."""
        self._crowd.leave(self)
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what came, unless a head never ends."""
        if self._head > MAX_HEAD:
            self.cut()
            return
        self._head += len(data)
        super().data_received(data)

    def began(self) -> None:
        """A request is there and is being answered."""
        self._head = 0
        self._until(self._crowd.limits.answer)

    async def finish_response(self, *arguments: Any, **settings: Any) -> Any:
        """Send an answer; then the next request has to come."""
        try:
            return await super().finish_response(*arguments, **settings)
        finally:
            self._head = 0
            self._until(self._crowd.limits.idle)

    def _until(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        if self._crowd.stir(self):
            self._timer = self._loop.call_later(seconds, self.cut)

    def cut(self) -> None:
        """Close at once: what was not taken yet will not be."""
        self._crowd.leave(self)
        with suppress(OSError):  # first, so that a video that is being sent ends by itself: asyncio fails if it is cut off then
            self._line.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._loop.call_later(0.2, self._line.abort)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What is no HTTP, and what failed while an answer was sent; as aiohttp does it, without a traceback for the first."""
        if isinstance(exc, UnicodeError):  # our handlers let none through: aiohttp repeated what `Expect` said, which is no text
            status = 400
        if status >= 500:
            log.error("answering %s failed", request.remote, exc_info=exc)
        else:
            log.warning("refused from %s: %s, no request (%s)", request.remote, status, type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer was sent already")
        sentence = "This is not a request." if status < 500 else "The server could not do this; its log says why. Try again."
        response = web.json_response({"error": sentence}, status=status, headers=HEADERS)
        response.force_close()
        return response


def files_for(connections: int) -> int:
    """How many connections this process can have, after raising its limit of open files if it may: each can have a video open."""
    if sys.platform == "win32":
        return connections
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        return max(8, min(connections, (soft - SPARE_FILES) // 2))
    return connections


async def listen(server: web.Server, host: str, port: int, limits: Limits) -> asyncio.Server:
    """Accept connections for `server`. OSError: the address cannot be used."""
    loop, crowd = asyncio.get_running_loop(), Crowd(limits)
    loop.set_exception_handler(_tell)
    made = await loop.create_server(lambda: Connection(crowd, server, loop), host, port, backlog=AT_ONCE)
    for known in made.sockets:
        with suppress(OSError), known.dup() as same:  # asyncio knows one number for both: what waits and what is taken at once
            same.listen(BACKLOG)
    return made


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio's own complaints, through a log that cannot flood."""
    problem = context.get("exception")
    log.error("%s", context["message"], exc_info=None if isinstance(problem, OSError) else problem)
