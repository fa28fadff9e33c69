"""What long videos of the bundled stack are worth: prompts obeyed in turn, loops, frames between two, drift over 1,000 frames.

    python -m benchmarks.longer turns loops between [--cases 50]
    python -m benchmarks.longer drift --frames 1000 --cases 4 --plot docs/images/drift.png

Cases are clips of small figures in combinations that were never trained on, of a seed that nothing was chosen on; the first frame
is drawn by the world, and all others are read by the exact detectors. Intervals: 95 %, Wilson's for shares and bootstrapped for
means.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from emu_core.evaluation.statistics import bootstrap_mean, wilson
from emu_core.longer import longer
from emu_core.model.streams import derived
from emu_core.model.timeline import Span, Timeline
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings
from emu_core.toy import reading, world
from emu_core.toy.detect import direction_of

SEED = 2_026_015
TURNS = {"right": "up", "left": "down", "up": "left", "down": "right"}
"""Which direction the second prompt asks for."""


def main() -> None:
    """Run what is named, and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=sorted(MEASURES))
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--past", type=int, help="frames of the past that each call of the walk is given")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--out", type=Path, help="also append each case to this file of JSON lines")
    options = parser.parse_args()
    torch.manual_seed(0)
    pipeline = EmuVideoPipeline.from_files()
    for what in options.what:
        print(json.dumps({"measure": what, **MEASURES[what](pipeline, options)}, indent=1), flush=True)


def picture(clip: world.Clip, seconds: float = 0.0) -> torch.Tensor:
    """(64, 64, 3) in 0..1."""
    return clip.draw(torch.tensor([seconds]))[0].permute(1, 2, 0) / 2 + 0.5


def read(frames: torch.Tensor, clip: world.Clip | None = None) -> reading.Reading:
    """What (f, 64, 64, 3) in 0..1 show; with `clip`, where what it shows is."""
    return reading.read(frames.permute(0, 3, 1, 2) * 2 - 1, torch.arange(len(frames)) / 4, clip)


def colours(frames: torch.Tensor, at: torch.Tensor, clip: world.Clip) -> torch.Tensor:
    """The median colour of the figure's middle in each frame, (f, 3) in 0..255, where it is."""
    offset = (reading.shapes.pixel_grid() - at[:, None, None]).norm(dim=-1)
    inside = offset < 0.35 * world.RADIUS[clip.size]
    return torch.stack([frame[own].median(0).values * 255 for frame, own in zip(frames, inside, strict=True)])


def cases(count: int, slow: bool) -> Iterator[tuple[int, world.Clip]]:
    """Small figures that move in one direction, and their seeds; slow ones start so that they have room."""
    clips = (world.posed(clip) for clip in world.clips(SEED, range(40 * count), held_out=True))
    found = (replace(clip, size="small", slowly=False) for clip in clips if clip.motion in world.DIRECTIONS)
    for number, clip in zip(range(count), found, strict=False):
        if slow:
            first, second = (world.DIRECTIONS[name] for name in (clip.motion, TURNS[clip.motion]))
            start = [32.0 - 10.5 * (a + b) for a, b in zip(first, second, strict=True)]
            clip = replace(clip, slowly=True, start=(start[0], start[1]))
        yield derived(SEED, "case", number), clip


def share(right: list[bool]) -> dict[str, object]:
    """How many, and Wilson's interval of the share."""
    low, high = wilson(sum(right), len(right))
    return {"right": sum(right), "of": len(right), "interval": [round(low, 3), round(high, 3)]}


def mean(values: list[float]) -> dict[str, object]:
    """The mean, its interval, the largest."""
    found = bootstrap_mean(np.array(values))
    return {
        "mean": round(found.value, 2),
        "interval": [round(found.low, 2), round(found.high, 2)],
        "largest": round(max(values), 2),
    }


def turns(pipeline: EmuVideoPipeline, options: argparse.Namespace) -> dict[str, object]:
    """64 frames, a third of which each of three prompts has: along the held-out direction, then along another, then still."""
    obeyed, shape, colour, change = [], [], [], []
    ends = (0, 21, 42, 64)
    for seed, clip in cases(options.cases, slow=True):
        asked = (clip.motion, TURNS[clip.motion], "still")
        said = [replace(clip, motion=one).caption for one in asked]
        spans = tuple(Span(a, b, text) for a, b, text in zip(ends, ends[1:], said, strict=False))
        made = longer(
            pipeline, Timeline(64, (0,), spans), lambda wanted, clip=clip: [picture(clip)] * len(wanted), Settings(seed=seed)
        )
        video = torch.cat([*made])
        at = read(video[[0, 20, 41, 63]], clip).centre
        moved = [direction_of(*(b - a).tolist()) for a, b in zip(at, at[1:], strict=False)]
        obeyed.append(tuple(moved) == asked)
        last = read(video[-1:])
        shape.append(last.figure == clip.figure)
        colour.append(last.colour == clip.colour)
        first, end = colours(video[[0, 63]], at[[0, 3]], clip)
        change.append(float((end - first).abs().mean()))
        note(options, {"measure": "turns", "clip": clip.caption, "moved": moved, "shape": last.figure, "colour": change[-1]})
    both = [a and b for a, b in zip(shape, colour, strict=True)]
    return {"obeyed": share(obeyed), "last_frame_right": share(both), "colour_change": mean(change)}


def loops(pipeline: EmuVideoPipeline, options: argparse.Namespace) -> dict[str, object]:
    """7 frames that begin again: how much longer the step over the seam is than the longest other, and what changes over it."""
    beyond, level, reach = [], [], []
    for seed, clip in cases(options.cases, slow=False):
        timeline = Timeline(8, (0, 7), (Span(0, 8, clip.caption),))
        video = torch.cat(
            [*longer(pipeline, timeline, lambda wanted, clip=clip: [picture(clip)] * len(wanted), Settings(seed=seed))]
        )
        at = read(video, clip).centre
        steps = (at[1:] - at[:-1]).norm(dim=1)
        beyond.append(float(steps[-1] - steps[:-1].max()))
        before, after = colours(video[[6, 1]], at[[6, 1]], clip)
        level.append(float((before - after).abs().mean()))
        reach.append(float((at - at[0]).norm(dim=1).max()))
        note(options, {"measure": "loops", "clip": clip.caption, "steps": steps.tolist(), "colour": level[-1]})
    close = [a <= 1.5 and b <= 6 for a, b in zip(beyond, level, strict=True)]
    return {"close": share(close), "seam_beyond_px": mean(beyond), "colour_levels": mean(level), "reach_px": mean(reach)}


def between(pipeline: EmuVideoPipeline, options: argparse.Namespace) -> dict[str, object]:
    """8 frames of which the first and the last are given: mean distance of the others from the straight and even path."""
    away, worst = [], []
    for seed, clip in cases(options.cases, slow=False):
        ends = (picture(clip), picture(clip, 7 / 4))
        timeline = Timeline(8, (0, 7), (Span(0, 8, clip.caption),))
        given = {0: ends[0], 7: ends[1]}
        video = torch.cat([*longer(pipeline, timeline, lambda wanted, of=given: [of[p] for p in wanted], Settings(seed=seed))])
        at = read(video, clip).centre
        error = (at - torch.lerp(at[0], at[-1], torch.arange(8)[:, None] / 7)).norm(dim=1)[1:-1]
        away.append(float(error.mean()))
        worst.append(float(error.max()))
        note(options, {"measure": "between", "clip": clip.caption, "error": error.tolist()})
    return {"within_1.5_px": share([one <= 1.5 for one in away]), "mean_px": mean(away), "worst_frame_px": mean(worst)}


def drift(pipeline: EmuVideoPipeline, options: argparse.Namespace) -> dict[str, object]:
    """A long walk round a square of 14 pixels, a prompt for each side: what changes on the way."""
    told: dict[str, list[list[float]]] = {"colour": [], "background": [], "sharpness": [], "outline": [], "obeyed": []}
    way, side = ("right", "up", "left", "down"), 14
    for seed, clip in cases(options.cases, slow=True):
        clip = replace(clip, start=(25.0, 39.0))
        prompts = [replace(clip, motion=way[n % 4]).caption for n in range(-(-options.frames // side))]
        ends = [min(1 + side * n, options.frames) for n in range(1, len(prompts) + 1)]
        spans = tuple(Span(a, b, text) for a, b, text in zip([0, *ends], ends, prompts, strict=False) if b > a)
        begun = time.monotonic()
        made = longer(
            pipeline,
            Timeline(options.frames, (0,), spans),
            lambda wanted, clip=clip: [picture(clip)] * len(wanted),
            Settings(seed=seed, past=options.past),
        )
        video = torch.cat([*made])
        seen = read(video, clip)
        at, last = seen.centre, [0, *ends]
        colour, ground = colours(video, at, clip), _border(video)
        moved = [
            direction_of(*(at[min(b, len(at)) - 1] - at[max(a - 1, 0)]).tolist()) for a, b in zip(last, last[1:], strict=False)
        ]
        told["colour"].append((colour - colour[:1]).abs().mean(1).tolist())
        told["background"].append((ground - ground[:1]).abs().mean(1).tolist())
        told["sharpness"].append(_sharpness(video))
        told["outline"].append(seen.overlap.tolist())
        told["obeyed"].append([float(one == way[n % 4]) for n, one in enumerate(moved)])
        note(
            options,
            {"measure": "drift", "clip": clip.caption, "seconds": time.monotonic() - begun} | {k: v[-1] for k, v in told.items()},
        )
    if options.plot:
        _plot(told, options.plot)
    stretches = {str(n): slice(max(n - 8, 0), n) for n in (8, 64, 256, 1000) if n <= options.frames}
    figures: dict[str, object] = {}
    for name in ("colour", "background", "sharpness", "outline"):
        figures[name] = {n: round(float(np.mean([one[part] for one in told[name]])), 2) for n, part in stretches.items()}
    return figures | {
        "largest_colour": round(float(np.max(told["colour"])), 1),
        "turns_obeyed": share([bool(x) for one in told["obeyed"] for x in one]),
    }


def _sharpness(video: torch.Tensor) -> list[float]:
    """Of each frame the steepest hundredth of its brightness, in levels a pixel."""
    grey = video.mean(-1) * 255
    steps = torch.cat([(grey[:, 1:, :-1] - grey[:, :-1, :-1]).abs(), (grey[:, :-1, 1:] - grey[:, :-1, :-1]).abs()], 1)
    return steps.flatten(1).quantile(0.99, dim=1).tolist()


def _border(video: torch.Tensor) -> torch.Tensor:
    """The mean colour of each frame's outermost 4 pixels, (f, 3) in 0..255."""
    ring = torch.ones(video.shape[1:3], dtype=torch.bool)
    ring[4:-4, 4:-4] = False
    return video[:, ring].mean(1) * 255


def _plot(told: dict[str, list[list[float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    words = {
        "colour": "colour of the figure: away from the first frame's, levels",
        "background": "colour of the ground: away from the first frame's, levels",
        "sharpness": "sharpness: steepest hundredth, levels a pixel",
        "outline": "outline: overlap with the true figure",
    }
    figure, axes = pyplot.subplots(len(words), 1, figsize=(9, 9), sharex=True)
    for axis, (name, word) in zip(axes, words.items(), strict=True):
        values = np.array(told[name])
        smooth = np.stack([np.convolve(one, np.ones(15) / 15, "valid") for one in values])
        for one in smooth:
            axis.plot(np.arange(len(one)) + 7, one, color="0.75", linewidth=0.8)
        axis.plot(np.arange(smooth.shape[1]) + 7, smooth.mean(0), color="tab:blue")
        axis.set_title(word, fontsize=10, loc="left")
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel(f"frame (means of 15; grey: each of {len(smooth)} videos)")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def note(options: argparse.Namespace, case: dict[str, object]) -> None:
    """Append a case to the file of --out."""
    if options.out:
        with open(options.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(case) + "\n")


MEASURES: dict[str, Callable[[EmuVideoPipeline, argparse.Namespace], dict[str, object]]] = {
    "turns": turns,
    "loops": loops,
    "between": between,
    "drift": drift,
}

if __name__ == "__main__":
    main()
