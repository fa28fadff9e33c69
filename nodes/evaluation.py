"""Nodes that measure: a video's figures, and the best of several starting frames."""

from __future__ import annotations

import torch

from ..emu_core.evaluation.candidates import best, rank
from ..emu_core.media import contact_sheet
from .adapter import paths
from .adapter.networks import load_clip
from .adapter.schema import aliases, io
from .adapter.shown import shown
from .figures import measure
from .plot import draw

CATEGORY = "EmuVideo/Evaluation"
LOWEST_FPS, HIGHEST_FPS = 0.1, 1000.0
NO_PROMPT = "the prompt is empty: give the text that the frames were made from, which CLIP compares them with"


def clip_input(optional: bool) -> io.Combo.Input:
    use = "CLIP-Text, CLIP-Image and frame consistency need one; the paper's is ViT-B/32." if optional else "The judge."
    return io.Combo.Input(
        "clip",
        options=paths.clip_names(),
        default=paths.NO_CLIP,
        tooltip=f"A folder of a transformers CLIP in models/emu_video_metrics. {use}",
    )


def fps_input() -> io.Float.Input:
    return io.Float.Input("fps", default=8.0, min=LOWEST_FPS, max=HIGHEST_FPS, step=0.01, tooltip="Frames a second of the video.")


class EmuVideoEvaluate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmuVideoEvaluate",
            display_name="Evaluate Video",
            category=CATEGORY,
            description="Figures of a video, as `emu-video evaluate` gives them: CLIP-Text, CLIP-Image, frame consistency, pixel "
            "MSE, motion score, colour drift, first frame. What needs a file that is not there is not computed, and says so.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of the video."),
                fps_input(),
                io.String.Input("prompt", multiline=True, tooltip="The text that the video was made from."),
                clip_input(optional=True),
                io.Image.Input(
                    "image", optional=True, tooltip="The conditioning image: the starting frame that the video was made from."
                ),
            ],
            outputs=[
                io.String.Output(display_name="json", tooltip="All figures, also frame by frame, as JSON."),
                io.String.Output(display_name="table", tooltip="The figures as a Markdown table."),
                io.Image.Output(display_name="plot", tooltip="The figures and their curves over the frames as a picture."),
            ],
            **aliases("video metrics, video quality, clip score, motion score, frame consistency, benchmark"),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, clip: str | None = None, prompt: str | None = None) -> bool | str:
        if clip is None:  # linked, known when the node runs
            return True
        if clip != paths.NO_CLIP and prompt is not None and not prompt.strip():
            return NO_PROMPT
        return paths.clip_trouble(clip) or True

    @classmethod
    def execute(
        cls, images: torch.Tensor, fps: float, prompt: str, clip: str, image: torch.Tensor | None = None
    ) -> io.NodeOutput:
        folder = paths.clip_path(clip)
        if folder is not None and not prompt.strip():
            raise ValueError(NO_PROMPT)
        given = None if image is None else image[0, ..., :3].cpu().float()
        judge = None if folder is None else load_clip(folder)
        figures = measure(images[..., :3], fps, prompt, given, judge)
        plot = draw(figures)[None]
        return io.NodeOutput(figures.as_json(), figures.table(), plot, ui=shown(cls, figures.text(), plot))


class EmuVideoBestStartingFrame(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmuVideoBestStartingFrame",
            display_name="Best Starting Frame",
            category=CATEGORY,
            description="Of several starting frames, the one that shows the prompt best by CLIP. The same choice as "
            "`emu-video generate --candidates`.",
            inputs=[
                io.Image.Input(
                    "images", tooltip="The candidates as a batch, such as Make Starting Frame gives with candidates above 1."
                ),
                io.String.Input("prompt", multiline=True, tooltip="The text that they were made from."),
                clip_input(optional=False),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The best candidate."),
                io.String.Output(display_name="scores", tooltip="A line a candidate: its index and its cosine with the prompt."),
                io.Int.Output(
                    display_name="index", tooltip="Which candidate is the best, counted from 0: its seed is seed + index."
                ),
            ],
            **aliases("starting frame, best of n, clip score, choose image, pick image, rerank, candidates"),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, clip: str | None = None, prompt: str | None = None) -> bool | str:
        if prompt is not None and not prompt.strip():
            return NO_PROMPT
        if clip == paths.NO_CLIP:
            return "choosing needs a CLIP: put its folder into models/emu_video_metrics, press R, and choose it as clip"
        return True if clip is None else paths.clip_trouble(clip) or True

    @classmethod
    def execute(cls, images: torch.Tensor, prompt: str, clip: str) -> io.NodeOutput:
        trouble = cls.validate_inputs(clip, prompt)
        if isinstance(trouble, str):  # linked inputs were not known before
            raise ValueError(trouble)
        folder = paths.clip_path(clip)
        assert folder is not None
        candidates = images[..., :3].cpu().float()
        scores = rank(candidates, prompt, load_clip(folder))
        place = best(scores)
        lines = "\n".join(f"{number}: {score:.4f}" for number, score in enumerate(scores))
        marks = [f"{'best  ' if number == place else ''}{number}: {score:.4f}" for number, score in enumerate(scores)]
        sheet = contact_sheet(candidates, labels=marks)[None]
        text = f"best: {place} of 0..{len(scores) - 1}, cosine with the prompt\n{lines}"
        return io.NodeOutput(images[place : place + 1], lines, place, ui=shown(cls, text, sheet))
