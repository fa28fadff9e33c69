"""Nodes that measure: a video's figures, and the best of several starting frames."""

from __future__ import annotations

from ..emu_core.evaluation.candidates import best, rank
from ..emu_core.media import contact_sheet
from .adapter import paths
from .adapter.networks import load_clip
from .adapter.schema import answer, io, schema
from .adapter.shown import shown
from .figures import measure
from .plot import draw

CATEGORY = "EmuVideo/Evaluation"
LOWEST_FPS, HIGHEST_FPS = 0.1, 1000.0
NO_PROMPT = "the prompt is empty: give the text that the frames were made from, which CLIP compares them with"
NO_CLIP = "choosing needs a CLIP: put its folder into models/emu_video_metrics, press R, and choose it as clip"


def clip_input() -> io.Combo.Input:
    """A CLIP's folder in models/emu_video_metrics, or none."""
    return io.Combo.Input("clip", options=paths.clip_names(), default=paths.NO_CLIP)


def fps_input() -> io.Float.Input:
    """Frames a second."""
    return io.Float.Input("fps", default=8.0, min=LOWEST_FPS, max=HIGHEST_FPS, step=0.01)


def check_clip(clip: str, prompt: str | None, needed: bool) -> None:
    """ValueError for a CLIP that is not there, none where one is needed, or one with an empty prompt to compare with."""
    if prompt is not None and not prompt.strip() and (needed or clip != paths.NO_CLIP):
        raise ValueError(NO_PROMPT)
    if needed and clip == paths.NO_CLIP:
        raise ValueError(NO_CLIP)
    paths.clip_path(clip)


class EmuVideoEvaluate(io.ComfyNode):
    """A video -> its figures as JSON, table and picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Frames, their rate and what they were made from in; JSON, table and picture out."""
        return schema(
            "EmuVideoEvaluate",
            "video metrics, video quality, clip score, motion score, frame consistency, benchmark",
            inputs=[
                io.Image.Input("images"),
                fps_input(),
                io.String.Input("prompt", multiline=True),
                clip_input(),
                io.Image.Input("image", optional=True),
            ],
            outputs={"json": io.String, "table": io.String, "plot": io.Image},
            category=CATEGORY,
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, clip: str | None = None, prompt: str | None = None) -> bool | str:
        """Before anything runs; None: linked, known when the node runs."""
        return clip is None or answer(check_clip, clip, prompt, False)

    @classmethod
    def execute(cls, images, fps, prompt, clip, image=None) -> io.NodeOutput:
        """images (f, H, W, 3 or 4) 0..1, image (1, H, W, 3 or 4). ValueError as check_clip, or for a CLIP that does not load."""
        check_clip(clip, prompt, False)
        folder = paths.clip_path(clip)
        given = None if image is None else image[0, ..., :3].cpu().float()
        judge = None if folder is None else load_clip(folder)
        figures = measure(images[..., :3], fps, prompt, given, judge)
        plot = draw(figures)[None]
        return io.NodeOutput(figures.as_json(), figures.table(), plot, ui=shown(cls, figures.text(), plot))


class EmuVideoBestStartingFrame(io.ComfyNode):
    """Candidates -> the one that shows the prompt best by CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A batch and its prompt in; the best, all scores and its index out."""
        return schema(
            "EmuVideoBestStartingFrame",
            "starting frame, best of n, clip score, choose image, pick image, rerank, candidates",
            inputs=[io.Image.Input("images"), io.String.Input("prompt", multiline=True), clip_input()],
            outputs={"IMAGE": io.Image, "scores": io.String, "index": io.Int},
            category=CATEGORY,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, clip: str | None = None, prompt: str | None = None) -> bool | str:
        """Before anything runs; None: linked, known when the node runs."""
        if clip is None:
            return prompt is None or bool(prompt.strip()) or NO_PROMPT
        return answer(check_clip, clip, prompt, True)

    @classmethod
    def execute(cls, images, prompt, clip) -> io.NodeOutput:
        """images (n, H, W, 3 or 4) 0..1. ValueError as check_clip, or for a CLIP that does not load."""
        check_clip(clip, prompt, True)
        folder = paths.clip_path(clip)
        assert folder is not None
        candidates = images[..., :3].cpu().float()
        scores = rank(candidates, prompt, load_clip(folder))
        place = best(scores)
        lines = [f"{number}: {score:.4f}" for number, score in enumerate(scores)]
        marks = [f"{'best  ' if number == place else ''}{line}" for number, line in enumerate(lines)]
        sheet = contact_sheet(candidates, labels=marks)[None]
        said = "\n".join(lines)
        text = f"best: {place} of 0..{len(scores) - 1}, cosine with the prompt\n{said}"
        return io.NodeOutput(images[place : place + 1], said, place, ui=shown(cls, text, sheet))
