"""The study's page over HTTP, stand-alone or inside another aiohttp server (ComfyUI's, for one).

Every handler goes through `_Pages.handler`: the same headers, the same checks and the same log of refusals, wherever it is
mounted; nothing relies on a middleware. The store is asked on one thread of its own, and a study found on others, so that the
event loop never waits for SQLite.
"""

from __future__ import annotations

import asyncio
import hmac
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

from aiohttp import ClientError, web
from aiohttp.http import HttpProcessingError

from ..errors import UserError
from .access import (
    ALLOW_MORE,
    HEADERS,
    LOOPBACK,
    POLICY,
    SIGNUPS,
    Access,
    Allowance,
    Sparing,
    add_headers,
    check_origin,
    is_loopback,
    read_session,
)
from .connections import LINES_A_MINUTE, Connection, Limits, listen
from .questions import QUESTIONS
from .rules import Refused
from .store import Rater, Study

Find: TypeAlias = "Study | Callable[[web.Request], Study]"
Answer: TypeAlias = "Callable[[web.Request, Study, str], Awaitable[web.StreamResponse]]"
"""Of a request, its study and its session."""

PAGE = Path(__file__).with_name("page")
PAGE_FILES = ("index.html", "study.css", "study.js", "icon.svg", "owner.html", "owner.js")
MAX_BODY = 8192
SESSION_SECONDS = 90 * 24 * 3600
__all__ = ["HEADERS", "LOOPBACK", "POLICY", "add_routes", "application", "serve", "shown_host"]
log = logging.getLogger(__name__)
log.addFilter(Sparing(LINES_A_MINUTE))


def add_routes(
    routes: web.Application | web.RouteTableDef,
    study: Find,
    prefix: str = "",
    access: Access | None = None,
    body_seconds: float = 10,
) -> None:
    """Put the study's page at `prefix`/ of an application or a route table (such as PromptServer.instance.routes).

    study: one, or a function from a request to one (by `request.match_info` of a prefix such as "/emu_video/study/{study}"),
    which raises LookupError for a study that there is not; it is called on a thread. The caller takes `study.lock` if nobody else
    may serve it. access: who may ask; body_seconds: how long the body of a request may take to arrive.
    """
    pages = _Pages(study, access or Access(), body_seconds)
    table = routes if isinstance(routes, web.RouteTableDef) else web.RouteTableDef()
    if prefix:
        table.get(prefix)(to_folder)
    gets = {f"/{name.removeprefix('index.html')}": lambda request, *_: send_file(request) for name in PAGE_FILES}
    gets |= {"/api/state": pages.state, "/api/owner": pages.owner, "/video/{video}.mp4": pages.video}
    for path, answer in gets.items():
        table.get(prefix + path)(pages.handler(answer))
    for name in ("join", "leave", "signup", *ACTIONS):
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
    about = {"title": study.title, "note": study.note, "keep_ms": study.lease_ms // 4}
    about |= {"tokens_required": study.tokens_required, "signup_open": study.signup_open}
    return {"study": about, "questions": [asdict(question) for question in QUESTIONS], "rater": rater}


class _Pages:
    """The handlers of one study, or of the one that is found for each request."""

    def __init__(self, study: Find, access: Access, body_seconds: float) -> None:
        self._study, self._access, self._body_seconds = study, access, body_seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="emu-video-study")
        self._finders = ThreadPoolExecutor(max_workers=4, thread_name_prefix="emu-video-find")
        self._signups, self._events, self._proxy_named = Allowance(access.signups), Sparing(LINES_A_MINUTE), False

    async def _ask(self, function: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def _find(self, request: web.Request) -> Study:
        if isinstance(self._study, Study):
            return self._study
        try:  # not on the store's thread: a study that is slow to open must not keep the others waiting
            return await asyncio.get_running_loop().run_in_executor(self._finders, self._study, request)
        except LookupError as problem:
            raise Refused(404, "There is no such study here.") from problem

    def handler(self, answer: Answer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """`answer` after all checks and with all headers; what is refused or fails becomes JSON."""

        async def handle(request: web.Request) -> web.StreamResponse:
            study, session = None, ""
            try:
                self._access.check_name(request)
                study = await self._find(request)
                session = read_session(request, _cookie(study))
                if request.method == "POST":
                    check_origin(request)
                response = await answer(request, study, session)
            except Refused as refusal:
                await self._log(request, study, session, refusal)
                response = _refused(refusal)
            except web.HTTPException:
                raise
            except Exception:
                log.exception("%s %r failed", request.method, request.path[:200])
                sentence = "The server could not do this; its log says why. Try again."
                response = web.json_response({"error": sentence}, status=500)
            await add_headers(request, response)
            return response

        return handle

    async def _log(self, request: web.Request, study: Study | None, session: str, refusal: Refused) -> None:
        what = f"{request.method} {request.path}"
        log.warning("refused %r from %s: %s %s", what[:200], request.remote, refusal.status, refusal)
        if study is None or (refusal.status == 401 and request.method == "GET"):  # a session that ended is no attack
            return
        if self._events.left_out() is None:  # each is written to the disk, and votes would wait for them
            return
        try:
            rater = await self._ask(_signed_in, study, session)
            await self._ask(study.record, refusal.status, what, str(refusal), rater and rater.name)
        except ValueError:  # a full disk: the rater is told of the refusal all the same
            log.exception("the refusal could not be recorded")

    async def _as_rater(self, study: Study, session: str, function: Callable[..., Any], *arguments: object) -> Any:
        """One turn on the store's thread: to line up anew for each question would double the time under load."""
        return await self._ask(lambda: function(study, study.rater_of(session), *arguments))

    # -- answers

    async def state(self, request: web.Request, study: Study, session: str) -> web.StreamResponse:
        return web.json_response(await self._ask(_state, study, session))

    async def video(self, request: web.Request, study: Study, session: str) -> web.StreamResponse:
        file = await self._as_rater(study, session, Study.video_file, request.match_info["video"])
        # Kept, else each round is loaded anew; no longer than a lease, else a rater who gets the pair once more watches what the
        # server does not see, and loses the seat after a minute.
        return web.FileResponse(file, headers={"Cache-Control": f"private, max-age={min(3600, study.lease_ms // 1000)}"})

    async def act(self, request: web.Request, study: Study, session: str) -> web.StreamResponse:
        """One of ACTIONS, by the last part of the request's path."""
        do, names, told = ACTIONS[request.path.rsplit("/", 1)[1]]
        body = await self._body(request, names)
        return web.json_response(told(await self._as_rater(study, session, do, *(body[name] for name in names))))

    async def join(self, request: web.Request, study: Study, session: str) -> web.StreamResponse:
        """{"name"} of a new rater or {"token"}: sets the session's cookie; a new rater is told the code to come back with."""
        body = await self._body(request, optional=("name", "token"))
        if not all(isinstance(value, str) and len(value) <= 200 for value in body.values()):
            raise Refused(422, "A name or a token is a short text.")
        rater, made, code = await self._admitted(study, self._sender(request), body.get("name", ""), body.get("token", ""))
        response = web.json_response({"name": rater.name, "code": code, **await self._ask(study.progress, rater)})
        safe: dict[str, Any] = {"httponly": True, "samesite": "Strict", "secure": request.secure}
        response.set_cookie(_cookie(study), made, path=_base(request), max_age=SESSION_SECONDS, **safe)
        return response

    async def _admitted(self, study: Study, sender: str, name: str, token: str) -> tuple[Rater, str, str]:
        """What `Study.join` returns, unless too many new names or wrong tokens came from there: each has an allowance of its own,
        so that who has a link or a code gets in beside a crowd. What neither made a rater nor was a guess does not count."""
        key, what = (f"token {sender}", "wrong tokens have") if token else (f"name {sender}", "new raters have just")
        if wait := self._signups.take(key):
            minutes = f"{wait // 60 + 1:.0f} minutes" if wait > 60 else "a minute"
            raise Refused(429, f"Too many {what} come from your network. Try again in {minutes}, {ALLOW_MORE}.")
        counts = False
        try:
            found = await self._ask(study.join, name, token)
            counts = not token
            return found
        except Refused as refusal:
            counts = bool(token) and refusal.status == 401
            raise
        finally:
            if not counts:
                self._signups.give_back(key)

    def _sender(self, request: web.Request) -> str:
        """Where a request comes from; tells once if that is a proxy's address, which stands for everybody behind it."""
        if "X-Forwarded-For" in request.headers and not self._access.proxies and not self._proxy_named:
            self._proxy_named = True
            told = "requests from %s name another sender (X-Forwarded-For), which is not believed: if that is your proxy, name it"
            log.warning(f"{told} (--trusted-proxy), else all raters behind it count as one address", request.remote)
        return self._access.sender(request)

    async def leave(self, request: web.Request, study: Study, session: str) -> web.StreamResponse:
        """End the session, on a computer that others use too."""
        await self._body(request)
        await self._ask(study.leave, session)
        response = web.json_response({"left": True})
        response.del_cookie(_cookie(study), path=_base(request))
        return response

    async def owner(self, request: web.Request, study: Study, session: str) -> web.StreamResponse:
        """How far the study is; for who has the owner's link."""
        _check_owner(study, session)
        return web.json_response(await self._ask(study.overview))

    async def signup(self, request: web.Request, study: Study, session: str) -> web.StreamResponse:
        """{"open": true or false}: whether new raters may sign up; for who has the owner's link."""
        _check_owner(study, session)
        wanted = (await self._body(request, ("open",)))["open"]
        if not isinstance(wanted, bool):
            raise Refused(422, "Sign-up is open or not: true or false.")
        await self._ask(study.set_signup, wanted)
        return web.json_response(await self._ask(study.overview))

    async def _body(self, request: web.Request, needed: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> dict[str, Any]:
        """The JSON object that was sent. Refused: 415 no JSON, 413 too large, 408 too late, 400 no object or other fields."""
        if request.content_type != "application/json":
            raise Refused(415, "Send JSON (Content-Type: application/json).")
        try:
            await asyncio.wait_for(request.content.readexactly(MAX_BODY + 1), self._body_seconds)
            raise Refused(413, f"Send at most {MAX_BODY} bytes.")
        except asyncio.IncompleteReadError as all_of_it:
            content = all_of_it.partial
        except asyncio.TimeoutError as problem:
            raise Refused(408, "The request took too long to arrive.") from problem
        except (web.RequestPayloadError, ClientError, HttpProcessingError, ConnectionError) as problem:
            raise Refused(400, "The request did not arrive whole.") from problem
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as problem:
            raise Refused(400, "This is not JSON.") from problem
        if not isinstance(found, dict) or not set(needed) <= set(found) <= {*needed, *optional}:
            raise Refused(400, f"Send a JSON object with {', '.join((*needed, *optional)) or 'nothing in it'}, and nothing else.")
        return found


def _check_owner(study: Study, session: str) -> None:
    if not hmac.compare_digest(session.encode(), study.owner_token.encode()):
        raise Refused(403, "This page is for the study's owner: open the link that was shown when the study was served.")


def _refused(refusal: Refused) -> web.Response:
    response = web.json_response({"error": str(refusal)}, status=refusal.status, headers=HEADERS)
    if refusal.status in (408, 413):  # the rest of the body may still come, or never
        response.force_close()
    return response


def _cookie(study: Study) -> str:
    return f"emu_study_{study.uid}"


def _base(request: web.Request) -> str:
    """The path under which the study is mounted, with a "/" at the end."""
    return request.rel_url.raw_path.rsplit("/api/", 1)[0] + "/"


# -- stand-alone


def guard(access: Access, ours: Callable[[str], bool] = lambda path: True) -> Callable[..., Any]:
    """A middleware: of requests for paths that are `ours` only those get further that ask under a name of this server."""

    @web.middleware
    async def check(request: web.Request, handler: Any) -> web.StreamResponse:
        if isinstance(request.protocol, Connection):
            request.protocol.began()
        if ours(request.path):
            try:
                access.check_name(request)
            except Refused as refusal:
                name = request.headers.get("Host", "")[:80]
                log.warning("refused %s %r, asked for as %r: %s", request.method, request.path[:200], name, refusal)
                return _refused(refusal)
        return await handler(request)

    return check


def application(
    study: Study, hosts: tuple[str, ...] = (), access: Access | None = None, body_seconds: float = 10
) -> web.Application:
    """A server of one study. hosts: names under which it may be asked for; none: any. access: the same, and more."""
    access = access or Access(hosts)
    app = web.Application(client_max_size=MAX_BODY, middlewares=[guard(access)])
    app.on_response_prepare.append(add_headers)
    add_routes(app, study, access=access, body_seconds=body_seconds)
    return app


async def serve(
    study: Study,
    host: str = "127.0.0.1",
    port: int = 8190,
    public_hosts: tuple[str, ...] = (),
    started: Callable[[str], None] = lambda address: None,
    proxies: tuple[str, ...] = (),
    signups: int = SIGNUPS,
    limits: Limits | None = None,
) -> None:
    """Serve until Ctrl-C or a termination signal. started: called on a thread, with the address, once it answers.

    public_hosts: names under which a proxy passes requests on to a loopback address. proxies, signups: as `Access` has them.
    ValueError: another server has the study, it has no videos, the address cannot be used, or a number that cannot be.
    """
    limits = limits or Limits()
    hosts = (*LOOPBACK, host, *(name.lower() for name in public_hosts)) if is_loopback(host) else ()
    app = application(study, access=Access(hosts, proxies, signups), body_seconds=limits.body)
    if not (await asyncio.to_thread(study.counts))["playable"]:
        raise UserError(f"{study.folder}: expected a study with videos, found none (an import has none); serve the original.")
    study.lock.take(f"http://{shown_host(host)}:{port}/")
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=3)
    stop = asyncio.Event()  # by a signal: a vote that is being stored then is stored and acknowledged
    with suppress(NotImplementedError, RuntimeError):  # Windows: Ctrl-C arrives as KeyboardInterrupt
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await runner.setup()
    assert runner.server is not None
    listening = None
    try:
        try:
            listening = await listen(runner.server, host, port, limits)
        except OSError as problem:
            place, found = f"--host {host} --port {port}", problem.strerror
            raise UserError(f"{place}: expected an address that is free, found {found}; choose another.") from problem
        await asyncio.to_thread(started, f"http://{shown_host(host)}:{listening.sockets[0].getsockname()[1]}/")
        await stop.wait()
    finally:
        if listening:
            listening.close()
        await runner.cleanup()


def shown_host(host: str) -> str:
    """A host as links name it: an address that means "every one" is reached by this computer's name."""
    if host in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
