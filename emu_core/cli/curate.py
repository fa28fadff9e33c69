"""The command `emu-video curate`."""

from __future__ import annotations

import argparse
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .options import add_command

if TYPE_CHECKING:
    from ..data.engines import Engine

NEEDED = ("av", "numpy", "pyarrow", "tqdm", "matplotlib", "PIL", "torch")


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    parser = add_command(
        commands,
        "curate",
        "videos with captions -> shards for training; run again, it adds what is new",
        "emu_core.cli.curate:curate",
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a folder of videos with a .txt or .json caption beside each; a .csv, .tsv or .parquet list with the columns path "
        "and caption; or an uncompressed WebDataset .tar",
    )
    parser.add_argument("out", metavar="OUT", help="folder of the shards, made if missing; to be outside of the sources")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes, or tasks at a time on a cluster")
    parser.add_argument("--engine", choices=("processes", "ray"), default="processes", help="where the work is done")
    parser.add_argument("--address", help="with --engine ray: address of the cluster; a Ray of this machine if left out")
    parser.add_argument("--motion-fps", default="24", help="frames a second at which motion is measured, or native")
    parser.add_argument(
        "--motion-height", default="256", help="height in pixels, even, at which motion is measured and cuts are found, or native"
    )
    parser.add_argument("--clip", metavar="FOLDER", help="local CLIPModel with tokenizer and image processor: fills clip_score")
    parser.add_argument(
        "--aesthetic",
        metavar="HEAD.safetensors",
        help="linear layers on CLIP's unit image embedding to one number: fills aesthetic",
    )
    parser.add_argument("--device", default="cpu", help="device of the CLIP model, such as cpu or cuda")
    parser.add_argument("--shard-clips", type=int, default=1000, help="a shard is closed at so many clips ...")
    parser.add_argument("--shard-mb", type=float, default=1000.0, help="... or at so many megabytes of sources")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def curate(options: argparse.Namespace) -> None:
    _check_packages()
    from ..data import curate as work
    from ..data.report import draw_report

    settings = work.Settings(
        motion_fps=_number(options.motion_fps, "--motion-fps"),
        motion_height=_whole_number(options.motion_height),
        clip=options.clip,
        aesthetic=options.aesthetic,
        device=options.device,
        shard_clips=options.shard_clips,
        shard_bytes=int(options.shard_mb * 1e6),
    )
    engine = _engine(options)
    try:
        summary = work.curate(options.sources, options.out, settings, engine, progress=not options.json)
    finally:
        engine.close()
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
        raise ValueError(f"{out}: expected at least one clip, found none that could be taken; see {work.LEFT_OUT} there.")


def _check_packages() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ValueError(f"curate: expected the packages {', '.join(missing)}, found none; install this package's extra 'data'.")


def _engine(options: argparse.Namespace) -> Engine:
    from ..data.engines import ProcessEngine, RayEngine

    if options.engine == "ray":
        return RayEngine(options.address, options.workers if options.address is None else None)
    if options.address:
        raise ValueError("--address: expected --engine ray with it, found none; add it or leave the address out.")
    return ProcessEngine(options.workers)


def _number(text: str, option: str) -> float | None:
    if text == "native":
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1000:
        raise ValueError(f"{option}: expected a number above 0 and up to 1000, or native, found {text!r}.")
    return number


def _whole_number(text: str) -> int | None:
    if text == "native":
        return None
    if not text.isdigit() or int(text) % 2 or not 16 <= int(text) <= 4096:
        raise ValueError(f"--motion-height: expected an even number of 16 to 4096, or native, found {text!r}.")
    return int(text)
