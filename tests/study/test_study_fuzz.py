"""Requests that no browser sends, at a real server: listed ones with their answers, and mutated ones by the thousand.

Whatever comes, nothing of it is the server's own failure (5xx), each answer has all headers, the log has no traceback, no vote is
there that should not be, and the page is served afterwards.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from emu_core.study.store import Study

from . import worlds
from .raw import ask, statuses
from .serving import Serving

PROGRAM = """
import asyncio, sys
from emu_core.study.connections import Limits
from emu_core.study.server import serve
from emu_core.study.store import Study
limits = Limits(head=0.4, idle=0.4, body=0.4, answer=5)
with Study(sys.argv[1]) as study:
    asyncio.run(serve(study, port=0, started=lambda address: print(address, flush=True), limits=limits))
"""
HOST = b"Host: localhost\r\n"
LAST = b"Connection: close\r\n\r\n"
JSON = b"Content-Type: application/json\r\n"
EMPTY = JSON + b"Content-Length: 2\r\n" + LAST + b"{}"
PAGE = b"GET / HTTP/1.1\r\n" + HOST + LAST


class Served:
    """A study of one pair that is served, and what its only rater knows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with Study.create(folder) as study:
            worlds.empty_pairs(study, 1)
            rater, session, _ = study.join("Ann")
            pair = study.next_pair(rater)
        assert pair is not None
        self.cookie = f"emu_study_{study.uid}=".encode()
        self.session, self.video = session.encode(), f"/video/{pair.left}.mp4".encode()
        self.signed = b"Cookie: " + self.cookie + self.session + b"\r\n"
        self.serving = Serving(folder, program=PROGRAM)

    def end(self) -> str:
        """The server's log; AssertionError if it does not serve its page any more, or holds a vote."""
        assert statuses(ask(self.serving.address, PAGE)) == [200]
        code, _, errors = self.serving.stop()
        assert code == 0
        with Study(self.folder) as study:
            assert study.counts()["votes"] == 0
            assert study._all("PRAGMA integrity_check")[0][0] == "ok"
        return errors


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("fuzz") / "study")
    yield made
    assert "Traceback" not in made.end()


def post(head: bytes, path: bytes = b"/api/next") -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\n" + head + EMPTY


def get(path: bytes, head: bytes = HOST) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + head + LAST


def join(head: bytes, body: bytes) -> bytes:
    return b"POST /api/join HTTP/1.1\r\n" + HOST + JSON + head + LAST + body


HUGE = b"a" * 7000
HOSTS = [b"\xff\xfe", b"[::1", b"[", b"a b", b"<x>", b"", b"a:b", b"localhost:99999999", b"localhost/", b"user@localhost", b"%00"]
HOSTS += ["ä.example".encode(), HUGE]
ORIGINS = [b"\xff\xfe", b"http://[", b"http://[::1", b"http://a b", b"://", b"x", "http://ä.example".encode(), HUGE]
ORIGINS += [b"http://localhost:port", b"http://localhost/path"]
MALFORMED = {
    **{f"host {host[:20]!r}": get(b"/", b"Host: " + host + b"\r\n") for host in HOSTS},
    "no host": get(b"/", b""),
    "no host in 1.0": b"GET / HTTP/1.0\r\n\r\n",
    "two hosts": get(b"/", HOST + b"Host: evil.example\r\n"),
    "host with a NUL": get(b"/", b"Host: local\0host\r\n"),
    **{f"origin {origin[:20]!r}": post(HOST + b"Origin: " + origin + b"\r\n") for origin in ORIGINS},
    "two origins": post(HOST + b"Origin: http://localhost\r\nOrigin: http://evil.example\r\n"),
    "origin of a GET": get(b"/api/state", HOST + b"Origin: http://[\r\n"),
}
FOREIGN = {
    "origin": (post(HOST + b"Origin: http://evil.example\r\n"), 403),
    "null": (post(HOST + b"Origin: null\r\n"), 403),
    "another port": (post(HOST + b"Origin: http://localhost:1\r\n"), 403),
    "name": (post(b"Host: evil.example\r\nOrigin: http://evil.example\r\n"), 421),
    "name of a page": (get(b"/", b"Host: evil.example\r\n"), 421),
    "whole address": (get(b"http://evil.example/", b"Host: evil.example\r\n"), 421),
}
OTHERS = {
    "no path": (get(b"/nothing"), 404),
    "method": (b"DELETE / HTTP/1.1\r\n" + HOST + LAST, 405),
    "invented method": (b"FOO / HTTP/1.1\r\n" + HOST + LAST, 400),
    "options": (b"OPTIONS * HTTP/1.1\r\n" + HOST + LAST, 404),
    "2.0": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "long path": (get(b"/" + b"a" * 20_000), 400),
    "long header": (get(b"/", HOST + b"X: " + b"a" * 20_000 + b"\r\n"), 400),
    "NUL in a path": (get(b"/video/%00.mp4"), 401),
    "a path of slashes": (get(b"/" * 500), 404),
    "dots": (get(b"/video/../../../../etc/passwd"), 404),
    "expect bytes": (get(b"/", HOST + b"Expect: \xff\r\n"), 400),
    "expect bytes of nothing": (get(b"/nothing", HOST + b"Expect: \xff\r\n"), 400),
    "expect": (get(b"/", HOST + b"Expect: the worst\r\n"), 417),
    "length twice": (join(b"Content-Length: 2\r\nContent-Length: 3\r\n", b"{}"), 400),
    "length and chunks": (join(b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"{}"), 400),
    "length below 0": (join(b"Content-Length: -2\r\n", b"{}"), 400),
    "bad chunks": (join(b"Transfer-Encoding: chunked\r\n", b"zz\r\n"), 400),
    "gzip that is none": (join(b"Content-Encoding: gzip\r\nContent-Length: 2\r\n", b"\x1f\x8b"), 400),
    "large body": (join(b"Content-Length: 99999999\r\n", b" " * 9000), 413),
    "body that stops": (join(b"Content-Length: 99\r\n", b"{"), 408),
    "deep JSON": (join(b"Content-Length: 8000\r\n", b"[" * 8000), 400),
    "long number": (join(b"Content-Length: 8000\r\n", b"1" * 8000), 400),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_host_or_origin_that_is_none(served: Served, name: str) -> None:
    assert statuses(ask(served.serving.address, MALFORMED[name])) == [400]


@pytest.mark.parametrize("name", FOREIGN)
def test_other_sites(served: Served, name: str) -> None:
    content, status = FOREIGN[name]
    assert statuses(ask(served.serving.address, content)) == [status]


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_request(served: Served, name: str) -> None:
    content, status = OTHERS[name]
    assert statuses(ask(served.serving.address, content)) == [status]


def test_a_request_without_a_version(served: Served) -> None:
    """HTTP/0.9: no answer, or that it is no request."""
    assert statuses(ask(served.serving.address, b"GET /\r\n\r\n")) in ([], [400])


@pytest.mark.parametrize("value", [b"1.\xff\xfe", b"\xc3\xa4.x", b"1." + HUGE, b"1." + b"x" * 300, b"1.\x01", b"\0"])
def test_sessions_that_are_none(served: Served, value: bytes) -> None:
    """In the cookie or as a bearer's."""
    for head in (HOST + b"Cookie: " + served.cookie + value + b"\r\n", HOST + b"Authorization: Bearer " + value + b"\r\n"):
        for request in (post(head), get(served.video, head)):
            (status,) = statuses(ask(served.serving.address, request))
            assert status == 400
        assert statuses(ask(served.serving.address, get(b"/api/state", head))) == [400]


@pytest.mark.parametrize("value", [b"1.wrong", b"x", b"." * 30, b"9" * 150, b'"1.\\377x"'])
def test_sessions_that_are_not_known(served: Served, value: bytes) -> None:
    (status,) = statuses(ask(served.serving.address, post(HOST + b"Cookie: " + served.cookie + value + b"\r\n")))
    assert status in (400, 401)


def test_cookies_of_others_are_not_our_business(served: Served) -> None:
    """On localhost a browser sends those of all its ports."""
    head = HOST + b"Cookie: other=\xff\xfe{[; " + served.cookie + served.session + b"; x\r\n"
    answer = ask(served.serving.address, get(b"/api/state", head))
    assert statuses(answer) == [200]
    assert b'"name": "Ann"' in answer


RANGES = [
    b"bytes=" + part for part in (b"0-0", b"-1", b"5-", b"0-" + b"9" * 20, b"9999-", b"5-1", b"-0", b"", b"a-b", b"\xff", b"--1")
]
RANGES += [b"bytes=" + b"0-1," * 1500 + b"0-1", b"lines=1-2", b"bytes=0-1,3-4"]


@pytest.mark.parametrize("value", RANGES, ids=lambda value: repr(value[:20]))
def test_ranges_of_a_video(served: Served, value: bytes) -> None:
    for also in (b"", b"If-Range: x\r\n", b"If-Modified-Since: never\r\nIf-None-Match: \xff\r\n"):
        head = HOST + served.signed + b"Range: " + value + b"\r\n" + also
        answer = ask(served.serving.address, get(served.video, head))
        assert statuses(answer)[0] in (200, 206, 416)
        assert len(answer) < 10_000  # a request for many ranges is none for many copies


def test_requests_in_a_row_on_one_connection(served: Served) -> None:
    """Two hundred at once are answered one after the other, or the connection ends; never one for another's request."""
    many = [b"GET /api/state HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /nothing HTTP/1.1\r\n" + HOST + b"\r\n"] * 100
    found = statuses(ask(served.serving.address, b"".join(many), PAGE))
    assert len(found) > 20
    assert found[:200] == [200, 404] * (min(200, len(found)) // 2)


# -- mutated requests

ODD = [
    b"\0",
    b"\xff",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b"%",
    b"%00",
    b"%ff",
    b"..",
    b"//",
    b"\x7f",
    b"a" * 9000,
]
ODD += [b'{"a":' * 50, b"\\ud800", b"1e999", b"-0", b'"', b"[]", b"null", b"HTTP/1.1", b"HTTP/9.9", b"\xc3\x28", HOST]
ODD += [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\n"]
ODD += [b"Connection: keep-alive, Upgrade\r\n", b"Range: bytes=0-,1-\r\n", b"Origin: null\r\n", b"Cookie: $=;;==\r\n"]
ODD += [b"X-Forwarded-For: ,,\xff\r\n"]
QUALITY = b'{"choice": "left", "reasons": [], "ms": 1}'
BODIES = {
    b"join": b'{"name": ""}',
    b"next": b"{}",
    b"draft": b'{"pair": "x", "quality": 1}',
    b"vote": b'{"id": "' + b"0" * 31 + b'x", "pair": "x", "quality": null, "faithfulness": ' + QUALITY + b"}",
    b"signup": b'{"open": true}',
}


def requests(served: Served) -> list[bytes]:
    """Ordinary ones, to begin with."""
    paths = (b"/", b"/study.js", b"/api/state", served.video, b"/api/owner", b"/owner.html")
    made = [get(path, HOST + served.signed) for path in paths]
    made.append(get(served.video, HOST + served.signed + b"Range: bytes=0-99\r\nIf-Range: x\r\n"))
    for name, body in BODIES.items():
        start = b"POST /api/" + name + b" HTTP/1.1\r\n" + HOST + served.signed + JSON
        made.append(start + f"Content-Length: {len(body)}\r\n".encode() + LAST + body)
        chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        made.append(start + b"Transfer-Encoding: chunked\r\n" + LAST + chunk)
    return made


def mutated(request: bytes, generator: random.Random) -> bytes:
    """One to four changes, or nothing of a request at all."""
    if generator.random() < 0.05:
        return generator.randbytes(generator.randint(1, 3000))
    content = bytearray(request)
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(content) + 1)
        end = min(len(content), place + generator.choice((1, 1, 2, 8, 100)))
        kind = generator.randrange(5)
        if kind == 0:
            content[place:end] = generator.randbytes(end - place)
        elif kind == 1 and len(content) > 10:
            del content[place:end]
        elif kind == 2:
            content[place:place] = content[place:end] * generator.choice((1, 2, 50))
        elif kind == 3:
            content[place:place] = generator.choice(ODD)
        else:
            line = content.find(b"\r\n", place)
            content[line + 2 : line + 2] = generator.choice(ODD)
    return bytes(content)


async def fuzz(served: Served, seed: int, seconds: float, most: int) -> Counter[int]:
    """How often each status came; 0: none, the connection was closed. AssertionError: one that must not be, with its request."""
    ordinary, generator, found = requests(served), random.Random(seed), Counter[int]()
    host, end = urlsplit(served.serving.address), time.monotonic() + seconds

    async def one(content: bytes) -> None:
        reader, writer = await asyncio.open_connection(host.hostname, host.port)
        with suppress(OSError):
            writer.write(content)
            await writer.drain()
        answer = b""
        with suppress(OSError):
            answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        for status in statuses(answer) or [0]:
            found[status] += 1
            assert status < 500, (status, content)

    async def worker() -> None:
        while time.monotonic() < end and sum(found.values()) < most:
            await one(mutated(generator.choice(ordinary), generator))

    await asyncio.gather(*(worker() for _ in range(24)))
    return found


def test_mutated_requests(served: Served) -> None:
    found = asyncio.run(fuzz(served, seed=4, seconds=8, most=1500))
    assert len(found) > 6  # not all of them the same
    assert statuses(ask(served.serving.address, PAGE)) == [200]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_mutated_requests_for_longer(tmp_path: Path, seed: int) -> None:
    made = Served(tmp_path / "study")
    found = asyncio.run(fuzz(made, seed=100 + seed, seconds=30, most=10**6))
    assert sum(found.values()) > 500
    assert "Traceback" not in made.end()
