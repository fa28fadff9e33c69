"""Runs of checks inside real ComfyUI installations."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .server import PACK, comfy_python, environment

INSIDE = Path(__file__).parent / "inside"
Results = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def inside(comfy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """`inside(module, prepare)` runs a module of checks in this ComfyUI, once, and returns their results and the folder."""
    done: dict[str, dict[str, Any]] = {}

    def run(module: str, prepare: Callable[[Path], None] | None = None) -> dict[str, Any]:
        if module not in done:
            out = tmp_path_factory.mktemp(f"{comfy_root.name}-{module}")
            (out / "models" / "emu_video").mkdir(parents=True)
            if prepare is not None:
                prepare(out)
            command = [comfy_python(comfy_root), str(INSIDE / "harness.py"), str(comfy_root), str(PACK), str(out), module]
            process = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1500, check=False)
            assert process.returncode == 0, process.stderr[-4000:]
            done[module] = {"out": out, "results": json.loads((out / "results.json").read_text())}
        return done[module]

    return run


def outcome(run: dict[str, Any], check: str) -> dict[str, Any]:
    """The result of one check; fails or skips as it did."""
    result = run["results"][check]
    if "skipped" in result:
        pytest.skip(f"NOT CHECKED in this ComfyUI: {result['skipped']}")
    if "failed" in result:
        pytest.fail(result["failed"], pytrace=False)
    return result
