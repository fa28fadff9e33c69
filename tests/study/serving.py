"""A study's server as a process of its own, and the browser that tests find."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MODULES = Path(os.environ.get("PLAYWRIGHT_CORE", ROOT / ".browser" / "node_modules"))
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
NEEDED = {"node": shutil.which("node"), "Chromium": CHROMIUM}
LACKING = [name for name, found in NEEDED.items() if not found]
LACKING += [] if (MODULES / "playwright-core").is_dir() else ["playwright-core in .browser"]
START = "from emu_core.cli.study import add; import argparse, importlib, sys; p = argparse.ArgumentParser(); \
add(p.add_subparsers()); o = p.parse_args(['study', *sys.argv[1:]]); m, _, f = o.run.partition(':'); \
getattr(importlib.import_module(m), f)(o)"


class Serving:
    """`emu-video study serve` on a free port; `address` once it answers.

    before: runs in the new process before the program does; program: another one, which is given the folder."""

    def __init__(
        self, folder: Path, *options: str, port: int = 0, before: Callable[[], None] | None = None, program: str = ""
    ) -> None:
        arguments = [program, str(folder)] if program else [START, "serve", str(folder), "--port", str(port), *options]
        command = [sys.executable, "-c", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads would stop a server that logs much
        settings: dict[str, Any] = {"text": True, "cwd": folder.parent, "env": environment, "preexec_fn": before}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, **settings)
        assert self.process.stdout is not None
        self.out = self.process.stdout
        self.first_line = self.out.readline()
        if not self.first_line:
            raise RuntimeError(self._end()[2])
        self.address = self.first_line.split()[0]

    def kill(self) -> None:
        """As a power cut: no handler runs."""
        self.process.kill()
        self._end()

    def stop(self) -> tuple[int, str, str]:
        """As Ctrl-C. Returns the exit code and what was written."""
        self.process.send_signal(signal.SIGINT)
        return self._end()

    def _end(self) -> tuple[int, str, str]:
        with self.out, self.errors:
            written = self.first_line + self.out.read()  # not communicate(): readline may have taken more than a line
            self.written = written
            code = self.process.wait(timeout=60)
            self.errors.seek(0)
            return code, written, self.errors.read()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.stop()


def browse(mode: str, address: str, plan: dict[str, Any], folder: Path, timeout: float) -> dict[str, Any]:
    """Run browser.mjs; screenshots go to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "plan.json"
    file.write_text(json.dumps(plan), encoding="utf-8")
    return run_script(Path(__file__).with_name("browser.mjs"), mode, address, file, folder, timeout=timeout)


def run_script(script: Path, *arguments: str | Path, timeout: float) -> dict[str, Any]:
    """A script for node and Chromium, and the JSON of its last line."""
    environment = {**os.environ, "PLAYWRIGHT_CORE": str(MODULES), "CHROMIUM": str(CHROMIUM)}
    command = ["node", str(script), *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=environment)
    assert process.returncode == 0, process.stderr[-3000:]
    result = json.loads(process.stdout.strip().splitlines()[-1])
    assert "failed" not in result, result
    return result


def screenshots_of(server: Any, tmp_path: Path) -> Path:
    """Where a page's pictures go: beside those of other ComfyUIs, if EMU_SCREENSHOTS names a folder to keep them."""
    folder = Path(os.environ.get("EMU_SCREENSHOTS", tmp_path)) / server.root.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
