"""What is measured: the metrics, and all figures of one video in one pass over its frames.

Frames are (H, W, 3) uint8. What is held is a frame or two, small prepared frames for the networks, and sums.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from ..data.motion_score import frame_scores, look
from ..errors import UserError
from ..media import Facts, Unreadable, VideoReader, fit, read_image
from ..media.decoding import Pixels
from ..media.images import to_bytes
from ..networks import AestheticHead, Array, ImageText, Inception, Networks, VideoFeatures
from .frechet import InceptionScore
from .prompts import Prompt

logger = logging.getLogger(__name__)

BATCH = 16
NOT_COMPUTED = "not computed"
ARROWS = {"higher": "↑", "lower": "↓", "": "–"}
MOST_DB = 100.0  # of equal pictures, whose ratio would be infinite
NEEDS = {
    "clip": "--clip FOLDER (CLIP)",
    "images": "conditioning images (--images FOLDER, or `image` in the prompts)",
    "aesthetic": "--aesthetic FILE (a head) and the CLIP it was trained on",
    "i3d": "--i3d FILE (I3D, TorchScript)",
    "videomae": "--videomae FOLDER (VideoMAE)",
    "classifier": "--classifier FILE (UCF-101: C3D trained on it, TorchScript)",
    "inception": "--inception FILE (Inception, TorchScript)",
}
"""What a metric may need: a network by its name in Networks, or pictures; and how it is given."""


@dataclass(frozen=True)
class Metric:
    """better: higher, lower, or empty where neither is (a frozen video moves least). digits: that are shown after the point.
    needed: names in NEEDS."""

    key: str
    label: str
    unit: str
    better: str
    digits: int
    formula: str
    needed: tuple[str, ...] = ()

    @property
    def needs(self) -> str:
        """What has to be given for it; empty: a video."""
        return " and ".join(NEEDS[thing] for thing in self.needed)

    def shown(self, value: float) -> str:
        """A figure with the usual digits after the point, or two that say something where these would say nothing."""
        return f"{value:.2g}" if 0 < abs(value) < 10 ** (1 - self.digits) else f"{value:.{self.digits}f}"


CLIP_TEXT = Metric("clip_text", "CLIP-Text (TC)", "cosine", "higher", 4, "mean over frames of cos(frame, prompt)", ("clip",))
_IMAGE = "mean over frames of cos(frame, conditioning image)"
CLIP_IMAGE = Metric("clip_image", "CLIP-Image (IC)", "cosine", "higher", 4, _IMAGE, ("clip", "images"))
_NEXT = "mean of cos(frame t, frame t + 1)"
CONSISTENCY = Metric("frame_consistency", "Frame consistency (FC)", "cosine", "higher", 4, _NEXT, ("clip",))
_HEAD = "mean over frames of the head's score of the frame's CLIP vector"
AESTHETIC = Metric("aesthetic", "Aesthetic score", "points", "higher", 3, _HEAD, ("aesthetic",))
PIXEL_MSE = Metric("pixel_mse", "Pixel MSE", "levels^2", "", 2, "mean of (frame t + 1 - frame t)^2 over frames, pixels, channels")
MOTION = Metric("motion_score", "Motion score", "px a frame", "", 3, "mean length of the codec's motion vectors")
_MEAN = "|mean of last frame - mean of first|, mean over channels"
DRIFT_MEAN = Metric("colour_drift", "Colour drift, mean", "levels", "lower", 2, _MEAN)
_SPREAD = "the same of each channel's standard deviation"
DRIFT_STD = Metric("contrast_drift", "Colour drift, deviation", "levels", "lower", 2, _SPREAD)
_WORST = "largest such change of mean from frame 0, any frame and channel"
DRIFT_WORST = Metric("worst_drift", "Colour drift, worst", "levels", "lower", 2, _WORST)
_PSNR = "PSNR of frame 0 to the conditioning image after the same crop and resize; at most 100"
FIRST_FRAME = Metric("first_frame_psnr", "First frame", "dB", "higher", 2, _PSNR, ("images",))
_DRIFTS = (DRIFT_MEAN, DRIFT_STD, DRIFT_WORST)
VIDEO_METRICS = (CLIP_TEXT, CLIP_IMAGE, CONSISTENCY, AESTHETIC, PIXEL_MSE, MOTION, *_DRIFTS, FIRST_FRAME)
CHANGES = tuple(f"{what}_change_{channel}" for what in ("mean", "deviation") for channel in ("red", "green", "blue"))
"""Signed changes from first to last frame, in levels; beside the metrics in the JSON."""

FVD_I3D = Metric("fvd_i3d", "FVD (I3D)", "", "lower", 1, "Fréchet distance of I3D's 400 logits", ("i3d",))
FVD_VIDEOMAE = Metric("fvd_videomae", "FVD (VideoMAE)", "", "lower", 1, "Fréchet distance of VideoMAE's features", ("videomae",))
_CLASSES = "Inception score of a video classifier, mean over splits"
IS_VIDEO = Metric("is_video", "IS (video classifier)", "", "higher", 2, _CLASSES, ("classifier",))
_FRAMES = "Inception score of single frames"
IS_FRAMES = Metric("is_frames", "IS (Inception, frames)", "", "higher", 2, _FRAMES, ("inception",))
SET_METRICS = (FVD_I3D, FVD_VIDEOMAE, IS_VIDEO, IS_FRAMES)
METRICS = (*VIDEO_METRICS, *SET_METRICS)


# -- sums


class Means:
    """Means by key of what comes in as sums."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: Counter[str] = Counter()

    def add(self, key: str, total: float, count: int = 1) -> None:
        """Take in the sum of so many values."""
        self._sums[key] += total
        self._counts[key] += count

    def values(self) -> dict[str, float]:
        """The mean of each key that has values."""
        return {key: self._sums[key] / count for key, count in self._counts.items() if count}


class _PixelSums:
    """Pixel MSE, colour drift and the first frame, frame by frame."""

    def __init__(self, means: Means) -> None:
        self.first: Pixels | None = None
        self._last: Pixels | None = None
        self._means, self._worst = means, 0.0
        self._start, self._end = np.zeros((2, 3)), np.zeros((2, 3))

    def add(self, frame: Pixels) -> None:
        self._end = np.stack([frame.mean(axis=(0, 1), dtype=np.float64), frame.std(axis=(0, 1), dtype=np.float64)])
        if self._last is None:
            self.first, self._start = frame, self._end
        else:
            self._means.add(PIXEL_MSE.key, step_error(self._last, frame))
        self._worst = max(self._worst, float(np.abs(self._end[0] - self._start[0]).max()))
        self._last = frame

    def figures(self, frames: int) -> dict[str, float]:
        change = self._end - self._start
        figures = dict(zip(CHANGES, change.ravel().tolist(), strict=True))
        if frames > 1:
            mean, deviation = np.abs(change).mean(axis=1).tolist()
            figures |= {DRIFT_MEAN.key: mean, DRIFT_STD.key: deviation, DRIFT_WORST.key: self._worst}
        return figures


_Batched = tuple[Callable[[Pixels], Tensor], Callable[[list[Tensor]], None]]
"""What prepares a frame for a network as it comes, and what gives the network so many of them."""


def _clip_sums(clip: ImageText, prompt: str, image: Tensor | None, means: Means) -> _Batched:
    """TC, IC and FC."""
    text = clip.texts([prompt])[0]
    given = None if image is None else clip.images([clip.prepare(to_bytes(image))])[0]
    last = np.zeros((0, text.size))

    def use(prepared: list[Tensor]) -> None:
        nonlocal last
        vectors = clip.images(prepared)
        means.add(CLIP_TEXT.key, float((vectors @ text).sum()), len(vectors))
        if given is not None:
            means.add(CLIP_IMAGE.key, float((vectors @ given).sum()), len(vectors))
        chain = np.concatenate([last, vectors])
        means.add(CONSISTENCY.key, float((chain[1:] * chain[:-1]).sum()), len(chain) - 1)
        last = vectors[-1:]

    return clip.prepare, use


def _aesthetic_sums(head: AestheticHead, means: Means) -> _Batched:
    def use(prepared: list[Tensor]) -> None:
        scores = head.scores(head.clip.images(prepared))
        means.add(AESTHETIC.key, float(scores.sum()), len(scores))

    return head.clip.prepare, use


class Middle:
    """The consecutive frames in the middle of a video that a video network sees, prepared as they pass by."""

    def __init__(self, network: VideoFeatures, total: int) -> None:
        self.network = network
        self._start = (total - network.frames) // 2  # below 0: too short
        self._number, self._prepared = 0, list[Tensor]()

    def add(self, frame: Pixels) -> None:
        """Take in the next frame of the video."""
        if 0 <= self._start <= self._number < self._start + self.network.frames:
            self._prepared.append(self.network.prepare(frame))
        self._number += 1

    def result(self) -> Array | None:
        """(d,); None for a video that is too short."""
        return self.network.video(self._prepared) if len(self._prepared) == self.network.frames else None


# -- one video


Motion = Callable[[], list[float]]
"""Gives scores of motion, none where there are none, or raises ValueError."""


@dataclass
class Measured:
    """figures: by metric key, those that the video has. features (d,): by metric key, of the networks for whole sets; frames:
    the Inception score's sums over this video; lacks: what could not be had of it."""

    facts: Facts
    figures: dict[str, float] = field(default_factory=dict)
    features: dict[str, Array] = field(default_factory=dict)
    frames: InceptionScore | None = None
    lacks: list[str] = field(default_factory=list)


def _class_sums(network: Inception, measured: Measured) -> _Batched:
    def use(prepared: list[Tensor]) -> None:
        rows = network.probabilities(prepared)
        measured.frames = measured.frames or InceptionScore(rows.shape[1], 1)
        measured.frames.add(rows, np.zeros(len(rows), dtype=np.int64))

    return network.prepare, use


def measure_video(path: Path, prompt: Prompt, networks: Networks = Networks()) -> Measured:
    """All figures of a video's file or folder. Raises Unreadable for one that cannot be read to its end, and ValueError, which is
    not the video's fault, for a conditioning image that cannot be read."""
    video = VideoReader(path)
    try:
        image = None if prompt.image is None else read_image(prompt.image)
    except Unreadable as problem:
        raise UserError(str(problem)) from problem

    def motion() -> list[float]:
        if path.is_dir():
            return []
        # In pixels of the video, not of a file that was written larger.
        return look(path).scores if video.scale.factor == 1 else frame_scores(video)

    return _measure(video, video.facts, prompt.text, image, networks, motion)


def measure_frames(
    frames: Pixels, fps: float, prompt: str, image: Tensor | None = None, networks: Networks = Networks()
) -> Measured:
    """All figures of frames (f, H, W, 3) uint8 in memory, as of a file that holds exactly these. image: (H, W, 3) 0..1."""
    frames = np.ascontiguousarray(frames)  # sums are rounded by the order in memory
    facts = Facts(frames.shape[2], frames.shape[1], len(frames), fps)
    return _measure(frames, facts, prompt, image, networks, lambda: frame_scores(frames))


def _measure(
    frames: Iterable[Pixels], facts: Facts, prompt: str, image: Tensor | None, networks: Networks, motion: Motion
) -> Measured:
    measured, means = Measured(facts), Means()
    pixels = _PixelSums(means)
    middles = {metric.key: Middle(network, facts.frames) for metric, network in video_networks(networks)}
    batched = [_clip_sums(networks.clip, prompt, image, means)] if networks.clip is not None else []
    batched += [_aesthetic_sums(networks.aesthetic, means)] if networks.aesthetic is not None else []
    batched += [_class_sums(networks.inception, measured)] if networks.inception is not None else []
    waiting: list[list[Tensor]] = [[] for _ in batched]
    for frame in frames:
        pixels.add(frame)
        for middle in middles.values():
            middle.add(frame)
        for (prepare, use), prepared in zip(batched, waiting, strict=True):
            prepared.append(prepare(frame))
            if len(prepared) == BATCH:
                use(prepared)
                prepared.clear()
    for (_, use), prepared in zip(batched, waiting, strict=True):
        if prepared:
            use(prepared)
    measured.figures = {**pixels.figures(facts.frames), **means.values()}
    if pixels.first is not None and image is not None:  # the image cropped and resized as `animate` does it
        same = to_bytes(fit(image[None], *pixels.first.shape[:2]))[0]
        measured.figures[FIRST_FRAME.key] = psnr(same, pixels.first)
    for key, middle in middles.items():
        if (features := middle.result()) is None:
            measured.lacks.append(f"fewer frames than the network of {key} sees ({middle.network.frames})")
        else:
            measured.features[key] = features
    if facts.frames > 1:
        _add_motion(measured, motion)
    return measured


def _add_motion(measured: Measured, motion: Motion) -> None:
    """Mean length of the codec's motion vectors at the video's own size and rate. None can be had of a folder of frames, or where
    nothing moves measurably."""
    try:
        scores = np.asarray(motion(), dtype=np.float64)
    except ValueError as problem:
        logger.info("%s", problem)
        scores = np.zeros(0)
    known = scores[np.isfinite(scores)]
    if known.size:
        measured.figures[MOTION.key] = float(known.mean())
    else:
        measured.lacks.append("no motion vectors can be had of them")


def video_networks(networks: Networks) -> list[tuple[Metric, VideoFeatures]]:
    """The given networks that see several frames at once, each with the metric it serves."""
    pairs = ((FVD_I3D, networks.i3d), (FVD_VIDEOMAE, networks.videomae), (IS_VIDEO, networks.classifier))
    return [(metric, network) for metric, network in pairs if network is not None]


def step_error(before: Pixels, after: Pixels) -> float:
    """Mean squared difference of two frames, in levels^2."""
    return float(np.square(after.astype(np.float32) - before).mean(dtype=np.float64))


def psnr(a: Pixels, b: Pixels) -> float:
    """10 log10(255^2 / mean squared error) in dB, at most 100."""
    error = float(np.square(a.astype(np.float64) - b).mean())
    return MOST_DB if error == 0 else min(MOST_DB, 10 * math.log10(255**2 / error))
