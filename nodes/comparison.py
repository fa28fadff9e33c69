"""Nodes for several videos of one prompt: side by side, and into a study."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..emu_core.errors import UserError
from ..emu_core.evaluation.prompts import slug
from ..emu_core.media import write_video
from ..emu_core.media.images import to_bytes
from ..emu_core.study.store import Study
from .adapter import paths, studies
from .adapter.schema import RARE, Node, answer, io
from .adapter.shown import shown
from .evaluation import CATEGORY, FPS, HIGHEST_FPS
from .side_by_side import SHORTER, Video, common_height, compare
from .side_by_side import moments as sheet

NAMES = {1: "A", 2: "B", 3: "C", 4: "D"}
"""Of the videos that are compared, unless they are given others."""
RATE: dict[str, Any] = {"default": 0.0, "min": 0.0, "max": HIGHEST_FPS, "step": 0.01, "optional": True, **RARE}
RATES = [io.Float.Input(f"fps_{number}", **RATE) for number in (2, 3, 4)]
"""Of all videos but the first, whose rate is theirs at 0."""


def video_inputs(name: str, numbers: Iterable[int], optional: bool = False) -> list[io.Input]:
    """Frames and a `name` of each of these videos."""
    frames = [io.Image.Input(f"images_{number}", optional=optional) for number in numbers]
    return frames + [io.String.Input(f"{name}_{number}", default=NAMES[number], optional=optional) for number in numbers]


def videos_of(given: dict[str, Any], name: str, fps: float) -> list[Video]:
    """Those of `video_inputs` that are connected; a rate of 0 is the first one's, `fps`."""
    return [
        Video(
            given[f"images_{number}"][..., :3].cpu().float(),
            given.get(f"fps_{number}") or fps,
            given.get(f"{name}_{number}", label).strip() or label,
        )
        for number, label in NAMES.items()
        if given.get(f"images_{number}") is not None
    ]


class EmuVideoCompare(Node):
    """Up to four videos in; one of all of them side by side in step, and a sheet of their moments, out."""

    sought = "side by side, video comparison, compare models, video grid, before and after"
    inputs = [
        *video_inputs("label", [1]),
        FPS,
        io.Int.Input("height", default=0, min=0, max=4096, step=2, **RARE),
        io.Combo.Input("shorter", options=list(SHORTER), default=SHORTER[0], **RARE),
        io.Int.Input("moments", default=5, min=1, max=16, **RARE),
        *video_inputs("label", [2, 3, 4], optional=True),
        *RATES,
    ]
    outputs = {"IMAGE": io.Image, "sheet": io.Image, "fps": io.Float}
    category = CATEGORY

    @classmethod
    def execute(cls, fps, height, shorter, moments, **given: Any) -> io.NodeOutput:
        """`given`: the inputs of each video."""
        videos = videos_of(given, "label", fps)
        frames, rate = compare(videos, height or common_height(videos), shorter)
        return io.NodeOutput(frames, sheet(videos, moments, shorter)[None], rate)


class EmuVideoAddToStudy(Node):
    """Two to four videos of one prompt, each by a system, into a human study; the address of the study's page out."""

    sought = "human evaluation, human study, user study, rating, preference, a/b test, juice"
    inputs = [
        *video_inputs("system", [1, 2]),
        FPS,
        io.String.Input("prompt", multiline=True),
        io.String.Input("study", default="my study"),
        *video_inputs("system", [3, 4], optional=True),
        *RATES,
        io.String.Input("key", default="", optional=True, **RARE),
        io.Int.Input("raters", default=5, min=1, max=99, step=2, optional=True, **RARE),
    ]
    outputs = {"address": io.String, "pairs": io.Int}
    category = CATEGORY
    speaks = is_output = True

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
        raise UserError("the prompt is empty: raters judge which video shows it better")
    if first is not None and second is not None and first.strip() == second.strip():
        raise UserError(f"system_1 and system_2 are both called {first.strip()!r}: give each system a name of its own")
    if raters is not None and (not 1 <= raters <= 99 or raters % 2 == 0):
        raise UserError(f"raters should be odd, 1 to 99, so that a majority decides, found {raters}")
    if study is not None:
        studies.checked_name(study)


def add(study: Study, prompt: str, videos: list[Video], key: str) -> str:
    """Enter the videos as pairs; says what was done. Without a `key` the prompt, systems and pictures make one, and the same are
    entered once. ValueError: two of one name, or a key that is taken."""
    names = [video.label for video in videos]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two systems are called {twice[0]!r}: give each a name of its own")
    if not key:
        digest = hashlib.sha256(prompt.encode())
        for video in videos:
            digest.update(f"\0{video.label}\0{video.fps}\0{tuple(video.frames.shape)}\0".encode())
            digest.update(np.ascontiguousarray(to_bytes(video.frames)))
        key = f"{slug(prompt)[:40].strip('-')}-{digest.hexdigest()[:12]}".lstrip("-")
        if key in study.results().prompts:
            return "These videos are in the study already; nothing was added."
    with tempfile.TemporaryDirectory(dir=paths.temporary_folder()) as folder:
        files = {name: Path(folder, f"{number}.mp4") for number, name in enumerate(names)}
        for video in videos:
            write_video(files[video.label], video.frames, video.fps)
        made = study.add_pair(prompt, files, key)
    return f"Added as {key!r}, pairs: {made}."
