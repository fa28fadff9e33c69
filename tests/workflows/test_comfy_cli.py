"""comfy-cli with the pack: a workflow run headless in both forms, the checks and the archive for the registry.

comfy-cli lives in an environment of its own: COMFY_CLI names its `comfy`, or it is on PATH.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import zipfile
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from ..nodes.server import PACK, Server
from . import build
from .small import small
from .test_workflows import FRAMES, PUBLIC, SIZES, small_stream, stream

COMFY = os.environ.get("COMFY_CLI") or shutil.which("comfy")
pytestmark = pytest.mark.skipif(COMFY is None, reason="COMFY-CLI WAS NOT TESTED: no `comfy` on PATH, and COMFY_CLI names none")


@cache
def without_tracking() -> str:
    """The program, told once that it is to report nothing."""
    subprocess.run([str(COMFY), "--skip-prompt", "tracking", "disable"], capture_output=True, check=False)
    return str(COMFY)


def comfy(*arguments: str, cwd: Path) -> str:
    command = [without_tracking(), "--skip-prompt", *arguments]
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-2000:]
    return process.stdout + process.stderr


RUN_AS_THEY_ARE = [name for name in build.WORKFLOWS if name not in PUBLIC and name != "text_to_video"]


def run(workflow: Path, server: Server) -> Path:
    """The one video that a run of the file writes."""
    before = set(server.folder.glob("output/video/*.mp4"))
    server.post("/free", {"unload_models": True, "free_memory": True})
    comfy("run", "--workflow", str(workflow), "--wait", "--port", str(server.port), "--timeout", "120", cwd=server.folder)
    made = set(server.folder.glob("output/video/*.mp4")) - before
    assert len(made) == 1
    return made.pop()


@pytest.mark.parametrize("form", ["api", "page"])
def test_run(form: str, server: Server) -> None:
    name = "text_to_video"
    file = build.OUT / "api" / f"{name}.json" if form == "api" else build.page_file(name)
    assert stream(run(file, server)) == (*FRAMES[name], (64, 64))


@pytest.mark.slow
@pytest.mark.newest_alone
@pytest.mark.parametrize("name", RUN_AS_THEY_ARE)
def test_the_page_form_of_every_workflow_runs(name: str, server: Server) -> None:
    """comfy-cli makes the API's form of it, whatever the version of ComfyUI."""
    assert stream(run(build.page_file(name), server)) == (*FRAMES[name], SIZES.get(name, (64, 64)))


@pytest.mark.newest
@pytest.mark.parametrize("name", PUBLIC)
def test_public_checkpoints_run_at_small_size(name: str, server: Server, tmp_path: Path) -> None:
    page = tmp_path / f"{name}.json"
    page.write_text(json.dumps(small(name, server).page(server.get("/object_info"))))
    assert stream(run(page, server)) == small_stream(name)


@pytest.mark.newest
def test_validate_and_pack(tmp_path: Path, comfy_root: Path) -> None:
    """The archive holds what runs and little else, and ComfyUI starts with nothing but the archive."""
    copy = tmp_path / "ComfyUI-EmuVideo"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=PACK, capture_output=True, text=True, check=True).stdout.split("\0")
    tracked = [name for name in tracked if name and (PACK / name).is_file()]
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACK / name, copy / name)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    subprocess.run(["git", "add", "-A"], cwd=copy, check=True)
    said = comfy("node", "validate", cwd=copy) + comfy("node", "pack", cwd=copy)
    assert "passed" in said
    assert "warning" not in said.lower()

    archive = copy / "node.zip"
    assert archive.stat().st_size <= 25e6
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        packed.extractall(tmp_path / "comfy" / "custom_nodes" / copy.name)
    runs = ("emu_core/", "example_workflows/", "locales/", "nodes/", "subgraphs/", "web/")
    assert {name for name in names if "/" in name} == {name for name in tracked if name.startswith(runs)}
    assert {"__init__.py", "pyproject.toml", "LICENSE", "README.md"} <= set(names)
    assert "emu_core/assets/tiny/stack_F.safetensors" in names

    settings = (PACK / "pyproject.toml").read_text(encoding="utf-8")  # Python 3.10 has no tomllib
    address = dict(re.findall(r'^(Repository|Icon|Banner) = "(.+)"$', settings, re.MULTILINE))
    raw = address["Repository"].replace("//github.com/", "//raw.githubusercontent.com/") + "/main/"
    sizes = {}
    for what in ("Icon", "Banner"):
        assert address[what].startswith(raw)
        picture = address[what].removeprefix(raw)
        assert picture in tracked
        with Image.open(PACK / picture) as opened:
            sizes[what] = opened.size
    assert sizes["Icon"][0] == sizes["Icon"][1] <= 400
    assert sizes["Banner"][0] * 9 == sizes["Banner"][1] * 21

    with Server(comfy_root, tmp_path / "comfy") as started:
        found = {name for name in started.get("/object_info") if name.startswith("EmuVideo")}
        told = [line for line in started.log.read_text().splitlines() if copy.name in line]
    assert found == set(json.loads((PACK / "tests" / "nodes" / "nodes_snapshot.json").read_text()))
    assert len(told) == 1  # how long its import took, and no warning
    assert re.search(r"\d seconds: ", told[0])
