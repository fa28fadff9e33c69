"""The commands `emu-video curate` and `emu-video select`, and the pictures that curate leaves for a person to look at."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_command

if TYPE_CHECKING:
    import numpy as np

    from ..data.curate import Engine
    from ..data.shards import Shards

NEEDED = ("av", "numpy", "pyarrow", "tqdm", "matplotlib", "PIL", "torch")
SHEET_FRAMES = 32
SHEET_SIDE = 160
MAX_REASONS = 12


# -- options


def add_commands(commands: argparse._SubParsersAction) -> None:
    _add_curate(commands)
    _add_select(commands)


def _add_curate(commands: argparse._SubParsersAction) -> None:
    parser = add_command(
        commands,
        "curate",
        "videos with captions -> shards for training; run again, it adds what is new",
        "emu_core.cli.data:curate",
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


def _add_select(commands: argparse._SubParsersAction) -> None:
    parser = add_command(commands, "select", "a subset of curated clips, without rewriting them", "emu_core.cli.data:select")
    parser.add_argument("out", metavar="OUT", help="folder that curate made")
    parser.add_argument("name", metavar="NAME", help="name of the selection")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--hq", action="store_true", help="the paper's rule: clip_score > 0.25, aesthetic > 5.7, motion_min > 0.5")
    what.add_argument("--where", metavar="EXPRESSION", help="""such as 'width >= 512 and not contains(caption, "logo")'""")
    parser.add_argument("--top", type=int, metavar="N", help="of these the N with the largest value of --by")
    parser.add_argument("--by", metavar="COLUMN", help="a column of numbers")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


# -- the commands


def curate(options: argparse.Namespace) -> None:
    _check_packages()
    from ..data import curate as work

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
    from ..data.curate import ProcessEngine, RayEngine

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


def select(options: argparse.Namespace) -> None:
    from ..data import select as work

    chosen = work.select(options.out, options.name, work.HQ if options.hq else options.where, options.top, options.by)
    if options.json:
        print(json.dumps({**vars(chosen), "path": str(chosen.path)}, indent=2))
        return
    empty = f"; {chosen.without_value} have no value in a column of it" if chosen.without_value else ""
    print(f"{chosen.path}: {chosen.count} of {chosen.of} clips{empty}")


# -- pictures


def draw_report(folder: Path) -> None:
    """report.png: what is there and what was left out and why; sheet.png: some first frames with captions."""
    from ..data.shards import Shards, rows_in

    shards = Shards.open(folder) if rows_in(folder) else None
    draw_charts(folder, shards, count_reasons(folder))
    if shards is not None:
        draw_sheet(folder, shards)


def count_reasons(folder: Path) -> Counter[str]:
    """How often each reason stands in left_out.jsonl, numbers and details aside."""
    from ..data.curate import LEFT_OUT

    reasons: Counter[str] = Counter()
    with open(folder / LEFT_OUT, encoding="utf-8") as lines:
        for line in lines:
            reason = re.sub(r" \(.*\)|[;:].*", "", json.loads(line)["reason"])
            reasons[re.sub(r"\d+(\.\d+)?", "#", reason)] += 1
    return reasons


def draw_charts(folder: Path, shards: Shards | None, reasons: Counter[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot

    from ..data.shards import whole

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), squeeze=False)
    nothing = np.empty(0)
    column = shards.column if shards is not None else lambda name: nothing
    _histogram(axes[0, 0], column("duration"), "duration (s)")
    _histogram(axes[0, 1], column("motion_score"), "motion score (px a frame)")
    _histogram(axes[1, 0], np.minimum(column("width"), column("height")).astype(np.float64), "shorter side (px)")
    common = reasons.most_common(MAX_REASONS)[::-1]
    axes[1, 1].barh(range(len(common)), [number for _, number in common], color="tab:red")
    axes[1, 1].set_yticks(range(len(common)), [reason[:48] for reason, _ in common], fontsize=7)
    axes[1, 1].set_title(f"left out: {sum(reasons.values())}", fontsize=10)
    figure.suptitle(f"{0 if shards is None else len(shards)} clips")
    figure.tight_layout()
    with whole(folder / "report.png") as part:
        figure.savefig(part, dpi=80, format="png")
    pyplot.close(figure)


def _histogram(axis: Any, values: np.ndarray, title: str) -> None:
    import numpy as np

    known = values[~np.isnan(values)]
    axis.hist(known, bins=40)
    axis.set_title(title, fontsize=10)
    axis.set_ylabel("clips")


def draw_sheet(folder: Path, shards: Shards) -> None:
    import numpy as np
    import torch

    from ..data.clips import read_at_times
    from ..media import contact_sheet, fit, write_image

    rows = np.unique(np.linspace(0, len(shards) - 1, min(SHEET_FRAMES, len(shards))).astype(int))
    frames, captions = [], []
    for row in rows.tolist():
        with shards.open_video(row) as file:
            first = read_at_times(file, [0.0], f"row {row}")
        frames.append(fit(torch.from_numpy(np.stack(first)).float() / 255, SHEET_SIDE, SHEET_SIDE))
        captions.append(shards.caption(row))
    write_image(folder / "sheet.png", contact_sheet(torch.cat(frames), labels=_short(captions)))


def _short(captions: Sequence[str]) -> list[str]:
    """The end of a caption does not fit below a small frame, and is long to measure."""
    return [caption[:80] for caption in captions]
