"""Like against like: sets of videos made comparable before anything is compared, as the paper did.

Emu Video, human evaluation: centre crop to 1:1, bilinear resize, temporal centre crop, the same frame rate, each dimension to
the smaller. All videos of a prompt (or of all prompts) get the same side, frame rate and number of frames. Frames pass one by
one.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import UserError, of_one_item
from ..media import Facts, VideoReader, check_output
from ..media.decoding import Pixels
from ..media.files import whole_file, write_text
from ..media.scale import KEY as SCALED
from ..media.tags import Timing, video_tags
from ..media.writing import LOSSLESS, PLAYABLE, write_frames
from .names import LONGEST, check_free, check_written, claim, distinct, same
from .prompts import Prompt, file_stems
from .videos import VideoSet, match

LeftOut = list[dict[str, str]]
"""What could not be used: `file` (or a prompt's id) and `why`."""
REPORT = "equalised.json"


@dataclass(frozen=True)
class Target:
    """What videos are brought to: a square of `side` pixels, `frames` at `fps` a second."""

    side: int
    frames: int
    fps: float


def common_target(videos: Sequence[Facts], even: bool = False) -> Target:
    """The smaller of each dimension: side of the centred square (`even`: a pixel less if it is odd), frame rate, length in time.
    Raises ValueError for none."""
    if not videos:
        raise UserError("equalise: expected one or more videos, found none; check the folders")
    side = min(min(facts.width, facts.height) for facts in videos)
    fps, seconds = min(facts.fps for facts in videos), min(facts.seconds for facts in videos)
    return Target(side - side % 2 if even else side, max(1, math.floor(seconds * fps + 1e-6)), fps)


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
    times = Counter(chosen_frames(video.facts, target))
    for number, frame in enumerate(video):
        if number in times:
            yield from repeat(square(frame, target.side), times[number])


def equalise_video(video: VideoReader, out: Path, target: Target, playable: bool = False) -> float | None:
    """Write one video as the target wants it, whole or not at all.

    Lossless: H.264 in RGB, qp 0. playable: 4:2:0, crf 12; the side has to be even. Returns the loss: PSNR in dB, at most 100, of
    what a player shows against the frames before encoding; None if lossless.
    Raises Unreadable for a source that breaks off, ValueError where it cannot be written.
    """
    check_output(out)
    with whole_file(out) as part:
        encoding, tags = PLAYABLE if playable else LOSSLESS, _tags(video.facts, target)
        write_frames(part, enumerate(equal_frames(video, target)), target.fps, encoding, tags)
        if not playable:
            return None
        error = 0.0
        for shown, made in zip(VideoReader(part), equal_frames(video, target), strict=True):
            error += float(np.square(shown.astype(np.float32) - made).mean(dtype=np.float64))
    return 100.0 if error == 0 else min(100.0, 10 * math.log10(255**2 * target.frames / error))


def _tags(facts: Facts, written: Target | Facts) -> dict[str, str]:
    """What the file said of itself, so that prompt and seed stay with the video, but how much larger it was."""
    told = {key: value for key, value in facts.metadata.items() if key.isidentifier() and key != SCALED}
    return video_tags(told, Timing(written.frames, written.fps))


def copy_video(source: Path, target: Path) -> None:
    """A video's file as it is, under another name; a folder of frames becomes a playable mp4, its sides even."""
    with whole_file(target) as part:
        if not source.is_dir():
            shutil.copyfile(source, part)
            return
        video = VideoReader(source)
        write_frames(part, enumerate(video), video.facts.fps, PLAYABLE, _tags(video.facts, video.facts))


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
        raise UserError(f"equalise: expected two or more sets of videos, found {len(sets)}; give another folder")
    if across not in ("prompt", "all"):
        raise UserError(f"across: expected prompt or all, found {across!r}; choose one")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder to write into, found a file; choose another name")
    for each in sets:
        if (out / each.name).resolve() == each.folder.resolve():
            raise UserError(f"{out}: expected another place than the videos', found that {each.name} would be overwritten")
    left_out: LeftOut = []
    groups = _groups(sets, prompts, left_out)
    if not groups:
        raise UserError(f"expected prompts of which all sets have a readable video, found none ({len(left_out)} left out)")
    smallest = common_target([video.facts for group in groups.values() for video in group], playable) if across == "all" else None
    written: list[dict[str, Any]] = []
    files = [f"{each.name}/{stem}.mp4" for each in sets for stem in groups]
    check_free(out, files, [REPORT])
    for each in sets:
        (out / each.name).mkdir(parents=True, exist_ok=True)
    claim(out, files, [REPORT])
    for stem, group in groups.items():
        target = smallest or common_target([video.facts for video in group], playable)
        written += _write_group([out / each.name / f"{stem}.mp4" for each in sets], group, target, playable, left_out)
        for _ in group:
            progress()
    check_written(out, [each["file"] for each in written])
    result = {
        "format": 1,
        "rule": "centre crop to 1:1, bilinear resize, temporal centre crop, frame rate; each to the smaller",
        "smallest_of": "the videos of a prompt" if across == "prompt" else "all videos",
        "encoding": f"H.264 4:2:0, crf {PLAYABLE.options['crf']}" if playable else "H.264 RGB, lossless",
        "videos": written,
        "left_out": left_out,
    }
    write_text(out / REPORT, json.dumps(result, indent=1, ensure_ascii=False))
    return result


def _groups(sets: Sequence[VideoSet], prompts: Sequence[Prompt] | None, left_out: LeftOut) -> dict[str, list[VideoReader]]:
    """Videos that belong together, one a set in the order of the sets, by the name of their file."""
    if prompts is None:
        counts = {each.name: len(each.files) for each in sets}
        if len(set(counts.values())) > 1:
            raise UserError(f"expected as many videos in each set, found {counts}; give --prompts, so that they can be matched")
        rows = list(zip(*(each.files for each in sets), strict=True))
        stems = [files[0].name if files[0].is_dir() else files[0].stem for files in rows]
        if len({*map(same, stems)}) < len(stems):  # a.mp4 and a.webm, or A.mp4
            stems = [f"{n:03d}-{stem}" for n, stem in enumerate(stems)]
        stems = distinct(stems, stems, LONGEST - len(".mp4"))
        named = [(stem, "", files) for stem, files in zip(stems, rows, strict=True)]
    else:
        by_id = [{prompt.id: files[0] for prompt, files in match(each, prompts).found} for each in sets]
        found = [tuple(table[prompt.id] for table in by_id if prompt.id in table) for prompt in prompts]
        named = [(stem, prompt.id, files) for stem, prompt, files in zip(file_stems(prompts), prompts, found, strict=True)]
    groups: dict[str, list[VideoReader]] = {}
    for stem, prompt_id, files in named:
        if len(files) < len(sets):
            left_out.append({"file": prompt_id, "why": f"{len(files)} of {len(sets)} sets have a video of this prompt"})
            continue
        group: list[VideoReader] = []
        for file in files:
            try:
                group.append(VideoReader(file))
            except Exception as problem:
                left_out.append({"file": str(file), "why": of_one_item(problem)})
        if len(group) == len(sets):
            groups[stem] = group
    return groups


def _write_group(
    files: Sequence[Path], group: Sequence[VideoReader], target: Target, playable: bool, left_out: LeftOut
) -> list[dict[str, Any]]:
    """All videos of a prompt, each into its file, or none where one turns out to break off; what the JSON says of them."""
    written: list[dict[str, Any]] = []
    for number, (file, video) in enumerate(zip(files, group, strict=True)):
        try:
            loss = equalise_video(video, file, target, playable)
        except Exception as problem:
            left_out.append({"file": str(video.path), "why": of_one_item(problem)})
            for done in files[:number]:
                done.unlink()
            return []
        facts = video.facts
        written.append(
            {
                "system": file.parent.name,
                "prompt": file.stem,
                "source": video.path.name,
                "file": str(Path(file.parent.name, file.name)),
                "before": f"{facts.width} x {facts.height}, {facts.frames} frames at {facts.fps:.6g} a second",
                "after": f"{target.side} x {target.side}, {target.frames} frames at {target.fps:.6g} a second",
                "loss_db": loss,
            }
        )
    return written
