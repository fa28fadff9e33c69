"""The study's page over HTTP, stand-alone or inside another aiohttp server (ComfyUI's, for one).

Every handler goes through `_Pages._guarded`: the same headers, the same checks and the same log of refusals, wherever it is
mounted; nothing relies on a middleware. The store is asked on one thread of its own, so that the event loop never waits for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from aiohttp import web

from .questions import as_json
from .rules import Refused
from .store import Rater, Study

Routes: TypeAlias = "web.Application | web.RouteTableDef"
Find: TypeAlias = "Study | Callable[[web.Request], Study]"
Handler: TypeAlias = "Callable[[web.Request, Study], Awaitable[web.StreamResponse]]"
T = TypeVar("T")

PAGE = Path(__file__).with_name("page")
PAGE_FILES = ("index.html", "study.css", "study.js", "icon.svg")
MAX_BODY = 8192
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
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SESSION_SECONDS = 90 * 24 * 3600
log = logging.getLogger(__name__)


def add_routes(routes: Routes, study: Find, prefix: str = "") -> None:
    """Put the study's page at `prefix`/ of an application or a route table (such as PromptServer.instance.routes).

    study: one, or a function from a request to one (by `request.match_info` of a prefix such as "/emu_video/study/{study}"),
    which raises LookupError for a study that there is not. The caller takes `study.lock` if nobody else may serve it.
    """
    pages = _Pages(study)
    if prefix:
        _add(routes, "GET", prefix, pages.to_folder)
    _add(routes, "GET", f"{prefix}/", pages.file("index.html"))
    for name in PAGE_FILES[1:]:
        _add(routes, "GET", f"{prefix}/{name}", pages.file(name))
    _add(routes, "GET", prefix + "/api/state", pages.handler(pages.state))
    _add(routes, "GET", prefix + "/video/{video}.mp4", pages.handler(pages.video))
    for name in ("join", "leave", "next", "keep", "draft", "vote"):
        _add(routes, "POST", f"{prefix}/api/{name}", pages.handler(getattr(pages, name)))


def _add(routes: Routes, method: str, path: str, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
    table = routes if isinstance(routes, web.RouteTableDef) else web.RouteTableDef()
    (table.get(path) if method == "GET" else table.post(path))(handler)
    if isinstance(routes, web.Application):
        routes.add_routes(table)


class _Pages:
    """The handlers. Each returns JSON, or raises Refused."""

    def __init__(self, study: Find) -> None:
        self._study = study
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="emu-video-study")

    async def _ask(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*arguments))

    def _find(self, request: web.Request) -> Study:
        try:
            return self._study if isinstance(self._study, Study) else self._study(request)
        except LookupError as problem:
            raise Refused(404, "There is no such study here.") from problem

    def file(self, name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def send(request: web.Request, study: Study) -> web.StreamResponse:
            return web.FileResponse(PAGE / name, headers={"Cache-Control": "no-cache"})

        return self.handler(send)

    async def to_folder(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPPermanentRedirect(request.rel_url.raw_path + "/", headers=HEADERS)

    def handler(self, answer: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            response = await self._guarded(request, answer)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return handle

    async def _guarded(self, request: web.Request, answer: Handler) -> web.StreamResponse:
        study = None
        try:
            study = self._find(request)
            if request.method == "POST":
                _check_origin(request)
            return await answer(request, study)
        except Refused as refusal:
            await self._log(request, study, refusal)
            return web.json_response({"error": str(refusal)}, status=refusal.status)
        except web.HTTPException:
            raise
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return web.json_response({"error": "The server could not do this; its log says why. Try again."}, status=500)

    async def _log(self, request: web.Request, study: Study | None, refusal: Refused) -> None:
        what = f"{request.method} {request.path}"
        log.warning("refused %r from %s: %s %s", what[:200], request.remote, refusal.status, refusal)
        if study is None or (refusal.status == 401 and request.method == "GET"):  # a session that ended is no attack
            return
        try:
            rater = (await self._ask(study.rater_of, _session(request, study))).name
        except Refused:
            rater = None
        try:
            await self._ask(study.record, refusal.status, what, str(refusal), rater)
        except ValueError:  # a full disk: the rater is told of the refusal all the same
            log.exception("the refusal could not be recorded")

    async def _as_rater(self, request: web.Request, study: Study, act: Callable[[Rater], T]) -> T:
        """One turn on the store's thread: to line up anew for each question would double the time under load."""
        session = _session(request, study)
        return await self._ask(lambda: act(study.rater_of(session)))

    # -- answers

    async def state(self, request: web.Request, study: Study) -> web.StreamResponse:
        """What the page needs at its start: the study, the questionnaire, and the rater if there is a session."""
        rater = None
        session = _session(request, study)
        if session:
            try:
                found = await self._ask(study.rater_of, session)
                rater = {"name": found.name, **asdict(await self._ask(study.progress, found))}
            except Refused:
                log.info("a session is no longer valid")
        about = {
            "title": study.title,
            "tokens_required": await self._ask(lambda: study.tokens_required),
            "keep_ms": study.lease_ms // 4,
        }
        return web.json_response({"study": about, "questions": as_json(), "rater": rater})

    async def join(self, request: web.Request, study: Study) -> web.StreamResponse:
        """{"name"} of a new rater or {"token"}: sets the session's cookie; a new rater is told the code to come back with."""
        body = await _body(request, optional=("name", "token"))
        if not all(isinstance(value, str) and len(value) <= 200 for value in body.values()):
            raise Refused(422, "A name or a token is a short text.")
        rater, session, code = await self._ask(study.join, body.get("name", ""), body.get("token", ""))
        response = web.json_response({"name": rater.name, "code": code, **asdict(await self._ask(study.progress, rater))})
        safe: dict[str, Any] = {"httponly": True, "samesite": "Strict", "secure": request.secure}
        response.set_cookie(_cookie(study), session, path=_base(request), max_age=SESSION_SECONDS, **safe)
        return response

    async def leave(self, request: web.Request, study: Study) -> web.StreamResponse:
        """End the session, on a computer that others use too."""
        await _body(request)
        await self._ask(study.leave, _session(request, study))
        response = web.json_response({"left": True})
        response.del_cookie(_cookie(study), path=_base(request))
        return response

    async def next(self, request: web.Request, study: Study) -> web.StreamResponse:
        """The rater's pair: {"status": "pair"}; or "waiting" (others hold what is left), or "finished"."""
        await _body(request)
        task, progress = await self._as_rater(request, study, lambda rater: (study.next_task(rater), study.progress(rater)))
        if task is None:
            return web.json_response({"status": "waiting" if progress.left else "finished", **asdict(progress)})
        pair = {
            "key": task.key,
            "prompt": task.prompt,
            "left": f"video/{task.left}.mp4",
            "right": f"video/{task.right}.mp4",
            "draft": task.draft,
        }
        return web.json_response({"status": "pair", "pair": pair, **asdict(progress)})

    async def keep(self, request: web.Request, study: Study) -> web.StreamResponse:
        body = await _body(request, ("pair",))
        await self._as_rater(request, study, lambda rater: study.keep(rater, body["pair"]))
        return web.json_response({"kept": True})

    async def draft(self, request: web.Request, study: Study) -> web.StreamResponse:
        body = await _body(request, ("pair", "quality"))
        await self._as_rater(request, study, lambda rater: study.save_draft(rater, body["pair"], body["quality"]))
        return web.json_response({"kept": True})

    async def vote(self, request: web.Request, study: Study) -> web.StreamResponse:
        """{"id", "pair", "quality", "faithfulness"}: acknowledged when it is on the disk; sent again, it counts once."""
        body = await _body(request, ("id", "pair", "quality", "faithfulness"))
        answers = body["quality"], body["faithfulness"]
        repeated = await self._as_rater(request, study, lambda rater: study.vote(rater, body["id"], body["pair"], *answers))
        return web.json_response({"stored": True, "repeated": repeated})

    async def video(self, request: web.Request, study: Study) -> web.StreamResponse:
        name = request.match_info["video"]
        file = await self._as_rater(request, study, lambda rater: study.video_file(rater, name))
        return web.FileResponse(file, headers={"Cache-Control": "private, max-age=3600"})  # else each round is loaded anew


def _cookie(study: Study) -> str:
    return f"emu_study_{study.uid}"


def _base(request: web.Request) -> str:
    """The path under which the study is mounted, with a "/" at the end."""
    return request.rel_url.raw_path.rsplit("/api/", 1)[0] + "/"


def _session(request: web.Request, study: Study) -> str:
    """The session's secret from "Authorization: Bearer ..." or the cookie; "" if there is none."""
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else request.cookies.get(_cookie(study), "")


def _check_origin(request: web.Request) -> None:
    """Refused 403: another site's page sent this. Browsers say so themselves; other programs have no rater's cookie to abuse."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        if site != "same-origin":
            raise Refused(403, "Only the study's own page may send this.")
        return
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != request.host.lower():
        raise Refused(403, "Only the study's own page may send this.")


async def _body(request: web.Request, needed: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON object that was sent. Refused: 415 no JSON, 413 too large, 400 no object or other fields."""
    if request.content_type != "application/json":
        raise Refused(415, "Send JSON (Content-Type: application/json).")
    if (request.content_length or 0) > MAX_BODY:
        raise Refused(413, f"Send at most {MAX_BODY} bytes.")
    content = b""
    while chunk := await request.content.read(MAX_BODY + 1 - len(content)):
        content += chunk
        if len(content) > MAX_BODY:
            raise Refused(413, f"Send at most {MAX_BODY} bytes.")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise Refused(400, "This is not JSON.") from problem
    if not isinstance(found, dict) or not set(needed) <= set(found) <= {*needed, *optional}:
        raise Refused(400, f"Send a JSON object with {', '.join((*needed, *optional)) or 'nothing in it'}, and nothing else.")
    return found


# -- stand-alone


def application(study: Study, hosts: tuple[str, ...] = ()) -> web.Application:
    """A server of one study. hosts: names under which it may be asked for; none: any.

    On loopback they matter: otherwise a page on the web could point its own name at this computer and act as a rater.
    """

    @web.middleware
    async def only_known_hosts(request: web.Request, handler: Any) -> web.StreamResponse:
        name = urlsplit(f"//{request.host}").hostname or ""
        if hosts and name not in hosts:
            log.warning("refused %s %s: asked for as %r", request.method, request.path, name)
            return web.json_response({"error": "This study is not served under that name."}, status=421, headers=HEADERS)
        return await handler(request)

    app = web.Application(client_max_size=MAX_BODY, middlewares=[only_known_hosts])
    add_routes(app, study)
    return app


async def serve(
    study: Study,
    host: str = "127.0.0.1",
    port: int = 8190,
    public_hosts: tuple[str, ...] = (),
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until Ctrl-C or a termination signal. started: called with the address once it answers.

    public_hosts: names under which a proxy passes requests on to a loopback address.
    ValueError: another server has the study, it has no videos, or the address cannot be used.
    """
    if not study.counts()["playable"]:
        raise ValueError(
            f"{study.folder}: expected a study with videos, found none in it (an import has none); serve the original."
        )
    study.lock.take(f"http://{_shown(host)}:{port}/")
    hosts = (*LOOPBACK, *public_hosts) if host in LOOPBACK else ()
    runner = web.AppRunner(application(study, hosts), access_log=None, shutdown_timeout=3)
    stop = _stop_signal()
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as problem:
            raise ValueError(
                f"--host {host} --port {port}: expected an address that is free, found {problem.strerror}; choose another."
            ) from problem
        started(f"http://{_shown(host)}:{runner.addresses[0][1]}/")
        await stop.wait()
    finally:
        await runner.cleanup()
        study.close()


def _shown(host: str) -> str:
    """A host as links name it: an address that means "every one" is reached by this computer's name."""
    if host in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _stop_signal() -> asyncio.Event:
    """Set by Ctrl-C or a termination signal; a vote that is being stored then is stored and acknowledged."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    except (NotImplementedError, RuntimeError):  # Windows: Ctrl-C arrives as KeyboardInterrupt
        log.debug("no signal handlers here")
    return stop
