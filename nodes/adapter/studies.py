"""The human study on ComfyUI's own server: studies in output/emu_video_studies, each at /emu_video/study/NAME/.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; read further, up to about 0.38: address and port.
"""

from __future__ import annotations

import asyncio
import atexit
import html
import logging
import sqlite3
import threading
from pathlib import Path
from urllib.parse import quote

from aiohttp import web
from comfy.cli_args import args

from ...emu_core.errors import UserError
from ...emu_core.study.rules import Refused
from ...emu_core.study.server import HEADERS, POLICY, add_routes, send_file, shown_host, to_folder
from ...emu_core.study.store import STORE_NAME, Study
from .paths import studies_folder
from .shown import server_instance

PREFIX = "/emu_video/study"
NAME_LENGTH = 64
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(10))}
"""Names that mean something else to Windows, wherever they stand."""
logger = logging.getLogger(__name__)


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
        """LookupError: there is no such study, or none that can be opened."""
        try:
            return self._opened(name)
        except ValueError as problem:
            logger.warning("%s", problem)
            raise LookupError(name) from problem

    def make(self, name: str, raters: int) -> Study:
        """The study of this name, new if there is none. ValueError: a name or number that cannot be, or a broken store."""
        folder = studies_folder() / checked_name(name)
        if not (folder / STORE_NAME).exists():
            Study.create(folder, raters=raters).close()
        return self._opened(name)

    def _opened(self, name: str) -> Study:
        folder = studies_folder() / checked_name(name)
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
        """All studies that are there, by the alphabet."""
        return sorted((file.parent.name for file in studies_folder().glob(f"*/{STORE_NAME}") if file.is_file()), key=str.lower)

    def served(self, request: web.Request) -> Study:
        """For `add_routes`: the study of the request's address, whose server is then this one."""
        name = request.match_info["study"]
        study = self.find(name)
        try:
            study.lock.take(address(name))
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


def mount() -> None:
    """Put the pages on the running server; nothing where there is none."""
    server = server_instance()
    if server is None:
        return
    atexit.register(STUDIES.close)  # else each store would leave its journal beside it
    pages = {"": to_folder, "/": _list, "/study.css": send_file, "/icon.svg": send_file}
    for path, page in pages.items():
        server.routes.get(f"{PREFIX}{path}")(page)
    add_routes(server.routes, STUDIES.served, f"{PREFIX}/{{study}}")
    server.app.on_response_prepare.append(_keep_strict)


async def _keep_strict(request: web.Request, response: web.StreamResponse) -> None:
    """ComfyUI's middlewares may set another policy (--disable-api-nodes) and let other sites in (--enable-cors-header): not on
    these pages. Signals come after all of them."""
    if request.path.removeprefix("/api").startswith(f"{PREFIX}/"):
        response.headers["Content-Security-Policy"] = POLICY
        for name in [name for name in response.headers if name.lower().startswith("access-control-")]:
            del response.headers[name]


async def _list(request: web.Request) -> web.StreamResponse:
    cards = await asyncio.to_thread(lambda: "\n".join(map(_card, STUDIES.names())))
    return web.Response(text=LIST.format(cards=cards or NONE), content_type="text/html", headers=HEADERS)


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
    except (LookupError, sqlite3.Error):
        told = "This one cannot be opened; ComfyUI's log says why."
        return f'<div class="card join"><p class="brand">{title}</p><p class="soft">{told}</p></div>'
    needed = counts["pairs"] * study.raters
    return f"""<div class="card join">
<p class="brand"><a href="{quote(name)}/">{title}</a></p>
<p>Prompts: {counts["prompts"]}, pairs: {counts["pairs"]}, raters: {counts["raters"]}.</p>
<p><progress max="{max(1, needed)}" value="{counts["votes"]}" aria-label="Votes"></progress></p>
<p class="soft">Votes: {counts["votes"]} of {needed}. Complete pairs: {counts["done"]} of {counts["pairs"]}.</p>
</div>"""
