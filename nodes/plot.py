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


class _Page:
    """Pillow's drawing in final pixels."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH * FINER, HEIGHT * FINER), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, text: str, size: float = 15, colour: str = INK, anchor: str = "ls") -> None:
        self._draw.text((x * FINER, y * FINER), text, fill=colour, font=self._font(size), anchor=anchor)

    def fitted(self, text: str, width: float, size: float = 15) -> str:
        return sheet._shorten(self._draw, self._font(size), text, int(width * FINER))

    def wrapped(self, text: str, width: float, size: float) -> list[str]:
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if self._draw.textlength(longer, font=self._font(size)) <= width * FINER or not lines[-1]:
                lines[-1] = longer
            else:
                lines.append(word)
        return lines

    def length(self, text: str, size: float) -> float:
        return self._draw.textlength(text, font=self._font(size)) / FINER

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        self._draw.rounded_rectangle([v * FINER for v in (left, top, right, bottom)], 10 * FINER, fill=colour)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        self._draw.line([(x * FINER, y * FINER) for x, y in points], colour, round(width * FINER), joint="curve")

    def dot(self, x: float, y: float, colour: str, radius: float = 3.2) -> None:
        self._draw.ellipse([v * FINER for v in (x - radius, y - radius, x + radius, y + radius)], fill=colour)

    def _font(self, size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return ImageFont.load_default(size * FINER)

    def finished(self) -> torch.Tensor:
        small = self.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)


def draw(figures: Figures) -> torch.Tensor:
    """(760, 1200, 3), 0..1: all figures, and curves over the frames of colour, change and CLIP."""
    page = _Page()
    page.text(32, 46, page.fitted(figures.prompt or "Video", WIDTH - 64, 24), 24)
    page.text(32, 74, figures.size(), 15, SOFT)
    _figures(page, figures)
    series, frames = figures.series, int(figures.facts["frames"])
    colours = [(f"mean {n}", c, series[f"mean_{n}"], 0.0) for n, c in (("red", RED), ("green", GREEN), ("blue", BLUE))]
    change = [("pixel MSE to the frame before", GREY, series[PIXEL_MSE.key], 1.0)]
    clip = [
        (name, colour, series[metric.key], first)
        for name, colour, metric, first in (
            ("prompt", BLUE, CLIP_TEXT, 0.0), ("conditioning image", ORANGE, CLIP_IMAGE, 0.0),
            ("frame before", GREEN, CONSISTENCY, 1.0),
        )
        if metric.key in series
    ]  # fmt: skip
    top, height = 96, (HEIGHT - 32 - 96 - 2 * 12) / 3
    for number, (title, curves, missing) in enumerate(
        (
            ("Colour, in levels", colours, ""),
            ("Change, in levels^2", change, "Needs 2 or more frames."),
            ("CLIP, cosine with", clip, f"Not computed: {figures.reasons.get(CLIP_TEXT.key, '')}."),
        )
    ):
        _panel(page, (520, top + number * (height + 12), WIDTH - 32, top + number * (height + 12) + height), title, curves,
               missing, frames)  # fmt: skip
    return page.finished()


def _figures(page: _Page, figures: Figures) -> None:
    left, right, top = 32, 488, 96
    page.box(left, top, right, HEIGHT - 32, CARD)
    step = (HEIGHT - 32 - top - 20) / len(METRICS)
    for number, metric in enumerate(METRICS):
        y = top + 10 + number * step
        if number:
            page.line([(left + 18, y), (right - 18, y)], LINE, 1)
        page.text(left + 20, y + 29, metric.label, 16)
        better = f"{metric.better} is better" if metric.better else "neither is better"
        if metric.key in figures.reasons:
            page.text(right - 20, y + 29, "not computed", 15, SOFT, "rs")
            page.text(left + 20, y + 51, page.fitted(figures.reasons[metric.key], right - left - 40, 13), 13, SOFT)
        else:
            page.text(right - 20, y + 31, metric.shown(figures.values[metric.key]), 22, INK, "rs")
            page.text(left + 20, y + 51, better, 13, SOFT)
            page.text(right - 20, y + 51, metric.unit, 13, SOFT, "rs")


def _panel(
    page: _Page, box: tuple[float, float, float, float], title: str, curves: Sequence[Curve], missing: str, frames: int
) -> None:
    left, top, right, bottom = box
    page.box(*box, CARD)
    page.text(left + 18, top + 27, title, 15)
    shown = [curve for curve in curves if len(curve[2])]
    if not shown:
        for number, line in enumerate(page.wrapped(missing, right - left - 60, 14)):
            page.text((left + right) / 2, (top + bottom) / 2 + 20 * number, line, 14, SOFT, "ms")
        return
    x = left + 18 + page.length(title, 15) + 22
    for name, colour, _, _ in shown:
        page.dot(x, top + 22, colour, 4.5)
        page.text(x + 10, top + 27, name, 13, SOFT)
        x += 10 + page.length(name, 13) + 20
    _curves(page, (left + 70, top + 46, right - 22, bottom - 30), shown, frames)


def _curves(page: _Page, box: tuple[float, float, float, float], curves: Sequence[Curve], frames: int) -> None:
    left, top, right, bottom = box
    every = [value for _, _, values, _ in curves for value in values]
    ticks = _ticks(min(every), max(every))
    low, high = ticks[0], ticks[-1]

    def place(frame: float, value: float) -> tuple[float, float]:
        return left + (right - left) * (frame + 0.5) / frames, bottom - (bottom - top) * (value - low) / (high - low)

    for tick in ticks:
        y = place(0, tick)[1]
        page.line([(left, y), (right, y)], LINE, 1)
        page.text(left - 10, y, f"{tick:g}", 12, SOFT, "rm")
    step = max(1, math.ceil(frames / 12))
    for frame in range(0, frames, step):
        page.text(place(frame, low)[0], bottom + 18, str(frame), 12, SOFT, "ms")
    page.text(left - 10, bottom + 18, "frame", 12, SOFT, "rs")
    for _, colour, values, first in curves:
        points = [place(first + number, value) for number, value in enumerate(values)]
        if len(points) > 1:
            page.line(points, colour, 2.2)
        if frames <= 64:
            for x, y in points:
                page.dot(x, y, colour)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, at most five steps, around all values."""
    spread = max(high - low, 0.02 * max(abs(low), abs(high)), 1e-3)
    rough = spread / 4
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    end = max(end, start + 1)
    return [round(number * step, 10) for number in range(start, end + 1)]
