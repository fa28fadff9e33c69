"""The video MODEL inside real ComfyUI: the checks of inside/video_model.py and others, in every installation found."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import INSIDE, outcome


def checks(module: str) -> list[str]:
    tree = ast.parse((INSIDE / f"{module}.py").read_text())
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")]


@pytest.mark.newest
@pytest.mark.parametrize("check", checks("video_model"))
def test_video_model(check: str, inside: Callable[..., Any], comfy_root: Path) -> None:
    outcome(inside("video_model"), check)


@pytest.mark.newest
@pytest.mark.parametrize("check", checks("clones"))
def test_clones(check: str, inside: Callable[..., Any], comfy_root: Path) -> None:
    outcome(inside("clones"), check)


@pytest.mark.slow
@pytest.mark.parametrize("check", checks("compiled"))
def test_compiled(check: str, inside: Callable[..., Any], comfy_root: Path) -> None:
    outcome(inside("compiled"), check)


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.parametrize("check", checks("full_size"))
def test_full_size(check: str, inside: Callable[..., Any], comfy_root: Path) -> None:
    outcome(inside("full_size"), check)
