"""Crowds and slow clients at a real server: idle connections by the thousand, heads and bodies that never end, and its log."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from emu_core.study.store import Study

from . import worlds
from .raw import ask, connect, received, statuses
from .serving import Serving

resource = pytest.importorskip("resource")
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
IDLE = 1100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Study.create(tmp_path / "study") as made:
        worlds.empty_pairs(made, 20)
    return tmp_path / "study"


@contextmanager
def files(soft: int, hard: int | None = None) -> Iterator[None]:
    """Another limit of open files for what is started meanwhile, and for this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def idle(address: str, number: int) -> Iterator[list[socket.socket]]:
    """So many connections that send nothing."""
    wanted = number + 300
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted and hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"NOT CHECKED: this system allows {hard} open files only")
    with files(max(soft, wanted)), ExitStack() as stack:
        yield [stack.enter_context(connect(address)) for _ in range(number)]


def limited(folder: Path, files: int, *options: str) -> Serving:
    """A server that may have so many files open, and no more."""
    return Serving(folder, *options, before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)))


async def rater(address: str, name: str, times: list[float]) -> None:
    """The page, its parts, a name, a pair and its videos, each timed."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=aiohttp.ClientTimeout(30)) as client:

        async def timed(path: str, body: Any = None) -> bytes:
            started = time.perf_counter()
            async with client.request("GET" if body is None else "POST", address + path, json=body) as answer:
                found = await answer.read()
                assert answer.status == 200, found
            times.append(time.perf_counter() - started)
            return found

        for path in ("", "study.css", "study.js", "api/state"):
            await timed(path)
        await timed("api/join", {"name": name})
        pair = (await (await client.post(f"{address}api/next", json={})).json())["pair"]
        for side in ("left", "right"):
            await timed(pair[side])


def raters(address: str, prefix: str) -> list[float]:
    """How long each answer took to fifty raters at once."""
    times: list[float] = []

    async def all_at_once() -> None:
        await asyncio.gather(*(rater(address, f"{prefix} {number}", times) for number in range(50)))

    asyncio.run(all_at_once())
    return times


def test_a_thousand_idle_connections_and_fifty_raters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the system allows no more than 1,024 files."""
    with limited(folder, 1024, "--signups", "200") as serving:
        alone = max(raters(serving.address, "a"))
        with idle(serving.address, IDLE):
            crowded = max(raters(serving.address, "b"))
        errors = serving.stop()[2]
    if "EMU_FIGURES" in os.environ:
        with capsys.disabled():
            print(f"\nslowest answer to 50 raters: {alone:.3f} s, beside {IDLE} idle connections {crowded:.3f} s")  # noqa: T201
    assert errors == ""
    assert crowded < max(2.0, 5 * alone)  # a busy machine is slow without a crowd too; docs/study.md has what was measured


def test_idle_connections_of_one_address_do_not_take_those_of_another(folder: Path) -> None:
    """They give way themselves: whoever has most. Another's connection stays, idle as it is."""
    with Serving(folder, "--connections", "50") as serving, connect(serving.address) as other:
        port = int(serving.address.rstrip("/").rsplit(":", 1)[1])
        with ExitStack() as stack:
            many = []
            for _ in range(200):
                line = stack.enter_context(socket.socket())
                line.bind(("127.0.0.2", 0))
                line.connect(("127.0.0.1", port))
                many.append(line)
            other.sendall(GET)
            assert statuses(received(other)) == [200]
            assert statuses(ask(serving.address, GET)) == [200]
            many[0].settimeout(5)
            assert received(many[0]) == b""  # closed
        assert serving.stop()[2] == ""


HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
BODY = b"POST /api/join HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 8000\r\n\r\n"
CHUNKS = b"POST /api/join HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
SLOW = """
import asyncio, sys
from emu_core.study.connections import Limits
from emu_core.study.server import serve
from emu_core.study.store import Study
limits = Limits(head=1, idle=1.5, body=1, answer=2)
with Study(sys.argv[1]) as study:
    asyncio.run(serve(study, port=0, started=lambda address: print(address, flush=True), limits=limits))
"""


@pytest.mark.parametrize(
    ("start", "drop", "status"),
    [
        (HEAD, b"x", []),
        (b"GET /", b"a", []),
        (BODY, b" ", [408]),
        (CHUNKS, b"1\r\n \r\n", [408]),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"", [200]),  # kept open, and then nothing
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /", b"a", [200]),  # and then a head that never ends
    ],
    ids=["head", "line", "body", "chunks", "idle", "second head"],
)
def test_a_client_that_sends_a_byte_now_and_then(folder: Path, start: bytes, drop: bytes, status: list[int]) -> None:
    """Each of its waits ends; 1 to 1.5 s here, 10 to 30 s by default."""
    with Serving(folder, program=SLOW) as serving, connect(serving.address) as line:
        line.sendall(start)
        line.settimeout(0.1)
        started, answer = time.monotonic(), b""
        while time.monotonic() - started < 20:
            try:
                part = line.recv(65536)
                if not part:
                    break
                answer += part
            except TimeoutError:
                pass
            except OSError:  # reset
                break
            try:
                line.sendall(drop)
            except OSError:
                break
        taken = time.monotonic() - started
        assert statuses(answer) == status
        assert 0.8 < taken < 10
        assert statuses(ask(serving.address, GET)) == [200]


def test_a_video_that_is_never_taken(folder: Path) -> None:
    """Its connection is closed in the end, with what it had not read: 2 s here, 300 s by default."""
    with Study(folder) as study:
        rater, session, _ = study.join("slow")
        pair = study.next_pair(rater)
        assert pair is not None
        study.video_file(rater, pair.left).write_bytes(b"0" * 50_000_000)  # more than the system takes in advance
    with Serving(folder, program=SLOW) as serving, connect(serving.address) as line:
        head = f"GET /video/{pair.left}.mp4 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {session}\r\n\r\n"
        line.sendall(head.encode())
        time.sleep(3)
        assert len(received(line)) < 50_000_000
        assert serving.stop()[2] == ""


def test_a_flood_of_refusals_is_no_flood_of_the_log(folder: Path) -> None:
    with Serving(folder) as serving:
        for _ in range(6):
            ask(serving.address, *[b"POST /api/next HTTP/1.1\r\nHost: localhost\r\n\r\n"] * 20, seconds=0.2)
            ask(serving.address, b"\x16\x03\x01\r\n\r\n")
            ask(serving.address, b"GET / HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n")
        errors = serving.stop()[2]
    assert errors.count("\n") <= 2 * 60  # each part of the server has its own minute
    assert "Traceback" not in errors
    with Study(folder) as study:
        assert len(study.events()) == 60  # each is a write to the disk, for which votes would wait
