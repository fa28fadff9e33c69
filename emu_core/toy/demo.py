"""The demo of training: real video files of the procedural world, some of them damaged, as shards; and the verdict at its end."""

from __future__ import annotations

import os
import wave
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..data.curate import Curation, curate
from ..data.engines import ProcessEngine
from ..data.report import draw_report
from ..data.select import select
from ..media import write_video
from ..media.files import whole_file
from ..pipeline import EmuVideoPipeline
from ..settings import Settings
from ..training.folder import write_json
from . import world
from .measure import evaluate

SECONDS, FPS = 4.0, 16.0
ODD_RATES = (29.97, 12.5)
SEED = 77
PROMPTS = 5


def write_videos(folder: Path, count: int) -> None:
    """`count` clips of 4 s as mp4 with captions beside them, from combinations that are trained on. Some have odd rates."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, clip in enumerate(tqdm(world.clips(SEED, range(count)), desc="drawing videos")):
        path = folder / f"clip-{i:05d}.mp4"
        if path.with_suffix(".txt").exists():  # written last
            continue
        rate = ODD_RATES[i % 20 // 10] if i % 10 == 9 else FPS
        times = torch.arange(round(SECONDS * rate)) / rate
        frames = clip.draw(times).permute(0, 2, 3, 1) / 2 + 0.5
        write_video(path, frames, rate)
        _write(path.with_suffix(".txt"), clip.caption.encode())


def write_damaged(folder: Path) -> None:
    """Files that curation has to leave out: broken, empty, cut off, sound alone, and a video without a caption."""
    whole = min(folder.glob("clip-*.mp4")).read_bytes()
    files = {"broken.mp4": bytes(range(256)) * 20, "empty.mp4": b"", "cut_off.mp4": whole[: len(whole) // 3]}
    for name, content in files.items():
        _write(folder / name, content)
        _write((folder / name).with_suffix(".txt"), b"a big red circle moves right on a white background")
    _write(folder / "no_caption.mp4", whole)
    with whole_file(folder / "sound_only.mp4") as part, wave.open(str(part), "wb") as file:  # whatever its name says
        file.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        file.writeframes(bytes(16000))
    _write(folder / "sound_only.txt", b"a sound")


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as part:
        part.write_bytes(content)


def make_shards(videos: Path, shards: Path, count: int) -> Path:
    """Draw `count` clips and the damaged files, curate them, and select as `hq` those that move enough: there is no CLIP for the
    paper's rule here. What is there already is kept."""
    write_videos(videos, count)
    write_damaged(videos)
    engine = ProcessEngine(max(1, min(os.cpu_count() or 1, 4)))
    try:
        curate([str(videos)], shards, Curation(motion_fps=8.0, motion_height=64, shard_clips=50), engine)
    finally:
        engine.close()
    draw_report(shards)
    select(shards, "hq", "motion_min > 0.3")
    return shards


def judge_stacks(stacks: dict[str, Path], out: Path) -> dict[str, Any]:
    """Generate with the stacks F and I on the bundled model, into `out`, and what the detectors say of it."""
    pipeline = EmuVideoPipeline.from_files(None, str(stacks["F"]), str(stacks["I"]))
    figures = evaluate(pipeline, PROMPTS, Settings(frames=8, steps=8), out=out / "videos_made")
    write_json(out / "judge.json", figures)
    return figures
