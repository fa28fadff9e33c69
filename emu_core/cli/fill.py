"""`emu-video fill`: pictures at any places and text -> the video in which they are these frames."""

from __future__ import annotations

import argparse

from .options import add_command, add_long_options


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "pictures at any places and text -> the video in which they are these frames"
    parser = add_command(commands, "fill", summary, f"{__name__}:fill")
    keyframe = "a picture, and which frame it is: a number from 0 on, seconds such as 1.5s, or `last`; may be repeated"
    parser.add_argument("--keyframe", action="append", required=True, metavar="PLACE=FILE", help=keyframe)
    parser.add_argument("--length", metavar="N", help="frames, or seconds such as 4s; left out, up to the last picture")
    add_long_options(parser, "from the first frame on")


def fill(options: argparse.Namespace) -> None:
    """Make a video around pictures that are given anywhere in it."""
    from .timelines import Work, fitted, make, parse_length, read_long, timeline_of, upright  # here: they bring torch

    texts, settings, config = read_long(options)
    fps = settings.fps or config.clip.fps
    length = None if options.length is None else parse_length(options.length, fps, "--length")
    files = _keyframes(options.keyframe, fps, length)
    places = sorted(files)
    timeline = timeline_of(length or places[-1] + 1, places, texts, fps)
    given = fitted([upright(files[place]) for place in places], places, settings)
    make(options, settings, config, Work(timeline, given, fps, inputs=tuple(files.values())))


def _keyframes(texts: list[str], fps: float, length: int | None) -> dict[int, str]:
    """Files by frame, of `PLACE=FILE` each."""
    import re

    from ..errors import UserError

    files: dict[int, str] = {}
    for text in texts:
        found = re.fullmatch(r"\s*(?:(\d{1,9})|(\d{1,9}(?:\.\d+)?)s|last)\s*=(.+)", text)
        if found is None:
            wanted = "a place and a file, such as 0=first.png, 1.5s=later.png or last=end.png"
            raise UserError(f"--keyframe should be {wanted}, found {text!r}")
        if found[1] is None and found[2] is None and length is None:
            raise UserError(f"--keyframe {text}: the last of how many frames is not known, found no --length; give one")
        place = int(found[1]) if found[1] else round(float(found[2]) * fps) if found[2] else (length or 0) - 1
        if length is not None and place >= length:
            raise UserError(f"--keyframe {text}: expected one of the frames 0 to {length - 1}, found {place}; make it longer")
        if place in files:
            raise UserError(f"--keyframe: two pictures are to be frame {place}, {files[place]} and {found[3]}: give each its own")
        files[place] = found[3]
    return files
