"""How to sample: what a user may choose, checked before any model is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .base.prompts import plain
from .errors import UserError
from .model.conditioning import AMOUNTS_OF_MOTION, MAX_FRAMES, Stitch
from .model.config import StackConfig
from .model.noise import Filter, check_free_init, check_signal_is_left
from .model.sampling import SAMPLERS, whole_steps
from .model.windows import check_frames

Progress = Callable[[str, int, int], None]
"""(stage, steps done, steps in all); called after every step, and may raise to stop."""
Keep = Callable[[str, int, Callable[[], torch.Tensor]], torch.Tensor]
"""(name, number, make) -> latents: what is kept of this name and number, else what `make` gives, which is kept from then on."""


@dataclass(frozen=True)
class Settings:
    """How to sample. None takes what the model's maker recommends.

    `size` is (height, width) in pixels; None leaves frames that are interpolated as large as they are. `image_guidance` is w_i
    and `text_guidance` w_p of the paper, `t2i_guidance` that of the starting frame. `rescale` 0..1 is guidance rescale, not the
    paper's. `strength` scales the temporal layers.

    `window`: frames that the network sees at a time, for videos that are longer than it allows, `overlap` of which each window
    shares with the next; with `freenoise` all windows begin with the noise of the first, in another order. `freeinit`: how often
    to sample in all, each time keeping low frequencies of the video before; `freeinit_filter` says which (None: Butterworth's).
    `denoise` 0..1: how much a video that is there is changed. `past`: of a video that is made by several calls, how many frames
    before its own each is given.

    What some stacks are told besides: `motion`, how far frames may go from the given one (PIA; a name from
    `conditioning.AMOUNTS_OF_MOTION`); `cond_fps` and `motion_score` (FancyVideo).

    `negative` is what the calls without text get instead of the empty prompt, written as prompts are (see `base.prompts`).
    """

    size: tuple[int, int] | None = None
    frames: int | None = None
    fps: float | None = None
    steps: int | None = None
    sampler: str | None = None
    text_guidance: float | None = None
    image_guidance: float | None = None
    t2i_guidance: float | None = None
    rescale: float = 0.0
    strength: float = 1.0
    seed: int = 0
    stitch: Stitch = "continuous"
    window: int | None = None
    overlap: int = 4
    freenoise: bool = False
    freeinit: int | None = None
    freeinit_filter: Filter | None = None
    past: int | None = None
    denoise: float | None = None
    motion: str | None = None
    cond_fps: float | None = None
    motion_score: float | None = None
    negative: str = ""

    def check(self, multiple: int = 8, max_steps: int = 1000) -> None:
        """Refuse, before any model is loaded, what no model can do."""
        if self.size is not None:
            height, width = self.size
            if height % multiple or width % multiple or height < multiple or width < multiple:
                raise UserError(f"size must be multiples of {multiple} pixels, found {height} x {width} (height x width)")
        if self.frames is not None and not 1 <= self.frames <= MAX_FRAMES:
            raise UserError(f"frames must be 1 to {MAX_FRAMES}, found {self.frames}")
        if self.fps is not None and not 0 < self.fps <= 240:
            raise UserError(f"fps must be above 0 and at most 240, found {self.fps}")
        if self.steps is not None and not 1 <= self.steps <= max_steps:
            raise UserError(f"steps must be 1 to {max_steps}, found {self.steps}")
        numbers = {
            "rescale": self.rescale,
            "strength": self.strength,
            "cond_fps": self.cond_fps,
            "motion_score": self.motion_score,
        }
        numbers |= {name: getattr(self, name) for name in ("text_guidance", "image_guidance", "t2i_guidance")}
        for name, number in numbers.items():
            if number is not None and not math.isfinite(number):
                raise UserError(f"{name} must be a finite number, found {number}")
        if self.sampler not in (None, *SAMPLERS):
            raise UserError(f"unknown sampler {self.sampler!r}: expected one of {', '.join(SAMPLERS)}")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed must be 0 to {2**64 - 1}, found {self.seed}")
        if self.overlap < 0:
            raise UserError(f"overlap must be 0 or more, found {self.overlap}")
        if self.window is not None and (self.window < 1 or self.overlap >= self.window):
            raise UserError(f"a window needs 1 or more frames and a smaller overlap, found {self.window} and {self.overlap}")
        if self.freenoise and self.window is None:
            raise UserError("freenoise is for windows that slide over a video, and there are none: say how long with window")
        if self.denoise is not None and not 0 < self.denoise <= 1:
            raise UserError(f"denoise must be above 0 and at most 1, found {self.denoise}")
        if self.denoise is not None and self.freeinit is not None:
            raise UserError(
                "freeinit makes a video again from its own noise, and denoise changes one that is there: give one of them"
            )
        check_free_init(self.freeinit, self.freeinit_filter)
        if self.past is not None and self.past < 1:
            raise UserError(f"past must be 1 or more frames, found {self.past}")
        if self.motion is not None and self.motion not in AMOUNTS_OF_MOTION:
            raise UserError(f"motion should be one of {'; '.join(AMOUNTS_OF_MOTION)}, found {self.motion!r}")
        plain(self.negative)

    def check_stack(self, config: StackConfig) -> None:
        """Refuse what the video stack does not understand, or cannot do at this length."""
        if self.motion is not None and "affinity" not in config.channel_order:
            raise UserError(f"motion is for stacks of family pia, found {config.origin.family}: leave it out")
        if strange := sorted(self.values.keys() - dict(config.values).keys()):
            setting = {"fps": "cond_fps"}.get(strange[0], strange[0])
            raise UserError(f"{setting} is for stacks of family fancyvideo, found {config.origin.family}: leave it out")
        if self.freeinit is not None:
            check_signal_is_left(config.schedule, config.origin.family)
        if self.denoise is not None:
            whole_steps(config.schedule, self.steps or config.sampling.steps, self.denoise)
        usual = config.clip.frames
        check_frames(config, self.frames or usual, self.window, f"slide a window over the video (--window {usual})")

    @property
    def values(self) -> dict[str, float]:
        """Numbers for the time embedding that differ from the stack's own."""
        told = {"fps": self.cond_fps, "motion_score": self.motion_score}
        return {name: value for name, value in told.items() if value is not None}


def check_prompt(prompt: str) -> str:
    """The prompt without blanks around it; refused are an empty one, and what `base.prompts` cannot read."""
    if not plain(prompt):
        raise UserError("the prompt is empty: say what the video should show")
    return prompt.strip()


def share(progress: Progress | None, number: int, parts: int) -> Progress | None:
    """Who is told of one of several equal parts as of a share of the whole."""
    if progress is None:
        return None
    return lambda stage, done, steps: progress(stage, number * steps + done, parts * steps)
