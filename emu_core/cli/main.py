"""The command line, `emu-video`: arguments, errors and exit codes. What the commands do is in `commands`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from .. import __version__
from .curate import add as add_curate
from .evaluate import add_commands as add_evaluation
from .evaluate import add_folder_options
from .options import add_command
from .select import add as add_select
from .study import add_commands as add_study
from .train import add_commands as add_training

EXIT_INPUT = 2  # what the user gave cannot be used; one sentence on standard error says why
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s: %(message)s")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever downloaded
    try:
        module, _, function = options.run.partition(":")
        getattr(import_module(module), function)(options)
    except (ValueError, OSError, MemoryError) as error:
        print(f"emu-video: {_sentence(error)}", file=sys.stderr)
        return EXIT_INPUT
    except KeyboardInterrupt:
        print("emu-video: stopped; nothing half-written is left", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emu-video",
        description="Text to video in three steps: a starting frame, a video from it, and more frames a second in between. "
        "Without --model everything runs on the bundled tiny model, which knows coloured shapes that move.",
    )
    parser.add_argument("--version", action="version", version=f"emu-video {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_animate(commands)
    _add_interpolate(commands)
    _add_info(commands)
    _add_convert(commands)
    add_curate(commands)
    add_select(commands)
    add_training(commands)
    _add_evaluate(commands)
    add_evaluation(commands)
    add_study(commands)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", help="image model: a diffusers folder, or one .safetensors file of SD 1.5, SD 2.1 or SDXL (default: bundled)"
    )
    group.add_argument(
        "--stack",
        help="temporal stack F (video), or the original file of AnimateDiff, Hotshot-XL, PIA, FancyVideo or ModelScope; default: "
        "stack_F.safetensors in the model's folder",
    )
    group.add_argument("--interpolation-stack", help="temporal stack I; default: stack_I.safetensors in the model's folder")
    group.add_argument("--tokenizer", help="folder with the tokenizer that a single-file model lacks, or a ComfyUI installation")
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps ...; auto takes an accelerator if there is one")
    group.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "float16", "bfloat16"),
        help="precision; auto: float32 on a CPU, else float16",
    )
    group.add_argument(
        "--attention", default="auto", choices=("auto", "sdpa", "xformers"), help="attention kernels; auto: torch's own"
    )


def _add_sampling_options(parser: argparse.ArgumentParser, keyframes: bool) -> None:
    group = parser.add_argument_group("sampling (what is left out is as the model's maker recommends)")
    if not keyframes:
        group.add_argument("--frames", type=int, help="frames of the video before interpolation")
        group.add_argument("--window", type=int, help="frames that the model sees at a time, for videos longer than it allows")
        group.add_argument("--overlap", type=int, default=4, help="frames that a window shares with the next")
        group.add_argument(
            "--motion",
            metavar="AMOUNT",
            help='PIA: how far frames may go from the given one: small, moderate, large; "large, loop"; "large, style" ...',
        )
        group.add_argument("--cond-fps", type=float, help="FancyVideo: frames a second that the model is told")
        group.add_argument("--motion-score", type=float, help="FancyVideo: amount of motion that the model is told")
    group.add_argument("--fps", type=float, help="frames a second before interpolation, which multiplies them by 4")
    group.add_argument(
        "--size",
        metavar="WxH",
        help="width and height in pixels, multiples of 8; pictures are centre-cropped to fit, then resized (box, then bicubic)",
    )
    group.add_argument("--steps", type=int, help="sampling steps of each part")
    group.add_argument("--sampler", default="ddim", help="ddim, dpmpp_2m, dpmpp_2m_sde, euler, euler_ancestral or unipc")
    group.add_argument("--text-guidance", type=float, help="w_p of the paper: how much the text counts; more motion")
    group.add_argument("--image-guidance", type=float, help="w_i of the paper: how much the starting frame counts; less motion")
    group.add_argument("--seed", type=int, default=0, help="same seed, same video")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out",
        required=True,
        help=".mp4, .webm, .gif or .webp, or a folder for PNG frames; prompt, seed and settings are written into it",
    )
    group.add_argument("--sheet", metavar="OUT.png", help="also write a contact sheet")
    group.add_argument("--json", action="store_true", help="print what was made as JSON")


def _add_generate(commands: argparse._SubParsersAction) -> None:
    parser = add_command(
        commands, "generate", "text -> starting frame -> video -> four times the frame rate", "emu_core.cli.commands:generate"
    )
    parser.add_argument("prompt", help='for the bundled model such as "a big red circle moves right on a white background"')
    _add_output_options(parser)
    parser.add_argument("--starting-frame", metavar="OUT.png", help="also write the starting frame")
    parser.add_argument("--candidates", type=int, default=1, help="starting frames to make, of which CLIP takes the best")
    parser.add_argument("--clip", metavar="FOLDER", help="CLIP that judges the candidates: a local folder of transformers")
    parser.add_argument("--no-interpolate", action="store_true", help="leave out the third step")
    parser.add_argument("--t2i-guidance", type=float, help="text guidance of the starting frame")
    _add_sampling_options(parser, keyframes=False)
    _add_model_options(parser)


def _add_animate(commands: argparse._SubParsersAction) -> None:
    parser = add_command(
        commands, "animate", "picture and text -> video that starts with the picture", "emu_core.cli.commands:animate"
    )
    parser.add_argument(
        "image", help="any picture; it is turned upright, put on white if transparent, centre-cropped and resized"
    )
    parser.add_argument("prompt", help="what should happen")
    parser.add_argument("--position", type=int, default=0, help="which frame the picture is: 0 the first, -1 the last")
    _add_output_options(parser)
    parser.add_argument("--no-interpolate", action="store_true", help="leave out the last step")
    _add_sampling_options(parser, keyframes=False)
    _add_model_options(parser)


def _add_interpolate(commands: argparse._SubParsersAction) -> None:
    parser = add_command(
        commands, "interpolate", "video and text -> the video at four times the frame rate", "emu_core.cli.commands:interpolate"
    )
    parser.add_argument("video", help="video file, animated picture, or folder of frames; at least 2 frames")
    parser.add_argument("prompt", help="what the video shows")
    _add_output_options(parser)
    parser.add_argument(
        "--stitch",
        default="continuous",
        choices=("continuous", "paper"),
        help="how windows of 8 frames are joined; the paper's way drops frames at the joint",
    )
    _add_sampling_options(parser, keyframes=True)
    _add_model_options(parser)


def _add_info(commands: argparse._SubParsersAction) -> None:
    parser = add_command(commands, "info", "what a checkpoint is; or the size of an architecture", "emu_core.cli.commands:info")
    parser.add_argument("file", nargs="?", help="a temporal stack or an image model (default: the bundled model)")
    parser.add_argument(
        "--config", help="tiny, sd15, sd21, sdxl or emu (the paper's own U-Net): parameters and sites, nothing is loaded"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = add_command(
        commands, "convert", "a public checkpoint -> a temporal stack in this program's format", "emu_core.cli.commands:convert"
    )
    parser.add_argument(
        "file", help="file of AnimateDiff, Hotshot-XL, PIA, FancyVideo or ModelScope (.safetensors, .ckpt, .pt ...)"
    )
    parser.add_argument("--out", required=True, metavar="STACK.safetensors", help="where to write the stack")
    parser.add_argument(
        "--image-model", metavar="UNET.safetensors", help="also write the image model's U-Net that is in the file (ModelScope)"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "float16", "bfloat16"),
        help="precision of the weights; auto: as in the file",
    )


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = add_command(
        commands,
        "evaluate",
        "measure folders of videos, one for each system; or, with the word toy, the tiny model on combinations it never saw",
        "emu_core.cli.evaluate:evaluate",
    )
    parser.add_argument("sets", nargs="+", metavar="VIDEOS", help="folder of videos or NAME=FOLDER, of any system; or toy")
    parser.add_argument(
        "--prompts",
        help="folders: file or name of a set of prompts; toy: how many held-out prompts (default 200)",
    )
    parser.add_argument(
        "--videos",
        metavar="FOLDER",
        help="toy: measure the videos in this folder instead, wherever they were made; their prompts are in their metadata, or "
        "in a .txt of the same name",
    )
    parser.add_argument("--out", metavar="FOLDER", help="where JSON, table and plots go; toy: also write contact sheets there")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--no-interpolate", action="store_true", help="toy: leave out the interpolation model")
    add_folder_options(parser)
    _add_sampling_options(parser, keyframes=False)
    _add_model_options(parser)
