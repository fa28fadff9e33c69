"""`emu-video extend`: a video and text -> the same video, and how it goes on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .options import add_command, add_long_options

if TYPE_CHECKING:
    import torch

    from ..media import VideoReader


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "video and text -> the same video, and how it goes on"
    parser = add_command(commands, "extend", summary, f"{__name__}:extend")
    parser.add_argument("video", help="video file, animated picture, or folder of frames; its frames stay as they are")
    parser.add_argument("--by", required=True, metavar="N", help="how much is added: frames, or seconds such as 4s")
    parser.add_argument("--backwards", action="store_true", help="what is added comes before the video")
    add_long_options(parser, "from the first new frame on")


def extend(options: argparse.Namespace) -> None:
    """Make frames that follow those of a video, or lead to them. The video keeps its size, its rate and its sound."""
    from ..errors import UserError  # here: they bring torch, and help does not wait for it
    from ..media import VideoReader
    from ..media.images import check_sides
    from .making import keep_scale
    from .timelines import Work, logger, make, parse_length, read_long, timeline_of

    texts, settings, config = read_long(options)
    if settings.size is not None:
        raise UserError("--size: a video that is extended keeps its size, found one; leave it out")
    video = VideoReader(options.video, settings.fps)
    keep_scale(options, video)
    facts = video.facts
    check_sides(options.video, facts.height, facts.width)
    added, there = parse_length(options.by, facts.fps, "--by"), facts.frames
    first = added if options.backwards else 0
    past = config.sampling.past if settings.past is None else settings.past
    if settings.past is not None and past > there:
        raise UserError(f"{options.video} has {there} frames, and --past {past} gives a call {past} of them: give it fewer")
    if abs(facts.fps - config.clip.fps) > 0.1 * config.clip.fps:
        logger.warning(
            "%s has %g frames a second, and the stack makes %g: what is added moves %.2g times as fast (see --fps)",
            options.video, facts.fps, config.clip.fps, facts.fps / config.clip.fps,
        )  # fmt: skip
    places = range(first, first + there)
    timeline = timeline_of(there + added, places, texts, facts.fps, 0 if options.backwards else there, added)

    def pictures(wanted: Sequence[int]) -> Iterator[torch.Tensor]:
        return _some(video, {place - first for place in wanted})

    if facts.sound and settings.fps:
        logger.warning("%s: its sound is left out, since --fps changes how long the video lasts", options.video)
    late = added / facts.fps if options.backwards else 0.0
    sound = options.video if facts.sound and not settings.fps else None
    work = Work(timeline, lambda *_: pictures, facts.fps, inputs=(options.video,), sound=sound, late=late)
    make(options, settings, config, work)


def _some(video: VideoReader, wanted: set[int]) -> Iterator[torch.Tensor]:
    """Some frames (H, W, 3) float32 0..1, as exact as the file."""
    from .interpolate import each_frame

    last = max(wanted, default=-1)  # behind it nothing is decoded
    return (frame for place, frame in zip(range(last + 1), each_frame(video), strict=False) if place in wanted)
