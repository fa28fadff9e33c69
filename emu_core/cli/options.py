"""What the parts of the command line share. Each part names its function as text, so that help runs none."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ..pipeline import Progress


def add_command(commands: argparse._SubParsersAction, name: str, summary: str, run: str) -> argparse.ArgumentParser:
    """A parser for one command; `run` is the function that takes its options, as "module:function"."""
    parser = commands.add_parser(name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.set_defaults(run=run, command=name)
    parser.add_argument("-v", "--verbose", action="store_true", help="say more about what is being done")
    return parser


def add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out",
        required=True,
        help=".mp4, .webm, .gif or .webp, or a folder for PNG frames; prompt, seed and settings are written into it",
    )
    group.add_argument("--sheet", metavar="OUT.png", help="also write a contact sheet")
    group.add_argument("--json", action="store_true", help="print what was made as JSON")


def add_sampling_options(parser: argparse.ArgumentParser, keyframes: bool) -> None:
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


def add_model_options(parser: argparse.ArgumentParser) -> None:
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


def choose_device(name: str) -> torch.device:
    if name == "auto":
        return (
            torch.accelerator.current_accelerator() or torch.device("cpu")
            if torch.accelerator.is_available()
            else torch.device("cpu")
        )
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--device {name} cannot be used here ({reason}): use auto or cpu") from error
    return device


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar for each stage, on standard error."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            bars[stage] = tqdm(total=total, desc=stage, leave=True)
        bars[stage].update(done - bars[stage].n)

    try:
        yield report
    finally:
        for bar in bars.values():
            bar.close()
