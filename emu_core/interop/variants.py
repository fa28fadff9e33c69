"""Relatives of AnimateDiff v2 with its very keys and shapes, which only a file's name tells from it.

AnimateDiff-Lightning (Lin & Yang, arXiv 2403.12706) and AnimateLCM (Wang et al., arXiv 2402.00769) are distilled: they want few
steps, samplers of their own, and little or no guidance. The original file of AnimateLCM has no table of positions, by which its
keys do tell it; that of other programs has one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..model.config import StackConfig

AUTO = "auto"
_LIGHTNING: dict[str, Any] = {"family": "animatediff-lightning", "sampler": "euler", "text_guidance": 1.0}
_SETTINGS: dict[str, dict[str, Any]] = {
    "animatediff": {},
    **{f"lightning-{steps}step": {**_LIGHTNING, "steps": steps, "stage": f"{steps} steps"} for steps in (1, 2, 4, 8)},
    "animatelcm": {"family": "animatelcm", "sampler": "lcm", "steps": 6, "text_guidance": 1.5, "stage": ""},
}
VARIANTS = tuple(_SETTINGS)
"""What a file with the keys of AnimateDiff v2 can be said to be."""
LCM_LENGTH = 64
"""Rows of AnimateLCM's table of positions, which its file leaves out."""


def as_variant(config: StackConfig, path: Path, variant: str | None, has_table: bool) -> StackConfig:
    """The settings of the relative that a file is: `variant`, or for one of AnimateDiff v2's keys what its name says, or its
    folder's. `has_table`: whether it holds its positions. ValueError where `variant` is unknown, or the keys are others.
    """
    if variant not in (None, AUTO, *VARIANTS):
        raise ValueError(f"{path}: unknown variant {variant!r}, expected one of {', '.join(VARIANTS)}")
    if (config.origin.family, config.origin.stage) != ("animatediff", "v2"):
        if variant not in (None, AUTO):
            kind = f"{config.origin.family} {config.origin.stage}".strip()
            raise ValueError(f"{path} has the keys of {kind}, and a variant is for those of AnimateDiff v2: leave {variant} out")
        return config
    told = "as was said"
    if variant in (None, AUTO):
        found = by_name(path)
        variant, told = (found, "by its name") if found else ("animatediff" if has_table else "animatelcm", "")
    assert variant is not None
    changes = dict(_SETTINGS[variant])
    if variant == "animatelcm" and not has_table:
        changes["positions"] = LCM_LENGTH
    if told:
        changes["source"] = f"{config.origin.source}, taken for {variant} {told}"
    return config.changed(**changes)


def by_name(path: Path) -> str | None:
    """The variant that the name of a file says, or else the nearest folder's that says one."""
    for name in (path.stem, *(folder.name for folder in list(path.absolute().parents)[:4])):
        if re.search(r"animate[-_ ]?lcm|sd15_t2v_beta", name, re.IGNORECASE):
            return "animatelcm"
        steps = re.search(r"lightning.*?(?<!\d)([1248])[-_ ]?steps?(?![a-z0-9])", name, re.IGNORECASE)
        if steps:
            return f"lightning-{steps[1]}step"
    return "lightning-4step" if "lightning" in path.stem.lower() else None  # renamed, and the most used
