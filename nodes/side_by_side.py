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
        last = len(video.frames) - 1
        chosen.append([place % (last + 1) if shorter == "loop" else min(place, last) for place in places])
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


def compare(videos: Sequence[Video], height: int, shorter: str) -> tuple[torch.Tensor, float]:
    """Frames (f, H, W, 3) of all videos side by side under their labels, sides even, and their rate."""
    chosen, fps = on_one_clock(videos, shorter)
    panels = [of_height(video.frames, height) for video in videos]
    bar, gap = max(24, height // 12), sheet.GAP
    full_h, full_w = bar + height + gap, sum(panel.shape[2] + gap for panel in panels) + gap
    ground = torch.tensor(sheet.BACKGROUND) / 255
    result = ground.expand(len(chosen[0]), full_h + full_h % 2, full_w + full_w % 2, 3).clone()
    left = gap
    for panel, video, places in zip(panels, videos, chosen, strict=True):
        width = panel.shape[2]
        result[:, :bar, left : left + width] = _label(video.label, bar, width)
        result[:, bar : bar + height, left : left + width] = panel[places]
        left += width + gap
    return result, fps


def _label(text: str, height: int, width: int) -> torch.Tensor:
    strip = Image.new("RGB", (width, height), sheet.BACKGROUND)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(round(height * 0.58))
    line = sheet._shorten(draw, font, text, width - 8)
    draw.text((4, height / 2), line, fill=sheet.INK, font=font, anchor="lm")
    return torch.from_numpy(np.asarray(strip, dtype=np.float32) / 255)


def moments(videos: Sequence[Video], count: int, shorter: str) -> torch.Tensor:
    """A sheet (H, W, 3): a row a video, `count` moments from the first frame to the last, the same for all."""
    chosen, fps = on_one_clock(videos, shorter)
    times = np.linspace(0, len(chosen[0]) - 1, min(count, len(chosen[0]))).round().astype(int)
    height = min(common_height(videos), SHEET_HEIGHT)
    panels = [
        of_height(video.frames[[places[time] for time in times]], height) for video, places in zip(videos, chosen, strict=True)
    ]
    width = max(panel.shape[2] for panel in panels)
    cells = torch.cat([_centred(panel, width) for panel in panels])
    labels = [f"{video.label}  {time / fps:.2f} s" for video in videos for time in times]
    return contact_sheet(cells, len(times), labels, 1)


def _centred(frames: torch.Tensor, width: int) -> torch.Tensor:
    left = (width - frames.shape[2]) // 2
    result = (torch.tensor(sheet.BACKGROUND) / 255).expand(*frames.shape[:2], width, 3).clone()
    result[:, :, left : left + frames.shape[2]] = frames
    return result
