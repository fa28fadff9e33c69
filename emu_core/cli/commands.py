"""`emu-video evaluate toy`: the benchmark of the bundled model."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from .making import load_pipeline, read_settings


def evaluate(options: Namespace) -> None:
    from ..toy.judge import evaluate as evaluate_toy
    from ..toy.judge import evaluate_folder

    if options.prompts < 1:
        raise ValueError(f"--prompts must be 1 or more, found {options.prompts}")
    settings = read_settings(options)
    out = Path(options.out) if options.out else None
    if options.videos:
        figures = evaluate_folder(Path(options.videos), out)
    else:
        figures = evaluate_toy(load_pipeline(options), options.prompts, settings, not options.no_interpolate, out)
    print(json.dumps(figures, indent=2) if options.json else _table(figures))


def _table(figures: dict[str, Any]) -> str:
    width = max(map(len, figures))
    return "\n".join(f"{name:<{width}}  {value:.4g}" for name, value in figures.items())
