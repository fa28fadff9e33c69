"""Relatives of AnimateDiff v2 with its very keys and shapes, which only a file's name tells from it.

AnimateDiff-Lightning (Lin & Yang, arXiv 2403.12706) and AnimateLCM (Wang et al., arXiv 2402.00769) are distilled: they want few
steps, samplers of their own, and little or no guidance. The original file of AnimateLCM has no table of positions, by which its
keys do tell it; that of other programs has one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import UserError
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


def as_variant(config: StackConfig, path: Path, variant: str | None, has_table: bool, lcm: bool) -> StackConfig:
    """The settings of the relative that a file is: `variant`, or for one of AnimateDiff v2's keys what its name says, or its
    folder's. `has_table`: whether it holds its positions; `lcm`: by AnimateLCM's own name for them. ValueError where `variant` is
    unknown, the keys are others, or the name is that of a relative whose module in the middle is not there.
    """
    variant = None if variant in (None, AUTO) else str(variant).lower()
    if variant not in (None, *VARIANTS):
        raise UserError(f"{path}: unknown variant {variant!r}, expected one of {', '.join(VARIANTS)}")
    named = by_name(path)
    if (config.origin.family, config.origin.stage) != ("animatediff", "v2"):
        if variant is not None:
            kind = f"{config.origin.family} {config.origin.stage}".strip()
            raise UserError(f"{path} has the keys of {kind}, and a variant is for those of AnimateDiff v2: leave {variant} out")
        if named and config.origin.family == "animatediff" and config.origin.stage in ("v1", "v3"):
            raise UserError(f"is half a checkpoint of {named}, as its name says, without the module in the middle: copy it again")
        return config
    told = "as was said"
    if variant is None and named:
        variant, told = named, "by its name"
    elif variant is None and (lcm or not has_table):
        variant, told = "animatelcm", "by its table of positions" if has_table else "since it has no table of positions"
    elif variant is None:
        return config
    changes = dict(_SETTINGS[variant])
    if variant == "animatelcm" and not has_table:
        changes["positions"] = LCM_LENGTH
    return config.changed(**changes, source=f"{config.origin.source}, taken for {variant} {told}")


_LIGHTNING_NAME = re.compile(
    r"(animate[-_ ]?diff|(^|[^a-z])ad)[-_ ]?.*lightning|lightning[-_ ]?.*animate[-_ ]?diff|^lightning[-_ ]?[1248][-_ ]?step",
    re.IGNORECASE,
)
_LCM_NAME = re.compile(r"(^|[^a-z])animate[-_ ]?lcm|^sd15_t2v_beta", re.IGNORECASE)
_V2_NAME = re.compile(r"^mm[-_]sd[-_]?v?15[-_]v2", re.IGNORECASE)
_NO_NAME = re.compile(r"^((diffusion_)?(pytorch_)?model([._-].*)?|[0-9a-f]{40,}|[1248][-_ ]?steps?.*)$", re.IGNORECASE)
"""Names that say nothing themselves; then the folder's counts."""


def by_name(path: Path) -> str | None:
    """The variant that the name of a file says, or where that says nothing (`diffusion_pytorch_model`), its folder's."""
    names = [path.stem]
    if _NO_NAME.match(path.stem):
        names += [folder.name for folder in list(path.absolute().parents)[:4]]
    for name in names:
        if _V2_NAME.search(name):
            return "animatediff"
        if _LCM_NAME.search(name):
            return "animatelcm"
        if _LIGHTNING_NAME.search(name):
            steps = re.search(r"(?<!\d)([1248])[-_ ]?steps?(?![a-z0-9])", f"{path.stem} {name}", re.IGNORECASE)
            return f"lightning-{steps[1] if steps else 4}step"  # without a number the most used
    return None
