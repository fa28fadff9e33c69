"""Measures a model of the little world on combinations of figure, colour and motion that it never saw.

Frames are read by the exact detectors of `reading`, which do not know what was asked. Each video gives a row of numbers; a
figure is their mean over the prompts, with the bootstrap's interval. Lengths are pixels of 64 x 64 frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..errors import UserError
from ..evaluation.statistics import bootstrap_mean
from ..media import contact_sheet, fit, read_image, write_image
from ..model.conditioning import slots
from ..pipeline import EmuVideoPipeline
from ..settings import Settings
from . import reading, world
from .judge import read_folder
from .shapes import SIZE, pixel_grid

SEED = 987_654  # of the held-out prompts; training uses others, and other combinations
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
ASKED_OF_PHOTOGRAPHS = ("the camera pans right", "the camera zooms in")
Row = dict[str, float]


@dataclass(frozen=True)
class Sample:
    """One prompt and what a model made of it: images (f, 64, 64, 3) 0..1, `fps` of the video. `first` is the given starting
    frame, `finer` the interpolated video; None where it is not known."""

    clip: world.Clip
    video: Tensor
    fps: float
    first: Tensor | None = None
    finer: Tensor | None = None


def network(frames: Tensor) -> Tensor:
    """(f, H, W, 3) 0..1 -> (f, 3, H, W) -1..1, as the detectors read."""
    return frames.permute(0, 3, 1, 2) * 2 - 1


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal to noise in dB of images 0..1."""
    return float(-10 * torch.log10((a - b).square().mean().clamp(min=1e-10)))


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Means of what the rows have, in their order; under `intervals` the ends of each one's 95 % interval over the prompts."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    found = {name: bootstrap_mean([row.get(name, math.nan) for row in rows]) for name in names}
    ends = {name: [one.low, one.high] for name, one in found.items() if not math.isnan(one.low)}
    return {name: one.value for name, one in found.items()} | {"intervals": ends}


def read(sample: Sample) -> reading.Reading:
    """What the detectors see in its video."""
    return reading.read(network(sample.video), torch.arange(len(sample.video)) / sample.fps)


def row(sample: Sample, seen: reading.Reading | None = None) -> Row:
    """What the detectors say of one video; `seen`: what `read` saw in it, where that is known. `shape` and `background` are
    `figure` and `ground` by the names that they had in the world of shapes, `direction` the motion's kind, `speed` whether what
    moves is slow or not as asked, `travel_ratio` its amount over what was asked. What shows another figure says nothing of
    outlines."""
    clip, seen = sample.clip, seen or read(sample)
    right = {name: float(value) for name, value in reading.right(seen, clip).items() if name != "mirrored"}
    result: Row = {**right, "shape": right["figure"], "background": right["ground"], "direction": right["motion"]}
    result["last_frame_shape"] = float(seen.figure == clip.figure and bool(seen.whole[-1]))
    if right["motion"] and clip.motion in world.DIRECTIONS:
        result["speed"] = float(seen.motion.slowly == clip.slowly)
        result["travel_ratio"] = seen.motion.amount / reading.asked(clip).amount
    if clip.motion == "still" and seen.figure != reading.NOTHING:
        result["still_drift_px"] = float((seen.centre[-1] - seen.centre[0]).norm())
    if right["figure"]:
        result |= {"edge_error_px": seen.edge_error, "wobble_px": seen.wobble, "area_variation": seen.area}
        result |= {"ground_flicker": seen.ground_flicker, "colour_flicker": seen.colour_flicker}
        result["colour_drift"] = _drift(seen, sample)
        result |= {} if math.isnan(seen.roundness) else {"roundness": seen.roundness}
    if sample.first is not None:
        result["frame0_psnr_db"] = psnr(sample.first[0], sample.video[0])
    return result | (interpolated(sample, seen) if sample.finer is not None else {})


def _drift(seen: reading.Reading, sample: Sample) -> float:
    """How far the figure's median colour goes from the first frame to the last, 0..255."""
    ends = []
    for frame, k in ((sample.video[0], 0), (sample.video[-1], -1)):
        offset = pixel_grid() - seen.centre[k]
        inside = offset.norm(dim=-1) < 0.35 * world.RADIUS[seen.size] * seen.scale[k]
        ends.append(frame[inside].median(0).values if inside.any() else torch.full((3,), math.nan))
    return float((ends[1] - ends[0]).abs().mean()) * 255


def interpolated(sample: Sample, seen: reading.Reading) -> Row:
    """Of the frames at four times the rate: their distance from the straight way between the given keyframes, how well those came
    through, and how steady the outline is."""
    assert sample.finer is not None
    places, count = slots(len(sample.video)), len(sample.finer)
    result = {"keyframe_psnr_db": psnr(sample.finer[places], sample.video)}
    if seen.figure != sample.clip.figure:
        return result
    finer = reading.read(network(sample.finer), (torch.arange(count) - places[0]) / (4 * sample.fps))
    if finer.figure != seen.figure:
        return result
    between = [i for i in range(places[0], places[-1]) if i not in places]
    share = torch.tensor([(i % places[0]) / places[0] for i in between])[:, None]
    left = torch.tensor([i // places[0] - 1 for i in between])
    way = seen.centre[left] + share * (seen.centre[left + 1] - seen.centre[left])
    result["between_error_px"] = float((finer.centre[between] - way).norm(dim=1).mean())
    return result | {"finer_edge_error_px": finer.edge_error, "finer_wobble_px": finer.wobble}


def floor(base: Any, clips: Iterable[world.Clip]) -> Row:
    """What the autoencoder alone does to real frames: the same outlines' errors, and how many dB it keeps."""
    rows = []
    for clip in clips:
        times = torch.arange(8) / 4.0
        real = clip.draw(times).permute(0, 2, 3, 1) / 2 + 0.5
        kept = base.decode_latents(base.encode_images(real).to(base.device)).float().cpu()
        seen = reading.read(network(kept), times, clip)
        rows.append({"edge_error": seen.edge_error, "wobble": seen.wobble, "psnr_db": psnr(real, kept)})
    return {f"autoencoder_{name}": sum(r[name] for r in rows) / len(rows) for name in rows[0]}


def clips_asked(count: int, seed: int = SEED) -> list[world.Clip]:
    """Held-out clips, their figures near the middle."""
    return [world.posed(clip) for clip in world.clips(seed, range(count), held_out=True)]


def evaluate(
    pipeline: EmuVideoPipeline,
    prompts: int,
    settings: Settings = Settings(),
    interpolate: bool = True,
    out: Path | None = None,
    last: int = 0,
    seed: int = SEED,
) -> dict[str, Any]:
    """Run the three steps on held-out prompts and measure them. With `last`, that many real frames at the clip's end are given
    instead of a starting frame, and what came before is made. With `out`, sheets of the first videos are written there."""
    samples = []
    for i, clip in enumerate(tqdm(clips_asked(prompts, seed), desc="videos")):
        told = replace(settings, seed=settings.seed + i)
        if not last:
            result = pipeline(clip.caption, told, interpolate=interpolate)
            samples.append(Sample(clip, result.video, result.fps, result.starting_frame, result.interpolated))
            continue
        config = pipeline._model("F").stack.config.clip
        count, fps = settings.frames or config.frames, settings.fps or config.fps
        real = clip.draw(torch.arange(count) / fps).permute(0, 2, 3, 1) / 2 + 0.5
        samples.append(Sample(clip, pipeline.video(real[-last:], clip.caption, told, range(count - last, count)), fps))
    rows = [row(sample) for sample in tqdm(samples, desc="reading")]
    draw(samples, rows, out)
    return {"prompts": prompts, **figures(rows), **floor(pipeline.base, clips_asked(min(prompts, 24), seed))}


def evaluate_folder(folder: Path, out: Path | None = None) -> dict[str, Any]:
    """Measure videos that were made elsewhere, by the same detectors; see `judge.read_folder`. The given starting frame is not
    known, so nothing is said of it; a video counts as it is, interpolated or not."""
    found, left = read_folder(folder, world.read_caption)
    samples = [Sample(clip, video.frames, video.fps) for clip, video in found]
    rows = [row(sample) for sample in tqdm(samples, desc="reading")]
    draw(samples, rows, out)
    return {"videos": len(samples), **left, **figures(rows)}


def draw(samples: Sequence[Sample], rows: Sequence[Row], out: Path | None) -> None:
    """Into `out`: `videos.png` (a row a prompt), `interpolated.png` (every third frame) of the first few, and `wrong.png`: of
    those in which something is wrong."""
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    parts = ("figure", "colour", "ground", "size", "amount")
    wrong = [s for s, r in zip(samples, rows, strict=True) if min(r[part] for part in parts) < 1]
    for name, chosen in (("videos.png", samples[:8]), ("wrong.png", wrong[:12])):
        if chosen:
            length = min(len(s.video) for s in chosen)
            write_image(out / name, contact_sheet(torch.cat([s.video[:length] for s in chosen]), columns=length))
    if finer := [s.finer[::3] for s in samples[:8] if s.finer is not None]:
        write_image(out / "interpolated.png", contact_sheet(torch.cat(finer), columns=len(finer[0])))


def evaluate_photographs(
    pipeline: EmuVideoPipeline, folder: Path, settings: Settings = Settings(), out: Path | None = None
) -> dict[str, Any]:
    """Animate each picture of a folder as ASKED_OF_PHOTOGRAPHS say, and measure: `photograph_frame0_db` against the picture,
    `photograph_last_db`: the last frame against the picture moved as told, where both show it; `photograph_drift`: how far the
    mean colour of that part goes, 0..255."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder} should be a folder of pictures ({', '.join(PICTURES)}), found none: check the path")
    rows, sheets = [], []
    for path in tqdm(files, desc="photographs"):
        given = fit(read_image(path)[None], SIZE, SIZE)
        for prompt in ASKED_OF_PHOTOGRAPHS:
            result = pipeline(prompt, settings, image=given, interpolate=False)
            sheets.append(torch.cat([given, result.video]))
            motion, seconds = prompt.removeprefix("the camera "), (len(result.video) - 1) / result.fps
            rows.append(photograph_row(given, result.video, motion, seconds))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_image(out / "photographs.png", contact_sheet(torch.cat(sheets), columns=len(sheets[0])))
    return figures(rows)


def photograph_row(given: Tensor, video: Tensor, motion: str, seconds: float) -> Row:
    """Of a picture (1, 64, 64, 3) and what became of it (f, 64, 64, 3) after the camera's `motion` of so many seconds."""
    places = world.path(motion, False, (0.0, 0.0), torch.tensor([seconds])).world()
    moved = F.grid_sample(given.permute(0, 3, 1, 2), places / (SIZE / 2) - 1, align_corners=False)[0].permute(1, 2, 0)
    shown = ((places > 0.5) & (places < SIZE - 0.5)).all(-1)[0]
    last = video[-1]
    return {
        "photograph_frame0_db": psnr(given[0], video[0]),
        "photograph_last_db": psnr(moved[shown], last[shown]),
        "photograph_drift": float((moved[shown].mean(0) - last[shown].mean(0)).abs().mean()) * 255,
    }
