"""The human study on ComfyUI's own server: the node over HTTP, the mounted page, its rules, and raters in a real browser."""

from __future__ import annotations

import http.cookiejar
import json
import os
import secrets
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from emu_core.study.server import POLICY
from emu_core.study.store import Study

from ..study.raw import JSON, ask, statuses
from ..study.serving import LACKING, browse
from .server import Refused, Server

MOUNTED = "/emu_video/study"


def adding(study: str, prompt: str, colours: tuple[int, int] = (0xFF0000, 0x0000FF), **changes: Any) -> dict[str, Any]:
    """A workflow that adds one pair: 8 frames of one colour against 8 whose second half has another."""
    half = {"width": 64, "height": 64, "batch_size": 4}
    inputs = {"images_1": ["3", 0], "images_2": ["4", 0], "system_1": "ours", "system_2": "other", "fps": 4.0, **changes}
    return {
        "1": {"class_type": "EmptyImage", "inputs": {**half, "color": colours[0]}},
        "2": {"class_type": "EmptyImage", "inputs": {**half, "color": colours[1]}},
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "4": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["1", 0]}},
        "5": {"class_type": "EmuVideoAddToStudy", "inputs": {**inputs, "study": study, "prompt": prompt}},
    }


def folder(server: Server, study: str) -> Path:
    return server.folder / "output" / "emu_video_studies" / study


class Rater:
    """A browser without a screen: keeps cookies and speaks JSON."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """Status, headers, and the answer: JSON if it is some."""
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        try:
            answer = self._opener.open(urllib.request.Request(self.address + path, data, sent), timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            content = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return answer.status, answer.headers, json.loads(content) if is_json and content else content

    def vote(self) -> dict[str, Any]:
        pair = self.ask("api/next", {})[2]["pair"]
        for side in ("left", "right"):
            status, headers, content = self.ask(pair[side])
            assert (status, headers.get_content_type(), content[4:8]) == (200, "video/mp4", b"ftyp")
        answers = {
            "quality": {"choice": "left", "reasons": ["sharpness"], "ms": 900},
            "faithfulness": {"choice": "right", "reasons": ["spatial"], "ms": 700},
        }
        status, _, answer = self.ask("api/vote", {"id": secrets.token_hex(8), "pair": pair["key"], **answers})
        assert (status, answer) == (200, {"stored": True, "repeated": False})
        return pair


@pytest.fixture(scope="module")
def study(server: Server) -> tuple[str, dict[str, Any]]:
    """A study of two prompts and what the nodes showed of it."""
    name = f"first {secrets.token_hex(3)}"
    outputs = [server.run(adding(name, prompt))["5"] for prompt in ("red turns <b>blue</b>", "it stays red")]
    return name, {"texts": [output["text"][0] for output in outputs]}


def test_the_node_shows_pairs_and_address(server: Server, study: tuple[str, dict[str, Any]]) -> None:
    name, shown = study
    address = f"{server.address}{MOUNTED}/{name.replace(' ', '%20')}/"
    assert [text.splitlines()[0] for text in shown["texts"]] == [address, address]
    for number, text in enumerate(shown["texts"], 1):
        assert text.splitlines()[1].startswith("Added as '")
        assert text.endswith(f"pairs: 1. Prompts: {number}, pairs: {number}, votes: 0.")
    again = server.run(adding(name, "it stays red", raters=7))["5"]["text"][0]  # another input, or it would not run again
    assert again == f"{address}\nThese videos are in the study already; nothing was added. Prompts: 2, pairs: 2, votes: 0."


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_raters_vote_through_the_mounted_page(server: Server, study: tuple[str, dict[str, Any]], prefix: str) -> None:
    """Also under /api, where ComfyUI puts each route once more."""
    name, _ = study
    place = f"{prefix}{MOUNTED}/{name.replace(' ', '%20')}/"
    rater = Rater(server.address + place)
    status, headers, content = rater.ask("")
    assert status == 200
    assert b"study.js" in content
    for file, kind in (("study.js", "javascript"), ("study.css", "css"), ("icon.svg", "svg")):
        status, sent, _ = rater.ask(file)
        assert status == 200
        assert kind in sent["Content-Type"]
        assert sent["Content-Security-Policy"] == POLICY
    assert (headers["Content-Security-Policy"], headers["X-Content-Type-Options"]) == (POLICY, "nosniff")
    assert rater.ask("api/next", {})[0] == 401
    status, sent, joined = rater.ask("api/join", {"name": f"rater{prefix}"})
    assert (status, joined["left"]) == (200, 2)
    assert f"Path={place};" in sent["Set-Cookie"]
    assert "HttpOnly" in sent["Set-Cookie"]
    assert "SameSite=Strict" in sent["Set-Cookie"]
    prompts = [rater.vote()["prompt"], rater.vote()["prompt"]]
    assert (sorted(prompts), rater.ask("api/next", {})[2]["status"]) == (["it stays red", "red turns <b>blue</b>"], "finished")
    with Study(folder(server, name)) as opened:
        votes = [vote for pair in opened.results().pairs for vote in pair.votes]
        assert sum(vote.rater == f"rater{prefix}" for vote in votes) == 2


def test_what_is_not_the_pages_is_refused(server: Server, study: tuple[str, dict[str, Any]]) -> None:
    name, _ = study
    stranger = Rater(f"{server.address}{MOUNTED}/{name.replace(' ', '%20')}/")
    body = {"name": "somebody"}
    assert stranger.ask("api/join", body, Origin="http://elsewhere.example")[0] == 403
    assert stranger.ask("api/join", body, Sec_Fetch_Site="cross-site")[0] == 403
    assert (stranger.ask("api/join", {"name": "x" * 9000})[0], stranger.ask("video/0123456789abcdef.mp4")[0]) == (413, 401)
    for other in ("none", "..%2f..%2fmodels", "%2e%2e%2ftemp", ".", "a%00b", "con"):
        for rest in ("/", "/api/state", "/study.js"):
            assert Rater(server.address).ask(f"{MOUNTED}/{other}{rest}")[0] in (400, 404), (other, rest)
    with Study(folder(server, name)) as opened:
        assert len(opened.events()) >= 2
        assert "somebody" not in {row["name"] for row in opened._all("SELECT name FROM raters")}


def test_the_list_of_studies(server: Server, study: tuple[str, dict[str, Any]]) -> None:
    name, _ = study
    (server.folder / "output" / "emu_video_studies" / "no study").mkdir(exist_ok=True)
    for prefix in ("", "/api"):
        status, headers, content = Rater(server.address).ask(f"{prefix}{MOUNTED}")  # sent on to the folder
        assert (status, headers["Content-Security-Policy"]) == (200, POLICY)
        page = content.decode()
        assert f'<a href="{name.replace(" ", "%20")}/">{name}</a>' in page
        assert "Prompts: 2, pairs: 2" in page
        assert "no study" not in page
        assert "<script" not in page
        assert Rater(server.address).ask(f"{prefix}{MOUNTED}/study.css")[0] == 200


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "", "C:x", "a.b", "con", "x" * 65])
def test_path_tricks_are_refused_before_the_queue(server: Server, name: str) -> None:
    with pytest.raises(Refused) as refusal:
        server.queue(adding(name, "text"))
    assert "letters, digits, spaces, - and _" in json.dumps(refusal.value.errors)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"system_2": "ours"}, "both called 'ours'"), ({"raters": 4}, "should be odd"), ({"fps": 0.0}, "smaller than min")],
)
def test_what_cannot_be_is_refused_before_the_queue(server: Server, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        server.queue(adding("never", "text", **changes))
    assert words in json.dumps(refusal.value.errors)
    assert not folder(server, "never").exists()


def test_one_server_has_a_study(server: Server) -> None:
    """Whoever comes second is told who has it; adding goes on meanwhile, and a study that was replaced is opened anew."""
    name = f"shared {secrets.token_hex(3)}"
    server.run(adding(name, "first"))
    page = Rater(f"{server.address}{MOUNTED}/{name.replace(' ', '%20')}/")
    with Study(folder(server, name)) as alone:
        alone.lock.take("http://127.0.0.1:8190/")
        status, _, answer = page.ask("")
        assert status == 409
        assert "http://127.0.0.1:8190/" in answer["error"]
        assert str(server.folder) not in answer["error"]
        server.run(adding(name, "second"))
        assert alone.counts()["pairs"] == 2
    assert page.ask("")[0] == 200
    with Study(folder(server, name)) as alone, pytest.raises(ValueError, match=f":{server.port}{MOUNTED}/"):
        alone.lock.take("http://127.0.0.1:8190/")
    folder(server, name).rename(folder(server, f"{name} old"))
    assert page.ask("")[0] == 404
    server.run(adding(name, "third"))
    assert page.ask("api/join", {"name": "new"})[2]["left"] == 1


def test_other_names_and_what_is_none(server: Server, study: tuple[str, dict[str, Any]]) -> None:
    """As the stand-alone server: nothing under another name on loopback, also not with an Origin that fits; and what is no Host,
    no Origin or no session is refused before ComfyUI's own checks fail on it, with the same headers."""
    name = study[0].replace(" ", "%20")
    host = f"Host: 127.0.0.1:{server.port}\r\n".encode()
    with Study(folder(server, study[0])) as opened:
        cookie = f"emu_study_{opened.uid}=1.".encode()
    last = b"Connection: close\r\n\r\n"
    for place in (f"{MOUNTED}/{name}/", f"/api{MOUNTED}/{name}/"):
        post, get = (f"{method} {place}api/{what} HTTP/1.1\r\n".encode() for method, what in (("POST", "join"), ("GET", "state")))
        evil = b"Host: evil.example\r\nOrigin: http://evil.example\r\n"
        assert statuses(ask(server.address, post + evil + JSON)) == [421]
        assert statuses(ask(server.address, get + evil + last)) == [421]
        assert statuses(ask(server.address, post + host + b"Origin: http://evil.example\r\n" + JSON)) == [403]
        for wrong in (b"[", b"http://[", b"\xff\xfe", b"http://\xc3\xa4"):
            assert statuses(ask(server.address, post + host + b"Origin: " + wrong + b"\r\n" + JSON)) == [400]
            assert statuses(ask(server.address, post + b"Host: " + wrong + b"\r\n" + JSON)) == [400]
        session = b"Cookie: " + cookie + b"\xff\xfe\r\n"
        assert statuses(ask(server.address, post + host + session + JSON)) == [400]
        assert statuses(ask(server.address, post + host + b"Authorization: Bearer \xff\r\n" + JSON)) == [400]
    for path in (f"{MOUNTED}/{name}/nothing", f"{MOUNTED}/nothing/", f"{MOUNTED}/{name}/api/vote"):
        (status,) = statuses(ask(server.address, f"GET {path} HTTP/1.1\r\n".encode() + host + last))
        assert status in (404, 405)
    assert Rater(server.address).ask(f"{MOUNTED}/", Host="evil.example")[0] == 421
    assert Rater(server.address).ask("/system_stats", Host="evil.example")[0] == 200  # the rest of ComfyUI is not ours


def test_a_half_made_study_is_called_that(server: Server) -> None:
    """By the list, the page and the node."""
    name = f"half {secrets.token_hex(3)}"
    (folder(server, name) / "videos").mkdir(parents=True)
    (folder(server, name) / "study.sqlite").touch()
    page = Rater(server.address).ask(f"{MOUNTED}/")[2].decode()
    card = page[page.index(name) :].split("</div>")[0]
    assert "This one is half-made: its creation was ended on the way." in card
    status, _, answer = Rater(server.address).ask(f"{MOUNTED}/{name.replace(' ', '%20')}/api/state")
    assert (status, "half-made" in answer["error"]) == (409, True)
    with pytest.raises(RuntimeError, match="found a half-made one, whose creation was ended on the way"):
        server.run(adding(name, "text"))


def test_the_owner_is_told_the_link(server: Server, study: tuple[str, dict[str, Any]]) -> None:
    """In ComfyUI's log, once: the page of a study that it serves can be closed to new raters."""
    place = f"{server.address}{MOUNTED}/{study[0].replace(' ', '%20')}/"
    assert Rater(place).ask("api/state")[0] == 200
    with Study(folder(server, study[0])) as opened:
        token = opened.owner_token
    assert server.log.read_text().count(f"{place}owner.html#owner={token}") == 1
    owner = {"Authorization": f"Bearer {token}"}
    assert Rater(place).ask("api/signup", {"open": False}, **owner)[2]["signup_open"] is False
    assert Rater(place).ask("api/join", {"name": "late"})[0] == 403
    assert Rater(place).ask("api/signup", {"open": True}, **owner)[2]["signup_open"] is True
    assert Rater(place).ask("owner.html")[0] == 200


def test_listening_to_others_and_with_cors(comfy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI open to the network and to another site's pages: the study stays strict, and is reached under all its names."""
    monkeypatch.setenv("EMU_VIDEO_STUDY_SIGNUPS", "6")
    with Server(comfy_root, tmp_path, "--listen", "0.0.0.0", "--enable-cors-header", "*") as server:
        text = server.run(adding("open", "text"))["5"]["text"][0].splitlines()[0]
        assert text.endswith(f":{server.port}{MOUNTED}/open/")
        assert "0.0.0.0" not in text
        rater = Rater(f"{server.address}{MOUNTED}/open/")
        _, headers, _ = rater.ask("", Origin="http://elsewhere.example")
        assert headers["Content-Security-Policy"] == POLICY
        assert not [name for name in headers if name.lower().startswith("access-control")]
        assert rater.ask("api/join", {"name": "x"}, Origin="http://elsewhere.example")[0] == 403
        assert rater.ask("api/join", {"name": "x"}, Origin=server.address)[0] == 200
        rater.vote()
        for number, host in enumerate(("127.0.0.1", "localhost", "192.0.2.7", "tower.local", "study.tunnel.example")):
            names = {"Host": f"{host}:{server.port}", "Origin": f"http://{host}:{server.port}"}
            assert rater.ask("api/join", {"name": f"rater {number}"}, **names)[0] == 200
        status, _, answer = rater.ask("api/join", {"name": "one more"})
        assert (status, "EMU_VIDEO_STUDY_SIGNUPS" in answer["error"]) == (429, True)
        server.process.send_signal(signal.SIGINT)  # Ctrl-C
        server.process.wait(120)
    assert not list(folder(server, "open").glob("study.sqlite-*"))  # closed: one file that can be copied


@pytest.mark.page
@pytest.mark.skipif(bool(LACKING), reason=f"THE PAGE WAS NOT TESTED: no {', '.join(LACKING)}")
def test_a_rater_in_the_browser(server: Server, tmp_path: Path) -> None:
    """The whole page inside ComfyUI by keys and clicks: three votes, and nothing that the policy had to block."""
    name = f"tour {secrets.token_hex(3)}"
    for number, text in enumerate(("one", "two", "three")):
        server.run(adding(name, text, colours=(0x2040A0 + 40 * number, 0xD08030), raters=1))
    shots = Path(os.environ.get("EMU_SCREENSHOTS", tmp_path)) / server.root.name / "study"
    found = browse("tour", f"{server.address}{MOUNTED}/{name.replace(' ', '%20')}/", {}, shots, 240)
    assert "failed" not in found, found
    assert found["errors"] == []
    assert "3 pairs" in found["finished"]
    with Study(folder(server, name)) as opened:
        assert (opened.counts()["votes"], opened.counts()["done"]) == (3, 3)
