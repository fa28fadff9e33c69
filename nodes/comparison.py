"""Nodes for several videos of one prompt: side by side, and into a study."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import torch

from ..emu_core.evaluation.prompts import slug
from ..emu_core.media import write_video
from ..emu_core.media.images import to_bytes
from ..emu_core.study.store import Study
from .adapter import paths, studies
from .adapter.schema import RARE, aliases, io
from .adapter.shown import shown
from .evaluation import CATEGORY, HIGHEST_FPS, fps_input
from .side_by_side import SHORTER, Video, common_height, compare, moments

MOST = 4
NAMES = ("A", "B", "C", "D")


def video_inputs(needed: int, name: str, what: str) -> tuple[list[io.Input], list[io.Input]]:
    """Frames of up to four videos with a name each; and the rates of all but the first, which are rarely needed."""
    inputs: list[io.Input] = []
    for number in range(1, MOST + 1):
        optional = number > needed
        inputs.append(io.Image.Input(f"images_{number}", optional=optional, tooltip=f"Frames of video {number}."))
    for number, label in enumerate(NAMES, 1):
        inputs.append(io.String.Input(f"{name}_{number}", default=label, optional=number > needed, tooltip=what))
    rates: list[io.Input] = [
        io.Float.Input(
            f"fps_{number}", default=0.0, min=0.0, max=HIGHEST_FPS, step=0.01, optional=True,
            tooltip=f"Frames a second of video {number}; 0: the same as fps.", **RARE,
        )
        for number in range(2, MOST + 1)
    ]  # fmt: skip
    required = [one for one in inputs if not one.optional]
    return required, [*(one for one in inputs if one.optional), *rates]


def videos_of(images: tuple[torch.Tensor | None, ...], names: tuple[str, ...], rates: tuple[float, ...]) -> list[Video]:
    """Those that are connected; a rate of 0 is the first one's."""
    return [
        Video(frames[..., :3].cpu().float(), rate or rates[0], name.strip() or NAMES[place])
        for place, (frames, name, rate) in enumerate(zip(images, names, rates, strict=True))
        if frames is not None
    ]


class EmuVideoCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        required, optional = video_inputs(1, "label", "What is written above it.")
        return io.Schema(
            node_id="EmuVideoCompare",
            display_name="Compare Videos",
            category=CATEGORY,
            description="Up to four videos side by side at equal height under their labels, in step, and a sheet with moments of "
            "each.",
            inputs=[
                *required,
                fps_input(),
                io.Int.Input(
                    "height", default=0, min=0, max=4096, step=2,
                    tooltip="Height of each video in pixels; 0: of the tallest, enlarged by a whole factor to at least 256.",
                    **RARE,
                ),
                io.Combo.Input(
                    "shorter", options=list(SHORTER), default=SHORTER[0],
                    tooltip="What a shorter video does at its end: begin again, or hold its last frame.", **RARE,
                ),
                io.Int.Input(
                    "moments", default=5, min=1, max=16, tooltip="Moments of each video on the sheet.", **RARE
                ),
                *optional,
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The frames side by side, at the highest rate of the videos."),
                io.Image.Output(display_name="sheet", tooltip="One picture: a row a video, moments from left to right."),
                io.Float.Output(display_name="fps", tooltip="The rate of the frames side by side, for Create Video."),
            ],
            **aliases("side by side, video comparison, compare models, video grid, before and after"),
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        images_1: torch.Tensor,
        label_1: str,
        fps: float,
        height: int,
        shorter: str,
        moments: int,
        images_2: torch.Tensor | None = None,
        images_3: torch.Tensor | None = None,
        images_4: torch.Tensor | None = None,
        label_2: str = "B",
        label_3: str = "C",
        label_4: str = "D",
        fps_2: float = 0.0,
        fps_3: float = 0.0,
        fps_4: float = 0.0,
    ) -> io.NodeOutput:
        videos = videos_of(
            (images_1, images_2, images_3, images_4), (label_1, label_2, label_3, label_4), (fps, fps_2, fps_3, fps_4)
        )
        frames, rate = compare(videos, height or common_height(videos), shorter)
        return io.NodeOutput(frames, _sheet(videos, moments, shorter), rate)


def _sheet(videos: list[Video], count: int, shorter: str) -> torch.Tensor:
    return moments(videos, count, shorter)[None]


class EmuVideoAddToStudy(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        required, optional = video_inputs(2, "system", "The system that made it, in the report; raters never see it.")
        return io.Schema(
            node_id="EmuVideoAddToStudy",
            display_name="Add to Study",
            category=CATEGORY,
            description="Adds the videos of two to four systems for one prompt to a human study (two videos side by side, two "
            "questions), which ComfyUI serves at /emu_video/study/. The node shows the address.",
            inputs=[
                *required,
                fps_input(),
                io.String.Input("prompt", multiline=True, tooltip="The text that all of them were made from; raters read it."),
                io.String.Input(
                    "study", default="my study",
                    tooltip="Name of the study: letters, digits, spaces, - and _. Made in output/emu_video_studies if it is new.",
                ),
                *optional,
                io.String.Input(
                    "key", default="", optional=True,
                    tooltip="The prompt's name in reports. Empty: made of the prompt and the videos, so that the same videos are "
                    "not added twice.", **RARE,
                ),
                io.Int.Input(
                    "raters", default=5, min=1, max=99, step=2, optional=True,
                    tooltip="Votes that each pair needs, odd; read when the study is made. The paper takes 5.",
                    **RARE,
                ),
            ],
            outputs=[
                io.String.Output(display_name="address", tooltip="Where the study's page is."),
                io.Int.Output(display_name="pairs", tooltip="Pairs of videos in the study."),
            ],
            **aliases("human evaluation, human study, user study, rating, preference, a/b test, juice"),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls,
        study: str | None = None,
        prompt: str | None = None,
        system_1: str | None = None,
        system_2: str | None = None,
        raters: int | None = None,
    ) -> bool | str:
        if prompt is not None and not prompt.strip():
            return "the prompt is empty: raters judge which video shows it better"
        if system_1 is not None and system_2 is not None and system_1.strip() == system_2.strip():
            return f"system_1 and system_2 are both called {system_1.strip()!r}: give each system a name of its own"
        if raters is not None and (not 1 <= raters <= 99 or raters % 2 == 0):
            return f"raters should be odd, 1 to 99, so that a majority decides, found {raters}"
        try:
            if study is not None:  # None: linked, known when the node runs
                studies.checked_name(study)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        images_1: torch.Tensor,
        images_2: torch.Tensor,
        system_1: str,
        system_2: str,
        fps: float,
        prompt: str,
        study: str,
        images_3: torch.Tensor | None = None,
        images_4: torch.Tensor | None = None,
        system_3: str = "C",
        system_4: str = "D",
        fps_2: float = 0.0,
        fps_3: float = 0.0,
        fps_4: float = 0.0,
        key: str = "",
        raters: int = 5,
    ) -> io.NodeOutput:
        trouble = cls.validate_inputs(study, prompt, system_1, system_2, raters)
        if isinstance(trouble, str):  # linked inputs were not known before
            raise ValueError(trouble)
        videos = videos_of(
            (images_1, images_2, images_3, images_4), (system_1, system_2, system_3, system_4), (fps, fps_2, fps_3, fps_4)
        )
        opened = studies.STUDIES.make(study, raters)
        done = add(opened, prompt.strip(), videos, key.strip())
        counts, address = opened.counts(), studies.address(study)
        # The address first: the page shows two or three lines, the rest by scrolling.
        text = f"{address}\n{done} Prompts: {counts['prompts']}, pairs: {counts['pairs']}, votes: {counts['votes']}."
        return io.NodeOutput(address, counts["pairs"], ui=shown(cls, text))


def add(study: Study, prompt: str, videos: list[Video], key: str) -> str:
    """Enter the videos as pairs; says what was done. ValueError: two of one name, or a key that is taken."""
    names = [video.label for video in videos]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two systems are called {twice!r}: give each a name of its own")
    if not key:
        key = _key(prompt, videos)
        if key in study.results().prompts:
            return "These videos are in the study already; nothing was added."
    with tempfile.TemporaryDirectory(dir=paths.temporary_folder()) as folder:
        files = {video.label: Path(folder, f"{number}.mp4") for number, video in enumerate(videos)}
        for video in videos:
            write_video(files[video.label], video.frames, video.fps)
        made = study.add_pair(prompt, files, key)
    return f"Added as {key!r}, pairs: {made}."


def _key(prompt: str, videos: list[Video]) -> str:
    """The same for the same prompt, systems and pictures."""
    digest = hashlib.sha256(prompt.encode())
    for video in videos:
        digest.update(f"\0{video.label}\0{video.fps}\0{tuple(video.frames.shape)}\0".encode())
        digest.update(np.ascontiguousarray(to_bytes(video.frames)))
    return f"{slug(prompt)[:40].strip('-')}-{digest.hexdigest()[:12]}".lstrip("-")
