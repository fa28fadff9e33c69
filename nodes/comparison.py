"""Nodes for several videos of one prompt: side by side, and into a study."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..emu_core.evaluation.prompts import slug
from ..emu_core.media import write_video
from ..emu_core.media.images import to_bytes
from ..emu_core.study.store import Study
from .adapter import paths, studies
from .adapter.schema import RARE, answer, io, schema
from .adapter.shown import shown
from .evaluation import CATEGORY, HIGHEST_FPS, fps_input
from .side_by_side import SHORTER, Video, common_height, compare
from .side_by_side import moments as sheet

NAMES = ("A", "B", "C", "D")
"""Of the videos that are compared, unless they are given others."""


def video_inputs(needed: int, name: str) -> tuple[list[io.Input], list[io.Input]]:
    """Frames and a `name` of each video, of which the first `needed` must be there; and the rest, with the rates of all but the
    first, which are rarely needed."""
    numbered = list(enumerate(NAMES, 1))
    inputs: list[io.Input] = [io.Image.Input(f"images_{number}", optional=number > needed) for number, _ in numbered]
    inputs += [io.String.Input(f"{name}_{number}", default=label, optional=number > needed) for number, label in numbered]
    rate: dict[str, Any] = {"default": 0.0, "min": 0.0, "max": HIGHEST_FPS, "step": 0.01, "optional": True, **RARE}
    rates = [io.Float.Input(f"fps_{number}", **rate) for number, _ in numbered[1:]]
    return [one for one in inputs if not one.optional], [*(one for one in inputs if one.optional), *rates]


def videos_of(given: dict[str, Any], name: str, fps: float) -> list[Video]:
    """Those of `video_inputs` that are connected; a rate of 0 is the first one's, `fps`."""
    return [
        Video(
            given[f"images_{number}"][..., :3].cpu().float(),
            given.get(f"fps_{number}") or fps,
            given.get(f"{name}_{number}", label).strip() or label,
        )
        for number, label in enumerate(NAMES, 1)
        if given.get(f"images_{number}") is not None
    ]


class EmuVideoCompare(io.ComfyNode):
    """Videos side by side in step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Up to four videos in; one of all of them, and a sheet of their moments, out."""
        required, optional = video_inputs(1, "label")
        return schema(
            "EmuVideoCompare",
            "side by side, video comparison, compare models, video grid, before and after",
            inputs=[
                *required,
                fps_input(),
                io.Int.Input("height", default=0, min=0, max=4096, step=2, **RARE),
                io.Combo.Input("shorter", options=list(SHORTER), default=SHORTER[0], **RARE),
                io.Int.Input("moments", default=5, min=1, max=16, **RARE),
                *optional,
            ],
            outputs={"IMAGE": io.Image, "sheet": io.Image, "fps": io.Float},
            category=CATEGORY,
        )

    @classmethod
    def execute(cls, fps, height, shorter, moments, **given: Any) -> io.NodeOutput:
        """`given`: the inputs of each video."""
        videos = videos_of(given, "label", fps)
        frames, rate = compare(videos, height or common_height(videos), shorter)
        return io.NodeOutput(frames, sheet(videos, moments, shorter)[None], rate)


class EmuVideoAddToStudy(io.ComfyNode):
    """Videos of several systems into a human study."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Two to four videos of one prompt in; the address of the study's page out."""
        required, optional = video_inputs(2, "system")
        return schema(
            "EmuVideoAddToStudy",
            "human evaluation, human study, user study, rating, preference, a/b test, juice",
            inputs=[
                *required,
                fps_input(),
                io.String.Input("prompt", multiline=True),
                io.String.Input("study", default="my study"),
                *optional,
                io.String.Input("key", default="", optional=True, **RARE),
                io.Int.Input("raters", default=5, min=1, max=99, step=2, optional=True, **RARE),
            ],
            outputs={"address": io.String, "pairs": io.Int},
            category=CATEGORY,
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, study=None, prompt=None, system_1=None, system_2=None, raters=None) -> bool | str:
        """A study that can be, a prompt, names that differ, an odd number of raters."""
        return answer(_check, study, prompt, system_1, system_2, raters)

    @classmethod
    def execute(cls, fps, prompt, study, key="", raters=5, **given: Any) -> io.NodeOutput:
        """`given`: the inputs of each video. The study is made when it is new; the node shows its address."""
        _check(study, prompt, given["system_1"], given["system_2"], raters)  # linked inputs were not known before
        opened = studies.STUDIES.make(study, raters)
        done = add(opened, prompt.strip(), videos_of(given, "system", fps), key.strip())
        counts, address = opened.counts(), studies.address(study)
        # The address first: the page shows two or three lines, the rest by scrolling.
        text = f"{address}\n{done} Prompts: {counts['prompts']}, pairs: {counts['pairs']}, votes: {counts['votes']}."
        return io.NodeOutput(address, counts["pairs"], ui=shown(cls, text))


def _check(study: str | None, prompt: str | None, first: str | None, second: str | None, raters: int | None) -> None:
    """ValueError for what cannot be; None is linked, known when the node runs."""
    if prompt is not None and not prompt.strip():
        raise ValueError("the prompt is empty: raters judge which video shows it better")
    if first is not None and second is not None and first.strip() == second.strip():
        raise ValueError(f"system_1 and system_2 are both called {first.strip()!r}: give each system a name of its own")
    if raters is not None and (not 1 <= raters <= 99 or raters % 2 == 0):
        raise ValueError(f"raters should be odd, 1 to 99, so that a majority decides, found {raters}")
    if study is not None:
        studies.checked_name(study)


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
