"""`emu-video interpolate`: video and text -> the video at four times the frame rate, with its sound."""

from __future__ import annotations

import argparse
import logging

from ..errors import UserError
from .options import WEIGHTS_HELP, add_command, add_model_options, add_output_options, add_sampling_options, progress_bars

logger = logging.getLogger(__name__)


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "video and text -> the video at four times the frame rate"
    parser = add_command(commands, "interpolate", summary, f"{__name__}:interpolate")
    parser.add_argument("video", help="video file, animated picture, or folder of frames; at least 2 frames")
    parser.add_argument("prompt", help=f"what the video shows; {WEIGHTS_HELP}")
    add_output_options(parser)
    stitch = "how windows of 8 frames are joined; the paper's way drops frames at the joint"
    parser.add_argument("--stitch", default="continuous", choices=("continuous", "paper"), help=stitch)
    add_sampling_options(parser, keyframes=True)
    add_model_options(parser)


def interpolate(options: argparse.Namespace) -> None:
    """Make the frames between those of a video, and keep its sound."""
    from ..media import read_video  # here: they bring torch, and help does not wait for it
    from ..model.conditioning import FACTOR, KEYFRAMES, MAX_FRAMES
    from .making import load_pipeline, read_request, write

    prompt, settings = read_request(options)
    video = read_video(options.video, settings.fps)
    count = len(video.frames)
    if count < 2:
        raise UserError(f"{options.video} should have 2 or more frames to interpolate between, found {count}")
    if count > MAX_FRAMES:
        raise UserError(f"{options.video} should have at most {MAX_FRAMES} frames, found {count}: cut it into parts")
    pipeline = load_pipeline(options)
    with progress_bars() as progress:
        frames = pipeline.interpolate(video.frames, prompt, settings, progress)
    jumps = options.stitch == "paper" and count > KEYFRAMES
    if video.sound and (settings.fps or jumps):
        why = "--stitch paper leaves out moments" if jumps else "--fps changes how long the video lasts"
        logger.warning("%s: its sound is left out, since %s", options.video, why)
    sound = None if settings.fps or jumps else options.video
    # As many frames come before the first given one as between two.
    write(options, settings, pipeline, frames, FACTOR * (settings.fps or video.fps), sound=sound, late=1 / video.fps)
