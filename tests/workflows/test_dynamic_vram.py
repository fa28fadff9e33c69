"""The bundled workflows over HTTP in a server with dynamic VRAM emulated: the same pictures as in one without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ..nodes.conftest import has_dynamic_vram
from ..nodes.server import Server
from . import build
from .test_workflows import PUBLIC, saved_api


@pytest.fixture(scope="module")
def dynamic_server(comfy_root: Path, narrow_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not has_dynamic_vram(comfy_root):
        pytest.skip("NOT CHECKED with dynamic VRAM, which this ComfyUI does not have")
    with Server(comfy_root, tmp_path_factory.mktemp("dynamic"), dynamic=True, pack=narrow_pack) as running:
        yield running


BUNDLED = [name for name in build.WORKFLOWS if name not in PUBLIC]


def pictures(server: Server, prompt: dict[str, Any]) -> dict[str, np.ndarray]:
    """What each node shows as a picture: sheets of frames, starting frames, plots."""
    outputs = server.run(prompt)
    shown = {number: server.files({number: output}, ".png") for number, output in outputs.items()}
    return {number: np.stack([np.asarray(Image.open(file)) for file in files]) for number, files in shown.items() if files}


@pytest.mark.parametrize("name", [BUNDLED[0], *(pytest.param(name, marks=pytest.mark.slow) for name in BUNDLED[1:])])
def test_the_same_pictures(name: str, server: Server, dynamic_server: Server) -> None:
    found, wanted = (pictures(one, saved_api(name)) for one in (dynamic_server, server))
    assert found.keys() == wanted.keys()
    assert wanted
    assert all((found[number] == wanted[number]).all() for number in wanted)
    assert "prepared for dynamic VRAM loading" in dynamic_server.log.read_text()
