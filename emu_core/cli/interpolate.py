"""`emu-video interpolate`: video and text -> the video at four times the frame rate, with its sound."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .options import WEIGHTS_HELP, add_command, add_model_options, add_output_options, add_sampling_options, progress_bars

if TYPE_CHECKING:
    import torch

    from ..media import VideoReader

WHOLE_IN_MEMORY = (".gif", ".webp")
"""What cannot be written frame by frame."""
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
    """Make the frames between those of a video, and keep its sound. Windows of frames are read, worked on and written one after
    the other, so that a long video takes no more memory than a short one."""
    from ..model.conditioning import FACTOR, KEYFRAMES, windows  # here: they bring torch, and help does not wait
    from .making import check_rate, keep_scale, load_pipeline, read_request, read_stacks, write

    prompt, settings = read_request(options)
    video = _open(options.video, settings.fps, options.out)
    keep_scale(options, video)
    fps, count, config = settings.fps or video.facts.fps, video.facts.frames, read_stacks(options)["I"]
    check_rate(FACTOR * fps)
    plan = windows(count, (config.clip.frames - 1) // FACTOR - 1, settings.stitch)
    jumps = options.stitch == "paper" and count > KEYFRAMES
    pipeline = load_pipeline(options)

    def parts() -> Iterator[torch.Tensor]:
        with progress_bars() as progress:
            yield from pipeline.interpolated(each_frame(video), count, prompt, settings, progress)

    if video.facts.sound and (settings.fps or jumps):
        why = "--stitch paper leaves out moments" if jumps else "--fps changes how long the video lasts"
        logger.warning("%s: its sound is left out, since %s", options.video, why)
    sound = None if settings.fps or jumps else options.video
    made = sum(window.stop - window.start for window in plan)
    # As many frames come before the first given one as between two.
    write(options, settings, pipeline, parts(), made, FACTOR * fps, sound=sound, late=1 / video.facts.fps)


def _open(path: str, fps: float | None, out: str) -> VideoReader:
    """The video, of which no more than its head has been read. ValueError where it cannot be interpolated into `out`."""
    from ..media import VideoReader  # here: they bring torch, and help does not wait for it
    from ..media.images import check_sides
    from ..model.conditioning import MAX_FRAMES

    video = VideoReader(path, fps)
    count = video.facts.frames
    check_sides(path, video.facts.height, video.facts.width)
    if count < 2:
        raise UserError(f"{path} should have 2 or more frames to interpolate between, found {count}")
    if count > MAX_FRAMES and Path(out).suffix.lower() in WHOLE_IN_MEMORY:
        other = "write .mp4, .mkv, .webm or a folder, or cut it into parts"
        raise UserError(f"{path} should have at most {MAX_FRAMES} frames for a {Path(out).suffix}, found {count}: {other}")
    return video


def each_frame(video: VideoReader) -> Iterator[torch.Tensor]:
    """Frames (H, W, 3) float32 0..1, as exact as the file."""
    import torch

    for picture in video.pictures():
        frame = torch.tensor(picture)
        yield frame.float().div_(255) if frame.dtype == torch.uint8 else frame
