"""Requests as bytes, for what no HTTP client would send."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from emu_core.study.access import HEADERS

STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")
JSON = b"Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


def connect(address: str, seconds: float = 10) -> socket.socket:
    """A connection to the server of this address."""
    found = urlsplit(address)
    assert found.hostname
    assert found.port
    return socket.create_connection((found.hostname, found.port), seconds)


def received(line: socket.socket) -> bytes:
    """All until the server closes, or the time of `connect` is over."""
    parts = []
    with suppress(OSError):
        while part := line.recv(65536):
            parts.append(part)
    return b"".join(parts)


def ask(address: str, *content: bytes, seconds: float = 10) -> bytes:
    """What the server answers to these bytes, until it closes or has said nothing for so long."""
    with connect(address, seconds) as line:
        with suppress(OSError):  # it need not read all of it
            for part in content:
                line.sendall(part)
        return received(line)


def statuses(answer: bytes) -> list[int]:
    """Of each answer in these bytes. AssertionError: one has not the headers that all have."""
    answer = answer.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    found = [int(status) for status in STATUS.findall(answer)]
    for head in re.findall(rb"HTTP/1\.[01] [0-9]{3} [^\r]*\r\n(.*?)\r\n\r\n", answer, re.DOTALL):
        for name in HEADERS:
            assert f"\r\n{name}: ".lower().encode() in b"\r\n" + head.lower(), (name, answer[:500])
    return found
