"""`emu-video interpolate`: video and text -> the video at four times the frame rate."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from .. import media
from .making import _write, check_files, load_pipeline, read_settings
from .options import add_command, add_model_options, add_output_options, add_sampling_options, progress_bar

if TYPE_CHECKING:
    pass


def add(commands: argparse._SubParsersAction) -> None:
    parser = add_command(
        commands,
        "interpolate",
        "video and text -> the video at four times the frame rate",
        "emu_core.cli.interpolate:interpolate",
    )
    parser.add_argument("video", help="video file, animated picture, or folder of frames; at least 2 frames")
    parser.add_argument("prompt", help="what the video shows")
    add_output_options(parser)
    parser.add_argument(
        "--stitch",
        default="continuous",
        choices=("continuous", "paper"),
        help="how windows of 8 frames are joined; the paper's way drops frames at the joint",
    )
    add_sampling_options(parser, keyframes=True)
    add_model_options(parser)


def interpolate(options: Namespace) -> None:
    from ..model.conditioning import FACTOR, MAX_FRAMES
    from ..pipeline import check_prompt

    prompt = check_prompt(options.prompt)
    settings = read_settings(options)
    video = media.read_video(options.video, settings.fps)
    if len(video.frames) < 2:
        raise ValueError(f"{options.video} should have 2 or more frames to interpolate between, found {len(video.frames)}")
    if len(video.frames) > MAX_FRAMES:
        raise ValueError(f"{options.video} should have at most {MAX_FRAMES} frames, found {len(video.frames)}: cut it into parts")
    check_files(options)
    pipeline = load_pipeline(options)
    with progress_bar() as progress:
        frames = pipeline.interpolate(video.frames, prompt, settings, progress)
    _write(options, pipeline, settings, frames, FACTOR * (settings.fps or video.fps))
