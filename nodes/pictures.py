"""The contact sheet: a whole video on one picture."""

from __future__ import annotations

from ..emu_core.media import contact_sheet
from .adapter.schema import RARE, Node, io


class EmuVideoContactSheet(Node):
    """Frames side by side on one picture."""

    sought = "contact sheet, image grid, frame grid, storyboard, video to image, batch to grid"
    inputs = [
        io.Image.Input("images"),
        io.Int.Input("columns", default=8, min=1, max=64),
        io.Int.Input("every", default=1, min=1, max=512),
        io.Int.Input("scale", default=0, min=0, max=32, **RARE),
        io.Boolean.Input("numbers", default=False),
    ]
    outputs = {"IMAGE": io.Image}

    @classmethod
    def execute(cls, images, columns, every, scale, numbers) -> io.NodeOutput:
        """Every n-th of `images` (f, H, W, 3 or 4) in rows of `columns`."""
        labels = [str(i) for i in range(0, len(images), every)] if numbers else None
        return io.NodeOutput(contact_sheet(images[::every, ..., :3].cpu().float(), columns, labels, scale or None)[None])
