"""Who may ask: under which name, from which page, from where, how often. No request is trusted to be well-formed.

Nothing here depends on the server that a request came through, so that a mounted study is as strict as one that serves itself.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from aiohttp import web

from ..errors import UserError
from .rules import Refused

Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"
Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer, whatever its status."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SIGNUPS = 60
MOST_ADDRESSES = 10_000
HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.-]{1,253})(?::[0-9]{1,5})?")
ORIGIN = re.compile(rf"null|[a-z][a-z0-9+.-]{{0,30}}://(?:{HOST.pattern})?", re.IGNORECASE)
SESSION = re.compile(r"[!-~]{0,200}")
ALLOW_NAME = "Its owner can allow it: --public-host of `serve`, EMU_VIDEO_STUDY_HOSTS of ComfyUI."
ALLOW_MORE = "or ask the study's owner, who can allow more (--signups of `serve`, EMU_VIDEO_STUDY_SIGNUPS of ComfyUI)"


@dataclass(frozen=True)
class Access:
    """hosts: names under which the server may be asked for; (): any; None: any but on loopback, where only this computer's own.

    On loopback names matter: otherwise a page on the web could point its own name at this computer and act as a rater. proxies:
    addresses or networks of reverse proxies whose X-Forwarded-For is believed. signups: new raters an hour and address.
    ValueError: a proxy that is no address, or no number of sign-ups.
    """

    hosts: tuple[str, ...] | None = None
    proxies: tuple[str, ...] = ()
    signups: int = SIGNUPS

    def __post_init__(self) -> None:
        self.networks()
        if self.signups < 1:
            raise UserError(f"sign-ups: expected a number an hour and address from 1, found {self.signups}; change it.")

    def networks(self) -> list[Network]:
        """The proxies, parsed."""
        try:
            return [ipaddress.ip_network(proxy, strict=False) for proxy in self.proxies]
        except ValueError as problem:
            raise UserError(f"trusted proxy: expected addresses such as 10.0.0.2 or 10.0.0.0/24, found {problem}.") from problem

    def check_name(self, request: web.BaseRequest) -> None:
        """Refused: 400 a Host or Origin that is none, 421 a name under which this server is not to be asked."""
        hosts, origins = (request.headers.getall(name, []) for name in ("Host", "Origin"))
        if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
            raise Refused(400, "A request has one Host, a name or address with or without a port.")
        if len(origins) > 1 or not all(ORIGIN.fullmatch(origin) for origin in origins):
            raise Refused(400, "A request has at most one Origin, with a scheme and a host.")
        name = (urlsplit(f"//{hosts[0]}").hostname or "").rstrip(".")
        known = _names_here(request) if self.hosts is None else self.hosts
        if known and name not in known:
            raise Refused(421, f"This study is not served under the name {name[:80]}. {ALLOW_NAME}")

    def sender(self, request: web.BaseRequest) -> str:
        """Where a request comes from, for counting: the address, or the /64 of an IPv6 address, of which one person has all."""
        address, networks = _address(request.remote or ""), self.networks()
        passed = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
        while address is not None and passed and any(address in network for network in networks):
            before = _address(passed.pop())
            if before is None:
                break
            address = before
        if isinstance(address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((address, 64), strict=False))
        return str(address or request.remote)


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches what listens on a host."""
    address = _address(host)
    return host in LOOPBACK or (address is not None and address.is_loopback)


def _address(text: str) -> Address | None:
    """Of "1.2.3.4", "1.2.3.4:80", "::1", "[::1]:80"; IPv4 in IPv6 is IPv4."""
    text = text.strip()
    for form in (text, text.rpartition(":")[0]):
        try:
            found = ipaddress.ip_address(form.strip("[]").partition("%")[0])
        except ValueError:
            continue
        return getattr(found, "ipv4_mapped", None) or found
    return None


def _names_here(request: web.BaseRequest) -> tuple[str, ...]:
    """Names for this computer if the request came over loopback, else (): any."""
    here = request.transport.get_extra_info("sockname") if request.transport else None
    address = _address(here[0]) if isinstance(here, tuple) else None
    loopback = address is not None and address.is_loopback
    return (*LOOPBACK, str(address), socket.gethostname().lower()) if loopback else ()


def check_origin(request: web.BaseRequest) -> None:
    """Refused 403: another site's page sent this. Browsers say so themselves; other programs have no rater's cookie to abuse."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    host = request.headers.get("Host", "").lower()
    ours = origin is None or origin.lower().partition("://")[2] == host
    if not ours if site is None else site != "same-origin":
        proxy = "a proxy in front of the study has to pass on the name (Host) that it is asked for"
        raise Refused(403, f"Only the study's own page may send this; {proxy}.")


def read_session(request: web.BaseRequest, cookie: str) -> str:
    """The session's secret from "Authorization: Bearer ..." or the cookie of this name; "" if there is none.

    Refused 400: it holds other characters than a secret could, or is longer."""
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    # Not `request.cookies`: that fails on cookies of others, which a browser sends for every port of a host.
    sent = re.findall(rf"(?:^|;)\s*{re.escape(cookie)}=([^;]*)", ";".join(request.headers.getall("Cookie", [])))
    session = value.strip() if kind.lower() == "bearer" else (sent or [""])[-1].strip()
    if not SESSION.fullmatch(session):
        raise Refused(400, "This is no session: it has characters that none has.")
    return session


async def add_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """For `on_response_prepare`: HEADERS on each answer that lacks them, such as those to paths that are not there."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


class Allowance:
    """So many things an hour for each sender; what was not used comes back evenly. In memory alone: no address is stored."""

    def __init__(self, an_hour: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = an_hour, clock
        self._used: dict[str, tuple[float, float]] = {}

    def take(self, sender: str) -> float:
        """0.0, and one is used; or the seconds until the next one."""
        now = self._clock()
        used, since = self._used.pop(sender, (0.0, now))  # taken out and put in again: the dict's order is that of use
        used = max(0.0, used - (now - since) * self._most / 3600)
        wait = max(0.0, (used + 1 - self._most) * 3600 / self._most)
        self._used[sender] = (used if wait else used + 1, now)
        if len(self._used) > MOST_ADDRESSES:
            del self._used[next(iter(self._used))]
        return wait

    def give_back(self, sender: str) -> None:
        """What was taken turned out not to count."""
        used, since = self._used.get(sender, (0.0, 0.0))
        self._used[sender] = (max(0.0, used - 1), since)


class Sparing(logging.Filter):
    """At most so many lines of a level a minute, and then how many were left out: a flood of requests must not become one of the
    log, nor hide an error."""

    def __init__(self, a_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most, self._clock = a_minute, clock
        self._seen: dict[int, tuple[float, int]] = {}

    def left_out(self, level: int = 0) -> int | None:
        """None: this one is over the limit. Else how many were left out since the last one that was not."""
        now, over = self._clock(), 0
        since, count = self._seen.get(level, (now, 0))
        if now - since >= 60:
            since, count, over = now, 0, max(0, count - self._most)
        self._seen[level] = (since, count + 1)
        return over if count < self._most else None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written; the first one after a flood tells how many were not."""
        over = self.left_out(record.levelno)
        if over:
            record.msg, record.args = f"{record.getMessage()} ({over} more lines were left out before)", ()
        return over is not None
