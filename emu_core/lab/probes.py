"""Probes: experiments on arms that are trained. They report, and choose nothing; each is kept in the laboratory's folder."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..data.motion_score import frame_scores, motion_summary
from ..errors import UserError
from ..evaluation.statistics import Interval, bootstrap_difference, bootstrap_mean
from ..media.images import to_bytes
from ..toy import grounds, measure, reading, world
from ..toy.measure import Row
from ..toy.worlds import BEST, LAB
from ..training.folder import check_folder, write_json
from . import videos
from .arms import ARMS
from .run import Lab, as_kept

logger = logging.getLogger(__name__)

FOLDER, PARTS = "probes", "parts"
SEEN, UNSEEN = "seen in videos", "seen in pictures alone"
CLIPS = {SEEN: LAB, UNSEEN: videos.ONLY_IMAGES}
"""The parts of the world that prompts are of, by what training showed of them."""
COLUMNS = {
    "motion_score": "motion score, px a frame",
    "travel_px": "travel, px",
    "figure": "figure right, %",
    "colour": "colour right, %",
    "ground": "ground right, %",
    "size": "size right, %",
    "small": "size right where small is asked, %",
    "plain": "ground right where a plain one is asked, %",
    "motion": "motion right, %",
    "amount": "with its amount, %",
    "last_frame_shape": "last frame whole, %",
    "figure_kept": "frames in which the figure is right and whole, %",
    "colour_kept": "colour right in first and last frame, %",
    "edge_error_px": "edge error, px",
    "wobble_px": "wobble, px",
    "colour_drift": "colour drift, levels",
    "frame0_psnr_db": "frame 0, dB",
}
"""Measures, and what a table calls them; those that end in % are shares of 1."""


@dataclass(frozen=True)
class Point:
    """One row of a probe's table: its measures by seed and prompt. `x`: its place on the axis, where there is one."""

    label: str
    rows: Sequence[Sequence[Row]]
    x: float | None = None


@dataclass(frozen=True)
class Probe:
    """`finding_of`: what the paper or its story says, with its source; `measures`: of COLUMNS; `compared`: pairs of labels, and
    the measures of which differences are given; `axis`: what `Point.x` is; `arms`: those that it is of."""

    about: str
    finding_of: str
    measures: Sequence[str]
    points: Callable[[Lab], list[Point]]
    compared: Sequence[tuple[str, str, Sequence[str]]]
    axis: str = ""
    arms: Sequence[str] = ("design",)


# -- the table


def of_prompts(point: Point, name: str) -> list[float]:
    """A measure of each prompt, the mean over its seeds, nan where no seed has one."""
    found = []
    for of_one in zip(*point.rows, strict=True):
        values = [row[name] for row in of_one if math.isfinite(row.get(name, math.nan))]
        found.append(sum(values) / len(values) if values else math.nan)
    return found


def table(probe: Probe, points: Sequence[Point]) -> dict[str, Any]:
    """What is kept of a probe: intervals are 95 % over the prompts, differences paired by prompt; None where no number is."""
    by_label = {point.label: point for point in points}
    differences = []
    for label, against, names in probe.compared:
        for name in names:
            apart = bootstrap_difference(of_prompts(by_label[label], name), of_prompts(by_label[against], name))
            differences.append({"says": f"{label} against {against}: {COLUMNS[name]}", **_ends(apart)})
    return {
        "about": probe.about,
        "finding_of": probe.finding_of,
        "columns": {name: COLUMNS[name] for name in probe.measures},
        "rows": [
            {
                "label": point.label,
                "x": point.x,
                "values": {name: _ends(bootstrap_mean(of_prompts(point, name))) for name in probe.measures},
            }
            for point in points
        ],
        "differences": differences,
        "x": probe.axis,
    }


def _ends(one: Interval) -> dict[str, float | None]:
    ends = {"value": one.value, "low": one.low, "high": one.high}
    return {name: value if math.isfinite(value) else None for name, value in ends.items()}


# -- what is measured


def kept(lab: Lab, key: str, make: Callable[[], list[Row]]) -> list[Row]:
    """Rows that were made before under this name, or are now; probes share them."""
    file = lab.folder / FOLDER / PARTS / f"{key}.json"
    if not file.is_file():
        check_folder(file.parent)
        write_json(file, make())
    rows: list[Row] = json.loads(file.read_text())
    return rows


def of_video(clip: world.Clip, video: Tensor, start: Tensor) -> Row:
    """The judge's row of a video (8, 64, 64, 3) in 0..1 from a starting frame; the paper's motion score, of the codec's vectors;
    of what was asked to move how far its figure goes from where it is first, whatever way; in which share of the frames the
    figure is right and whole; whether its colour is right in the first frame and, read by itself, in the last."""
    sample = measure.Sample(clip, video, videos.FPS, start[None])
    seen = measure.read(sample)
    row = measure.row(sample, seen)
    row["figure_kept"] = row["figure"] * float(seen.whole.float().mean())
    row["colour_kept"] = float(seen.colour == clip.colour == _first(video[-1]).colour)
    score, _ = motion_summary(frame_scores(list(to_bytes(video))))
    row |= {} if score is None else {"motion_score": score}
    if clip.motion != "still":
        row["travel_px"] = float((seen.centre - seen.centre[0]).norm(dim=1).max())
    return row


def of_picture(clip: world.Clip, picture: Tensor) -> Row:
    """What the detectors say of a picture (64, 64, 3) in 0..1."""
    seen = _first(picture)
    right = reading.right(seen, clip)
    row = {name: float(right[name]) for name in ("figure", "colour", "ground", "size")}
    row |= {"figure_kept": row["figure"], "colour_kept": row["colour"]}
    row |= {"small": row["size"]} if clip.size == "small" else {}
    row |= {"plain": row["ground"]} if clip.ground in grounds.PLAIN else {}
    return row | ({"edge_error_px": seen.edge_error} if row["figure"] else {})


def _first(frame: Tensor) -> reading.Reading:
    return reading.read(measure.network(frame[None]), torch.zeros(1))


def pictures_of(lab: Lab, name: str, model: Path, seed: int, part: str = SEEN) -> list[Row]:
    """Rows of the pictures that an image model, called `name`, draws of the prompts."""
    clips = videos.prompts(lab.budget.prompts, part=CLIPS[part])

    def make() -> list[Row]:
        captions = [clip.caption for clip in clips]
        made = as_kept(videos.starting_frames(model, captions, seed, lab.budget.steps))
        return [of_picture(*each) for each in zip(clips, tqdm(made, desc="reading", leave=False), strict=True)]

    return kept(lab, f"pictures-{name}-{seed}-{part.replace(' ', '_')}", make)


def videos_of(
    lab: Lab, name: str, seed: int, guidance: tuple[float, float] | None = None, part: str = SEEN, real: bool = False
) -> list[Row]:
    """Rows of an arm's videos of the prompts, from the image model's starting frames or from the `real` ones, with the guidance
    of the budget or another (image, text). The arm is trained unless it is."""
    usual = (lab.budget.image_guidance, lab.budget.text_guidance)
    image, text = guidance or usual
    clips = videos.prompts(lab.budget.prompts, part=CLIPS[part])

    def make() -> list[Row]:
        captions = [clip.caption for clip in clips]
        if real:
            starts = videos.real_videos(clips)[:, 0]
        elif part == SEEN:
            starts = lab.starts(seed)
        else:
            starts = as_kept(videos.starting_frames(lab.image_model, captions, seed, lab.budget.steps))
        if part == SEEN and not real and (image, text) == usual:
            made = lab.run(name, seed).videos
        else:
            made = as_kept(lab.videos_of(name, seed, captions, starts, (image, text)))
        return [of_video(*each) for each in zip(clips, tqdm(made, desc="reading", leave=False), starts, strict=True)]

    key = f"videos-{name}-{seed}-{part.replace(' ', '_')}-{'real' if real else 'made'}-{image:g}-{text:g}"
    return kept(lab, key, make)


# -- the probes


def _seeds(lab: Lab) -> range:
    return lab.seeds(lab.arms["design"])


def text_guidance(lab: Lab) -> list[Point]:
    """The design at each w_p."""
    return [Point(f"w_p {w}", [videos_of(lab, "design", s, (1.0, float(w))) for s in _seeds(lab)], w) for w in (1, 2, 4, 8)]


def image_guidance(lab: Lab) -> list[Point]:
    """The design at each w_i."""
    return [Point(f"w_i {w}", [videos_of(lab, "design", s, (float(w), 4.0)) for s in _seeds(lab)], w) for w in (1, 2, 3)]


def starting_frames(lab: Lab) -> list[Point]:
    """The design from real frames, and from those that it makes."""
    kinds = {"from real frames": True, "from the image model's": False}
    return [Point(label, [videos_of(lab, "design", s, real=real) for s in _seeds(lab)]) for label, real in kinds.items()]


PICTURES, VIDEOS = "pictures of what is {}: {}", "videos of what is {}: {}"
FROZEN, TRAINED = "frozen U-Net", "U-Net that was trained along"


def forgetting(lab: Lab) -> list[Point]:
    """The frozen U-Net's pictures and those of the one that was trained along, without temporal layers; image model and videos
    have one schedule. And both arms' videos."""
    seed = lab.budget.first_seed
    drawn = {FROZEN: ("image_model", lab.image_model), TRAINED: ("all_trained", lab.model("all_trained", seed)[0])}
    points = []
    for part in CLIPS:
        points += [Point(PICTURES.format(part, who), [pictures_of(lab, *of, seed, part)]) for who, of in drawn.items()]
        made = {name: videos_of(lab, name, seed, part=part) for name in ("design", "all_trained")}
        points += [Point(VIDEOS.format(part, name), [rows]) for name, rows in made.items()]
    return points


CHOSEN, RANDOM, UNTUNED = "tuned on the best", "tuned on as many random ones", "not tuned"


def quality_tuning(lab: Lab) -> list[Point]:
    """Pictures of the image model, and of the same tuned on few of its own: those that a rule chose, and as many random ones."""
    models = {CHOSEN: lab.tuned("lab_best"), RANDOM: lab.tuned("lab_images"), UNTUNED: lab.image_model}
    names = {CHOSEN: "tuned_best", RANDOM: "tuned_random", UNTUNED: "image_model"}
    return [Point(label, [pictures_of(lab, names[label], model, s) for s in _seeds(lab)]) for label, model in models.items()]


_GUIDED = ("motion_score", "travel_px", "motion", "amount", "edge_error_px", "wobble_px", "colour_drift")
_STARTED = ("travel_px", "figure", "colour", "motion", "amount", "last_frame_shape", *_GUIDED[4:], "frame0_psnr_db")
_DRAWN, _MADE = ("figure_kept", "colour_kept"), ("figure_kept", "colour_kept", "motion")
_TUNED = ("figure", "colour", "ground", "size", "small", "plain", "edge_error_px")
_PAPER = "Girdhar et al., arXiv 2311.10709"
PROBES: dict[str, Probe] = {
    "text_guidance": Probe(
        "The design with more and more guidance by the text, w_i 1.",
        f"Motion rises with w_p: a motion score of 1.87, 2.87, 3.86 at w_p 2, 8, 16 with w_i 1 ({_PAPER}, appendix, table 4).",
        _GUIDED,
        text_guidance,
        [(f"w_p {w}", "w_p 1", _GUIDED[:2]) for w in (2, 4, 8)],
        "text guidance w_p",
    ),
    "image_guidance": Probe(
        "The design with more and more guidance by the image, w_p 4.",
        f"Motion falls with w_i: a motion score of 2.87, 0.61, 0.25 at w_i 1, 2, 3 with w_p 8 ({_PAPER}, appendix, table 4).",
        (*_GUIDED, "frame0_psnr_db"),
        image_guidance,
        [(f"w_i {w}", "w_i 1", _GUIDED[:2]) for w in (2, 3)],
        "image guidance w_i",
    ),
    "starting_frames": Probe(
        "The design from the prompts' real first frames, as in training, and from the image model's, as in use.",
        f"To recover from starting frames that do not show what was asked is left to future work ({_PAPER}, section 5).",
        _STARTED,
        starting_frames,
        [("from real frames", "from the image model's", _STARTED)],
    ),
    "forgetting": Probe(
        "What an image model forgets that is trained along on videos, of what they show and of what pictures alone showed.",
        f"Frozen spatial layers keep the concepts and styles that images taught ({_PAPER}, section 3.2).",
        ("figure_kept", "colour_kept", "ground", "motion"),
        forgetting,
        [
            comparison
            for part in CLIPS
            for comparison in (
                (PICTURES.format(part, FROZEN), PICTURES.format(part, TRAINED), _DRAWN),
                (VIDEOS.format(part, "design"), VIDEOS.format(part, "all_trained"), _MADE),
            )
        ],
        arms=("design", "all_trained"),
    ),
    "quality_tuning": Probe(
        f"The image model after a short training on at most {BEST} of its own pictures, the best by a rule, or random ones.",
        "Tuned on a few thousand pictures of high quality, Emu is preferred to itself before that in 82.9 % "
        "(Dai et al., arXiv 2309.15807).",
        _TUNED,
        quality_tuning,
        [(CHOSEN, RANDOM, _TUNED), (CHOSEN, UNTUNED, _TUNED)],
        arms=(),
    ),
}
"""By name, in the order in which they run."""


def find(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arms and the probes of these names, each in its table's order; all of both for none. UserError for another name."""
    if unknown := sorted(set(names) - {*ARMS, *PROBES}):
        raise UserError(f"unknown arm or probe {unknown[0]!r}: expected some of {', '.join([*ARMS, *PROBES])}")
    arms, probes = ([name for name in known if not names or name in names] for known in (ARMS, PROBES))
    return arms, probes


def place(lab: Lab, name: str) -> Path:
    """The file of a probe."""
    return lab.folder / FOLDER / f"{name}.json"


def is_done(lab: Lab, name: str) -> bool:
    """Whether it is there."""
    return place(lab, name).is_file()


def run(lab: Lab, name: str) -> dict[str, Any]:
    """Run a probe, and train the arms that it is of unless they are, or read what is there."""
    if not is_done(lab, name):
        logger.info("%s: %s", name, PROBES[name].about)
        found = table(PROBES[name], PROBES[name].points(lab))
        check_folder(lab.folder / FOLDER)
        write_json(place(lab, name), found)
    kept_before: dict[str, Any] = json.loads(place(lab, name).read_text())
    return kept_before
