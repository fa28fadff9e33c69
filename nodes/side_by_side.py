"""Several videos on one picture: next to each other in time, and moments of each on a sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..emu_core.media import contact_sheet, fit, sheet

LEAST_HEIGHT = 256
"""Smaller videos are enlarged, or their labels could not be read."""
SHEET_HEIGHT = 256
SHORTER = ("loop", "hold")


@dataclass(frozen=True)
class Video:
    """frames: (f, H, W, 3), 0..1."""

    frames: torch.Tensor
    fps: float
    label: str


def on_one_clock(videos: Sequence[Video], shorter: str) -> tuple[list[list[int]], float]:
    """Which frame of each video is in view at each frame of the comparison, which has the highest rate and the longest time."""
    fps = max(video.fps for video in videos)
    count = max(math.ceil(len(video.frames) * fps / video.fps - 1e-6) for video in videos)
    chosen = []
    for video in videos:
        places = [math.floor(number * video.fps / fps + 1e-6) for number in range(count)]
        size = len(video.frames)
        chosen.append([place % size if shorter == "loop" else min(place, size - 1) for place in places])
    return chosen, fps


def of_height(frames: torch.Tensor, height: int) -> torch.Tensor:
    """Frames in another height and their own shape; whole enlargements keep the pixels as they are."""
    factor, rest = divmod(height, frames.shape[1])
    if rest == 0:
        return frames.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return fit(frames, height, max(1, round(frames.shape[2] * height / frames.shape[1])))


def common_height(videos: Sequence[Video]) -> int:
    """Of the tallest; enlarged by a whole factor where it is small."""
    tallest = max(video.frames.shape[1] for video in videos)
    return tallest * max(1, math.ceil(LEAST_HEIGHT / tallest))


def _ground(*shape: int) -> torch.Tensor:
    return (torch.tensor(sheet.BACKGROUND) / 255).expand(*shape, 3).clone()


def compare(videos: Sequence[Video], height: int, shorter: str) -> tuple[torch.Tensor, float]:
    """Frames (f, H, W, 3) of all videos side by side under their labels, sides even, and their rate."""
    chosen, fps = on_one_clock(videos, shorter)
    panels = [of_height(video.frames, height) for video in videos]
    bar, left = max(24, height // 12), sheet.GAP
    full_h, full_w = bar + height + sheet.GAP, sum(panel.shape[2] + sheet.GAP for panel in panels) + sheet.GAP
    result = _ground(len(chosen[0]), full_h + full_h % 2, full_w + full_w % 2)
    font = ImageFont.load_default(round(bar * 0.58))
    for panel, video, places in zip(panels, videos, chosen, strict=True):
        width = panel.shape[2]
        strip = Image.new("RGB", (width, bar), sheet.BACKGROUND)
        draw = ImageDraw.Draw(strip)
        draw.text((4, bar / 2), sheet._shorten(draw, font, video.label, width - 8), fill=sheet.INK, font=font, anchor="lm")
        result[:, :bar, left : left + width] = torch.from_numpy(np.asarray(strip, dtype=np.float32) / 255)
        result[:, bar : bar + height, left : left + width] = panel[places]
        left += width + sheet.GAP
    return result, fps


def moments(videos: Sequence[Video], count: int, shorter: str) -> torch.Tensor:
    """A sheet (H, W, 3): a row a video, `count` moments from the first frame to the last, the same for all."""
    chosen, fps = on_one_clock(videos, shorter)
    times = np.linspace(0, len(chosen[0]) - 1, min(count, len(chosen[0]))).round().astype(int)
    height = min(common_height(videos), SHEET_HEIGHT)
    shown = [video.frames[[places[time] for time in times]] for video, places in zip(videos, chosen, strict=True)]
    panels = [of_height(frames, height) for frames in shown]
    cells = _ground(len(panels) * len(times), height, max(panel.shape[2] for panel in panels))
    for row, panel in zip(cells.split(len(times)), panels, strict=True):
        left = (row.shape[2] - panel.shape[2]) // 2
        row[:, :, left : left + panel.shape[2]] = panel
    labels = [f"{video.label}  {time / fps:.2f} s" for video in videos for time in times]
    return contact_sheet(cells, len(times), labels, 1)
