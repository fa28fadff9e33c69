"""Clips as the web has them: most hardly move and have captions that say little or what is not there. Emu Video is trained on
such and fine-tuned on the few good ones, which a rule finds."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from ..media import write_video
from ..media.files import write_text
from ..model.streams import stream
from ..toy import world
from ..toy.worlds import LAB

SEED = 55
SECONDS, RATE = 2.5, 8.0
FEWEST = 80  # clips, of which some are good
POOR = 0.6
"""The share of clips that hardly move, and whose captions are poor."""
SELECTION = "hq"
RULE = "motion_min > 0.2"
"""The paper's rule has three parts: CLIP's agreement of text and first frame, an aesthetic score, and the least motion score of
any window. The first two take networks that nobody trained on this world; the third is as it is, with a threshold for it."""


def one(index: int) -> tuple[world.Clip, str]:
    """A clip and its caption."""
    clip, generator = world.clip(SEED, index, part=LAB), stream(SEED, "mixed", index)
    if torch.rand(1, generator=generator).item() >= POOR:
        return clip, clip.caption
    other = world.clip(SEED + 1, index, part=LAB)
    still = replace(clip, motion="still", slowly=False)
    return still, "a video" if torch.rand(1, generator=generator).item() < 0.5 else other.caption


def make_shards(folder: Path, count: int) -> Path:
    """Draw clips as mp4, curate them, and select the good ones; what is there already is kept."""
    from ..data.curate import Curation, curate  # takes pyarrow, which no other arm needs
    from ..data.engines import ProcessEngine
    from ..data.select import select

    videos, shards = folder / "videos", folder / "shards"
    videos.mkdir(parents=True, exist_ok=True)
    times = torch.arange(round(SECONDS * RATE)) / RATE
    for index in tqdm(range(count), desc="drawing videos"):
        path = videos / f"clip-{index:05d}.mp4"
        if path.with_suffix(".txt").exists():  # written last
            continue
        clip, caption = one(index)
        write_video(path, clip.draw(times).movedim(1, -1) / 2 + 0.5, RATE)
        write_text(path.with_suffix(".txt"), caption)
    engine = ProcessEngine(max(1, min(os.cpu_count() or 1, 4)))
    try:
        curate([str(videos)], shards, Curation(motion_fps=RATE, motion_height=world.SIZE), engine)
    finally:
        engine.close()
    select(shards, SELECTION, RULE)
    return shards
