"""The server through a real HTTP client: the ordinary way, and everything that it must refuse, log and not store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import CookieJar, web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from emu_core.study.server import HEADERS, MAX_BODY, PAGE, PAGE_FILES, add_routes, application
from emu_core.study.store import Study

from ..study import worlds

QUALITY, FAITHFULNESS = worlds.answer("quality", "left"), worlds.answer("faithfulness", "right")
Client = TestClient[web.Request, web.Application]
NASTY = '<img src=x onerror="alert(1)">\'"; ../../etc/passwd'


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study.create(tmp_path / "study", title=NASTY, seed=1)
    worlds.empty_pairs(made, 2)
    with made.transaction() as db:
        db.execute("UPDATE prompts SET text = ?", (NASTY,))
    return made


def with_client(study: Study, body: Callable[[Client], Awaitable[None]], app: web.Application | None = None) -> None:
    async def run() -> None:
        server = TestServer(app or application(study, ("127.0.0.1", "localhost")))
        async with TestClient(server, cookie_jar=CookieJar(unsafe=True)) as client:
            await body(client)
        study.close()

    asyncio.run(run())


async def post(client: Client, name: str, body: Any = None, status: int = 200, **settings: Any) -> dict[str, Any]:
    """One request; every answer, good or bad, has the headers and is JSON."""
    answer = await client.post(f"/api/{name}", **({"json": body or {}} | settings))
    found = await answer.json()
    assert answer.status == status, found
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    if status >= 400:
        assert found["error"].endswith(".")
    return found


def vote_of(pair: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"id": "a" * 32, "pair": pair["key"], "quality": QUALITY, "faithfulness": FAITHFULNESS, **changes}


def test_on_a_full_disk_a_refusal_is_still_one(study: Study) -> None:
    async def body(client: Client) -> None:
        await post(client, "join", {"name": "Ann"})
        pair = (await post(client, "next"))["pair"]
        study._db.execute("PRAGMA max_page_count = 1")  # that is: no larger than it is now
        with pytest.raises(ValueError, match="full; nothing was stored"):
            [study.record(422, "x" * 500, "x" * 500) for _ in range(10**6)]
        recorded = len(study.events())
        wrong = worlds.answer("quality", "middle")
        assert "no other side" in (await post(client, "vote", vote_of(pair, quality=wrong), 422))["error"]
        assert len(study.events()) == recorded

    with_client(study, body)


def test_a_rater_from_name_to_thanks(study: Study) -> None:
    async def body(client: Client) -> None:
        state = await (await client.get("/api/state")).json()
        assert state["rater"] is None
        assert state["study"]["note"] == ""
        with study.transaction() as db:
            db.execute("UPDATE study SET note = 'A pilot.'")
        assert (await (await client.get("/api/state")).json())["study"]["note"] == "A pilot."
        assert (state["study"]["title"], [len(question["reasons"]) for question in state["questions"]]) == (NASTY, [5, 2])
        answer = await client.post("/api/join", json={"name": "Ann"})
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "Path=/" in cookie
        for number in range(2):
            found = await post(client, "next")
            pair = found["pair"]
            assert (found["status"], found["voted"], found["left"], pair["prompt"]) == ("pair", number, 2 - number, NASTY)
            assert re.fullmatch(r"video/[0-9a-f]{24}\.mp4", pair["left"])
            part = await client.get(f"/{pair['left']}", headers={"Range": "bytes=100-199"})
            assert (part.status, part.content_type, len(await part.read())) == (206, "video/mp4", 100)
            assert part.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
            await post(client, "draft", {"pair": pair["key"], "quality": QUALITY})
            await post(client, "keep", {"pair": pair["key"]})
            assert (await post(client, "next"))["pair"]["draft"] == QUALITY
            vote = vote_of(pair, id=f"{number}" * 32)
            assert await post(client, "vote", vote) == {"stored": True, "repeated": False}
            assert await post(client, "vote", vote) == {"stored": True, "repeated": True}
        assert (await post(client, "next"))["status"] == "finished"
        assert (await (await client.get("/api/state")).json())["rater"] == {"name": "Ann", "voted": 2, "left": 0}
        assert (study.counts()["votes"], study.events()) == (2, [])
        await post(client, "leave")
        assert (await (await client.get("/api/state")).json())["rater"] is None

    with_client(study, body)


def test_the_page_needs_nothing_inline_and_nothing_from_elsewhere(study: Study) -> None:
    async def body(client: Client) -> None:
        for path in ("/", *(f"/{name}" for name in PAGE_FILES[1:])):
            answer = await client.get(path)
            assert answer.status == 200
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"

    with_client(study, body)
    page = (PAGE / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert re.findall(r"<script[^>]*>(.*?)</script>", page, re.S) == [""]
    for name in PAGE_FILES[:3]:
        text = (PAGE / name).read_text()
        assert not re.search(r"(?<!xmlns=\")https?://", text)
        assert "innerHTML" not in text
    assert sorted(file.name for file in PAGE.iterdir()) == sorted(PAGE_FILES)  # all that lies there is served, and nothing else


def test_votes_that_must_not_count(study: Study) -> None:
    async def body(client: Client) -> None:
        await post(client, "join", {"name": "Ann"})
        pair = (await post(client, "next"))["pair"]
        bob = study.join("Bob")
        theirs = study.next_pair(bob[0])
        assert theirs is not None
        as_bob = {"Authorization": f"Bearer {bob[1]}"}
        await post(client, "vote", vote_of({"key": theirs.key}), 404)  # for another rater
        await post(client, "vote", vote_of(pair), 404, headers=as_bob)
        await post(client, "vote", vote_of(pair, rater="Bob"), 400)
        await post(client, "vote", vote_of(pair, quality={**QUALITY, "choice": "middle"}), 422)  # no such side
        await post(client, "vote", vote_of(pair, quality={**QUALITY, "reasons": []}), 422)
        await post(client, "vote", vote_of(pair, faithfulness=None), 422)
        await post(client, "vote", vote_of(pair, id="short"), 422)
        await post(client, "vote", vote_of(pair, id=7), 422)
        await post(client, "vote", vote_of({"key": 1}), 422)
        await post(client, "vote", vote_of({"key": "\ud800"}), 422)
        await post(client, "vote", vote_of({"key": "0" * 24}), 404)
        await post(client, "vote", {"pair": pair["key"]}, 400)
        await post(client, "vote", [1], 400)
        await post(client, "keep", {"pair": theirs.key}, 404)
        await post(client, "draft", {"pair": theirs.key, "quality": QUALITY}, 404)
        assert study.counts()["votes"] == 0
        await post(client, "vote", vote_of(pair))
        await post(client, "vote", vote_of(pair, id="b" * 32), 409)  # twice
        await post(client, "vote", vote_of(pair, quality={**QUALITY, "choice": "right"}), 409)  # the same id, another choice
        assert study.counts()["votes"] == 1
        events = study.events()
        assert len(events) == 17
        assert {event["request"] for event in events} == {"POST /api/vote", "POST /api/keep", "POST /api/draft"}
        assert {event["rater"] for event in events} == {"Ann", "Bob"}

    with_client(study, body)


def test_a_closed_pair_takes_no_vote(study: Study) -> None:
    async def body(client: Client) -> None:
        await post(client, "join", {"name": "late"})
        pair = (await post(client, "next"))["pair"]
        study._db.execute("UPDATE seats SET expires_ms = 1")
        worlds.vote_all(study, 5, 0.5)
        assert study.counts()["done"] == 2
        await post(client, "vote", vote_of(pair), 409)
        await post(client, "keep", {"pair": pair["key"]}, 409)
        assert ((await post(client, "next"))["status"], study.counts()["votes"]) == ("finished", 10)
        assert {event["status"] for event in study.events()} == {409}

    with_client(study, body)


def test_requests_from_elsewhere_too_large_or_of_another_kind(study: Study) -> None:
    async def body(client: Client) -> None:
        await post(client, "join", {"name": "Ann"})
        pair = (await post(client, "next"))["pair"]
        vote = vote_of(pair)
        elsewhere = [("Origin", value) for value in ("http://evil.example", "null")]
        for name, value in elsewhere + [("Sec-Fetch-Site", value) for value in ("cross-site", "same-site", "none")]:
            await post(client, "vote", vote, 403, headers={name: value})
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            await post(client, "vote", None, 415, data=b"{}", headers={"Content-Type": kind}, json=None)
        json_type = {"Content-Type": "application/json"}
        await post(client, "vote", None, 413, data=b" " * (MAX_BODY + 1), headers=json_type, json=None)

        async def endless() -> Any:
            for _ in range(100):
                yield b" " * 1000

        await post(client, "vote", None, 413, data=endless(), headers=json_type, json=None)
        for wrong in (b"", b"{", b"[" * 5000, b"\xff", b"null", b"NaN"):
            await post(client, "vote", None, 400, data=wrong, headers=json_type, json=None)
        assert study.counts()["votes"] == 0
        assert [event["status"] for event in study.events()] == [403] * 5 + [415] * 4 + [413] * 2 + [400] * 6
        answer = await client.get("/", headers={"Host": "evil.example"})
        assert answer.status == 421
        await post(client, "vote", vote, headers={"Origin": f"http://{client.host}:{client.port}"})
        assert study.counts()["votes"] == 1

    with_client(study, body)


def test_without_a_session_there_is_nothing(study: Study) -> None:
    async def body(client: Client) -> None:
        for name, content in (("next", {}), ("keep", {"pair": "x"}), ("vote", vote_of({"key": "x"})), ("leave", {})):
            await post(client, name, content, 401)
            await post(client, name, content, 401, headers={"Authorization": "Bearer 1.wrong"})
            await post(client, name, content, 401, headers={"Cookie": f"emu_study_{study.uid}=1.wrong"})
        for path in ("/video/abc.mp4", "/video/..%2Fstudy.mp4"):
            assert (await client.get(path)).status == 401

    with_client(study, body)


OUTSIDE = "/study.sqlite /videos/1-1.mp4 /video/1-1.mp4 /video/../study.sqlite /video/..%2Fstudy.sqlite /video/%2e%2e%5cstudy.mp4"
OUTSIDE += " /video/..%2f..%2f..%2fetc%2fpasswd.mp4 /video/%00.mp4 /video/%ff.mp4 /..%2fserver.py /server.py /page/index.html"
OUTSIDE += " /%3Cscript%3E //etc/passwd"


@pytest.mark.parametrize("path", OUTSIDE.split())
def test_files_outside_the_pair_are_not_there(study: Study, path: str) -> None:
    async def body(client: Client) -> None:
        await post(client, "join", {"name": "Ann"})
        await post(client, "next")
        answer = await client.session.get(URL(f"http://{client.host}:{client.port}{path}", encoded=True))
        assert answer.status in (400, 404)
        assert b"0000" not in await answer.read()

    with_client(study, body)


def test_tokens(study: Study) -> None:
    ((name, token),) = study.require_tokens(1)

    async def body(client: Client) -> None:
        await post(client, "join", {"name": "Ann"}, 401)
        await post(client, "join", {"token": "AAAA-BBBB-CCCC-DDDD"}, 401)
        await post(client, "join", {"token": ["x"]}, 422)
        await post(client, "join", {"token": "x" * 201}, 422)
        assert (study.counts()["raters"], len(study.events())) == (1, 4)
        assert all(token not in str(event) for event in study.events())
        assert ((await post(client, "join", {"token": token}))["name"], (await post(client, "next"))["status"]) == (name, "pair")

    with_client(study, body)


def test_mounted_in_another_server_with_a_study_a_path(study: Study, tmp_path: Path) -> None:
    """As inside ComfyUI: a route table that is added before anything else is known, and a function that finds the study."""
    table = web.RouteTableDef()

    def find(request: web.Request) -> Study:
        return {"one": study}[request.match_info["study"]]

    add_routes(table, find, "/emu_video/study/{study}")
    app = web.Application()
    app.add_routes(table)

    async def body(client: Client) -> None:
        answer = await client.get("/emu_video/study/one", allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (308, "/emu_video/study/one/")
        assert (await client.get("/emu_video/study/one/")).status == 200
        assert (await client.get("/emu_video/study/two/")).status == 404
        answer = await client.post("/emu_video/study/one/api/join", json={"name": "Ann"})
        assert "Path=/emu_video/study/one/" in answer.headers["Set-Cookie"]
        found = await (await client.post("/emu_video/study/one/api/next", json={})).json()
        assert (await client.get(f"/emu_video/study/one/{found['pair']['left']}")).status == 200
        assert (await client.post("/emu_video/study/one/api/vote", json=vote_of(found["pair"]))).status == 200
        assert (await client.post("/emu_video/study/two/api/vote", json={})).status == 404

    with_client(study, body, app)


def test_a_broken_store_is_an_answer_without_details(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    async def body(client: Client) -> None:
        await post(client, "join", {"name": "Ann"})
        study._db.execute("ALTER TABLE seats RENAME TO gone")
        answer = await post(client, "next", status=500)
        assert "gone" not in answer["error"]

    with_client(study, body)
    assert "failed" in caplog.text
