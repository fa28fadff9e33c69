"""Pictures that the workflows are given, and of what they make. Those whose checkpoints are not at hand are run with the bundled
model in their place, and the picture says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from emu_core.media import sheet, write_image
from emu_core.toy import world

from ..nodes.server import Server
from . import build
from .graph import Workflow
from .small import NO_SVD, leave_out

CAPTION = "the same workflow with the bundled model"
PROMPTS = {
    "animatediff": "a small yellow rocket moves up at night",
    "pia_image_to_video": build.DOLPHIN,
    "fancyvideo_text_to_video": "a big yellow boat sails left in the sea",
    "compare_with_svd": build.PROMPT,
}
GIVEN = {"Emu Video": "text and frame", "SVD": "frame alone", "AnimateDiff": "text alone"}
"""What the systems of compare_with_svd are given, which is what the rows of its picture show."""


def draw_inputs() -> None:
    """The pictures that the pack puts into ComfyUI's input folder; workflows of 0.1 name two others that stay there."""
    drawn = (("dolphin", build.DOLPHIN, 0.0), ("fish", build.FISH, 0.0), ("car", build.CAR, 0.0), ("car_last", build.CAR, 7 / 4))
    for name, text, seconds in drawn:
        clip = world.read_caption(text)
        assert clip is not None
        picture = replace(clip, start=(26.0, 36.0), corner=(20.0, 20.0)).draw(torch.tensor([seconds]))[0]
        write_image(build.OUT / "input" / f"emu_video_{name}.png", picture.permute(1, 2, 0) / 2 + 0.5)


def pictured(name: str, server: Server) -> Image.Image:
    """The sheet that the workflow shows at its end."""
    workflow = with_the_bundled_model(name) if name in PROMPTS else build.WORKFLOWS[name]()
    pictures = [Image.open(path) for path in server.files(server.run(workflow.api()), ".png")]
    picture = max(pictures, key=lambda picture: picture.width).convert("RGB")  # a starting frame may be shown as well
    return captioned(picture) if name in PROMPTS else picture


def captioned(picture: Image.Image) -> Image.Image:
    height = picture.width // 22
    result = Image.new("RGB", (picture.width, picture.height + height), sheet.BACKGROUND)
    result.paste(picture, (0, 0))
    font = ImageFont.load_default(height * 0.6)
    ImageDraw.Draw(result).text((sheet.GAP, picture.height + height / 2), CAPTION, fill=sheet.INK, font=font, anchor="lm")
    return result


def with_the_bundled_model(name: str) -> Workflow:
    """The workflow with the tiny model, its stack and its words; SVD becomes the stack that is given the frame alone."""
    workflow = build.WORKFLOWS[name]()
    for node in workflow.nodes:
        kind, inputs = node["kind"], node["inputs"]
        if kind == "CheckpointLoaderSimple":
            node.update(kind="EmuVideoTinyModel", inputs={}, needs=None)
        elif kind == "EmuVideoApplyStack":
            inputs["stack"] = "tiny F (bundled)"
        elif kind == "PrimitiveStringMultiline":
            inputs["value"] = PROMPTS[name]
        elif kind == "EmuVideoContactSheet":
            inputs["scale"] = 2
        small = {
            "width": 64, "height": 64, "length": 8, "batch_size": 8, "negative_prompt": "", "sampler_name": "ddim",
            "steps": 20 if kind == "KSampler" else 0, "cfg": 3.0, "scheduler": "simple",
        }  # fmt: skip
        if inputs.get("text") == build.NEGATIVE:
            inputs["text"] = ""
        inputs.update({key: value for key, value in small.items() if key in inputs})
    if build.SVD in workflow.downloads:
        from_the_frame_alone(workflow)
    return workflow


def from_the_frame_alone(workflow: Workflow) -> None:
    """Emu Video without its text in SVD's place: a second sampler and its VAE Decode."""
    (sampler,) = (node for node in workflow.nodes if node["kind"] == "EmuVideoSampler")
    decoded = {node["title"]: node for node in workflow.nodes if node["kind"] == "VAEDecode"}
    svd: dict[str, Any] = next(node for node in workflow.nodes if (node["title"], node["kind"]) == ("SVD", "KSampler"))
    svd.update(kind="EmuVideoSampler", inputs={**sampler["inputs"], "text_guidance": 0.0})
    decoded["SVD"]["inputs"]["vae"] = decoded["Emu Video"]["inputs"]["vae"]
    for node in workflow.nodes:
        if node["kind"] == "EmuVideoCompare":
            node["inputs"].update({f"label_{number}": GIVEN[name] for number, name in enumerate(GIVEN, 1)})
            node["inputs"] |= {key: node["inputs"]["fps"] for key in ("fps_2", "fps_3")}
    kept = [node for node in workflow.nodes if node["kind"] != "EmuVideoAddToStudy"]
    leave_out(workflow, [node for node in workflow.nodes if node["kind"] in NO_SVD or node not in kept])
