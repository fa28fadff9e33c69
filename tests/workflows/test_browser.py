"""The page in real headless Chromium: template browser, dropped JSON and mp4, run from the page. See browser.mjs.

Needs node, playwright-core in .browser/node_modules (npm install --prefix .browser playwright-core) and Chromium. The screenshots
are kept in the folder that EMU_SCREENSHOTS names, for a person to look at.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ..nodes.server import Server
from ..study.serving import LACKING, run_script, screenshots_of
from . import build
from .graph import ELSEWHERE, declared_inputs, default_of
from .test_workflows import version

NAME = "text_to_video"


@pytest.mark.page
@pytest.mark.skipif(bool(LACKING), reason=f"THE PAGE WAS NOT TESTED: no {', '.join(LACKING)}")
def test_page(server: Server, tmp_path: Path) -> None:
    api = json.loads((build.OUT / "api" / f"{NAME}.json").read_text())
    page_form = build.page_file(NAME)
    server.post("/api/settings/Comfy.Templates.SortBy", "alphabetical")
    video = run_as_the_page_does(server, api, json.loads(page_form.read_text()))
    screenshots, script = screenshots_of(server, tmp_path), Path(__file__).with_name("browser.mjs")
    result = run_script(script, server.address, page_form, video, screenshots, timeout=600)
    assert result["template_found"]
    assert result["nodes_from_json"] == result["nodes_from_mp4"] == len(api) + 1  # and the note
    assert not result["missing"]
    inputs = {number: (node["class_type"], node["inputs"]) for number, node in result["prompt"].items()}
    assert inputs.keys() == api.keys()
    info = server.get("/object_info")
    for number, node in api.items():  # the page also sends the defaults of inputs that the API form leaves out
        kind, sent = inputs[number]
        assert kind == node["class_type"]
        assert node["inputs"].keys() - ELSEWHERE <= sent.keys(), number
        known = {name: default_of(spec) for name, spec in declared_inputs(info[kind]["input"], node["inputs"]).items()}
        expected = {**known, **node["inputs"]}
        assert all(value == expected[name] for name, value in sent.items() if name not in ELSEWHERE), number
        assert kind != "SaveVideo" or "h264" in (sent.get("codec"), sent.get("format.codec"))
    if version(server) >= (0, 9):  # before, the page had no such list
        assert result["templates"] == [build.page_file(name).stem for name in build.WORKFLOWS]
    assert [(v["width"], v["height"], v["seconds"]) for v in result["videos_on_page"]] == [(64, 64, pytest.approx(2, abs=0.3))]
    for name in ("templates", "dropped_json", "finished", "dropped_mp4"):
        assert (screenshots / f"{name}.png").stat().st_size > 20_000


def run_as_the_page_does(server: Server, api: dict[str, Any], page: dict[str, Any]) -> Path:
    """A video saved with its workflow inside, as from the page; under a name of its own, else ComfyUI would answer with the file
    that another test had it save without the page's workflow."""
    named = {number: {**node, "inputs": dict(node["inputs"])} for number, node in api.items()}
    for node in named.values():
        if node["class_type"] == "SaveVideo":
            node["inputs"]["filename_prefix"] = "from_the_page"
    body = {"prompt": named, "extra_data": {"extra_pnginfo": {"workflow": page}}}
    entry = server.wait(server.post("/prompt", body)["prompt_id"])
    assert entry["status"]["status_str"] == "success"
    return server.files(entry["outputs"], ".mp4")[0]


@pytest.mark.page
@pytest.mark.skipif(bool(LACKING), reason=f"THE PAGE WAS NOT TESTED: no {', '.join(LACKING)}")
@pytest.mark.slow
def test_what_nodes_show_and_the_study_by_its_list(server: Server, tmp_path: Path) -> None:
    server.post("/free", {"unload_models": True, "free_memory": True})  # what comes from the cache shows no text again
    script, workflow = Path(__file__).with_name("shown.mjs"), build.page_file("compare_systems")
    result = run_script(script, server.address, workflow, screenshots_of(server, tmp_path), timeout=400)
    assert result["errors"] == []  # of the study's pages: nothing that their policy had to block
    assert "Prompts: 1, pairs: 3" in result["added"]
    assert result["links"] == [f"{server.address}/emu_video/study/compare%20systems/"]
    assert "Pixel MSE: " in result["figures"]
    assert "not computed: needs a CLIP" in result["figures"]
    assert ["EmuVideoEvaluate", 1200] in result["pictures"]
