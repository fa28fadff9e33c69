"""`emu-video between`: two pictures and text -> the video from the one to the other."""

from __future__ import annotations

import argparse

from .options import add_command, add_long_options


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "first and last picture and text -> the video between them"
    parser = add_command(commands, "between", summary, f"{__name__}:between")
    parser.add_argument("first", help="any picture: the first frame")
    parser.add_argument("last", help="any picture: the last frame")
    parser.add_argument("--frames", dest="total", type=int, metavar="N", help="frames, both included; left out, the model's own")
    add_long_options(parser, "from the first frame on")


def between(options: argparse.Namespace) -> None:
    """Make a video that begins with one picture and ends with another."""
    from ..errors import UserError  # here: they bring torch, and help does not wait for it
    from .timelines import Work, fitted, make, read_long, timeline_of, upright

    texts, settings, config = read_long(options)
    size = settings.window or config.clip.frames
    count = size if options.total is None else options.total
    if not 3 <= count <= size:
        sees = f"this stack sees {size} frames at a time"
        more = "give pictures in between with `fill`, or let it see more with --window"
        raise UserError(f"from one picture to another there should be 3 to {size} frames, found {count}: {sees}; {more}")
    pictures, places = [upright(options.first), upright(options.last)], (0, count - 1)
    fps = settings.fps or config.clip.fps
    timeline = timeline_of(count, places, texts, fps)
    make(options, settings, config, Work(timeline, fitted(pictures, places, settings), fps, inputs=(options.first, options.last)))
