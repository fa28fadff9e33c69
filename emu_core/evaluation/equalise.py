"""Like against like: sets of videos made comparable before anything is compared, as the paper did.

Emu Video, human evaluation: centre crop to 1:1, bilinear resize, temporal centre crop, the same frame rate, each dimension to
the smaller. All videos of a prompt (or of all prompts) get the same side, frame rate and number of frames. Frames pass one by
one.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..media import LOSSLESS, PLAYABLE, Facts, Unreadable, VideoReader, VideoWriter, check_output
from ..media.files import whole_file
from ..media.tags import Timing, video_tags
from .prompts import Prompt, file_stem
from .videos import VideoSet, match

Pixels = NDArray[np.uint8]
REPORT = "equalised.json"


@dataclass(frozen=True)
class Target:
    """What videos are brought to: a square of `side` pixels, `frames` at `fps` a second."""

    side: int
    frames: int
    fps: float


@dataclass(frozen=True)
class Equalised:
    """One written video. loss_db: PSNR in dB of what a player shows against the frames before encoding; None: lossless."""

    system: str
    prompt: str
    source: str
    file: str
    before: str
    after: str
    loss_db: float | None


def common_target(videos: Sequence[Facts], even: bool = False) -> Target:
    """The smaller of each dimension: side of the centred square (`even`: a pixel less if it is odd), frame rate, length in time.
    Raises ValueError for none."""
    if not videos:
        raise ValueError("equalise: expected one or more videos, found none; check the folders")
    side = min(min(facts.width, facts.height) for facts in videos)
    side -= side % 2 if even else 0
    fps = min(facts.fps for facts in videos)
    seconds = min(facts.seconds for facts in videos)
    return Target(side, max(1, math.floor(seconds * fps + 1e-6)), fps)


def chosen_frames(facts: Facts, target: Target) -> list[int]:
    """Which frames are taken: those in view in the middle of each of the target's frames, around the middle of the video."""
    start = (facts.seconds - target.frames / target.fps) / 2
    moments = start + (np.arange(target.frames) + 0.5) / target.fps
    # An exact edge belongs to the later frame, whatever the rounding.
    return [int(index) for index in np.clip(np.floor(moments * facts.fps + 1e-6), 0, facts.frames - 1)]


def square(frame: Pixels, side: int) -> Pixels:
    """(H, W, 3) uint8 -> (side, side, 3): the centred square, then bilinear, widened to the scale where it gets smaller (as in
    Pillow and torch's antialias)."""
    height, width = frame.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    part = np.ascontiguousarray(frame[top : top + edge, left : left + edge])
    if edge == side:
        return part
    planes = torch.tensor(part).permute(2, 0, 1)[None].float()
    resized = F.interpolate(planes, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).round().clamp(0, 255).byte().contiguous().numpy()


def equal_frames(video: VideoReader, target: Target) -> Iterator[Pixels]:
    """The frames (side, side, 3) of the equalised video."""
    wanted = chosen_frames(video.facts, target)
    place = 0
    for number, frame in enumerate(video):
        if place < len(wanted) and wanted[place] == number:
            made = square(frame, target.side)
            while place < len(wanted) and wanted[place] == number:
                yield made
                place += 1


def equalise_video(video: VideoReader, out: Path, target: Target, playable: bool = False) -> float | None:
    """Write one video as the target wants it, whole or not at all; returns the loss as PSNR in dB, None if lossless.

    Lossless: H.264 in RGB, qp 0. playable: 4:2:0, crf 12; the side has to be even.
    Raises Unreadable for a source that breaks off, ValueError where it cannot be written.
    """
    check_output(out)
    with whole_file(out) as part:
        tags = _told(video.facts, Timing(target.frames, target.fps))
        with VideoWriter(part, target.fps, PLAYABLE if playable else LOSSLESS, tags) as writer:
            for frame in equal_frames(video, target):
                writer.add(frame)
        return _loss(VideoReader(part), equal_frames(video, target)) if playable else None


def _told(facts: Facts, timing: Timing) -> dict[str, str]:
    """What the file said of itself, so that prompt and seed stay with the video."""
    return video_tags({key: value for key, value in facts.metadata.items() if key.isidentifier()}, timing)


def _loss(shown: VideoReader, made: Iterator[Pixels]) -> float:
    """PSNR over all frames of a video, in dB, at most 100."""
    error, count = 0.0, 0
    for a, b in zip(shown, made, strict=True):
        error += float(np.square(a.astype(np.float32) - b).mean(dtype=np.float64))
        count += 1
    return 100.0 if error == 0 else min(100.0, 10 * math.log10(255**2 * count / error))


# -- sets


def equalise_sets(
    sets: Sequence[VideoSet],
    out: Path,
    prompts: Sequence[Prompt] | None = None,
    across: str = "prompt",
    playable: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Write OUT/SYSTEM/NNN-slug.mp4 for every prompt of which all sets have a readable video, and OUT/equalised.json.

    prompts: as in evaluate; None: videos belong together by their place in the sorted folders, and all must have as many.
    across: `prompt` (each prompt's videos are brought to what is the smallest among them) or `all` (the smallest of all).
    Returns what is written into the JSON. Raises ValueError for a single set, a target that is a source, or nothing in common.
    """
    if len(sets) < 2:
        raise ValueError(f"equalise: expected two or more sets of videos, found {len(sets)}; give another folder")
    if across not in ("prompt", "all"):
        raise ValueError(f"across: expected prompt or all, found {across!r}; choose one")
    _check_out(sets, out)
    left_out: LeftOut = []
    groups = _groups(sets, prompts, left_out)
    if not groups:
        raise ValueError(f"expected prompts of which all sets have a readable video, found none ({len(left_out)} left out)")
    smallest = common_target([video.facts for group in groups.values() for video in group], playable) if across == "all" else None
    written: list[Equalised] = []
    for each in sets:
        (out / each.name).mkdir(parents=True, exist_ok=True)
    for stem, group in groups.items():
        target = smallest or common_target([video.facts for video in group], playable)
        files = (out / each.name / f"{stem}.mp4" for each in sets)
        written += _write_group(dict(zip(files, group, strict=True)), out, target, playable, left_out)
        for _ in group:
            progress()
    result = {
        "format": 1,
        "rule": "centre crop to 1:1, bilinear resize, temporal centre crop, frame rate; each to the smaller",
        "smallest_of": "the videos of a prompt" if across == "prompt" else "all videos",
        "encoding": f"H.264 4:2:0, crf {PLAYABLE.options['crf']}" if playable else "H.264 RGB, lossless",
        "videos": [asdict(each) for each in written],
        "left_out": [{"file": name, "why": why} for name, why in left_out],
    }
    with whole_file(out / REPORT) as part:
        part.write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
    return result


def _check_out(sets: Sequence[VideoSet], out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: expected a folder to write into, found a file; choose another name")
    for each in sets:
        if (out / each.name).resolve() == each.folder.resolve():
            raise ValueError(
                f"{out}: expected a place other than the videos', found that {each.name} would be overwritten; choose another"
            )


LeftOut = list[tuple[str, str]]
"""What could not be used, and why."""


def _groups(sets: Sequence[VideoSet], prompts: Sequence[Prompt] | None, left_out: LeftOut) -> dict[str, list[VideoReader]]:
    """Videos that belong together, one a set in the order of the sets, by the name of their file."""
    groups: dict[str, list[VideoReader]] = {}
    for stem, files in _named(sets, prompts, left_out):
        opened: list[VideoReader] = []
        for file in files:
            try:
                opened.append(VideoReader(file))
            except Unreadable as problem:
                left_out.append((str(file), str(problem)))
        if len(opened) == len(sets):
            groups[stem] = opened
    return groups


def _named(sets: Sequence[VideoSet], prompts: Sequence[Prompt] | None, left_out: LeftOut) -> Iterator[tuple[str, Sequence[Path]]]:
    if prompts is None:
        counts = {each.name: len(each.files) for each in sets}
        if len(set(counts.values())) > 1:
            raise ValueError(f"expected as many videos in each set, found {counts}; give --prompts, so that they can be matched")
        twice = len({file.stem for file in sets[0].files}) < len(sets[0].files)  # a.mp4 and a.webm
        for number, files in enumerate(zip(*(each.files for each in sets), strict=True)):
            yield f"{number:03d}-{files[0].stem}" if twice else files[0].stem, files
        return
    by_id = [{prompt.id: files[0] for prompt, files in match(each, prompts).found} for each in sets]
    for number, prompt in enumerate(prompts):
        found = [table[prompt.id] for table in by_id if prompt.id in table]
        if len(found) == len(sets):
            yield file_stem(number, prompt.text), found
        else:
            left_out.append((prompt.id, f"{len(found)} of {len(sets)} sets have a video of this prompt"))


def _write_group(group: dict[Path, VideoReader], out: Path, target: Target, playable: bool, left_out: LeftOut) -> list[Equalised]:
    """All videos of a prompt, each into its file, or none of them where one turns out to break off."""
    written: list[Equalised] = []
    after = f"{target.side} x {target.side}, {target.frames} frames at {target.fps:.6g} a second"
    for file, video in group.items():
        try:
            loss = equalise_video(video, file, target, playable)
        except Unreadable as problem:
            left_out.append((str(video.path), str(problem)))
            for done in written:
                (out / done.file).unlink()
            return []
        facts = video.facts
        before = f"{facts.width} x {facts.height}, {facts.frames} frames at {facts.fps:.6g} a second"
        place = str(file.relative_to(out))
        written.append(Equalised(file.parent.name, file.stem, video.path.name, place, before, after, loss))
    return written


def copy_video(source: Path, target: Path) -> None:
    """A video's file as it is, under another name; a folder of frames becomes a playable mp4, its sides even."""
    with whole_file(target) as part:
        if not source.is_dir():
            shutil.copyfile(source, part)
            return
        video = VideoReader(source)
        facts = video.facts
        with VideoWriter(part, facts.fps, PLAYABLE, _told(facts, Timing(facts.frames, facts.fps))) as writer:
            for frame in video:
                writer.add(frame[: facts.height // 2 * 2, : facts.width // 2 * 2])
