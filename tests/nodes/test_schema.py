"""Node ids, inputs and outputs are permanent: they stand in saved workflows. Compared with a snapshot that only grows."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from ..workflows.graph import GROWING, grown
from .conftest import INSIDE
from .server import PACK, Server, comfy_python, environment

SNAPSHOT = Path(__file__).with_name("nodes_snapshot.json")


def grown_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs of a group, with all that a growing one may become in its place, as a ComfyUI without such has them."""
    result = {}
    for key, spec in inputs.items():
        one = {key: spec}
        if spec[0] == GROWING:
            one = {f"{key}.{name}": [each[0], spec[1]] for name, each in grown(spec[1]["template"]).items()}
        result |= one
    return result


def described(info: dict[str, Any]) -> dict[str, Any]:
    """Of each of the pack's nodes: category, inputs with type and default, outputs."""
    result = {}
    for name, node in sorted(info.items()):
        if not name.startswith("EmuVideo"):
            continue
        inputs = {}
        for group in ("required", "optional"):
            for key, (kind, *rest) in grown_inputs(node["input"].get(group, {})).items():
                options = rest[0] if rest else {}
                inputs[key] = [group, "COMBO" if isinstance(kind, list) else kind, options.get("default")]
        outputs = [list(pair) for pair in zip(node["output_name"], node["output"], strict=True)]
        result[name] = {"category": node["category"], "inputs": inputs, "outputs": outputs}
    return result


def test_nodes_are_those_of_the_snapshot(server: Server) -> None:
    found = described(server.get("/object_info"))
    known = json.loads(SNAPSHOT.read_text())
    assert found == known, "if a node or an input was added, write it into nodes_snapshot.json; nothing may change or go"


def test_every_input_has_a_tooltip_and_every_node_a_page(server: Server) -> None:
    info = server.get("/object_info")
    words = {lang: json.loads((PACK / "locales" / lang / "nodeDefs.json").read_text()) for lang in ("en", "zh")}
    for name in json.loads(SNAPSHOT.read_text()):
        node = info[name]
        assert node["description"]
        assert all(node["output_tooltips"])
        names = {key.partition(".")[0] for group in ("required", "optional") for key in node["input"].get(group, {})}
        for group in ("required", "optional"):
            for key, value in node["input"].get(group, {}).items():
                assert value[1].get("tooltip"), (name, key)
                assert words["en"][name]["inputs"][key.partition(".")[0]]["tooltip"] == value[1]["tooltip"], (name, key)
        page = PACK / "web" / "docs" / f"{name}.md"
        assert page.is_file(), name
        assert all(key in page.read_text() for key in names), name
        for lang, known in words.items():
            assert sorted(known[name].get("inputs", {})) == sorted(names), (lang, name)
            assert len(known[name]["outputs"]) == len(node["output"]), (lang, name)
        assert words["en"][name]["display_name"] == node["display_name"]
        assert words["en"][name]["description"] == node["description"]


CALLS = {"past", "window", "motion", "cond_fps", "motion_score"}
HIDDEN = {
    "EmuVideoApplyStack": {"variant"},
    "EmuVideoConditioning": {"videos", "resize", "motion", "cond_fps", "motion_score"},
    "EmuVideoStartingFrame": {"candidates", "per_line"},
    "EmuVideoInterpolate": {"stitch"},
    "EmuVideoExtend": {"backwards", *CALLS},
    "EmuVideoLoop": CALLS,
    "EmuVideoKeyframes": {"resize", *CALLS},
    "EmuVideoContactSheet": {"scale"},
    "EmuVideoCompare": {"height", "shorter", "moments", "fps_2", "fps_3", "fps_4"},
    "EmuVideoAddToStudy": {"fps_2", "fps_3", "fps_4", "key", "raters"},
}
"""Inputs that Nodes 2.0 shows on demand."""
SOUGHT = {
    "image to video": {"EmuVideoConditioning", "EmuVideoApplyStack", "EmuVideoSampler"},
    "text to video": {"EmuVideoConditioning", "EmuVideoApplyStack", "EmuVideoSampler", "EmuVideoTinyModel", "EmuVideoKeyframes"},
    "animatediff": {"EmuVideoApplyStack", "EmuVideoConditioning"},
    "motion module": {"EmuVideoApplyStack"},
    "motion lora": {"EmuVideoMotionLora"},
    "extend video": {"EmuVideoConditioning", "EmuVideoExtend"},
    "seamless loop": {"EmuVideoLoop"},
    "keyframes": {"EmuVideoConditioning", "EmuVideoKeyframes"},
    "prompt travel": {"EmuVideoPrompts", "EmuVideoPromptRange"},
    "frame interpolation": {"EmuVideoInterpolate"},
    "starting frame": {"EmuVideoStartingFrame", "EmuVideoBestStartingFrame"},
    "side by side": {"EmuVideoCompare"},
}


def test_what_newer_versions_know_of_a_node(server: Server) -> None:
    """Words to search for and rarely needed inputs, in a ComfyUI whose own nodes have them; an older one gets neither."""
    info = server.get("/object_info")
    own = {name: node for name, node in info.items() if name.startswith("EmuVideo")}
    newer = "search_aliases" in info["KSampler"]
    found = {name: set(node.get("search_aliases") or ()) for name, node in own.items()}
    for words, names in SOUGHT.items():
        assert {name for name, aliases in found.items() if words in aliases} == (names if newer else set()), words
    assert all(found.values()) == newer
    for name, node in own.items():
        inputs = {key: spec[1] for group in ("required", "optional") for key, spec in node["input"].get(group, {}).items()}
        advanced = {key for key, options in inputs.items() if options.get("advanced")}
        assert advanced == (HIDDEN.get(name, set()) if newer else set()), name


def test_pages_pictures_and_templates_are_served(server: Server) -> None:
    """What the page asks for: help, translations, workflow templates."""
    templates = server.get("/workflow_templates")
    names = sorted(templates["ComfyUI-EmuVideo"])
    assert names == sorted(p.stem for p in (PACK / "example_workflows").glob("*.json"))
    linked = re.findall(r"\]\(example_workflows/(.*?)\.json\)", (PACK / "README.md").read_text())
    assert names == [urllib.parse.unquote(name) for name in linked]  # README's order
    assert "EmuVideoSampler" in server.get("/i18n")["zh"]["nodeDefs"]
    picture = "/api/workflow_templates/ComfyUI-EmuVideo/01%20Text%20to%20Video.jpg"
    for path in ("/extensions/ComfyUI-EmuVideo/docs/EmuVideoSampler.md", picture):
        with urllib.request.urlopen(server.address + path, timeout=30) as answer:
            assert len(answer.read()) > 500


def test_importing_the_pack_brings_in_no_diffusers(comfy_root: Path) -> None:
    """What ComfyUI itself does not import stays out: its start must not become slow."""
    code = f"""
import sys; sys.argv = ["x", "--cpu"]; sys.path.insert(0, {str(comfy_root)!r})
import comfy.options; comfy.options.enable_args_parsing()
import comfy.samplers, comfy.sd, comfy_api.latest, latent_preview, node_helpers, folder_paths
before = set(sys.modules); sys.path.insert(1, {str(INSIDE)!r})
import harness, pathlib; harness.load_pack(pathlib.Path({str(PACK)!r}))
print(sorted({{m.split(".")[0] for m in set(sys.modules) - before}}))
"""
    command, settings = [comfy_python(comfy_root), "-c", code], {"cwd": comfy_root, "env": environment(), "timeout": 300}
    process = subprocess.run(command, capture_output=True, text=True, check=False, **settings)
    assert process.returncode == 0, process.stderr[-3000:]
    new = process.stdout.strip().splitlines()[-1]
    for heavy in ("diffusers", "accelerate", "matplotlib", "xformers"):
        assert f"'{heavy}'" not in new, new
