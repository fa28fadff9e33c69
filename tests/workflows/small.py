"""The workflows that need a download, made small: the tiny model in place of SD 1.5, and a file of the family's layout with
random weights that fits it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from emu_core.base import load_base

from ..core import reference
from ..nodes.server import Server
from . import build
from .graph import Ref, Workflow

SMALL = {"width": 64, "height": 64, "steps": 2}


NO_SVD = ("ImageOnlyCheckpointLoader", "VideoLinearCFGGuidance", "SVD_img2vid_Conditioning")
FILES: dict[str, Callable[[Any], dict[str, torch.Tensor]]] = {
    build.ANIMATEDIFF.name: lambda tiny: reference.original_layout(reference.motion_adapter(tiny, mid=False).state_dict()),
    build.PIA.name: lambda tiny: reference.motion_adapter(tiny, mid=False, conv_in=True).state_dict(),
    build.FANCYVIDEO.name: lambda tiny: reference.fancyvideo_state(tiny),
}


def small(name: str, server: Server) -> Workflow:
    """The workflow `name`, ready to run in `server`, whose models/emu_video gets the files that it names.

    SVD has no small form that ComfyUI would know: its video becomes the starting frame repeated.
    """
    workflow = build.WORKFLOWS[name]()
    tiny = load_base(server.tiny).unet
    for download in workflow.downloads:
        if download.name in FILES:
            save(FILES[download.name](tiny), server.folder / "models" / "emu_video" / download.name)
    for node in workflow.nodes:
        if node["kind"] == "CheckpointLoaderSimple":
            node.update(kind="EmuVideoTinyModel", inputs={}, needs=None)
        node["inputs"].update({k: v for k, v in SMALL.items() if k in node["inputs"]})
    if build.SVD in workflow.downloads:
        frame = next(node["inputs"]["init_image"] for node in workflow.nodes if "init_image" in node["inputs"])
        video = next(node for node in workflow.nodes if node["title"] == "SVD" and node["kind"] == "VAEDecode")
        video.update(kind="RepeatImageBatch", inputs={"image": frame, "amount": 14})
        leave_out(workflow, [n for n in workflow.nodes if n["kind"] in NO_SVD or (n["title"], n["kind"]) == ("SVD", "KSampler")])
    return workflow


def save(state: dict[str, torch.Tensor], file: Path) -> None:
    if file.suffix == ".pt":
        torch.save({"module": {f"module.{k}": v for k, v in state.items()}}, file)
    else:
        reference.save(state, file)


def leave_out(workflow: Workflow, nodes: list[dict[str, Any]]) -> None:
    """Take nodes out that nothing refers to any more; the others get new numbers."""
    kept = [node for node in workflow.nodes if node not in nodes]
    numbers = {old: kept.index(node) + 1 for old, node in enumerate(workflow.nodes, 1) if node in kept}
    for node in kept:
        for key, value in node["inputs"].items():
            if isinstance(value, Ref):
                node["inputs"][key] = Ref(numbers[value.node], value.slot)
    workflow.nodes = kept
