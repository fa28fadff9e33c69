"""Fixtures for tests of every folder: real ComfyUI installations and servers."""

from __future__ import annotations

import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
import torch

from .core.narrow import narrow_folder, write_pack
from .nodes.server import Server

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # a process a core: two that wait for each other's threads take many times as long

# A shell that starts a job in the background has it ignore Ctrl-C, and what the job starts inherits that: the programs that
# tests interrupt would never stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def comfy_roots() -> list[Path]:
    """COMFYUI_PATH (several with the system's path separator), else ~/comfy/ComfyUI and its siblings ~/comfy/ComfyUI-*; the
    newest first, then the oldest."""
    if named := os.environ.get("COMFYUI_PATH"):
        found = [Path(part).expanduser() for part in named.split(os.pathsep)]
    else:
        home = Path("~/comfy").expanduser()
        found = [root for root in (home / "ComfyUI", *sorted(home.glob("ComfyUI-*"))) if (root / "main.py").is_file()]
    newest_first = sorted(found, key=version, reverse=True)
    return [*newest_first[:1], *newest_first[:0:-1]]


def version(root: Path) -> tuple[int, ...]:
    """Of a ComfyUI; () where there is none."""
    file = root / "comfyui_version.py"
    numbers = re.search(r"__version__ = .(\d+)\.(\d+)\.(\d+)", file.read_text()) if file.is_file() else None
    return tuple(map(int, numbers.groups())) if numbers else ()


LONGEST = ("core/test_training_video.py", "study/", "workflows/", "nodes/", "")
"""Of the default tests, by where their names begin: those files first that take longest, so that two workers end together."""
SLOW = (
    *("core/test_same_bits.py", "core/test_killed.py", "core/test_training_video.py", "core/test_training_stopped.py"),
    *("core/test_many_killed.py", "core/test_distil", "nodes/", "workflows/test_workflows.py", "workflows/", "study/"),
    *("core/test_training_arms.py", "core/test_limits.py", ""),
)
"""Of the slow tests, those first of which no default test has the like: there may not be time for all (`--until`)."""
LATE = "NOT RUN: the time was over"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--until", type=float, default=math.inf, help="seconds since 1970 from when on no test is begun")


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # xdist would begin with the files of most tests, and end on the longest ones alone


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        order = SLOW if item.get_closest_marker("slow") else LONGEST
        if item.get_closest_marker("last"):
            return len(order)
        file = item.path.relative_to(Path(__file__).parent).as_posix()
        return next(number for number, start in enumerate(order) if file.startswith(start))

    items.sort(key=place)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.time() > item.config.getoption("--until"):
        pytest.skip(LATE)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    late = [report.nodeid for report in terminalreporter.stats.get("skipped", []) if LATE in str(report.longrepr)]
    if late:
        terminalreporter.section(f"{len(late)} TESTS WERE NOT RUN: the time was over", red=True)
        terminalreporter.write_line("\n".join(late))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "comfy_root" in metafunc.fixturenames:
        roots = comfy_roots()
        reason = "NO COMFYUI FOUND: the nodes were NOT tested. Set COMFYUI_PATH, or install it at ~/comfy/ComfyUI."
        missing = pytest.param(None, marks=pytest.mark.skip(reason=reason), id="no-ComfyUI")
        if metafunc.definition.get_closest_marker("newest_alone"):
            roots = roots[:1]
        newest = any(metafunc.definition.get_closest_marker(name) for name in ("page", "newest"))
        whole = 1 if newest else 2  # on the others the same tests are slow
        ends = [pytest.param(root, id=root.name) for root in roots[:whole]]
        others = [pytest.param(root, id=root.name, marks=pytest.mark.slow) for root in roots[whole:]]
        metafunc.parametrize("comfy_root", [*ends, *others] or [missing], scope="session", indirect=True)


@pytest.fixture(scope="session")
def comfy_root(request: pytest.FixtureRequest) -> Path:
    assert (request.param / "main.py").is_file(), f"COMFYUI_PATH names {request.param}, where there is no ComfyUI"
    return request.param


@pytest.fixture(scope="session")
def narrow() -> Path:
    """The folder of a model as the bundled one is, narrower and with random weights; what changes it copies it."""
    return narrow_folder()


@pytest.fixture(scope="session")
def narrow_pack(narrow: Path) -> Path:
    """The pack with the narrow model in place of the bundled one."""
    return write_pack(narrow.with_name("ComfyUI-EmuVideo"), narrow)


@pytest.fixture(scope="session")
def started(narrow_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Server]]:
    """Starts a ComfyUI when it is first asked for and keeps it to the end: files of tests take turns between versions."""
    with ExitStack() as running:

        def start(root: Path) -> Server:
            return running.enter_context(Server(root, tmp_path_factory.mktemp(f"server-{root.name}"), pack=narrow_pack))

        yield cache(start)


@pytest.fixture(scope="session")
def server(comfy_root: Path, started: Callable[[Path], Server]) -> Server:
    """This ComfyUI, running, with the pack in it and the narrow model in the pack."""
    return started(comfy_root)
