"""The study's page over HTTP, stand-alone or inside another aiohttp server (ComfyUI's, for one).

Every handler goes through `_Pages.handler`: the same headers, the same checks and the same log of refusals, wherever it is
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
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from aiohttp import web

from ..errors import UserError
from .questions import QUESTIONS
from .rules import Refused
from .store import Rater, Study

Find: TypeAlias = "Study | Callable[[web.Request], Study]"
Answer: TypeAlias = "Callable[[web.Request, Study], Awaitable[web.StreamResponse]]"

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


def add_routes(routes: web.Application | web.RouteTableDef, study: Find, prefix: str = "") -> None:
    """Put the study's page at `prefix`/ of an application or a route table (such as PromptServer.instance.routes).

    study: one, or a function from a request to one (by `request.match_info` of a prefix such as "/emu_video/study/{study}"),
    which raises LookupError for a study that there is not. The caller takes `study.lock` if nobody else may serve it.
    """
    pages = _Pages(study)
    table = routes if isinstance(routes, web.RouteTableDef) else web.RouteTableDef()
    if prefix:
        table.get(prefix)(to_folder)
    for name in PAGE_FILES:
        table.get(f"{prefix}/{name.removeprefix('index.html')}")(pages.handler(lambda request, _: send_file(request)))
    table.get(f"{prefix}/api/state")(pages.handler(pages.state))
    table.get(prefix + "/video/{video}.mp4")(pages.handler(pages.video))
    for name in ("join", "leave", *ACTIONS):
        table.post(f"{prefix}/api/{name}")(pages.handler(getattr(pages, name, pages.act)))
    if isinstance(routes, web.Application):
        routes.add_routes(table)


async def to_folder(request: web.Request) -> web.StreamResponse:
    """Sends a browser on to the same path with a "/" at the end, which the page's relative addresses need."""
    raise web.HTTPPermanentRedirect(request.rel_url.raw_path + "/", headers=HEADERS)


async def send_file(request: web.Request) -> web.StreamResponse:
    """One of PAGE_FILES, by the last part of the request's path; index.html if that is empty."""
    name = request.path.rsplit("/", 1)[1] or "index.html"
    return web.FileResponse(PAGE / name, headers={**HEADERS, "Cache-Control": "no-cache"})


def _next(study: Study, rater: Rater) -> dict[str, Any]:
    """The rater's pair: {"status": "pair"}; or "waiting" (others hold what is left), or "finished"."""
    showing, progress = study.next_pair(rater), study.progress(rater)
    if showing is None:
        return {"status": "waiting" if progress["left"] else "finished", **progress}
    videos = {side: f"video/{getattr(showing, side)}.mp4" for side in ("left", "right")}
    return {"status": "pair", "pair": {**asdict(showing), **videos}, **progress}


ACTIONS: dict[str, tuple[Callable[..., Any], tuple[str, ...], Callable[[Any], dict[str, Any]]]] = {
    "next": (_next, (), dict),
    "keep": (Study.keep, ("pair",), lambda _: {"kept": True}),
    "draft": (Study.save_draft, ("pair", "quality"), lambda _: {"kept": True}),
    "vote": (Study.vote, ("id", "pair", "quality", "faithfulness"), lambda repeated: {"stored": True, "repeated": repeated}),
}
"""A rater's requests: what the store does, with which fields of the request, and what is answered then."""


def _signed_in(study: Study, session: str) -> Rater | None:
    try:
        return study.rater_of(session)
    except Refused:
        return None


def _state(study: Study, session: str) -> dict[str, Any]:
    """What the page needs at its start: the study, the questionnaire, and the rater if there is a session."""
    found = _signed_in(study, session)
    rater = {"name": found.name, **study.progress(found)} if found else None
    about = {"title": study.title, "tokens_required": study.tokens_required, "keep_ms": study.lease_ms // 4}
    return {"study": about, "questions": [asdict(question) for question in QUESTIONS], "rater": rater}


class _Pages:
    """The handlers of one study, or of the one that is found for each request."""

    def __init__(self, study: Find) -> None:
        self._study = study
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="emu-video-study")

    async def _ask(self, function: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _find(self, request: web.Request) -> Study:
        try:
            return self._study if isinstance(self._study, Study) else self._study(request)
        except LookupError as problem:
            raise Refused(404, "There is no such study here.") from problem

    def handler(self, answer: Answer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """`answer` after all checks and with all headers; what is refused or fails becomes JSON."""

        async def handle(request: web.Request) -> web.StreamResponse:
            study = None
            try:
                study = self._find(request)
                if request.method == "POST":
                    _check_origin(request)
                response = await answer(request, study)
            except Refused as refusal:
                await self._log(request, study, refusal)
                response = web.json_response({"error": str(refusal)}, status=refusal.status)
            except web.HTTPException:
                raise
            except Exception:
                log.exception("%s %s failed", request.method, request.path)
                sentence = "The server could not do this; its log says why. Try again."
                response = web.json_response({"error": sentence}, status=500)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return handle

    async def _log(self, request: web.Request, study: Study | None, refusal: Refused) -> None:
        what = f"{request.method} {request.path}"
        log.warning("refused %r from %s: %s %s", what[:200], request.remote, refusal.status, refusal)
        if study is None or (refusal.status == 401 and request.method == "GET"):  # a session that ended is no attack
            return
        try:
            rater = await self._ask(_signed_in, study, _session(request, study))
            await self._ask(study.record, refusal.status, what, str(refusal), rater and rater.name)
        except ValueError:  # a full disk: the rater is told of the refusal all the same
            log.exception("the refusal could not be recorded")

    async def _as_rater(self, request: web.Request, study: Study, function: Callable[..., Any], *arguments: object) -> Any:
        """One turn on the store's thread: to line up anew for each question would double the time under load."""
        session = _session(request, study)
        return await self._ask(lambda: function(study, study.rater_of(session), *arguments))

    # -- answers

    async def state(self, request: web.Request, study: Study) -> web.StreamResponse:
        return web.json_response(await self._ask(_state, study, _session(request, study)))

    async def video(self, request: web.Request, study: Study) -> web.StreamResponse:
        file = await self._as_rater(request, study, Study.video_file, request.match_info["video"])
        return web.FileResponse(file, headers={"Cache-Control": "private, max-age=3600"})  # else each round is loaded anew

    async def act(self, request: web.Request, study: Study) -> web.StreamResponse:
        """One of ACTIONS, by the last part of the request's path."""
        do, names, told = ACTIONS[request.path.rsplit("/", 1)[1]]
        body = await _body(request, names)
        return web.json_response(told(await self._as_rater(request, study, do, *(body[name] for name in names))))

    async def join(self, request: web.Request, study: Study) -> web.StreamResponse:
        """{"name"} of a new rater or {"token"}: sets the session's cookie; a new rater is told the code to come back with."""
        body = await _body(request, optional=("name", "token"))
        if not all(isinstance(value, str) and len(value) <= 200 for value in body.values()):
            raise Refused(422, "A name or a token is a short text.")
        rater, session, code = await self._ask(study.join, body.get("name", ""), body.get("token", ""))
        response = web.json_response({"name": rater.name, "code": code, **await self._ask(study.progress, rater)})
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
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    ours = origin is None or urlsplit(origin).netloc.lower() == request.host.lower()
    if not ours if site is None else site != "same-origin":
        raise Refused(403, "Only the study's own page may send this.")


async def _body(request: web.Request, needed: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON object that was sent. Refused: 415 no JSON, 413 too large, 400 no object or other fields."""
    if request.content_type != "application/json":
        raise Refused(415, "Send JSON (Content-Type: application/json).")
    try:
        await request.content.readexactly(MAX_BODY + 1)
        raise Refused(413, f"Send at most {MAX_BODY} bytes.")
    except asyncio.IncompleteReadError as all_of_it:
        content = all_of_it.partial
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
        raise UserError(f"{study.folder}: expected a study with videos, found none (an import has none); serve the original.")
    study.lock.take(f"http://{shown_host(host)}:{port}/")
    hosts = (*LOOPBACK, *public_hosts) if host in LOOPBACK else ()
    runner = web.AppRunner(application(study, hosts), access_log=None, shutdown_timeout=3)
    stop = asyncio.Event()  # by a signal: a vote that is being stored then is stored and acknowledged
    with suppress(NotImplementedError, RuntimeError):  # Windows: Ctrl-C arrives as KeyboardInterrupt
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as problem:
            place, found = f"--host {host} --port {port}", problem.strerror
            raise UserError(f"{place}: expected an address that is free, found {found}; choose another.") from problem
        started(f"http://{shown_host(host)}:{runner.addresses[0][1]}/")
        await stop.wait()
    finally:
        await runner.cleanup()


def shown_host(host: str) -> str:
    """A host as links name it: an address that means "every one" is reached by this computer's name."""
    if host in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
