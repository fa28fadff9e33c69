"""Nodes that measure: a video's figures, and the best of several starting frames."""

from __future__ import annotations

from pathlib import Path

from ..emu_core.errors import UserError
from ..emu_core.evaluation.candidates import best, rank
from ..emu_core.media import contact_sheet
from .adapter import paths
from .adapter.networks import load_clip
from .adapter.schema import Node, answer, io
from .adapter.shown import shown
from .figures import measure
from .plot import draw

CATEGORY = "EmuVideo/Evaluation"
HIGHEST_FPS = 1000.0
FPS = io.Float.Input("fps", default=8.0, min=0.1, max=HIGHEST_FPS, step=0.01)
"""Frames a second of a video."""


def clip_input() -> io.Combo.Input:
    """The CLIPs that are there."""
    return io.Combo.Input("clip", options=paths.clip_names(), default=paths.NO_CLIP)


def _folder(clip: str | None, prompt: str | None, needed: bool) -> Path | None:
    """The folder of a CLIP. ValueError for one that cannot be, for none where it is `needed`, and for no prompt beside it. An
    input that is linked is None until the node runs."""
    if prompt is not None and not prompt.strip() and (needed or clip not in (None, paths.NO_CLIP)):
        raise UserError("the prompt is empty: give the text that the frames were made from, which CLIP compares them with")
    if needed and clip == paths.NO_CLIP:
        raise UserError("choosing needs a CLIP: put its folder into models/emu_video_metrics, press R, and choose it as clip")
    return None if clip is None else paths.clip_path(clip)


class EmuVideoEvaluate(Node):
    """A video's figures: as JSON, as a table and as a picture."""

    sought = "video metrics, video quality, clip score, motion score, frame consistency, benchmark"
    inputs = [
        io.Image.Input("images"),
        FPS,
        io.String.Input("prompt", multiline=True),
        clip_input,
        io.Image.Input("image", optional=True),
    ]
    outputs = {"json": io.String, "table": io.String, "plot": io.Image}
    category = CATEGORY
    speaks = is_output = True

    @classmethod
    def validate_inputs(cls, clip: str | None = None, prompt: str | None = None) -> bool | str:
        """A CLIP that is there, and a prompt for it."""
        return answer(_folder, clip, prompt, False)

    @classmethod
    def execute(cls, images, fps, prompt, clip, image=None) -> io.NodeOutput:
        """`images` (f, H, W, 3 or 4); of `image`, what they were made from, the first one."""
        folder = _folder(clip, prompt, False)
        given = None if image is None else image[0, ..., :3].cpu().float()
        judge = None if folder is None else load_clip(folder)
        figures = measure(images[..., :3], fps, prompt, given, judge)
        plot = draw(figures)[None]
        return io.NodeOutput(figures.as_json(), figures.table(), plot, ui=shown(cls, figures.text(), plot))


class EmuVideoBestStartingFrame(Node):
    """Several starting frames in; the one that shows the prompt best by CLIP, all scores, and its index out."""

    sought = "starting frame, best of n, clip score, choose image, pick image, rerank, candidates"
    inputs = [io.Image.Input("images"), io.String.Input("prompt", multiline=True), clip_input]
    outputs = {"IMAGE": io.Image, "scores": io.String, "index": io.Int}
    category = CATEGORY
    speaks = True

    @classmethod
    def validate_inputs(cls, clip: str | None = None, prompt: str | None = None) -> bool | str:
        """A CLIP that is there, and a prompt."""
        return answer(_folder, clip, prompt, True)

    @classmethod
    def execute(cls, images, prompt, clip) -> io.NodeOutput:
        """`images` (n, H, W, 3 or 4) are the candidates."""
        candidates = images[..., :3].cpu().float()
        scores = rank(candidates, prompt, load_clip(_folder(clip, prompt, True)))
        place = best(scores)
        lines = [f"{number}: {score:.4f}" for number, score in enumerate(scores)]
        marks = [f"{'best  ' if number == place else ''}{line}" for number, line in enumerate(lines)]
        sheet = contact_sheet(candidates, labels=marks)[None]
        told = "\n".join(lines)
        text = f"best: {place} of 0..{len(scores) - 1}, cosine with the prompt\n{told}"
        return io.NodeOutput(images[place : place + 1], told, place, ui=shown(cls, text, sheet))
