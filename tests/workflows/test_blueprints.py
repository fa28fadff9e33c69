"""Blueprints: served by ComfyUI, and inserted and run in its page in real Chromium. Needs what test_browser.py needs."""

from __future__ import annotations

import json
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from ..nodes.server import Server
from ..study.serving import LACKING, run_script, screenshots_of
from . import build
from .test_workflows import stream, version

PROMPTS = {
    "text_to_video": "a small green cross moves left on a black background",
    "image_to_video": "a small blue cross moves left on a gray background",
    "longer_video": "0-1s: a small blue cross moves left on a gray background\n4-: a small blue cross on a gray background",
}
INPUTS = {
    "text_to_video": {"prompt": "STRING", "length": "INT", "seed": "INT"},
    "image_to_video": {"image": "IMAGE", "prompt": "STRING", "length": "INT", "seed": "INT"},
    "longer_video": {"images": "IMAGE", "prompt": "STRING", "frames": "INT", "seed": "INT"},
}


def inner(page: dict[str, Any]) -> dict[str, Any]:
    return page["definitions"]["subgraphs"][0]


@pytest.mark.parametrize("name", build.BLUEPRINTS)
def test_files_are_current(name: str, server: Server) -> None:
    """Built again from this ComfyUI's own description of the nodes: the same nodes and links, and own nodes' values."""
    saved = json.loads(build.blueprint_file(name).read_text())
    fresh = build.BLUEPRINTS[name]().page(server.get("/object_info"))
    assert [(one["name"], one["type"]) for one in inner(saved)["inputs"]] == list(INPUTS[name].items())
    for key in ("inputs", "outputs", "links", "name", "description"):
        assert inner(saved)[key] == inner(fresh)[key]
    values = [
        [(n["type"], n["widgets_values"]) for n in inner(page)["nodes"] if "EmuVideo" in n["type"]] for page in (saved, fresh)
    ]
    assert values[0] == values[1]


def test_no_other_lies_there_and_they_are_served(server: Server) -> None:
    assert {path.name for path in build.SUBGRAPHS.iterdir()} == {build.blueprint_file(name).name for name in build.BLUEPRINTS}
    try:
        listed = server.get("/global_subgraphs")
    except urllib.error.HTTPError:
        if version(server) >= (0, 4):
            raise
        pytest.skip("NOT CHECKED in this ComfyUI: it takes no blueprints of packs (0.3.66 on)")
    own = {entry["name"]: key for key, entry in listed.items() if entry["info"]["node_pack"].endswith("ComfyUI-EmuVideo")}
    for name in build.BLUEPRINTS:
        file = build.blueprint_file(name)
        assert json.loads(server.get(f"/global_subgraphs/{own[file.stem]}")["data"]) == json.loads(file.read_text())


@pytest.mark.page
@pytest.mark.skipif(bool(LACKING), reason=f"THE PAGE WAS NOT TESTED: no {', '.join(LACKING)}")
@pytest.mark.parametrize(
    "name", ["text_to_video", *(pytest.param(name, marks=pytest.mark.slow) for name in ("image_to_video", "longer_video"))]
)
def test_inserted_and_run_in_the_page(name: str, server: Server, tmp_path: Path) -> None:
    if version(server) < (0, 9):
        pytest.skip("NOT CHECKED in this ComfyUI: its page has no blueprints in the search box")
    title = build.BLUEPRINTS[name]().title
    script, picture = Path(__file__).with_name("blueprint.mjs"), screenshots_of(server, tmp_path) / f"{title}.png"
    result = run_script(script, server.address, title, PROMPTS[name], picture, timeout=500)
    assert (result["errors"], result["done"], dict(result["inputs"])) == ([], "execution_success", INPUTS[name])
    assert result["widgets"] == {label: one.value for label, one in build.BLUEPRINTS[name]().exposed if one.value is not None}
    texts = {value for node in result["prompt"].values() for key, value in node["inputs"].items() if key in ("text", "prompt")}
    assert texts == {PROMPTS[name], ""}  # what was typed into the one node reaches all inside
    (video,) = [path for path in server.folder.rglob(result["files"][0]) if "output" in path.parts]
    assert stream(video) == (17 if name == "longer_video" else 8, 4, (64, 64))
