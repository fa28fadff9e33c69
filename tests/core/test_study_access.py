"""Who may sign up, how often and for how long a seat is theirs; the owner's page; and where SQLite is asked."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import CookieJar, web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from emu_core.errors import UserError
from emu_core.study import database
from emu_core.study.access import HEADERS, Access, Allowance, Sparing, is_loopback
from emu_core.study.rules import Refused
from emu_core.study.server import add_routes, application
from emu_core.study.store import Study

from ..study import worlds
from .test_saved_by_0_1 import unpacked


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def study_of(folder: Path, pairs: int = 3, **settings: Any) -> Study:
    made = Study.create(folder / "study", **settings)
    worlds.empty_pairs(made, pairs)
    return made


def talk(app: web.Application, *requests: tuple[str, str, dict[str, Any]], **settings: Any) -> list[tuple[int, Any]]:
    """Status and JSON of requests (method, path, what aiohttp's client takes), one after the other."""

    async def run() -> list[tuple[int, Any]]:
        async with TestClient(TestServer(app), cookie_jar=CookieJar(unsafe=True), **settings) as client:
            found = []
            for method, path, content in requests:
                answer = await client.request(method, path, **content)
                assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
                found.append((answer.status, await answer.json()))
            return found

    return asyncio.run(run())


def joining(number: int, **headers: str) -> tuple[str, str, dict[str, Any]]:
    return "POST", "/api/join", {"json": {"name": f"bot {number}"}, "headers": headers}


# -- sign-up


def test_new_raters_of_an_address_are_limited(tmp_path: Path) -> None:
    """Fifty behind one address get in, four hundred do not; who has a code or a token is not counted."""
    study = study_of(tmp_path, 80)
    ((_, token),) = study.require_tokens(1)
    with study.transaction() as db:
        db.execute("UPDATE study SET tokens_required = 0")
    back = ("POST", "/api/join", {"json": {"token": token}})
    found = talk(application(study), *([back] * 100), *map(joining, range(400)), back)
    statuses = [status for status, _ in found]
    assert statuses == [200] * 100 + [200] * 60 + [429] * 340 + [200]
    told = "Too many new raters have just come from your network. Try again in a minute, or ask the study's owner"
    assert found[-2][1]["error"].startswith(told)
    assert "--signups" in found[-2][1]["error"]
    assert "EMU_VIDEO_STUDY_SIGNUPS" in found[-2][1]["error"]
    assert study.overview()["crowded"] > 0  # the owner's page tells
    assert study.counts()["raters"] == 61
    study.close()


def test_wrong_tokens_are_limited_too(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    study.require_tokens(1)
    guess = ("POST", "/api/join", {"json": {"token": "AAAA-BBBB-CCCC-DDDD"}})
    assert [status for status, _ in talk(application(study), *([guess] * 70))] == [401] * 60 + [429] * 10
    study.close()


def test_what_makes_no_rater_and_is_no_guess_does_not_count(tmp_path: Path) -> None:
    """A class that comes before sign-up is open, or whose names are taken, is not locked out afterwards."""
    study = study_of(tmp_path)
    study.join("Ann")
    study.set_signup(False)
    names = [("POST", "/api/join", {"json": {"name": name}}) for name in ("Ann", "")]
    owner = {"headers": {"Authorization": f"Bearer {study.owner_token}"}, "json": {"open": True}}
    app = application(study, access=Access((), signups=3))
    found = talk(app, *map(joining, range(9)), ("POST", "/api/signup", owner), *(names * 5), *map(joining, range(4)))
    assert [status for status, _ in found] == [403] * 9 + [200] + [409, 422] * 5 + [200] * 3 + [429]
    study.close()
    study = study_of(tmp_path / "tokens")
    ((_, token),) = study.require_tokens(1)
    app = application(study, access=Access((), signups=3))
    found = talk(app, *map(joining, range(9)), ("POST", "/api/join", {"json": {"token": token}}))
    assert [status for status, _ in found] == [401] * 9 + [200]
    study.close()


def test_an_allowance_comes_back_evenly() -> None:
    clock = Clock()
    allowance = Allowance(60, clock)
    assert [allowance.take("a") for _ in range(60)] == [0.0] * 60
    assert allowance.take("a") == pytest.approx(60)  # one a minute
    assert allowance.take("b") == 0.0
    clock.now += 59
    assert allowance.take("a") == pytest.approx(1)
    clock.now += 1.001
    assert allowance.take("a") == 0.0
    assert allowance.take("a") > 0
    allowance.give_back("a")
    assert allowance.take("a") == 0.0
    clock.now += 7200
    assert [allowance.take("a") for _ in range(61)].count(0.0) == 60  # never more than an hour's


def test_an_allowance_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu_core.study.access.MOST_ADDRESSES", 5)
    allowance = Allowance(1)
    for number in range(99):
        allowance.take(str(number))
    assert len(allowance._used) == 5


@pytest.mark.parametrize(
    ("proxies", "remote", "passed", "sender"),
    [
        ((), "10.0.0.1", ["1.2.3.4"], "10.0.0.1"),  # anybody can write that
        (("10.0.0.1",), "10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        (("10.0.0.1",), "10.0.0.1", ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),  # what the proxy added, not what the sender wrote
        (("10.0.0.1",), "10.0.0.1", ["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
        (("10.0.0.0/24",), "10.0.0.1", ["1.2.3.4, 10.0.0.7"], "1.2.3.4"),  # two proxies
        (("10.0.0.1",), "10.0.0.2", ["1.2.3.4"], "10.0.0.2"),
        (("10.0.0.1",), "10.0.0.1", ["1.2.3.4:5678"], "1.2.3.4"),
        (("10.0.0.1",), "10.0.0.1", ["nonsense"], "10.0.0.1"),
        (("10.0.0.1",), "10.0.0.1", [""], "10.0.0.1"),
        (("10.0.0.1",), "10.0.0.1", [], "10.0.0.1"),
        (("::1",), "::1", ["2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        (("127.0.0.1",), "::ffff:127.0.0.1", ["[2001:db8::1]:443"], "2001:db8::/64"),
    ],
)
def test_where_a_request_comes_from(proxies: tuple[str, ...], remote: str, passed: list[str], sender: str) -> None:
    request = make_mocked_request("GET", "/").clone(remote=remote)
    headers = request.headers.copy()
    for value in passed:
        headers.add("X-Forwarded-For", value)
    assert Access(proxies=proxies).sender(request.clone(remote=remote, headers=headers)) == sender


@pytest.mark.parametrize("settings", [{"proxies": ("everybody",)}, {"signups": 0}])
def test_access_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"expected"):
        Access(**settings)


def test_raters_behind_a_proxy_are_told_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = study_of(tmp_path)
    names = [joining(number, **{"X-Forwarded-For": f"1.2.3.{number % 4}"}) for number in range(8)]
    believed = application(study, access=Access((), ("127.0.0.1",), signups=1))
    assert [status for status, _ in talk(believed, *names)] == [200] * 4 + [429] * 4
    logging.getLogger("emu_core.study.server").filters[0]._seen.clear()  # type: ignore[union-attr]
    named = [joining(number, **{"X-Forwarded-For": f"1.2.3.{number}"}) for number in range(10, 14)]
    assert [status for status, _ in talk(application(study, access=Access((), signups=2)), *named)] == [200] * 2 + [429] * 2
    assert caplog.text.count("--trusted-proxy") == 1
    study.close()


# -- seats


def test_a_seat_is_kept_a_minute_until_something_is_watched(tmp_path: Path) -> None:
    study, clock = study_of(tmp_path, 1, raters=1), Clock()
    study.clock = lambda: int(clock.now)
    bot, rater, other = (study.join(name)[0] for name in ("bot", "rater", "other"))
    seat = study.next_pair(bot)
    assert seat is not None
    assert study.next_pair(rater) is None
    clock.now += 50_000
    study.keep(bot, seat.key)  # neither asking again nor saying that one is there makes it longer
    assert study.next_pair(bot) == seat
    clock.now += 11_000
    pair = study.next_pair(rater)
    assert pair is not None
    with pytest.raises(Refused, match="went to somebody else"):
        study.keep(bot, seat.key)
    study.video_file(rater, pair.right)
    clock.now += 800_000  # of 900
    assert study.next_pair(other) is None
    study.keep(rater, pair.key)
    clock.now += 800_000
    assert study.next_pair(other) is None
    clock.now += 200_000
    assert study.next_pair(other) is not None
    study.close()


def test_a_slow_rater_whom_nobody_replaces_keeps_the_seat(tmp_path: Path) -> None:
    study, clock = study_of(tmp_path, 1, raters=1), Clock()
    study.clock = lambda: int(clock.now)
    rater, other = study.join("rater")[0], study.join("other")[0]
    pair = study.next_pair(rater)
    clock.now += 3_600_000
    assert pair is not None
    assert study.next_pair(rater) == pair
    assert study.next_pair(other) is None  # it was free until the rater came back, and is not any more
    study.close()


def test_bots_that_watch_nothing_do_not_keep_a_rater_out(tmp_path: Path) -> None:
    """Every seat of a study is taken; a minute later a rater gets one."""
    study, clock = study_of(tmp_path, 20), Clock()
    study.clock = lambda: int(clock.now)
    bots = [study.join(f"bot {number}")[0] for number in range(100)]
    assert all(study.next_pair(bot) for bot in bots)
    rater = study.join("rater")[0]
    assert study.next_pair(rater) is None
    assert (study.overview()["held"], study.overview()["unwatched"]) == (100, 100)
    clock.now += 60_001
    assert study.overview()["held"] == 0
    pair = study.next_pair(rater)
    assert pair is not None
    study.video_file(rater, pair.left)
    assert study.overview()["unwatched"] == 0
    study.close()


def test_a_pair_that_comes_back_is_asked_for_again(tmp_path: Path) -> None:
    """Not played from the browser's cache, in which case the server would see nothing watched and give the seat away: what is
    cached is too old when a lease has ended."""
    study = study_of(tmp_path, 1, raters=1, lease_seconds=900)
    rater, session, _ = study.join("rater")
    pair = study.next_pair(rater)
    assert pair is not None

    async def run() -> str:
        async with TestClient(TestServer(application(study))) as client:
            answer = await client.get(f"/video/{pair.left}.mp4", headers={"Authorization": f"Bearer {session}"})
            return answer.headers["Cache-Control"]

    assert asyncio.run(run()) == "private, max-age=900"
    study.close()


# -- the owner


def test_the_owner_closes_and_opens_signup(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    code = study.join("Ann")[2]
    owner = {"headers": {"Authorization": f"Bearer {study.owner_token}"}}
    close, reopen = ({**owner, "json": {"open": wanted}} for wanted in (False, True))
    found = talk(
        application(study),
        ("GET", "/api/owner", owner),
        ("POST", "/api/signup", close),
        joining(1),
        ("GET", "/api/state", {}),
        ("POST", "/api/join", {"json": {"token": code}}),
        ("POST", "/api/signup", reopen),
        joining(2),
    )
    assert [status for status, _ in found] == [200, 200, 403, 200, 200, 200, 200]
    assert (found[0][1]["signup_open"], found[0][1]["needed"], found[0][1]["raters"]) == (True, 15, 1)
    assert found[2][1]["error"].startswith("Sign-up is closed.")
    assert not found[3][1]["study"]["signup_open"]
    study.set_signup(False)
    study.close()
    with Study(study.folder) as again:
        assert not again.signup_open


def test_nobody_else_is_the_owner(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    session = study.join("Ann")[1]
    wanted = {"json": {"open": False}}
    for token in ("", session, study.owner_token[:-1], study.owner_token + "0", study.uid, "é"):
        headers = {"Authorization": f"Bearer {token}"}
        found = talk(
            application(study),
            ("GET", "/api/owner", {"headers": headers}),
            ("POST", "/api/signup", {**wanted, "headers": headers}),
        )
        assert {status for status, _ in found} <= {400, 403}
    right = {"Authorization": f"Bearer {study.owner_token}"}
    for bad in (
        {"json": {"open": 0}},
        {"json": {}},
        {"json": {"open": False}, "headers": {**right, "Origin": "http://evil.example"}},
    ):
        assert talk(application(study), ("POST", "/api/signup", {"headers": right, **bad}))[0][0] in (400, 403, 422)
    assert study.signup_open
    study.close()


def test_a_study_of_an_earlier_version_gets_what_it_lacks(tmp_path: Path) -> None:
    folder = unpacked("study", tmp_path)
    with sqlite3.connect(folder / "study.sqlite") as db:
        assert "watched" not in {row[1] for row in db.execute("PRAGMA table_info(seats)")}
    with Study(folder) as study:
        assert study.signup_open
        assert study.overview()["unwatched"] == 0
        rater = study.join("Eve")[0]
        pair = study.next_pair(rater)
        assert pair is not None
        study.video_file(rater, pair.left)
        assert study.overview()["unwatched"] == 0
    with sqlite3.connect(folder / "study.sqlite") as db:  # and what an earlier version writes has its defaults
        db.execute("INSERT INTO raters (id, name, created_ms) VALUES (99, 'x', 1)")
        (free,) = db.execute("SELECT pair_id, seat FROM seats WHERE expires_ms NOTNULL").fetchall()
        db.execute("DELETE FROM seats WHERE expires_ms NOTNULL")
        db.execute("INSERT INTO seats (pair_id, seat, rater_id, expires_ms) VALUES (?, ?, 99, 1)", free)
        assert db.execute("SELECT watched FROM seats WHERE rater_id = 99").fetchone() == (0,)


# -- a mount


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "192.168.0.1", "[2001:db8::1]"])
def test_a_bare_mount_is_as_strict_as_the_stand_alone_server(tmp_path: Path, name: str) -> None:
    """On loopback another name is refused, whoever mounted the routes and whatever the page says of itself."""
    study, requests = study_of(tmp_path), []
    for also in ({"Origin": f"http://{name}"}, {"Sec-Fetch-Site": "same-origin"}, {"Host": f"{name}:80"}):
        headers = {"Host": name, **also}
        requests.append(("POST", "/x/api/join", {"json": {"name": "x"}, "headers": headers}))
        requests.append(("GET", "/x/api/state", {"headers": headers}))
    assert [status for status, _ in talk(mounted(study), *requests)] == [421] * 6
    assert study.counts()["raters"] == 0
    study.close()


def test_what_is_refused_says_how_to_allow_it(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    (_, name), (_, origin) = talk(
        mounted(study),
        ("GET", "/x/api/state", {"headers": {"Host": "tunnel.example"}}),
        ("POST", "/x/api/join", {"json": {}, "headers": {"Host": "localhost", "Origin": "https://tunnel.example"}}),
    )
    for word in ("tunnel.example", "--public-host", "EMU_VIDEO_STUDY_HOSTS"):
        assert word in name["error"]
    assert "a proxy in front of the study has to pass on the name (Host)" in origin["error"]
    study.close()


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", 1), ("localhost", 1), ("::1", 1), ("127.0.0.2", 1), ("127.2.2.2", 1), ("0.0.0.0", 0), ("::", 0), ("tower", 0)]
    + [("127.evil.example", 0), ("192.168.0.1", 0), ("", 0)],
)
def test_which_hosts_are_this_computers_alone(host: str, alone: int) -> None:
    assert is_loopback(host) == bool(alone)


def test_a_mount_under_a_name_of_its_own(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    own, other = (("GET", "/x/api/state", {"headers": {"Host": name}}) for name in ("own.example:81", "localhost"))
    assert [status for status, _ in talk(mounted(study, Access(("own.example",))), own, other)] == [200, 421]
    assert [status for status, _ in talk(mounted(study, Access(())), own, other)] == [200, 200]
    assert [status for status, _ in talk(mounted(study), own, other)] == [421, 200]
    study.close()


def mounted(study: Study, access: Access | None = None) -> web.Application:
    app = web.Application()
    add_routes(app, study, "/x", access)
    return app


# -- SQLite's thread


def test_sqlite_is_never_asked_in_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement of a mounted study, its opening too, records whether its thread runs a loop."""
    seen: list[tuple[str, bool]] = []

    class Recording(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            seen.append((sql, asyncio._get_running_loop() is not None))
            return super().execute(sql, *values)

    study_of(tmp_path).close()
    plain = sqlite3.connect
    monkeypatch.setattr(
        database.sqlite3, "connect", lambda *arguments, **settings: plain(*arguments, **settings, factory=Recording)
    )
    opened: list[Study] = []

    def find(request: web.Request) -> Study:
        opened.append(Study(tmp_path / "study"))
        return opened[-1]

    app = web.Application()
    add_routes(app, find, "/x/{study}")
    asked = {"join": {"name": "Ann"}, "next": {}, "keep": {"pair": "x"}, "leave": {}}
    requests = [("POST", f"/x/s/api/{name}", {"json": body}) for name, body in asked.items()]
    requests += [("GET", "/x/s/api/state", {}), ("GET", "/x/s/api/owner", {})]
    assert [status for status, _ in talk(app, *requests)] == [200, 200, 404, 200, 200, 403]
    for study in opened:
        study.close()
    assert len(seen) > 50
    assert [sql for sql, in_loop in seen if in_loop] == []


def test_a_blocked_store_blocks_nobody_else(tmp_path: Path) -> None:
    """While another program holds the store, the page and its parts are served as ever."""
    study = study_of(tmp_path)
    holds, done = threading.Event(), threading.Event()

    def hold() -> None:
        with sqlite3.connect(tmp_path / "study" / "study.sqlite", isolation_level=None) as db:
            db.execute("BEGIN IMMEDIATE")
            holds.set()
            done.wait(30)
            db.execute("ROLLBACK")

    async def run() -> tuple[float, int]:
        async with TestClient(TestServer(application(study))) as client:
            waiting = asyncio.create_task(client.post("/api/join", json={"name": "Ann"}))
            await asyncio.sleep(0.2)
            started = time.monotonic()
            assert (await client.get("/")).status == 200
            taken = time.monotonic() - started
            assert not waiting.done()
            done.set()
            return taken, (await waiting).status

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait(30)
    taken, status = asyncio.run(run())
    thread.join()
    assert (taken < 5, status) == (True, 200)
    study.close()


# -- the log


def test_a_log_does_not_flood_and_tells_what_it_left_out() -> None:
    clock, lines = Clock(), []
    logger = logging.getLogger("test of sparing")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.addFilter(Sparing(3, clock))
    logger.propagate = False
    for number in range(100):
        logger.warning("refused %d", number)
    logger.error("failed")
    assert lines == ["refused 0", "refused 1", "refused 2", "failed"]
    clock.now += 61
    logger.warning("refused %s", "%d again")
    assert lines[-1] == "refused %d again (97 more lines were left out before)"
