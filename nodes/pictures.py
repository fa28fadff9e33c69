"""The contact sheet: a whole video on one picture."""

from __future__ import annotations

import torch

from ..emu_core.media import contact_sheet
from .adapter.schema import RARE, aliases, io
from .loaders import CATEGORY


class EmuVideoContactSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmuVideoContactSheet",
            display_name="Contact Sheet",
            category=CATEGORY,
            description="Puts the frames of a video side by side on one picture.",
            inputs=[
                io.Image.Input("images", tooltip="The frames."),
                io.Int.Input("columns", default=8, min=1, max=64, tooltip="Frames in a row."),
                io.Int.Input("every", default=1, min=1, max=512, tooltip="Show every n-th frame."),
                io.Int.Input(
                    "scale",
                    default=0,
                    min=0,
                    max=32,
                    tooltip="Enlarge each pixel this many times; 0: to at least 128 pixels.",
                    **RARE,
                ),
                io.Boolean.Input("numbers", default=False, tooltip="Write each frame's number below it."),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="One picture.")],
            **aliases("contact sheet, image grid, frame grid, storyboard, video to image, batch to grid"),
        )

    @classmethod
    def execute(cls, images: torch.Tensor, columns: int, every: int, scale: int, numbers: bool) -> io.NodeOutput:
        chosen = images[::every, ..., :3]
        labels = [str(i) for i in range(0, len(images), every)] if numbers else None
        return io.NodeOutput(contact_sheet(chosen.cpu().float(), columns, labels, scale or None)[None])
