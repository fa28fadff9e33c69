"""The command `emu-video curate`: videos with captions -> shards."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import UserError
from .options import add_command, choose_device

NEEDED = ("av", "numpy", "pyarrow", "tqdm", "matplotlib", "PIL", "torch")


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "videos with captions -> shards for training; run again, it adds what is new"
    source = (
        "a folder of videos with a .txt or .json caption beside each; a .csv, .tsv, .jsonl or .parquet list with the columns "
        "path and caption; or an uncompressed WebDataset .tar"
    )
    height = "height in pixels, even, at which motion is measured and cuts are found, or native"
    head = "linear layers on CLIP's unit image embedding to one number: fills aesthetic"
    cores = os.cpu_count() or 1
    option = add_command(commands, "curate", summary, f"{__name__}:curate").add_argument
    option("sources", nargs="+", metavar="SOURCE", help=source)
    option("out", metavar="OUT", help="folder of the shards, made if missing; to be outside of the sources")
    option("--workers", type=int, default=cores, help="processes, or tasks at a time on a cluster")
    option("--engine", choices=("processes", "ray"), default="processes", help="where the work is done")
    option("--address", help="with --engine ray: address of the cluster; a Ray of this machine if left out")
    option("--motion-fps", default="24", help="frames a second at which motion is measured, or native")
    option("--motion-height", default="256", help=height)
    option("--clip", metavar="FOLDER", help="local CLIPModel with tokenizer and image processor: fills clip_score")
    option("--aesthetic", metavar="HEAD.safetensors", help=head)
    option("--device", default="cpu", help="device of the CLIP model, such as cpu or cuda")
    option("--shard-clips", type=int, default=1000, help="a shard is closed at so many clips ...")
    option("--shard-mb", type=float, default=1000.0, help="... or at so many megabytes of sources")
    option("--json", action="store_true", help="print the counts as JSON")


def curate(options: argparse.Namespace) -> None:
    """Add what is new in the sources, draw the pictures and say what there is now."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"curate: expected the packages {', '.join(missing)}, found none; install this package's extra 'data'.")
    from ..data import curate as work  # here: help waits for no torch, and without pyarrow there is the sentence above
    from ..data.engines import open_engine
    from ..data.report import draw_report

    if not (options.shard_mb > 0 and math.isfinite(options.shard_mb)):
        raise UserError(f"--shard-mb: expected a number of megabytes above 0, found {options.shard_mb:g}.")
    if options.clip:
        choose_device(options.device)
    rate, height = options.motion_fps, options.motion_height
    curation = work.Curation(
        motion_fps=_or_native("--motion-fps", rate, float, lambda fps: 0 < fps <= 1000, "a number above 0 and up to 1000"),
        motion_height=_or_native(
            "--motion-height", height, int, lambda side: side in range(16, 4097, 2), "an even number of 16 to 4096"
        ),
        clip=options.clip,
        aesthetic=options.aesthetic,
        device=options.device,
        shard_clips=options.shard_clips,
        shard_bytes=int(options.shard_mb * 1e6),
    )
    with closing(open_engine(options.engine, options.workers, options.address)) as engine:
        summary = work.curate(options.sources, options.out, curation, engine, progress=not options.json)
    out = Path(options.out)
    draw_report(out)
    if options.json:
        print(json.dumps(vars(summary), indent=2))
    else:
        print(
            f"{out}: {summary.total} clips, {summary.added} of them new, {summary.known} of these sources were there already; "
            f"{summary.left_out} items left out, with reasons in {out / work.LEFT_OUT}"
        )
    if summary.total == 0:
        raise UserError(f"{out}: expected at least one clip, found none that could be taken; see {work.LEFT_OUT} there.")


def _or_native(option: str, text: str, kind: Callable[[str], Any], fits: Callable[[Any], bool], wanted: str) -> Any:
    """The number in `text`, None for "native"."""
    try:
        number = None if text == "native" else kind(text)
    except ValueError:
        number = 0
    if number is not None and not fits(number):
        raise UserError(f"{option}: expected {wanted}, or native, found {text!r}.")
    return number
