"""The pictures that `curate` leaves for a person to look at."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from .shards import Shards

SHEET_FRAMES = 32
SHEET_SIDE = 160
MAX_REASONS = 12


def draw_report(folder: Path) -> None:
    """report.png: what is there and what was left out and why; sheet.png: some first frames with captions."""
    from .shards import Shards
    from .table import rows_in

    shards = Shards.open(folder) if rows_in(folder) else None
    draw_charts(folder, shards, count_reasons(folder))
    if shards is not None:
        draw_sheet(folder, shards)


def count_reasons(folder: Path) -> Counter[str]:
    """How often each reason stands in left_out.jsonl, numbers and details aside."""
    from .curate import LEFT_OUT

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

    from .table import whole

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

    from ..media import contact_sheet, fit, write_image
    from .clips import read_at_times

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
