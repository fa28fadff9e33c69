"""Fixtures that several files of this folder share."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emu_core import model_folder, pipeline
from emu_core.cli import description, making

from ..study import worlds
from .ldm_layout import Layout
from .small_bases import Model, write_models


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)


@pytest.fixture(scope="module")
def narrow_by_default(narrow: Path) -> Iterator[None]:
    """Commands and pipelines that name no model take the narrow one in place of the bundled one."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (model_folder, pipeline, description, making):
            patch.setattr(module, "BUNDLED", narrow)
        yield


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[Layout, Model]:
    """Small models of each layout; what changes one copies it."""
    return write_models(tmp_path_factory.mktemp("bases"))


@pytest.fixture
def folder(small: dict[Layout, Model], tmp_path: Path) -> Path:
    return Path(shutil.copytree(small["sd1"].folder, tmp_path / "model"))


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with two videos each, by the names of the systems that made them, for studies."""
    folder = tmp_path_factory.mktemp("systems")
    return dict(zip(worlds.SYSTEMS, worlds.make_systems(folder, worlds.captions(2), seconds=0.5), strict=True))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """The file of the prompts of `systems`."""
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(worlds.captions(2)))
    return file
