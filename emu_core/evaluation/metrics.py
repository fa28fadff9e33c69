"""What is measured on videos: figures of one video, in one pass over its frames, and figures of a whole set.

Frames are (H, W, 3) uint8. What is held is a frame or two, small prepared frames for the networks, sums, and one number a
prompt and metric.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..media import Facts, VideoReader
from ..networks import AestheticHead, ImageText, Inception, Networks, VideoFeatures
from .frechet import InceptionScore
from .prompts import Prompt

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
NAN = float("nan")
BATCH = 16
NOT_COMPUTED = "not computed"
ARROWS = {"higher": "↑", "lower": "↓", "": "–"}
MOST_DB = 100.0  # of equal pictures, whose ratio would be infinite


@dataclass(frozen=True)
class Metric:
    """better: higher, lower, or empty where neither is (a frozen video moves least). needs: what has to be given for it."""

    key: str
    label: str
    unit: str
    better: str
    needs: str
    formula: str
    digits: int = 3


CLIP_NEEDS = "--clip FOLDER (CLIP)"
IMAGE_NEEDS = "conditioning images (--images FOLDER, or `image` in the prompts)"
CLIP_TEXT = Metric(
    "clip_text", "CLIP-Text (TC)", "cosine", "higher", CLIP_NEEDS, "mean over frames of cos(frame, prompt)", digits=4
)
CLIP_IMAGE = Metric(
    "clip_image",
    "CLIP-Image (IC)",
    "cosine",
    "higher",
    f"{CLIP_NEEDS} and {IMAGE_NEEDS}",
    "mean over frames of cos(frame, conditioning image)",
    digits=4,
)
CONSISTENCY = Metric(
    "frame_consistency", "Frame consistency (FC)", "cosine", "higher", CLIP_NEEDS, "mean of cos(frame t, frame t + 1)", digits=4
)
AESTHETIC = Metric(
    "aesthetic",
    "Aesthetic score",
    "points",
    "higher",
    "--aesthetic FILE (a head) and the CLIP it was trained on",
    "mean over frames of the head's score of the frame's CLIP vector",
)
PIXEL_MSE = Metric(
    "pixel_mse", "Pixel MSE", "levels^2", "", "", "mean of (frame t + 1 - frame t)^2 over frames, pixels, channels", 2
)
MOTION = Metric(
    "motion_score",
    "Motion score",
    "px a frame",
    "",
    "the motion vectors of `emu_core.data.motion`",
    "mean length of the codec's motion vectors",
)
DRIFT_MEAN = Metric(
    "colour_drift", "Colour drift, mean", "levels", "lower", "", "|mean of last frame - mean of first|, mean over channels", 2
)
DRIFT_STD = Metric(
    "contrast_drift", "Colour drift, deviation", "levels", "lower", "", "the same of each channel's standard deviation", 2
)
DRIFT_WORST = Metric(
    "worst_drift",
    "Colour drift, worst",
    "levels",
    "lower",
    "",
    "largest such change of mean from frame 0, any frame and channel",
    2,
)
FIRST_FRAME = Metric(
    "first_frame_psnr",
    "First frame",
    "dB",
    "higher",
    IMAGE_NEEDS,
    "PSNR of frame 0 to the conditioning image after the same crop and resize; at most 100",
    2,
)
VIDEO_METRICS = (
    CLIP_TEXT, CLIP_IMAGE, CONSISTENCY, AESTHETIC, PIXEL_MSE, MOTION, DRIFT_MEAN, DRIFT_STD, DRIFT_WORST, FIRST_FRAME,
)  # fmt: skip
CHANGES = tuple(f"{what}_change_{channel}" for what in ("mean", "deviation") for channel in ("red", "green", "blue"))
"""Signed changes from first to last frame, in levels; beside the metrics in the JSON."""

FVD_I3D = Metric("fvd_i3d", "FVD (I3D)", "", "lower", "--i3d FILE (I3D, TorchScript)", "Fréchet distance of I3D's 400 logits", 1)
FVD_VIDEOMAE = Metric(
    "fvd_videomae", "FVD (VideoMAE)", "", "lower", "--videomae FOLDER (VideoMAE)", "Fréchet distance of VideoMAE's features", 1
)
IS_VIDEO = Metric(
    "is_video",
    "IS (video classifier)",
    "",
    "higher",
    "--classifier FILE (UCF-101: C3D trained on it, TorchScript)",
    "Inception score of a video classifier, mean over splits",
    2,
)
IS_FRAMES = Metric(
    "is_frames",
    "IS (Inception, frames)",
    "",
    "higher",
    "--inception FILE (Inception, TorchScript)",
    "Inception score of single frames",
    2,
)
SET_METRICS = (FVD_I3D, FVD_VIDEOMAE, IS_VIDEO, IS_FRAMES)
METRICS = (*VIDEO_METRICS, *SET_METRICS)


# -- one video


class _PixelSums:
    """Pixel MSE, colour drift and the first frame, frame by frame."""

    def __init__(self) -> None:
        self.first: Pixels | None = None
        self._last: Pixels | None = None
        self._error, self._pairs, self._worst = 0.0, 0, 0.0
        self._start, self._end = np.zeros((2, 3)), np.zeros((2, 3))

    def add(self, frame: Pixels) -> None:
        self._end = np.stack([frame.mean(axis=(0, 1), dtype=np.float64), frame.std(axis=(0, 1), dtype=np.float64)])
        if self._last is None:
            self.first, self._start = frame, self._end
        else:
            self._error += float(np.square(frame.astype(np.float32) - self._last).mean(dtype=np.float64))
            self._pairs += 1
        self._worst = max(self._worst, float(np.abs(self._end[0] - self._start[0]).max()))
        self._last = frame

    def figures(self) -> dict[str, float]:
        change = self._end - self._start
        mean, deviation = np.abs(change).mean(axis=1)
        alone = self._pairs == 0
        return {
            PIXEL_MSE.key: NAN if alone else self._error / self._pairs,
            DRIFT_MEAN.key: NAN if alone else float(mean),
            DRIFT_STD.key: NAN if alone else float(deviation),
            DRIFT_WORST.key: NAN if alone else self._worst,
            **dict(zip(CHANGES, change.ravel().tolist(), strict=True)),
        }


class _Batches:
    """Gives frames to a network a few at a time, prepared as they come."""

    def __init__(self, prepare: Callable[[Pixels], Tensor], use: Callable[[list[Tensor]], None]) -> None:
        self._prepare, self._use = prepare, use
        self._waiting: list[Tensor] = []

    def add(self, frame: Pixels) -> None:
        self._waiting.append(self._prepare(frame))
        if len(self._waiting) == BATCH:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._use(self._waiting)
            self._waiting = []


class _ClipSums:
    """TC, IC and FC."""

    def __init__(self, clip: ImageText, prompt: Prompt) -> None:
        self._clip = clip
        self._text, self._image = clip.texts([prompt.text])[0], _image_vector(clip, prompt)
        self._last: NDArray[np.float64] | None = None
        self._texts, self._images, self._pairs, self._count = 0.0, 0.0, 0.0, 0

    def use(self, prepared: list[Tensor]) -> None:
        vectors = self._clip.images(prepared)
        self._texts += float((vectors @ self._text).sum())
        if self._image is not None:
            self._images += float((vectors @ self._image).sum())
        chain = vectors if self._last is None else np.concatenate([self._last[None], vectors])
        self._pairs += float((chain[1:] * chain[:-1]).sum())
        self._last = vectors[-1]
        self._count += len(vectors)

    def figures(self) -> dict[str, float]:
        return {
            CLIP_TEXT.key: self._texts / self._count if self._count else NAN,
            CLIP_IMAGE.key: NAN if self._image is None or not self._count else self._images / self._count,
            CONSISTENCY.key: self._pairs / (self._count - 1) if self._count > 1 else NAN,
        }


class _AestheticSums:
    def __init__(self, head: AestheticHead) -> None:
        self._head = head
        self._sum, self._count = 0.0, 0

    def use(self, prepared: list[Tensor]) -> None:
        scores = self._head.scores(self._head.clip.images(prepared))
        self._sum, self._count = self._sum + float(scores.sum()), self._count + len(scores)

    def figures(self) -> dict[str, float]:
        return {AESTHETIC.key: self._sum / self._count if self._count else NAN}


class _ClassSums:
    """The Inception score's sums over the frames of one video."""

    def __init__(self, network: Inception) -> None:
        self._network = network
        self.score: InceptionScore | None = None

    def use(self, prepared: list[Tensor]) -> None:
        rows = self._network.probabilities(prepared)
        self.score = self.score or InceptionScore(rows.shape[1], 1)
        self.score.add(rows, np.zeros(len(rows), dtype=np.int64))

    def figures(self) -> dict[str, float]:
        return {}


class Middle:
    """The consecutive frames in the middle of a video that a video network sees, prepared as they pass by."""

    def __init__(self, network: VideoFeatures, total: int) -> None:
        self.network = network
        self._start = (total - network.frames) // 2  # below 0: too short
        self._number, self.prepared = 0, list[Tensor]()

    def add(self, frame: Pixels) -> None:
        if 0 <= self._start <= self._number < self._start + self.network.frames:
            self.prepared.append(self.network.prepare(frame))
        self._number += 1

    def result(self) -> NDArray[np.float64] | None:
        """None for a video that is too short."""
        return self.network.video(self.prepared) if len(self.prepared) == self.network.frames else None


@dataclass
class Measured:
    """figures: by metric key, nan where a video has none. features (d,): by metric key, of the networks for whole sets; frames:
    the Inception score's sums over this video; lacks: what could not be had of it."""

    facts: Facts
    figures: dict[str, float]
    features: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    frames: InceptionScore | None = None
    lacks: list[str] = field(default_factory=list)


def measure_video(path: Path, prompt: Prompt, networks: Networks = Networks(), motion: bool = True) -> Measured:
    """All figures of one video. Raises Unreadable for one that cannot be read to its end."""
    video = VideoReader(path)
    measured = Measured(video.facts, {})
    pixels = _PixelSums()
    middles = {metric.key: Middle(network, video.facts.frames) for metric, network in video_networks(networks)}
    batched, classes = _batched(networks, prompt)
    takers = [pixels.add, *(middle.add for middle in middles.values()), *(batches.add for batches, _ in batched)]
    for frame in video:
        for take in takers:
            take(frame)
    measured.figures |= pixels.figures()
    for batches, sums in batched:
        batches.flush()
        measured.figures |= sums.figures()
    measured.frames = classes.score if classes is not None else None
    if pixels.first is not None and prompt.image is not None:
        measured.figures[FIRST_FRAME.key] = first_frame_psnr(pixels.first, prompt.image)
    for key, middle in middles.items():
        features = middle.result()
        if features is None:
            measured.lacks.append(f"fewer frames than the network of {key} sees ({middle.network.frames})")
        else:
            measured.features[key] = features
    if motion and video.facts.frames > 1:
        score = motion_score(path)
        measured.figures[MOTION.key] = NAN if score is None else score
        measured.lacks += ["no motion vectors can be had of them"] if score is None else []
    return measured


_Sums: TypeAlias = "_ClipSums | _AestheticSums | _ClassSums"


def _batched(networks: Networks, prompt: Prompt) -> tuple[list[tuple[_Batches, _Sums]], _ClassSums | None]:
    """The networks that see single frames, with what they add up."""
    found: list[tuple[_Batches, _Sums]] = []
    classes = None
    if networks.clip is not None:
        clip = _ClipSums(networks.clip, prompt)
        found.append((_Batches(networks.clip.prepare, clip.use), clip))
    if networks.aesthetic is not None:
        aesthetic = _AestheticSums(networks.aesthetic)
        found.append((_Batches(networks.aesthetic.clip.prepare, aesthetic.use), aesthetic))
    if networks.inception is not None:
        classes = _ClassSums(networks.inception)
        found.append((_Batches(networks.inception.prepare, classes.use), classes))
    return found, classes


def video_networks(networks: Networks) -> list[tuple[Metric, VideoFeatures]]:
    """The given networks that see several frames at once, each with the metric it serves."""
    pairs = ((FVD_I3D, networks.i3d), (FVD_VIDEOMAE, networks.videomae), (IS_VIDEO, networks.classifier))
    return [(metric, network) for metric, network in pairs if network is not None]


def _image_vector(clip: ImageText, prompt: Prompt) -> NDArray[np.float64] | None:
    from ..media import read_image
    from ..media.images import to_bytes

    return None if prompt.image is None else clip.images([clip.prepare(to_bytes(read_image(prompt.image)))])[0]


def first_frame_psnr(frame: Pixels, image: Path) -> float:
    """Peak signal to noise in dB of frame 0 against the conditioning image, cropped and resized as `animate` does it."""
    from ..media import fit, read_image
    from ..media.images import to_bytes

    given = to_bytes(fit(read_image(image)[None], frame.shape[0], frame.shape[1]))[0]
    return psnr(given, frame)


def psnr(a: Pixels, b: Pixels) -> float:
    """10 log10(255^2 / mean squared error) in dB, at most 100."""
    error = float(np.square(a.astype(np.float64) - b).mean())
    return MOST_DB if error == 0 else min(MOST_DB, 10 * math.log10(255**2 / error))


def motion_score(path: Path) -> float | None:
    """Mean length of the codec's motion vectors at the video's own size and rate; None where none can be had (a folder of frames,
    animated WebP, nothing that moves measurably)."""
    from ..data.motion import motion_scores

    if path.is_dir():
        return None
    try:
        scores = np.asarray(motion_scores(path, None, None), dtype=np.float64)
    except ValueError as problem:
        logger.info("%s", problem)
        return None
    known = scores[np.isfinite(scores)]
    return float(known.mean()) if known.size else None


def can_measure_motion() -> bool:
    try:
        from ..data import motion
    except ImportError:
        return False
    return hasattr(motion, "motion_scores")
