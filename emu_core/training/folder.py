"""What stands in a run's folder beside its checkpoints and its model: recipe, figures, curves, sheets."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL import Image

from ..errors import UserError
from ..limits import json_of
from ..media.files import whole_file

RECIPE_FILE, LOG_FILE, BAD_BATCH = "recipe.json", "log.jsonl", "bad_batch.pt"


ROOM = "the checkpoints of this run", "make room, or name another folder with --out"


def check_folder(folder: Path, needed: int = 0, room: tuple[str, str] = ROOM) -> None:
    """Make a folder. ValueError if it cannot be written, or lacks the `needed` bytes; `room`: what needs them, and what to do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): name another folder with --out") from error
    if lack := lacks_room(folder, needed, room):
        raise UserError(lack)


def lacks_room(folder: Path, needed: int, room: tuple[str, str] = ROOM) -> str:
    """What `check_folder` says where `needed` bytes are not free, of a folder that need not be there yet; else ""."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free, (what, advice) = shutil.disk_usage(there).free, room
    said = f"{folder} has {free / 2**30:.1f} GB of free space, and {what} need {needed / 2**30:.1f} GB: {advice}"
    return said if free < needed else ""


def write_json(path: Path, value: Any) -> None:
    """Write a value, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(json.dumps(value, indent=2))


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a log; one that a crash cut off is left out."""
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            rows.append(json_of(line))
    return [row for row in rows if isinstance(row, dict)]


def forget_rows_after(step: int, path: Path) -> None:
    """After a crash, rows of steps that will be made again."""
    if path.is_file():
        kept = [json.dumps(row) + "\n" for row in read_rows(path) if row.get("step", step + 1) <= step]
        with whole_file(path) as part:
            part.write_text("".join(kept))


def open_board(folder: Path, step: int) -> Any:
    """A writer for TensorBoard that forgets what a run that broke off wrote after `step`. ValueError if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs the package tensorboard: pip install tensorboard, or leave it out") from error
    return SummaryWriter(str(folder), purge_step=step + 1)


def plot_losses(folder: Path) -> None:
    """Draw the log as `loss.png`: the loss, a running mean, and every other figure in a panel of its own."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_rows(folder / LOG_FILE)
    names = sorted({k for row in rows for k in row} - {"step", "grad_norm"})
    if not names:
        return
    figure, axes = pyplot.subplots(len(names), 1, figsize=(8, 2.4 * len(names)), squeeze=False)
    for axis, name in zip(axes[:, 0], names, strict=True):
        steps, values = zip(*((row["step"], row[name]) for row in rows if name in row), strict=True)
        axis.plot(steps, values, lw=0.5, alpha=0.4, marker="." if len(steps) < 50 else "")
        window = max(1, len(values) // 50)
        sums = [0.0, *itertools.accumulate(values)]
        smooth = [(sums[i + 1] - sums[max(0, i - window)]) / (i + 1 - max(0, i - window)) for i in range(len(values))]
        axis.plot(steps, smooth, lw=1.5)
        axis.set_ylabel(name)
        if "loss" in name:
            axis.set_yscale("log")
    axes[-1, 0].set_xlabel("step")
    figure.tight_layout()
    with whole_file(folder / "loss.png") as part:
        figure.savefig(part, dpi=80, format="png")
    pyplot.close(figure)


def write_sheet(images: torch.Tensor, path: Path | None, columns: int) -> None:
    """Pictures (n, 3, H, W) in -1..1, n a multiple of `columns`, row by row as one PNG. No path: nothing is written."""
    if path is not None:
        grid = rearrange(images, "(r c) k h w -> (r h) (c w) k", c=columns)
        picture = Image.fromarray(((grid.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy())
        with whole_file(path) as part:
            picture.save(part, format="PNG")
