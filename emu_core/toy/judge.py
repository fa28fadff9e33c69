"""Measures the tiny model on combinations of shape, colour and direction that it never saw.

Frames are read by the exact detectors of `detect`, which are first held against the renderer's own truth.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..errors import UserError, of_one_item
from ..limits import json_of
from ..media import VIDEO_EXTENSIONS, Video, contact_sheet, read_video, write_image
from ..model.conditioning import slots
from ..pipeline import EmuVideoPipeline
from ..settings import Settings
from . import shapes
from .detect import Reading, direction_of, read_frames, separate

logger = logging.getLogger(__name__)

SEED = 987_654  # of the held-out prompts; training uses others, and other combinations
PARTS = ("colour", "background", "shape", "size")


@dataclass(frozen=True)
class Sample:
    """One prompt and what the model made of it: images (f, 64, 64, 3) 0..1, `fps` of the video. `first` is the given starting
    frame, None where it is not known."""

    clip: shapes.Clip
    video: torch.Tensor
    fps: float
    first: torch.Tensor | None = None
    finer: torch.Tensor | None = None


def _network(frames: torch.Tensor) -> torch.Tensor:
    """(f, H, W, 3) 0..1 -> (f, 3, H, W) -1..1, as the detectors read."""
    return frames.permute(0, 3, 1, 2) * 2 - 1


def _psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal to noise in dB of images 0..1."""
    return float(-10 * torch.log10((a - b).square().mean().clamp(min=1e-10)))


def check_detectors(count: int) -> dict[str, float]:
    """The detectors on real frames: share of right answers, and the largest error of place in pixels."""
    clips, times = shapes.clips(SEED, range(count), held_out=True), torch.tensor([0.0, 1.75])
    readings = read_frames(shapes.render(clips, times).flatten(0, 1))
    truth = shapes.positions(clips, times).flatten(0, 1)
    doubled = [c for c in clips for _ in times]
    figures = {f"detector_{part}": agreement(readings, doubled, part) for part in PARTS}
    place = torch.tensor([r.centre for r in readings]) - truth
    return figures | {"detector_place_px": float(place.norm(dim=1).max())}


def agreement(readings: Iterable[Reading], clips: Iterable[shapes.Clip], part: str) -> float:
    """Share of readings, 0..1, in which a part (colour, shape ...) is what the clip says."""
    right = [getattr(r, part) == getattr(c, part) for r, c in zip(readings, clips, strict=True)]
    return sum(right) / len(right)


def judge_clips(clips: Sequence[shapes.Clip], videos: torch.Tensor, times: torch.Tensor) -> dict[str, float]:
    """Of videos (n, f, 3, 64, 64) in -1..1 of known clips at `times` (f,) seconds: share of right directions, drift of the still
    and distance from the true path in pixels."""
    n, f = videos.shape[:2]
    path = torch.tensor([r.centre for r in read_frames(videos.flatten(0, 1))]).view(n, f, 2)
    move = path[:, -1] - path[:, 0]
    right = [direction_of(*m.tolist()) == c.direction for m, c in zip(move, clips, strict=True)]
    still = [float(m.norm()) for m, c in zip(move, clips, strict=True) if c.direction == "still"]
    error = (path - shapes.positions(clips, times)).norm(dim=-1).nan_to_num(nan=32.0)
    figures = {"direction": sum(right) / n, "path_error_px": float(error.mean())}
    return figures | ({"still_drift_px": sum(still) / len(still)} if still else {})


def judge_videos(samples: list[Sample]) -> dict[str, float]:
    """Direction, speed, drift of what should stay still, fidelity of frame 0, colour drift.

    `speed`: share of moving clips whose travel is nearer to that of the asked speed than to the other. `travel_ratio`: mean of
    travel over what was asked. `colour_drift`: mean change of the shape's colour from first to last frame, in 0..255.
    """
    found: dict[str, list[float]] = {name: [] for name in ("direction", "speed", "travel_ratio", "still_drift_px")}
    last = []
    for s in samples:
        first, end = read_frames(_network(s.video[[0, -1]]))
        last.append(end)
        dx, dy = (b - a for a, b in zip(first.centre, end.centre, strict=True))
        found["direction"].append(direction_of(dx, dy) == s.clip.direction)
        travel, seconds = (dx * dx + dy * dy) ** 0.5, (len(s.video) - 1) / s.fps
        if s.clip.direction == "still":
            found["still_drift_px"].append(travel)
        else:
            nearest = min(shapes.SPEED, key=lambda word: abs(shapes.SPEED[word] * seconds - travel))
            found["speed"].append(nearest == s.clip.speed)
            found["travel_ratio"].append(travel / (shapes.SPEED[s.clip.speed] * seconds))
    if given := [_psnr(s.first[0], s.video[0]) for s in samples if s.first is not None]:
        found["frame0_psnr_db"] = given
    tones = [separate(_network(s.video[[0, -1]]))[1] for s in samples]
    found["colour_drift"] = [float((end - start).abs().mean()) * 127.5 for start, end in tones]
    figures = {name: _mean(values) for name, values in found.items()}
    return figures | {"last_frame_shape": agreement(last, [s.clip for s in samples], "shape")}


def judge_interpolation(samples: list[Sample]) -> dict[str, float]:
    """`between_error_px`: mean distance of in-between frames from the straight path between the given keyframes.
    `keyframe_psnr_db`: given keyframes against the frames at their slots."""
    errors, fidelity = [], []
    for s in samples:
        if s.finer is None:
            continue
        places = slots(len(s.video))
        given = torch.tensor([r.centre for r in read_frames(_network(s.video))])
        between = [i for i in range(places[0], places[-1]) if i not in places]
        found = torch.tensor([r.centre for r in read_frames(_network(s.finer[between]))])
        share = torch.tensor([(i % places[0]) / places[0] for i in between])[:, None]
        left = torch.tensor([i // places[0] - 1 for i in between])
        path = given[left] + share * (given[left + 1] - given[left])
        errors.append(float((found - path).norm(dim=1).nan_to_num(nan=float(shapes.SIZE)).mean()))
        fidelity.append(_psnr(s.finer[places], s.video))
    return {"between_error_px": _mean(errors), "keyframe_psnr_db": _mean(fidelity)} if errors else {}


def _mean(values: list[float]) -> float:
    return float(sum(values) / len(values)) if values else float("nan")


def evaluate(
    pipeline: EmuVideoPipeline, prompts: int, settings: Settings = Settings(), interpolate: bool = True, out: Path | None = None
) -> dict[str, float]:
    """Run the three steps on held-out prompts and measure them. With `out`, sheets of the first videos are written there."""
    figures: dict[str, float] = {"prompts": prompts, **check_detectors(prompts)}
    samples = []
    for i, clip in enumerate(tqdm(shapes.clips(SEED, range(prompts), held_out=True), desc="videos")):
        result = pipeline(clip.caption, replace(settings, seed=settings.seed + i), interpolate=interpolate)
        samples.append(Sample(clip, result.video, result.fps, result.starting_frame, result.interpolated))
    return figures | _judged(samples, out)


def evaluate_folder(folder: Path, out: Path | None = None) -> dict[str, float]:
    """Measure videos that were made elsewhere, by the same detectors; see `read_folder`. The given starting frame is not known,
    so nothing is said of it; a video counts as it is, interpolated or not."""
    found, left = read_folder(folder, shapes.read_caption)
    samples = [Sample(clip, video.frames, video.fps) for clip, video in found]
    return {"videos": len(samples), **left, **check_detectors(50), **_judged(samples, out)}


def read_folder(folder: Path, read_caption: Callable[[str], Any]) -> tuple[list[tuple[Any, Video]], dict[str, int]]:
    """The videos of a folder, each with the clip that `read_caption` makes of its prompt, and how many were left out. Each file's
    prompt is what its metadata says (of this project or of ComfyUI), or the text of a file of the same name that ends in .txt. A
    video of another size or without a prompt is a warning; ValueError for a folder without any that can be used."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_EXTENSIONS) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder} should be a folder with videos ({', '.join(VIDEO_EXTENSIONS)}), found none: check the path")
    samples: list[tuple[Any, Video]] = []
    for path in files:
        try:
            samples.append(_read_sample(path, read_caption))
        except Exception as problem:
            if path is files[-1] and not samples:
                raise
            logger.warning("%s is left out: %s", path, of_one_item(problem))
    return samples, {"left_out": len(files) - len(samples)} if len(samples) < len(files) else {}


def _judged(samples: list[Sample], out: Path | None) -> dict[str, float]:
    """All figures; the starting frame is the video's first where it is not known. `out` gets `videos.png` (a row a prompt) and
    `interpolated.png` (every third frame) of the first few."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        few = samples[:8]
        longest = min(len(s.video) for s in few)
        rows = torch.cat([s.video[:longest] if s.first is None else torch.cat([s.first, s.video[:longest]]) for s in few])
        write_image(out / "videos.png", contact_sheet(rows, columns=len(rows) // len(few)))
        if finer := [s.finer[::3] for s in few if s.finer is not None]:
            write_image(out / "interpolated.png", contact_sheet(torch.cat(finer), columns=len(finer[0])))
    readings = read_frames(torch.cat([_network(s.video[:1] if s.first is None else s.first) for s in samples]))
    figures = {part: agreement(readings, [s.clip for s in samples], part) for part in PARTS}
    return figures | judge_videos(samples) | judge_interpolation(samples)


def _read_sample(path: Path, read_caption: Callable[[str], Any]) -> tuple[Any, Video]:
    video, size = read_video(path), shapes.SIZE
    height, width = video.frames.shape[1:3]
    if not height == width == size:
        raise UserError(f"{path} should be {size} x {size}, found {width} x {height}: the detectors read that size")
    beside = path.with_suffix(".txt")
    texts = [beside.read_text()] if beside.is_file() else _texts(video.metadata.get("prompt", ""))
    for text in texts:
        if (clip := read_caption(text)) is not None:
            return clip, video
    example = "write it there, such as 'a big red circle moves right on a white background'"
    raise UserError(f"{path} has no prompt of the tiny model's world in its metadata or in {beside.name}: {example}")


def _texts(prompt: str) -> list[str]:
    """The prompt itself, or every text in a ComfyUI graph."""
    try:
        nodes = [node["inputs"] for node in json_of(prompt).values()]
    except (ValueError, AttributeError, KeyError, TypeError):
        nodes = [{"text": prompt}]
    return [value for inputs in nodes for value in inputs.values() if isinstance(value, str)]
