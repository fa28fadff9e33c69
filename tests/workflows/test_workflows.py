"""Every example workflow in real ComfyUI over HTTP: it runs as it is and writes a video of the right frames, rate and size."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from ..nodes.server import Refused, Server
from . import build
from .graph import declared_inputs
from .small import small

OUT = build.OUT
FRAMES = dict.fromkeys(build.WORKFLOWS, (8, 4)) | {
    "text_to_video_interpolated": (37, 16), "extend_a_video": (22, 4), "loop": (7, 4), "keyframes": (15, 4),
}  # fmt: skip
PUBLIC = {name: make().downloads for name, make in build.WORKFLOWS.items() if make().downloads}
RATES = {"animatediff": 8, "pia_image_to_video": 8, "fancyvideo_text_to_video": 6.25}
SIZES = {"compare_systems": (24 + 256 + 4, 3 * (256 + 4) + 4)}
"""Height and width; of three videos side by side under their labels."""
SMALL_STREAMS = {"compare_with_svd": (21, 8, (24 + 64 + 4, 3 * (64 + 4) + 4))}  # 16 at 6.25 a second, seen 8 times a second


def stream(path: Path) -> tuple[int, float, tuple[int, int]]:
    """Frames, rate and (height, width) of a video file."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = [(frame.height, frame.width) for frame in container.decode(video)]
        assert len(set(frames)) == 1
        rate = video.average_rate
        assert rate is not None
        return len(frames), float(rate), frames[0]


def saved_page(name: str) -> dict[str, Any]:
    return json.loads(build.page_file(name).read_text())


def saved_api(name: str) -> dict[str, Any]:
    return json.loads((OUT / "api" / f"{name}.json").read_text())


def version(server: Server) -> tuple[int, ...]:
    """Of ComfyUI, such as (0, 33)."""
    return tuple(int(part) for part in server.get("/system_stats")["system"]["comfyui_version"].split(".")[:2])


@pytest.mark.parametrize("name", build.WORKFLOWS)
def test_the_files_are_what_the_description_says(name: str) -> None:
    assert saved_api(name) == build.WORKFLOWS[name]().api()
    page = saved_page(name)
    described = build.WORKFLOWS[name]()
    assert [n["type"] for n in page["nodes"] if n["type"] != "MarkdownNote"] == [n["kind"] for n in described.nodes]
    with Image.open(build.page_file(name).with_suffix(".jpg")) as picture:
        assert picture.width > 500  # the contact sheet of its output


def test_no_other_workflow_lies_there() -> None:
    assert {p.stem for p in (OUT / "api").glob("*.json")} == set(build.WORKFLOWS)
    pages = sorted(map(build.page_file, build.WORKFLOWS))
    assert sorted(OUT.glob("*.json")) == pages == [build.page_file(name) for name in build.WORKFLOWS]


@pytest.mark.parametrize("name", build.WORKFLOWS)
def test_page_form_is_current(name: str, server: Server) -> None:
    """Built again from this ComfyUI's own description of the nodes, the page's form has the same nodes, links and values."""
    page = saved_page(name)
    fresh = build.WORKFLOWS[name]().page(server.get("/object_info"))
    for key in ("links", "last_node_id"):
        assert page[key] == fresh[key]
    own = [(n["type"], n["widgets_values"]) for n in page["nodes"] if n["type"].startswith("EmuVideo")]
    assert own == [(n["type"], n["widgets_values"]) for n in fresh["nodes"] if n["type"].startswith("EmuVideo")]


@pytest.mark.parametrize("name", PUBLIC)
def test_nodes_that_load_carry_the_download(name: str) -> None:
    """Each model's name stands in its node's widget, and in the property that the page reads to offer the download."""
    page = saved_page(name)
    offered = [(node, model) for node in page["nodes"] for model in node["properties"].get("models", [])]
    assert [model["name"] for _, model in offered] == [download.name for download in PUBLIC[name]]
    for node, model in offered:
        assert model["name"] in node["widgets_values"]
        assert model["url"].startswith("https://huggingface.co/")
        assert model["url"].endswith(model["name"])
        assert model["directory"] == ("checkpoints" if "CheckpointLoader" in node["type"] else "emu_video")


@pytest.mark.parametrize("name", PUBLIC)
def test_public_checkpoints_run_at_small_size(name: str, server: Server) -> None:
    videos = server.files(server.run(small(name, server).api()), ".mp4")
    assert stream(videos[0]) == small_stream(name)


def small_stream(name: str) -> tuple[int, float, tuple[int, int]]:
    """What the video of a public workflow at small size is."""
    return SMALL_STREAMS.get(name) or (16, RATES[name], (64, 64))


@pytest.mark.parametrize("name", build.WORKFLOWS)
def test_every_link_joins_what_fits(name: str, server: Server) -> None:
    info, api = server.get("/object_info"), saved_api(name)
    for node in api.values():
        declared = declared_inputs(info[node["class_type"]]["input"], node["inputs"])
        for key, value in node["inputs"].items():
            if isinstance(value, list):
                assert info[api[value[0]]["class_type"]]["output"][value[1]] == declared[key][0], (node["class_type"], key)


def test_as_it_is_the_bundled_model_runs_and_with_svd_only_its_files_are_missing(comfy_root: Path, tmp_path: Path) -> None:
    """In a server with nothing but the pack: ComfyUI names each of the files and nothing else."""
    prompt = saved_api("compare_with_svd")
    with Server(comfy_root, tmp_path) as fresh:
        with pytest.raises(Refused) as refusal:
            fresh.queue(prompt)
        (video,) = fresh.files(fresh.run(saved_api("text_to_video")), ".mp4")
        assert stream(video) == (8, 4, (64, 64))
    found = {number: json.dumps(entry["errors"]) for number, entry in refusal.value.errors.items()}
    loaders = {
        number: node["inputs"].get("ckpt_name") or node["inputs"]["stack"]
        for number, node in prompt.items()
        if "Loader" in node["class_type"] or node["class_type"] == "EmuVideoApplyStack"
    }
    assert found.keys() == loaders.keys()
    assert sorted(loaders.values()) == sorted(download.name for download in PUBLIC["compare_with_svd"])
    for number, name in loaders.items():
        assert name in found[number]
        assert "value_not_in_list" in found[number] or "was not found" in found[number]


@pytest.mark.newest
@pytest.mark.parametrize("name", [name for name in build.WORKFLOWS if name not in PUBLIC])
def test_api_form_runs(name: str, server: Server) -> None:
    server.post("/free", {"unload_models": True, "free_memory": True})  # nothing may come from an earlier run's cache
    outputs = server.run(saved_api(name))
    videos = server.files(outputs, ".mp4")
    assert len(videos) == 1
    frames, rate = FRAMES[name]
    assert stream(videos[0]) == (frames, rate, SIZES.get(name, (64, 64)))


@pytest.mark.parametrize(("fps", "rate"), [(6.0, 24), (0.0, 16)])  # four times; 0: the rate of the stack I's own training
def test_interpolation_gives_four_times_the_rate(server: Server, fps: float, rate: float) -> None:
    prompt = change(saved_api("text_to_video_interpolated"), "EmuVideoInterpolate", fps=fps, steps=1)
    assert stream(server.files(server.run(prompt), ".mp4")[0])[:2] == (37, rate)


def test_a_workflow_saved_before_nodes_gave_fps_runs(server: Server) -> None:
    """The API's form; the page's form is run by test_layout.py."""
    old = json.loads((Path(__file__).with_name("fixtures") / "before_fps_api.json").read_text())
    assert "fps" not in next(node for node in old.values() if node["class_type"] == "EmuVideoInterpolate")["inputs"]
    assert stream(server.files(server.run(old), ".mp4")[0]) == (37, 16, (64, 64))


@pytest.mark.newest
def test_same_seed_same_video(server: Server) -> None:
    """Run again with another name for the file, after other prompts, every frame is the same."""
    prompt = saved_api("text_to_video")
    saver = next(node for node in prompt.values() if node["class_type"] == "SaveVideo")
    server.post("/free", {"unload_models": True, "free_memory": True})
    first = frames(server, server.run(prompt))
    server.run(saved_api("text_to_video_interpolated"))
    saver["inputs"]["filename_prefix"] = "video/again"
    server.post("/free", {"unload_models": True, "free_memory": True})
    outputs = server.run(prompt)
    assert server.files(outputs, ".mp4")[0].name.startswith("again")
    assert (first == frames(server, outputs)).all()


def frames(server: Server, outputs: dict[str, Any]) -> np.ndarray:
    """All frames of a video of 8, on the sheet that the workflow shows: an mp4 may differ where its frames do not."""
    (sheet,) = server.files(outputs, ".png")
    with Image.open(sheet) as picture:
        assert picture.size == (4 * (128 + 4) + 4, 2 * (128 + 4) + 4)
        return np.asarray(picture)


@pytest.mark.slow
def test_a_later_prompt_equals_a_fresh_servers(server: Server, comfy_root: Path, tmp_path: Path) -> None:
    """After plain, video, interpolation and LoRA prompts in one server, a video is what a server makes that has run nothing."""
    for name in ("text_to_video_lora", "text_to_video_interpolated", "first_and_last_frame"):
        server.run(saved_api(name))
    prompt = change(saved_api("image_to_video"), "EmuVideoSampler", seed=123)
    later = frames(server, server.run(prompt))
    with Server(comfy_root, tmp_path, pack=server.pack) as fresh:
        assert (later == frames(fresh, fresh.run(prompt))).all()


def change(prompt: dict[str, Any], kind: str, **inputs: Any) -> dict[str, Any]:
    node = next(node for node in prompt.values() if node["class_type"] == kind)
    node["inputs"].update(inputs)
    return prompt


@pytest.mark.parametrize(
    ("kind", "inputs", "words"),
    [
        ("EmuVideoApplyStack", {"stack": "nowhere.safetensors"}, "models/emu_video"),
        ("EmuVideoConditioning", {"positions": "8"}, "outside a video of 8"),
        ("EmuVideoConditioning", {"positions": "one"}, "frame numbers"),
        ("EmuVideoConditioning", {"length": 0}, "1 to 512 frames, found 0"),
        ("EmuVideoSampler", {"steps": 5000}, "bigger than max"),
    ],
)
def test_what_cannot_work_is_said_before_the_queue(server: Server, kind: str, inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        server.queue(change(saved_api("text_to_video"), kind, **inputs))
    assert words in json.dumps(refusal.value.errors).replace("\\\\", "/")


@pytest.mark.parametrize(
    ("name", "kind", "inputs", "words"),
    [
        ("keyframes", "EmuVideoKeyframes", {"positions": "0, 7, 15"}, "outside a video of 15"),
        ("keyframes", "EmuVideoKeyframes", {"positions": "0, 7, 7"}, "share a position"),
        ("keyframes", "EmuVideoPromptRange", {"range": "the first half"}, "such as 0-2s"),
        ("extend_a_video", "EmuVideoPrompts", {"text": "0-2s:"}, "no prompt behind its range"),
        ("extend_a_video", "EmuVideoExtend", {"frames": 0}, "smaller than min"),
    ],
)
def test_what_a_long_video_cannot_be_is_said_before_the_queue(
    server: Server, name: str, kind: str, inputs: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refused) as refusal:
        server.queue(change(saved_api(name), kind, **inputs))
    assert words in json.dumps(refusal.value.errors)


def test_an_error_during_the_run_is_one_sentence(server: Server) -> None:
    prompt = change(saved_api("first_and_last_frame"), "EmuVideoConditioning", positions="0")
    with pytest.raises(RuntimeError, match="found 2 frames and 1 positions"):
        server.run(prompt)
    assert server.run(saved_api("text_to_video"))  # and the server goes on


@pytest.mark.newest
@pytest.mark.parametrize(
    "kind", ["EmuVideoSampler", "EmuVideoInterpolate", pytest.param("EmuVideoExtend", marks=pytest.mark.slow)]
)
def test_cancel_then_run(server: Server, kind: str) -> None:
    name = "extend_a_video" if kind == "EmuVideoExtend" else "text_to_video_interpolated"
    prompt = change(saved_api(name), kind, seed=99, steps=200)
    (node,) = (number for number, node in prompt.items() if node["class_type"] == kind)
    prompt_id = asyncio.run(server.queue_until(prompt, node, 3))
    server.post("/interrupt", {})
    entry = server.wait(prompt_id)
    assert "interrupted" in json.dumps(entry["status"])
    assert not server.files(entry["outputs"], ".mp4")
    outputs = server.run(saved_api("image_to_video"))
    assert stream(server.files(outputs, ".mp4")[0])[0] == 8
