"""Runs of checks inside real ComfyUI installations, as they are and with dynamic VRAM emulated where they have it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ..conftest import version
from .server import comfy_python, environment

INSIDE = Path(__file__).parent / "inside"
DYNAMIC = "dynamic-vram"  # as the harness calls it
Results = Callable[..., dict[str, Any]]


def has_dynamic_vram(root: Path) -> bool:
    """Whether its layers have no weights before they are loaded, which is what the emulation is for."""
    return version(root) >= (0, 30, 0)


@pytest.hookimpl(tryfirst=True)  # before the slow ones are left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """No test with dynamic VRAM for a ComfyUI that has none; those of `newest` files with it are slow."""
    for item in items:
        if item.get_closest_marker("newest") and getattr(getattr(item, "callspec", None), "params", {}).get("inside") == DYNAMIC:
            item.add_marker(pytest.mark.slow)
    none = [item for item in items if _has_none(getattr(getattr(item, "callspec", None), "params", {}))]
    config.hook.pytest_deselected(items=none)
    items[:] = [item for item in items if item not in none]


def _has_none(parameters: dict[str, Any]) -> bool:
    root = parameters.get("comfy_root")
    return parameters.get("inside") == DYNAMIC and root is not None and not has_dynamic_vram(root)


@pytest.fixture(scope="session")
def runs() -> dict[tuple[str, ...], dict[str, Any]]:
    """All runs of a session, by ComfyUI, module and mode."""
    return {}


@pytest.fixture(scope="session", params=["as-it-is", DYNAMIC])
def inside(
    request: pytest.FixtureRequest, comfy_root: Path, narrow_pack: Path, runs: Any, tmp_path_factory: pytest.TempPathFactory
) -> Results:
    """`inside(module, prepare)` runs a module of checks in this ComfyUI, once, and returns their results and the folder. With
    dynamic VRAM it also says of each check whether it sampled the same bits as without. The model in the pack is narrow."""

    def run(module: str, prepare: Callable[[Path], None] | None = None, mode: str = request.param) -> dict[str, Any]:
        key = (comfy_root.name, module, mode)
        if key not in runs:
            out = tmp_path_factory.mktemp("-".join(key))
            (out / "models" / "emu_video").mkdir(parents=True)
            if prepare is not None:
                prepare(out)
            flags = [mode] if mode == DYNAMIC else []
            command = [comfy_python(comfy_root), str(INSIDE / "harness.py"), str(comfy_root), str(narrow_pack), str(out), module]
            process = subprocess.run(
                [*command, *flags], env=environment(), capture_output=True, text=True, timeout=1500, check=False
            )
            if "comfy-aimdo could not be initialised" in process.stderr and "CI" not in os.environ:
                pytest.skip("NOT CHECKED with dynamic VRAM: comfy-aimdo cannot be initialised on this system")
            assert process.returncode == 0, process.stderr[-4000:]
            runs[key] = {"out": out, "results": json.loads((out / "results.json").read_text())}
            if mode == DYNAMIC:
                _compare(runs[key], run(module, prepare, "as-it-is"))
        return runs[key]

    return run


def _compare(dynamic: dict[str, Any], plain: dict[str, Any]) -> None:
    """A check that sampled other bits with dynamic VRAM has failed."""
    for check, result in dynamic["results"].items():
        if "data" not in result or "data" not in plain["results"][check]:
            continue
        found, wanted = (load_file(run["out"] / f"{check}.sampled.safetensors") for run in (dynamic, plain))
        unequal = [name for name in wanted if name not in found or not found[name].equal(wanted[name])]
        if unequal or len(found) != len(wanted):
            result["failed"] = f"with dynamic VRAM, of {len(wanted)} samplings {len(found)} were made, and not equal: {unequal}"


def outcome(run: dict[str, Any], check: str) -> dict[str, Any]:
    """The result of one check; fails or skips as it did."""
    result = run["results"][check]
    if "skipped" in result:
        pytest.skip(f"NOT CHECKED in this ComfyUI: {result['skipped']}")
    if "failed" in result:
        pytest.fail(result["failed"], pytrace=False)
    return result
