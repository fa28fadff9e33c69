"""The figures of one video for the node that shows them: measured by the core, as JSON, as a table, and frame by frame."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..emu_core.evaluation import metrics
from ..emu_core.evaluation.metrics import CHANGES, CLIP_IMAGE, CLIP_TEXT, CONSISTENCY, PIXEL_MSE, Metric
from ..emu_core.media.images import to_bytes
from ..emu_core.networks import ImageText, Networks

METRICS = tuple(metric for metric in metrics.VIDEO_METRICS if metric is not metrics.AESTHETIC)
NEEDS = {
    ("clip",): "needs a CLIP in models/emu_video_metrics, chosen as clip",
    ("images",): "needs the conditioning image, connected to image",
    ("clip", "images"): "needs a CLIP as clip and the conditioning image as image",
}


@dataclass(frozen=True)
class Figures:
    """values: by metric key; reasons: why a metric was not computed, by its key; series: values frame by frame, and from frame to
    frame, by name; facts: of the video; networks: name, sha256 and preprocessing of what measured."""

    prompt: str
    facts: dict[str, float]
    values: dict[str, float]
    reasons: dict[str, str]
    changes: dict[str, float]
    series: dict[str, list[float]]
    networks: dict[str, dict[str, str]]

    def said(self, metric: Metric) -> str:
        """A figure with its unit, or why it was not computed."""
        if metric.key in self.reasons:
            return f"not computed: {self.reasons[metric.key]}"
        return f"{metric.shown(self.values[metric.key])} {metric.unit}"

    def size(self) -> str:
        """What the video is, in words."""
        f = self.facts
        return f"{f['frames']:.0f} frames, {f['width']:.0f} x {f['height']:.0f}, {f['fps']:g} a second"

    def text(self) -> str:
        """For the node: a line a metric, those that were not computed last."""
        ordered = sorted(METRICS, key=lambda metric: metric.key in self.reasons)
        return "\n".join([self.size(), *(f"{metric.label}: {self.said(metric)}" for metric in ordered)])

    def table(self) -> str:
        """Markdown."""
        rows = [f"| {metric.label} | {self.said(metric)} | {metric.better or '-'} |" for metric in METRICS]
        return "\n".join([self.size(), "", "| metric | figure | better |", "|---|---|---|", *rows]) + "\n"

    def as_json(self) -> str:
        """Everything, indented."""
        entries = {}
        for m in METRICS:
            figure = {"not_computed": self.reasons[m.key]} if m.key in self.reasons else {"value": self.values[m.key]}
            entries[m.key] = {"label": m.label, "unit": m.unit, "better": m.better or None, **figure}
        content = {"format": 1, "prompt": self.prompt, "video": self.facts, "metrics": entries, "changes": self.changes}
        content |= {"frames": self.series, "networks": self.networks}
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


class _Remembering:
    """A CLIP that keeps the vectors of what it was shown, so that the curves need no second pass."""

    def __init__(self, clip: ImageText) -> None:
        self._clip, self.source, self.prepare = clip, clip.source, clip.prepare
        self.seen: list[np.ndarray] = []
        self.text = np.zeros(0)

    def images(self, prepared: Sequence[torch.Tensor]) -> np.ndarray:
        """As the CLIP does."""
        vectors = self._clip.images(prepared)
        self.seen += list(vectors)
        return vectors

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """As the CLIP does, for one text."""
        vectors = self._clip.texts(texts)
        self.text = vectors[0]
        return vectors


def measure(frames: torch.Tensor, fps: float, prompt: str, image: torch.Tensor | None, clip: ImageText | None) -> Figures:
    """Measure frames (f, H, W, 3) 0..1 at 8 bits; image (H, W, 3), at 8 bits too."""
    pixels = to_bytes(frames)
    given = None if image is None else torch.from_numpy(to_bytes(image)).float() / 255
    remembered = None if clip is None else _Remembering(clip)
    networks = Networks(clip=remembered)
    figures = metrics.measure_frames(pixels, fps, prompt, given, networks).figures
    found = {key: value for key, value in figures.items() if math.isfinite(value)}
    return Figures(
        prompt,
        {"frames": len(pixels), "width": pixels.shape[2], "height": pixels.shape[1], "fps": fps},
        {m.key: found[m.key] for m in METRICS if m.key in found},
        {m.key: _reason(m, clip is None, image is None, len(pixels)) for m in METRICS if m.key not in found},
        {key: found[key] for key in CHANGES if key in found},
        _series(pixels, remembered, image is not None),
        networks.sources(),
    )


def _reason(metric: Metric, no_clip: bool, no_image: bool, frames: int) -> str:
    missing = tuple(name for name, none in (("clip", no_clip), ("images", no_image)) if none and name in metric.needed)
    return NEEDS.get(missing) or ("needs 2 or more frames" if frames < 2 else "needs something that moves measurably")


def _series(pixels: np.ndarray, clip: _Remembering | None, has_image: bool) -> dict[str, list[float]]:
    """A frame: mean of each colour in levels, cosines with the prompt and the conditioning image. A step: pixel MSE, and the
    cosine with the frame before."""
    colours = enumerate(("red", "green", "blue"))
    result = {f"mean_{name}": [float(frame[..., i].mean(dtype=np.float64)) for frame in pixels] for i, name in colours}
    result[PIXEL_MSE.key] = [metrics.step_error(*pair) for pair in zip(pixels, pixels[1:], strict=False)]
    if clip is not None:
        vectors = np.stack(clip.seen[has_image:])
        result[CLIP_TEXT.key] = (vectors @ clip.text).tolist()
        result[CONSISTENCY.key] = (vectors[1:] * vectors[:-1]).sum(axis=1).tolist()
        if has_image:
            result[CLIP_IMAGE.key] = (vectors @ clip.seen[0]).tolist()
    return result
