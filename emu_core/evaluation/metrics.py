"""What is measured on videos: figures of one video, in one pass over its frames, and figures of a whole set.

Frames are (H, W, 3) uint8. What is held is a frame or two, small prepared frames for the networks, sums, and one number a
prompt and metric.
"""

from __future__ import annotations

import logging
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..media import Facts, Unreadable, VideoReader
from ..networks import AestheticHead, ImageText, Inception, Networks, VideoFeatures
from .frechet import Gaussian, InceptionScore, frechet_distance, load_statistics, merged, save_statistics, split_numbers
from .prompts import Prompt
from .statistics import Interval, bootstrap_mean, jackknife
from .videos import Matching, VideoSet, match

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
NAN = float("nan")
BATCH = 16
MOST_DB = 100.0  # of equal pictures, whose ratio would be infinite
GROUPS = 10  # of prompts, for the interval of a Fréchet distance
SPLITS = 10
SAMPLES = 10_000


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

REFERENCE_NEEDS = "--reference FOLDER or FILE.npz"
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


# -- a set


class _FrechetSums:
    """Features of a set, by groups of prompts, so that the distance has an interval; GROUPS matrices are held."""

    def __init__(self) -> None:
        self.groups: dict[int, Gaussian] = {}

    def add(self, features: NDArray[np.float64], prompt: int) -> None:
        group = self.groups.setdefault(prompt % GROUPS, Gaussian(features.size))
        group.add(features)

    def distance(self, reference: Gaussian) -> Interval:
        """Raises ValueError for fewer than 2 videos."""
        parts = list(self.groups.values())
        whole = merged(parts)
        value = frechet_distance(whole, reference)
        without = [merged([*parts[:i], *parts[i + 1 :]]) for i in range(len(parts))] if len(parts) == GROUPS else []
        usable = all(part.count >= 2 for part in without)
        low, high = jackknife(value, [frechet_distance(part, reference) for part in without] if usable else [])
        return Interval(value, max(0.0, low) if math.isfinite(low) else low, high, whole.count)


@dataclass
class SetResult:
    """What a set of videos came to. columns: one number a prompt (nan where there is none) by metric key or name of CHANGES.
    whole: figures of the set by key; reasons: why a metric was not computed, by its key; broken: (video, why)."""

    videos: VideoSet
    matching: Matching
    columns: dict[str, array[float]]
    whole: dict[str, Interval] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    broken: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measured: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    lacks: Counter[str] = field(default_factory=Counter)

    def interval(self, metric: Metric) -> Interval | None:
        """The figure of a metric; None where it was not computed, and then `reasons` says why. To be asked for at the end."""
        if metric.key in self.reasons:
            return None
        if metric.key not in self.whole:
            self.whole[metric.key] = bootstrap_mean(self.columns[metric.key])
        return self.whole[metric.key]


class _SetSums:
    def __init__(self, networks: Networks, samples: int) -> None:
        self._networks = networks
        self.frechet = {m.key: _FrechetSums() for m, _ in video_networks(networks) if m is not IS_VIDEO}
        self.inception: dict[str, InceptionScore] = {}
        self._splits = split_numbers(samples, max(1, min(SPLITS, samples)))
        self._number = 0

    def add(self, measured: Measured, prompt: int) -> None:
        split = int(self._splits[self._number])
        self._number += 1
        for key, features in measured.features.items():
            if key in self.frechet:
                self.frechet[key].add(features, prompt)
            else:
                self._score(key, features.size).add(features, split)
        if measured.frames is not None:
            self._score(IS_FRAMES.key, measured.frames.classes).take(measured.frames, split)

    def _score(self, key: str, classes: int) -> InceptionScore:
        return self.inception.setdefault(key, InceptionScore(classes, int(self._splits.max()) + 1))

    def finish(self, result: SetResult, references: dict[str, Gaussian]) -> None:
        for metric in (FVD_I3D, FVD_VIDEOMAE):
            if metric.key not in self.frechet:
                continue
            count = sum(group.count for group in self.frechet[metric.key].groups.values())
            if metric.key not in references:
                result.reasons[metric.key] = f"needs {REFERENCE_NEEDS}"
            elif count < 2:
                result.reasons[metric.key] = f"needs 2 or more videos that are long enough, found {count}"
            else:
                result.whole[metric.key] = self.frechet[metric.key].distance(references[metric.key])
        for metric in (IS_VIDEO, IS_FRAMES):
            if metric.key in self.inception:
                score = self.inception[metric.key]
                mean, deviation = score.result()
                result.whole[metric.key] = Interval(mean, mean - deviation, mean + deviation, int(score.counts.sum()))
            elif metric.key not in result.reasons:
                result.reasons[metric.key] = "needs videos that are long enough, found none"


def measure_set(
    videos: VideoSet,
    prompts: Sequence[Prompt],
    networks: Networks = Networks(),
    references: dict[str, Gaussian] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> SetResult:
    """Measure a set, streaming. A broken video is named in the result and left out. `progress` is called after each video."""
    matching = match(videos, prompts)
    total = sum(len(files) for _, files in matching.found)
    sums = _SetSums(networks, total)
    motion = can_measure_motion()
    keys = [metric.key for metric in VIDEO_METRICS] + list(CHANGES)
    result = SetResult(videos, matching, {key: array("d", [NAN] * len(prompts)) for key in keys})
    result.reasons = missing_needs(networks, prompts, motion)
    result.notes += matching.notes
    numbers = {prompt.id: number for number, prompt in enumerate(prompts)}
    for prompt, files in matching.found:
        means = _Means()
        for file in files:
            try:
                measured = measure_video(file, prompt, networks, motion)
            except Unreadable as problem:
                result.broken.append((file, str(problem)))
            else:
                result.measured += 1
                facts = measured.facts
                result.shapes[f"{facts.width} x {facts.height}, {facts.frames} frames at {facts.fps:.6g} a second"] += 1
                result.lacks.update(measured.lacks)
                means.add(measured.figures)
                sums.add(measured, numbers[prompt.id])
            progress()
        for key, value in means.values():
            result.columns[key][numbers[prompt.id]] = value
    sums.finish(result, references or {})
    _drop_empty(result)
    return result


class _Means:
    """Mean of each figure over the samples of one prompt, those without it left out."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, figures: dict[str, float]) -> None:
        for key, value in figures.items():
            if math.isfinite(value):
                total, count = self._sums.get(key, (0.0, 0))
                self._sums[key] = total + value, count + 1

    def values(self) -> Iterable[tuple[str, float]]:
        return ((key, total / count) for key, (total, count) in self._sums.items())


def missing_needs(networks: Networks, prompts: Sequence[Prompt], motion: bool) -> dict[str, str]:
    """Why each metric that cannot be computed is not: "needs ..."."""
    images = any(prompt.image is not None for prompt in prompts)
    given = {
        CLIP_TEXT: networks.clip,
        CONSISTENCY: networks.clip,
        CLIP_IMAGE: networks.clip if images else None,
        AESTHETIC: networks.aesthetic,
        MOTION: motion or None,
        FIRST_FRAME: images or None,
        FVD_I3D: networks.i3d,
        FVD_VIDEOMAE: networks.videomae,
        IS_VIDEO: networks.classifier,
        IS_FRAMES: networks.inception,
    }
    return {metric.key: f"needs {metric.needs}" for metric, thing in given.items() if thing is None}


def _drop_empty(result: SetResult) -> None:
    """A metric that no video of the set has is not computed, and says so."""
    for metric in VIDEO_METRICS:
        if metric.key not in result.reasons and not any(map(math.isfinite, result.columns[metric.key])):
            result.reasons[metric.key] = (
                "needs a readable video of 2 or more frames" if result.measured else "needs readable videos"
            )


# -- the reference of a Fréchet distance


def reference_statistics(
    reference: str, networks: Networks, save: str | None = None, progress: Callable[[], None] = lambda: None
) -> tuple[dict[str, Gaussian], list[tuple[Path, str]]]:
    """Statistics of the reference videos for each network of a Fréchet distance, and the videos that could not be used.

    reference: a folder of videos (sub-folders too, as UCF-101 has one a class), or a .npz that `save` made before. `save`: .npz;
    with two networks, one file each, with the metric's key before the extension.
    """
    wanted = [(metric, network) for metric, network in video_networks(networks) if metric is not IS_VIDEO]
    if Path(reference).is_file():
        return {
            metric.key: load_statistics(_named(reference, metric, wanted), network.source.facts()) for metric, network in wanted
        }, []
    found: dict[str, Gaussian] = {}
    broken: list[tuple[Path, str]] = []
    for path in reference_files(reference):
        try:
            video = VideoReader(path)
            middles = {metric.key: Middle(network, video.facts.frames) for metric, network in wanted}
            for frame in video:
                for middle in middles.values():
                    middle.add(frame)
        except Unreadable as problem:
            broken.append((path, str(problem)))
            continue
        for key, middle in middles.items():
            features = middle.result()
            if features is None:
                broken.append((path, f"{path.name}: too short for {key}"))
            else:
                found.setdefault(key, Gaussian(features.size)).add(features)
        progress()
    few = [metric.label for metric, _ in wanted if metric.key not in found or found[metric.key].count < 2]
    if few:
        raise ValueError(
            f"{reference}: expected 2 or more reference videos for {', '.join(few)}, found fewer that can be used; give more"
        )
    if save:
        for metric, network in wanted:
            save_statistics(_named(save, metric, wanted), found[metric.key], network.source.facts())
    return found, broken


def _named(path: str, metric: Metric, wanted: Sequence[tuple[Metric, VideoFeatures]]) -> Path:
    place = Path(path)
    return place if len(wanted) == 1 else place.with_name(f"{place.stem}.{metric.key}{place.suffix}")


def reference_files(reference: str) -> list[Path]:
    """Videos in a folder and its sub-folders, sorted."""
    from .videos import EXTENSIONS

    folder = Path(reference).expanduser()
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS) if folder.is_dir() else []
    if not files:
        raise ValueError(f"{reference}: expected a folder of reference videos or statistics (.npz), found none; check the path")
    return files


def class_balance(result: SetResult, prompts: Sequence[Prompt]) -> tuple[int, int]:
    """Fewest and most videos of a prompt, which for UCF-101 is a class; prompts without a video count as 0."""
    counts = {prompt.id: len(files) for prompt, files in result.matching.found}
    numbers = [counts.get(prompt.id, 0) for prompt in prompts]
    return min(numbers), max(numbers)
