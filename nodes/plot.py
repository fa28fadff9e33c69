"""The picture of a video's figures, drawn with Pillow: ComfyUI brings it, and no matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..emu_core.evaluation.metrics import CLIP_IMAGE, CLIP_TEXT, CONSISTENCY, PIXEL_MSE
from ..emu_core.media import sheet
from .figures import METRICS, Figures

WIDTH, HEIGHT, FINER = 1200, 760, 2
"""Drawn twice as large and made smaller, for smooth lines."""
INK, SOFT, LINE, PAPER, CARD = "#171c26", "#5a6474", "#dfe3ea", "#ffffff", "#f5f6f8"
RED, GREEN, BLUE, ORANGE, GREY = "#d0342c", "#1b9e5a", "#2f6fde", "#e08a1e", "#6b7280"
Curve = tuple[str, str, Sequence[float], float]
"""Name, colour, values, and where the first of them lies in frames."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class _Page:
    """Pillow's drawing in final pixels."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH * FINER, HEIGHT * FINER), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def text(
        self, x: float, y: float, text: str, size: float = 15, colour: str = INK, anchor: str = "ls", width: float | None = None
    ) -> float:
        """Written from or around a place, cut at a `width`; returns how wide it is."""
        font = ImageFont.load_default(size * FINER)
        line = text if width is None else sheet._shorten(self._draw, font, text, int(width * FINER))
        self._draw.text((x * FINER, y * FINER), line, fill=colour, font=font, anchor=anchor)
        return self._draw.textlength(line, font=font) / FINER

    def card(self, box: Box) -> None:
        self._draw.rounded_rectangle([v * FINER for v in box], 10 * FINER, fill=CARD)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        self._draw.line([(x * FINER, y * FINER) for x, y in points], colour, round(width * FINER), joint="curve")

    def dot(self, x: float, y: float, colour: str, radius: float = 3.2) -> None:
        self._draw.ellipse([v * FINER for v in (x - radius, y - radius, x + radius, y + radius)], fill=colour)


def draw(figures: Figures) -> torch.Tensor:
    """(760, 1200, 3), 0..1: all figures, and curves over the frames of colour, change and CLIP."""
    page = _Page()
    page.text(32, 46, figures.prompt or "Video", 24, width=WIDTH - 64)
    page.text(32, 74, figures.size(), 15, SOFT)
    _figures(page, figures)
    series, frames = figures.series, int(figures.facts["frames"])
    colours = [(f"mean {n}", c, series[f"mean_{n}"], 0.0) for n, c in (("red", RED), ("green", GREEN), ("blue", BLUE))]
    change = [("pixel MSE to the frame before", GREY, series[PIXEL_MSE.key], 1.0)]
    cosines = (("prompt", BLUE, CLIP_TEXT), ("conditioning image", ORANGE, CLIP_IMAGE), ("frame before", GREEN, CONSISTENCY))
    clip = [(name, c, series[m.key], float(m is CONSISTENCY)) for name, c, m in cosines if m.key in series]
    panels = (
        ("Colour, in levels", colours, ""),
        ("Change, in levels^2", change, "Needs 2 or more frames."),
        ("CLIP, cosine with", clip, f"Not computed: {figures.reasons.get(CLIP_TEXT.key, '')}."),
    )
    height = (HEIGHT - 32 - 96 - 2 * 12) / 3
    for number, (title, curves, missing) in enumerate(panels):
        top = 96 + number * (height + 12)
        _panel(page, (520, top, WIDTH - 32, top + height), title, curves, missing, frames)
    small = page.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)


def _figures(page: _Page, figures: Figures) -> None:
    left, right, top = 32, 488, 96
    page.card((left, top, right, HEIGHT - 32))
    step = (HEIGHT - 32 - top - 20) / len(METRICS)
    for number, metric in enumerate(METRICS):
        y = top + 10 + number * step
        if number:
            page.line([(left + 18, y), (right - 18, y)], LINE, 1)
        page.text(left + 20, y + 29, metric.label, 16)
        if metric.key in figures.reasons:
            page.text(right - 20, y + 29, "not computed", 15, SOFT, "rs")
            page.text(left + 20, y + 51, figures.reasons[metric.key], 13, SOFT, width=right - left - 40)
        else:
            page.text(right - 20, y + 31, metric.shown(figures.values[metric.key]), 22, INK, "rs")
            page.text(left + 20, y + 51, f"{metric.better or 'neither'} is better", 13, SOFT)
            page.text(right - 20, y + 51, metric.unit, 13, SOFT, "rs")


def _panel(page: _Page, box: Box, title: str, curves: Sequence[Curve], missing: str, frames: int) -> None:
    left, top, right, bottom = box
    page.card(box)
    x = left + 18 + page.text(left + 18, top + 27, title) + 22
    shown = [curve for curve in curves if len(curve[2])]
    if not shown:
        page.text((left + right) / 2, (top + bottom) / 2, missing, 14, SOFT, "ms")
        return
    for name, colour, _, _ in shown:
        page.dot(x, top + 22, colour, 4.5)
        x += 10 + page.text(x + 10, top + 27, name, 13, SOFT) + 20
    left, top, right, bottom = left + 70, top + 46, right - 22, bottom - 30
    every = [value for _, _, values, _ in shown for value in values]
    ticks = _ticks(min(every), max(every))
    low, high = ticks[0], ticks[-1]

    def place(frame: float, value: float) -> tuple[float, float]:
        return left + (right - left) * (frame + 0.5) / frames, bottom - (bottom - top) * (value - low) / (high - low)

    for tick in ticks:
        y = place(0, tick)[1]
        page.line([(left, y), (right, y)], LINE, 1)
        page.text(left - 10, y, f"{tick:g}", 12, SOFT, "rm")
    for frame in range(0, frames, max(1, math.ceil(frames / 12))):
        page.text(place(frame, low)[0], bottom + 18, str(frame), 12, SOFT, "ms")
    page.text(left - 10, bottom + 18, "frame", 12, SOFT, "rs")
    for _, colour, values, first in shown:
        points = [place(first + number, value) for number, value in enumerate(values)]
        if len(points) > 1:
            page.line(points, colour, 2.2)
        if frames <= 64:
            for x, y in points:
                page.dot(x, y, colour)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, at most five steps, around all values."""
    rough = max(high - low, 0.02 * max(abs(low), abs(high)), 1e-3) / 4
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    start = math.floor(low / step + 1e-9)
    end = max(math.ceil(high / step - 1e-9), start + 1)
    return [round(number * step, 10) for number in range(start, end + 1)]
