"""The workflows that need a download, made small: the tiny model in place of SD 1.5, and a file of the family's layout with
random weights that fits it."""

from __future__ import annotations

import torch

from emu_core.bases import load_base
from emu_core.pipeline import BUNDLED

from ..core import reference
from ..nodes.server import Server
from . import build

SMALL = {"width": 64, "height": 64, "steps": 2}


def small(name: str, server: Server) -> build.Workflow:
    """The workflow `name`, ready to run in `server`, whose models/emu_video gets the file that it names."""
    workflow = build.WORKFLOWS[name]()
    tiny = load_base(BUNDLED).unet
    state = {
        "animatediff": lambda: reference.original_layout(reference.motion_adapter(tiny, mid=False).state_dict()),
        "pia_image_to_video": lambda: reference.motion_adapter(tiny, mid=False, conv_in=True).state_dict(),
        "fancyvideo_text_to_video": lambda: reference.fancyvideo_state(tiny),
    }[name]()
    stack = server.folder / "models" / "emu_video" / workflow.downloads[1].name
    if stack.suffix == ".pt":
        torch.save({"module": {f"module.{k}": v for k, v in state.items()}}, stack)
    else:
        reference.save(state, stack)
    for node in workflow.nodes:
        if node["kind"] == "CheckpointLoaderSimple":
            node.update(kind="EmuVideoTinyModel", inputs={}, needs=None)
        node["inputs"].update({k: v for k, v in SMALL.items() if k in node["inputs"]})
    return workflow
