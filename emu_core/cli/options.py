"""What the commands share: options, the choice of a device, progress bars. Nothing heavy is imported here or above a command's
own function, so that `--help` waits for no torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..limits import NAMES

if TYPE_CHECKING:
    import torch

    from ..settings import Progress

PRECISIONS = ("auto", "float32", "float16", "bfloat16")
PROMPTS_HELP = (
    "prompts: a .txt (one a line), .csv, .json or .jsonl (id, prompt, image), "
    "or a bundled set: general, lecture, little, toy, ucf101"
)

VARIANT_HELP = (
    "what an original file with the keys of AnimateDiff v2 is, where its name does not say: animatediff, lightning-1step, "
    "lightning-2step, lightning-4step, lightning-8step or animatelcm"
)

WEIGHTS_HELP = r"weights as in ComfyUI: (word) counts 1.1 times, (word:1.3) 1.3 times; \( and \) are brackets that are read"
SCALE_HELP = (
    "write the video N times as large, each pixel as N x N equal ones, or smoothly as 4:lanczos; read again here, equal ones are "
    "one again; if not given: as a video that is given is, or what the model's folder says, else 1"
)
NEGATIVE_HELP = "what the video should not show: it takes the place of the empty text; written as the prompt is"
OF_ONE_LONG = ("length", "ranges", "past", "plan", "resume")
"""Options of one video of several calls; --resume is of a list too."""


class CommandParser(argparse.ArgumentParser):
    """Takes what may be left out behind options too, which argparse does not by itself: of `generate --out a.mp4 TEXT`
    it has settled before --out that there is no text."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See argparse."""
        optional = any(action.nargs == "?" for action in self._get_positional_actions())
        if not optional or vars(self).get("within"):
            return super().parse_known_args(args, namespace)
        self.within = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.within = False


def add_command(commands: argparse._SubParsersAction, name: str, summary: str, run: str) -> argparse.ArgumentParser:
    """A parser for one command; `run` is the function that takes its options, as "module:function"."""
    parser = commands.add_parser(name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.set_defaults(run=run, command=name)
    limit = f"what one file that is read may cost: {', '.join(NAMES)}; may be repeated (see docs/security.md)"
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=NUMBER", help=limit)
    add_verbose(parser)
    return parser


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """-v, which may also stand before the command: left out here, it does not undo that."""
    say = "say more about what is being done, and where in the program an error arose"
    parser.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help=say)


def add_output_options(parser: argparse.ArgumentParser, many: str = "") -> None:
    """Where a video goes, and what is told of it; `many`: what else --out may be."""
    add = parser.add_argument_group("output").add_argument
    where = ".mp4, .webm, .gif or .webp, or a folder for PNG frames; prompt, seed and settings are written into it"
    add("--out", required=True, help=where + many)
    add("--sheet", metavar="OUT.png", help="also write a contact sheet")
    add("--json", action="store_true", help="print what was made as JSON")
    add("--scale", metavar="N", help=SCALE_HELP)


def add_timeline_options(parser: argparse.ArgumentParser, ranges: str, output: bool = True) -> None:
    """Of a video that several calls make: prompts by `ranges` (from where they count), the plan, going on. `output`: of a command
    that makes nothing else."""
    add = parser.add_argument_group("timeline").add_argument
    times = f"what should happen when, such as '0-2s: it moves right' and '2s-: it moves up', in seconds or frames {ranges}"
    add("--prompt", dest="ranges", action="append", metavar="RANGE: TEXT", help=f"{times}; may be repeated")
    resume = "go on with what a run that was stopped has left beside the output"
    resume += "" if output else "; with --prompts: make what is missing there, exactly as if never stopped"
    add("--past", type=int, help="frames before its own that each call is given")
    add("--plan", action="store_true", help="print which call makes which frames of which, and make nothing")
    add("--resume", action="store_true", help=resume)
    if output:
        parser.set_defaults(no_interpolate=True)


def add_sampling_options(parser: argparse.ArgumentParser, keyframes: bool = False, long: bool = False) -> None:
    """How to sample; `keyframes`: of a video that is there already, whose length and motion are given; `long`: of one that some
    calls make."""
    add = parser.add_argument_group("sampling (what is left out is as the model's maker recommends)").add_argument
    if not keyframes:
        pia = 'PIA: how far frames may go from the given one: small, moderate, large; "large, loop"; "large, style" ...'
        if long:
            add("--window", type=int, help="frames that the model sees at a time")
        else:
            add("--frames", type=int, help="frames of the video before interpolation")
            add("--window", type=int, help="frames that the model sees at a time, for videos longer than it allows")
            add("--overlap", type=int, default=4, help="frames that a window shares with the next")
            again = "FreeInit, for stacks that take no frames: samplings in all, each keeping the coarse form of the one before"
            add("--freenoise", action="store_true", help="windows begin with the same noise, reordered, so that they fit")
            add("--freeinit", type=int, metavar="TIMES", help=again)
            add("--freeinit-filter", help="what FreeInit keeps: butterworth (the usual), gaussian or ideal")
        add("--motion", metavar="AMOUNT", help=pia)
        add("--cond-fps", type=float, help="FancyVideo: frames a second that the model is told")
        add("--motion-score", type=float, help="FancyVideo: amount of motion that the model is told")
    size = "width and height in pixels, multiples of 8; pictures are centre-cropped to fit, then resized (box, then bicubic)"
    size += "; left out, the video stays as large as it is" if keyframes else ""
    rate = "frames a second" if long else "frames a second before interpolation, which multiplies them by 4"
    add("--fps", type=float, help=rate)
    add("--size", metavar="WxH", help=size)
    add("--steps", type=int, help="sampling steps of each part")
    add("--sampler", help="ddim, dpmpp_2m, dpmpp_2m_sde, euler, euler_ancestral, lcm or unipc")
    add("--text-guidance", type=float, help="w_p of the paper: how much the text counts; more motion")
    add("--image-guidance", type=float, help="w_i of the paper: how much the starting frame counts; less motion")
    add("--negative", metavar="TEXT", default=argparse.SUPPRESS, help=NEGATIVE_HELP)
    add("--seed", type=int, default=0, help="same seed, same video")


def add_long_options(parser: argparse.ArgumentParser, ranges: str) -> None:
    """The prompt, and all options of a command that makes one video by several calls; `ranges`: from where they count."""
    parser.add_argument("prompt", nargs="?", help=f"what should happen; {WEIGHTS_HELP}")
    add_timeline_options(parser, ranges)
    add_output_options(parser)
    add_sampling_options(parser, long=True)
    add_model_options(parser, motion_loras=True)


def add_model_options(parser: argparse.ArgumentParser, motion_loras: bool = False) -> None:
    """The files of the models, and what they run on; `motion_loras`: for a command that loads them."""
    add = parser.add_argument_group("model").add_argument
    model = "image model: a diffusers folder, or one .safetensors file of SD 1.5, SD 2.1 or SDXL (default: bundled)"
    stack = (
        "temporal stack F (video), or the original file of AnimateDiff, Hotshot-XL, PIA, FancyVideo or ModelScope; default: "
        "stack_F.safetensors in the model's folder"
    )
    lora = "LoRA on the image model, with a strength (1 if left out), as ComfyUI's LoRA loader takes them; may be repeated"
    vae = "VAE instead of the image model's: one file, or a diffusers folder"
    add("--model", help=model)
    add("--lora", action="append", metavar="FILE[:STRENGTH]", help=lora)
    add("--vae", metavar="FILE", help=vae)
    add("--stack", help=stack)
    add("--variant", metavar="NAME", help=VARIANT_HELP)
    if motion_loras:
        lora = "motion LoRA on stack F, with a strength (1 if left out; negative ones turn the motion round); may be repeated"
        add("--motion-lora", action="append", metavar="FILE[:STRENGTH]", help=lora)
    add("--interpolation-stack", help="temporal stack I; default: stack_I.safetensors in the model's folder")
    fast = (
        "what the model's folder holds for few calls of the networks: distilled stacks, a LoRA for the starting frame; if not "
        "given: as the model's maker says, but not where --steps, --sampler or a guidance are named"
    )
    add("--fast", action=argparse.BooleanOptionalAction, help=fast)
    add("--tokenizer", help="folder with the tokenizer that a single-file model lacks, or a ComfyUI installation")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps ...; auto takes an accelerator if there is one")
    add("--dtype", default="auto", choices=PRECISIONS, help="precision; auto: float32 on a CPU, else float16")
    add("--attention", default="auto", choices=("auto", "sdpa", "xformers"), help="attention kernels; auto: torch's own")
    batch = "evaluations of a step as one batch; auto: on an accelerator, where its free memory holds it"
    add("--batch-calls", default="auto", choices=("auto", "on", "off"), help=batch)
    add("--compile", action="store_true", help="torch.compile of the video U-Net: minutes at first, then shorter steps")
    add("--vae-tiling", action="store_true", help="decode large pictures in tiles: less memory, slightly other pictures")


def choose_device(name: str) -> torch.device:
    """The device of --device; auto is an accelerator if there is one. ValueError for one that is not here."""
    import torch  # seconds

    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    if name.startswith("meta"):
        raise UserError(f"--device {name} computes nothing: use auto or cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--device {name} cannot be used here ({reason}): use auto or cpu") from error
    return device


def in_columns(figures: Mapping[str, Any]) -> str:
    """Names and figures, a line each, with the ends of those that have an interval under `intervals`."""
    ends = {name: f"{low:.4g} to {high:.4g}" for name, (low, high) in figures.get("intervals", {}).items()}
    shown = {name: value for name, value in figures.items() if name != "intervals"}
    width = max(map(len, shown))
    return "\n".join(f"{name:<{width}}  {value:<10.4g} {ends.get(name, '')}".rstrip() for name, value in shown.items())


def check_folder(name: str | None) -> None:
    """Refuse, before the long work, a folder that could not be written into or made. Empty or None: nothing is wanted."""
    if not name:
        return
    place = Path(name).absolute()
    if os.path.lexists(place) and not place.is_dir():
        raise UserError(f"{name}: expected a folder to write into, found a file; choose another name")
    if not place.parent.is_dir():
        raise UserError(f"{name}: expected the folder {place.parent}, found nothing; make it first")
    try:
        place.exists()  # the name may be too long
        with TemporaryFile(dir=place if place.is_dir() else place.parent):  # permission bits do not say all
            pass
    except OSError as problem:
        raise UserError(
            f"{name}: expected a folder that can be written into, found {problem.strerror}; choose another"
        ) from problem


def check_file(option: str, name: str | None, suffix: str) -> None:
    """Refuse, before the long work, a file that could not be written, or does not end in `suffix`. None: it is not wanted."""
    if name is None:
        return
    if Path(name).suffix != suffix:
        raise UserError(f"{option} {name}: expected a name that ends in {suffix}, found another; change it")
    if Path(name).is_dir():
        raise UserError(f"{option} {name}: expected a file, found a folder of that name; choose another name")
    parent = Path(name).absolute().parent
    if not parent.is_dir():
        raise UserError(f"{option} {name}: expected the folder {parent}, found nothing; make it first")
    check_folder(str(parent))


def is_there(path: str | Path) -> bool:
    """Whether something is at a place that is going to be replaced; an empty folder is nothing."""
    return any(os.scandir(path)) if os.path.isdir(path) else os.path.lexists(path)


def wrote(path: str | Path, replaced: bool) -> str:
    """How every command says what it has written."""
    return f"wrote {path}{' (replaced)' if replaced else ''}"


@contextmanager
def progress_bar(name: str, total: int | None, unit: str = "video", done: int = 0) -> Iterator[Callable[..., Any]]:
    """One bar on standard error; gives what moves it on, by 1 or by the number it is called with. `done`: what was before."""
    from tqdm import tqdm  # not in ComfyUI's own packages, and help needs none

    with tqdm(total=total, desc=name, unit=unit, initial=done, file=sys.stderr) as bar:
        yield bar.update


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A bar for each stage of a pipeline, on standard error."""
    from tqdm import tqdm  # not in ComfyUI's own packages, and help needs none

    bars: dict[str, tqdm] = {}
    with ExitStack() as opened:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = opened.enter_context(tqdm(total=total, desc=stage))
            bars[stage].update(done - bars[stage].n)

        yield report


def then_close(parts: Iterator[Any], bars: ExitStack) -> Iterator[Any]:
    """The parts; the bars are closed behind the last, so that what is printed then is not on a bar's line."""
    yield from parts
    bars.close()
