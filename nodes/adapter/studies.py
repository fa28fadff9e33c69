"""The human study on ComfyUI's own server: studies in output/emu_video_studies, each at /emu_video/study/NAME/.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; read further, up to about 0.38: address and port.
"""

from __future__ import annotations

import asyncio
import atexit
import html
import logging
import os
import sqlite3
import threading
from pathlib import Path
from urllib.parse import quote

from aiohttp import web
from comfy.cli_args import args

from ...emu_core.errors import UserError
from ...emu_core.study.access import HEADERS, LOOPBACK, POLICY, SIGNUPS, Access, Sparing, is_loopback
from ...emu_core.study.database import STORE_NAME, HalfMade, looks_half_made
from ...emu_core.study.rules import Refused
from ...emu_core.study.server import LINES_A_MINUTE, add_routes, guard, send_file, shown_host, to_folder
from ...emu_core.study.store import Study
from .paths import studies_folder
from .shown import server_instance

PREFIX = "/emu_video/study"
VARIABLES = ("EMU_VIDEO_STUDY_HOSTS", "EMU_VIDEO_STUDY_PROXIES")
SIGNUPS_VARIABLE = "EMU_VIDEO_STUDY_SIGNUPS"
NAME_LENGTH = 64
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(10))}
"""Names that mean something else to Windows, wherever they stand."""
logger = logging.getLogger(__name__)
logger.addFilter(Sparing(LINES_A_MINUTE))


def checked_name(name: str) -> str:
    """A study's name as its folder; ValueError unless it is of letters, digits, space, - and _ alone."""
    plain = all(character.isalnum() or character in " -_" for character in name)
    if not plain or name != name.strip() or not 1 <= len(name) <= NAME_LENGTH or name.upper() in DEVICES:
        wanted = f"a name of 1 to {NAME_LENGTH} letters, digits, spaces, - and _"
        raise UserError(f"study should be {wanted}, found {name[:80]!r}: choose another")
    return name


class Studies:
    """The studies of one folder, each opened once and kept open, whoever asks: a request, or a node on its own thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._open: dict[tuple[int, int], Study] = {}
        """By the store's device and inode: on some disks two names are one folder, and a folder may have been replaced."""

    def find(self, name: str) -> Study:
        """LookupError: there is no such study, or none that can be opened. HalfMade: its creation was ended on the way."""
        try:
            return self._opened(name)
        except HalfMade:
            raise
        except ValueError as problem:
            logger.warning("%s", problem)
            raise LookupError(name) from problem

    def make(self, name: str, raters: int) -> Study:
        """The study of this name, new if there is none. ValueError: a name or number that cannot be, a half-made or a broken
        store."""
        folder = studies_folder() / checked_name(name)
        if not (folder / STORE_NAME).exists():
            Study.create(folder, raters=raters).close()
        return self._opened(name)

    def _opened(self, name: str) -> Study:
        folder = studies_folder() / checked_name(name)
        if looks_half_made(folder):
            raise HalfMade(folder)
        key = _identity(folder)
        if key is None:
            raise LookupError(name)
        with self._guard:
            if key not in self._open:
                for gone in [old for old, study in self._open.items() if _identity(study.folder) != old]:
                    self._open.pop(gone).close()
                self._open[key] = Study(folder)
            return self._open[key]

    def names(self) -> list[str]:
        """All studies that are there, half-made ones too, by the alphabet."""
        folders = [folder for folder in studies_folder().glob("*") if (folder / STORE_NAME).is_file() or looks_half_made(folder)]
        return sorted((folder.name for folder in folders), key=str.lower)

    def served(self, request: web.Request) -> Study:
        """For `add_routes`: the study of the request's address, whose server is then this one."""
        name = request.match_info["study"]
        try:
            study = self.find(name)
            known = study.lock.held
            study.lock.take(address(name))
            if not known:
                logger.info("Study %r, for its owner alone: %sowner.html#owner=%s", name, address(name), study.owner_token)
        except HalfMade as problem:
            raise Refused(409, HALF_MADE) from problem
        except ValueError as problem:
            raise Refused(409, str(problem).replace(str(study.folder), name)) from problem
        return study

    def close(self) -> None:
        """Close all that are open."""
        with self._guard:
            for study in self._open.values():
                study.close()
            self._open.clear()


def _identity(folder: Path) -> tuple[int, int] | None:
    """Which file a study's store is; None: there is none."""
    try:
        status = (folder / STORE_NAME).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


STUDIES = Studies()


def address(name: str) -> str:
    """Where a browser on this computer finds the study's page; the path alone while no server runs."""
    path = f"{PREFIX}/{quote(name)}/"
    server = server_instance()
    port = getattr(server, "port", None)
    if port is None:
        return path
    scheme = "https" if args.tls_keyfile and args.tls_certfile else "http"
    return f"{scheme}://{shown_host(server.address)}:{port}{path}"


def access() -> Access:
    """As `emu-video study serve`: on loopback only under this computer's own names and those of EMU_VIDEO_STUDY_HOSTS. Proxies
    whose X-Forwarded-For is believed: EMU_VIDEO_STUDY_PROXIES. Both lists have commas. New raters an hour and address:
    EMU_VIDEO_STUDY_SIGNUPS; what is no number from 1 is named in the log, and the usual number counts."""
    hosts, proxies = ([part.strip() for part in os.environ.get(name, "").split(",") if part.strip()] for name in VARIABLES)
    listens, wanted = [part.strip() for part in str(args.listen).split(",")], os.environ.get(SIGNUPS_VARIABLE, "").strip()
    signups = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 10 else 0
    if wanted and not signups:
        logger.warning("%s: expected a number from 1, found %r; it counts as %d", SIGNUPS_VARIABLE, wanted[:80], SIGNUPS)
    alone = all(map(is_loopback, listens))
    return Access((*LOOPBACK, *listens, *map(str.lower, hosts)) if alone else (), tuple(proxies), signups or SIGNUPS)


def _ours(path: str) -> bool:
    """Whether a path is one of the study's; ComfyUI puts each route under /api once more."""
    return f"{path.removeprefix('/api')}/".startswith(f"{PREFIX}/")


def mount() -> None:
    """Put the pages on the running server; nothing where there is none."""
    server = server_instance()
    if server is None:
        return
    atexit.register(STUDIES.close)  # else each store would leave its journal beside it
    pages = {"": to_folder, "/": _list, "/study.css": send_file, "/icon.svg": send_file}
    for path, page in pages.items():
        server.routes.get(f"{PREFIX}{path}")(page)
    who = access()
    add_routes(server.routes, STUDIES.served, f"{PREFIX}/{{study}}", who)
    server.app.middlewares.insert(0, guard(who, _ours))  # before ComfyUI's own, which fail on a Host or Origin that is none
    server.app.on_response_prepare.append(_keep_strict)


async def _keep_strict(request: web.Request, response: web.StreamResponse) -> None:
    """ComfyUI's middlewares may set another policy (--disable-api-nodes) and let other sites in (--enable-cors-header): not on
    these pages. Signals come after all of them."""
    if _ours(request.path):
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers["Content-Security-Policy"] = POLICY
        for name in [name for name in response.headers if name.lower().startswith("access-control-")]:
            del response.headers[name]


async def _list(request: web.Request) -> web.StreamResponse:
    cards = await asyncio.to_thread(lambda: "\n".join(map(_card, STUDIES.names())))
    return web.Response(text=LIST.format(cards=cards or NONE), content_type="text/html", headers=HEADERS)


UNREADABLE = "This one cannot be opened; ComfyUI's log says why."
HALF_MADE = "This one is half-made: its creation was ended on the way. Delete its folder and add the videos again."
NONE = '<p class="lead">There is none yet. The node <b>Add to Study</b> makes one.</p>'
LIST = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><meta name="color-scheme" content="light dark"><title>Studies</title>
<link rel="stylesheet" href="study.css"><link rel="icon" href="icon.svg" type="image/svg+xml">
</head>
<body>
<header class="bar"><p class="brand">Emu Video</p></header>
<main><section class="screen narrow"><h1>Studies</h1>
{cards}
</section></main>
</body>
</html>
"""


def _card(name: str) -> str:
    """A study's name, link and progress; of one that cannot be opened, that."""
    title = html.escape(name)
    try:
        study = STUDIES.find(name)
        counts = study.counts()
    except (LookupError, HalfMade, sqlite3.Error) as problem:
        told = HALF_MADE if isinstance(problem, HalfMade) or looks_half_made(studies_folder() / name) else UNREADABLE
        return f'<div class="card join"><p class="brand">{title}</p><p class="soft">{told}</p></div>'
    needed = counts["pairs"] * study.raters
    return f"""<div class="card join">
<p class="brand"><a href="{quote(name)}/">{title}</a></p>
<p>Prompts: {counts["prompts"]}, pairs: {counts["pairs"]}, raters: {counts["raters"]}.</p>
<p><progress max="{max(1, needed)}" value="{counts["votes"]}" aria-label="Votes"></progress></p>
<p class="soft">Votes: {counts["votes"]} of {needed}. Complete pairs: {counts["done"]} of {counts["pairs"]}.</p>
</div>"""
