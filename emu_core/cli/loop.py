"""`emu-video loop`: picture and text -> video without a seam between its end and its beginning."""

from __future__ import annotations

import argparse

from .options import add_command, add_long_options


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "picture and text -> video that begins again where it ends"
    parser = add_command(commands, "loop", summary, f"{__name__}:loop")
    parser.add_argument("image", help="any picture: the first frame, and what the last one leads back to")
    parser.add_argument("--frames", dest="total", type=int, metavar="N", help="frames; left out, as many as the model can close")
    add_long_options(parser, "from the first frame on")


def loop(options: argparse.Namespace) -> None:
    """Make a video whose last frame is followed by its first, which is given at both ends and shown once."""
    from ..errors import UserError  # here: they bring torch, and help does not wait for it
    from .timelines import Work, fitted, make, read_long, timeline_of, upright

    texts, settings, config = read_long(options)
    size = settings.window or config.clip.frames
    count = size - 1 if options.total is None else options.total
    if not 2 <= count < size:
        sees = f"this stack sees {size} frames at a time, of which the last is the first again"
        raise UserError(f"a loop should have 2 to {size - 1} frames, found {count}: {sees}; --window lets it see more")
    picture, fps = upright(options.image), settings.fps or config.clip.fps
    timeline = timeline_of(count + 1, (0, count), texts, fps, 0, count)
    given = fitted([picture, picture], (0, count), settings)
    make(options, settings, config, Work(timeline, given, fps, cut=1, inputs=(options.image,)))
