"""Text -> starting frame -> video -> interpolated video, on a frozen image model and its temporal stacks.

Shapes at the edges: images (f, H, W, 3) float32 0..1 on the CPU; a single picture is f = 1. Rates are frames a second.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange

from .base import Base, TextStates, load_base
from .checkpoint import load_stack
from .media import fit
from .model.attention import Backend, choose
from .model.conditioning import FACTOR, MAX_FRAMES, MOTIONS, Stitch, augment, condition, slot_count, slots, windows
from .model.config import StackConfig
from .model.guidance import calls, combine
from .model.sampling import SAMPLERS, sample
from .model.schedule import frame_noise
from .model.sites import find_sites
from .model.stack import TemporalStack, check_fit
from .model.video_model import VideoModel
from .model.windows import check_frames, over_windows

logger = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent / "assets" / "tiny"
DEFAULTS_FILE = "emu_video.json"

Progress = Callable[[str, int, int], None]
"""(stage, steps done, steps in all); called after every step, and may raise to stop."""


@dataclass(frozen=True)
class Settings:
    """How to sample. None takes what the model's maker recommends.

    `size` is (height, width) in pixels. `image_guidance` is w_i and `text_guidance` w_p of the paper, `t2i_guidance` that of the
    starting frame. `rescale` 0..1 is guidance rescale, not the paper's. `strength` scales the temporal layers.

    `window`: frames that the network sees at a time, for videos that are longer than it allows, `overlap` of which each window
    shares with the next. What some stacks are told besides: `motion`, how far frames may go from the given one (PIA; a name from
    `conditioning.MOTIONS`); `cond_fps` and `motion_score` (FancyVideo).
    """

    size: tuple[int, int] | None = None
    frames: int | None = None
    fps: float | None = None
    steps: int | None = None
    sampler: str = "ddim"
    text_guidance: float | None = None
    image_guidance: float | None = None
    t2i_guidance: float | None = None
    rescale: float = 0.0
    strength: float = 1.0
    seed: int = 0
    stitch: Stitch = "continuous"
    window: int | None = None
    overlap: int = 4
    motion: str | None = None
    cond_fps: float | None = None
    motion_score: float | None = None

    def check(self, multiple: int = 8, max_steps: int = 1000) -> None:
        """Refuse, before any model is loaded, what no model can do."""
        if self.size is not None:
            height, width = self.size
            if height % multiple or width % multiple or height < multiple or width < multiple:
                raise ValueError(f"size must be multiples of {multiple} pixels, found {height} x {width} (height x width)")
        if self.frames is not None and not 1 <= self.frames <= MAX_FRAMES:
            raise ValueError(f"frames must be 1 to {MAX_FRAMES}, found {self.frames}")
        if self.fps is not None and not 0 < self.fps <= 240:
            raise ValueError(f"fps must be above 0 and at most 240, found {self.fps}")
        if self.steps is not None and not 1 <= self.steps <= max_steps:
            raise ValueError(f"steps must be 1 to {max_steps}, found {self.steps}")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.sampler!r}: expected one of {', '.join(SAMPLERS)}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be 0 to {2**64 - 1}, found {self.seed}")
        if self.window is not None and (self.window < 1 or not 0 <= self.overlap < self.window):
            raise ValueError(
                f"a window must have 1 or more frames and overlap the next by fewer, found {self.window} and {self.overlap}"
            )
        if self.motion is not None and self.motion not in MOTIONS:
            raise ValueError(f"motion should be one of {'; '.join(MOTIONS)}, found {self.motion!r}")

    def check_stack(self, config: StackConfig) -> None:
        """Refuse what the video stack does not understand, or cannot do at this length."""
        if self.motion is not None and "affinity" not in config.channel_order:
            raise ValueError(f"motion is for stacks of family pia, found {config.origin.family}: leave it out")
        known = dict(config.values)
        for name, value in (("fps", self.cond_fps), ("motion_score", self.motion_score)):
            if value is not None and name not in known:
                setting = {"fps": "cond_fps"}.get(name, name)
                raise ValueError(f"{setting} is for stacks of family fancyvideo, found {config.origin.family}: leave it out")
        check_frames(
            config,
            self.frames or config.clip.frames,
            self.window,
            f"slide a window over the video (--window {config.clip.frames})",
        )

    @property
    def values(self) -> dict[str, float]:
        """Numbers for the time embedding that differ from the stack's own."""
        told = {"fps": self.cond_fps, "motion_score": self.motion_score}
        return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True)
class Result:
    """`starting_frame` (1, H, W, 3); `video` (f, H, W, 3) at `fps`; `interpolated` (4(f + 1) + 1, H, W, 3) at 4 x `fps`."""

    starting_frame: torch.Tensor
    video: torch.Tensor
    fps: float
    interpolated: torch.Tensor | None = None

    @property
    def final(self) -> tuple[torch.Tensor, float]:
        """The best frames there are, and their rate."""
        return (self.video, self.fps) if self.interpolated is None else (self.interpolated, FACTOR * self.fps)


def check_prompt(prompt: str) -> str:
    """The prompt without blanks around it; an empty one is refused."""
    if not prompt.strip():
        raise ValueError("the prompt is empty: say what the video should show")
    return prompt.strip()


class EmuVideoPipeline:
    """A base with stack F and, if there is one, stack I, both attached to its one U-Net."""

    def __init__(
        self,
        base: Base,
        video: TemporalStack | None = None,
        interpolation: TemporalStack | None = None,
        attention: Backend = "auto",
        defaults: dict[str, Any] | None = None,
    ) -> None:
        self.base = base
        self.defaults = defaults or {}
        self.attend = choose(attention, base.device, base.dtype)
        if attention == "xformers":
            base.unet.enable_xformers_memory_efficient_attention()
        self.models: dict[str, VideoModel] = {}
        for role, stack in (("F", video), ("I", interpolation)):
            if stack is not None:
                if stack.config.role != role:
                    raise ValueError(f"expected a stack of role {role}, found role {stack.config.role}: exchange the two files")
                self.models[role] = VideoModel(base.unet, stack.to(base.device, base.dtype), self.attend)

    @classmethod
    def from_files(
        cls,
        model: str | Path | None = None,
        stack: str | Path | None = None,
        interpolation_stack: str | Path | None = None,
        tokenizer: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        attention: Backend = "auto",
    ) -> EmuVideoPipeline:
        """Load a base (default: the bundled tiny model) and its stacks; a model folder may hold `stack_F.safetensors` and
        `stack_I.safetensors` itself."""
        folder = Path(model) if model is not None else BUNDLED
        paths = (stack or _own(folder, "F"), interpolation_stack or _own(folder, "I"))
        stacks = [None if path is None else load_stack(path, dtype=dtype) for path in paths]
        base = load_base(folder, tokenizer=tokenizer, dtype=dtype, device=device)
        found = find_sites(base.unet)
        for path, loaded in zip(paths, stacks, strict=True):
            if loaded is not None:
                try:
                    check_fit(loaded.config, found)
                except ValueError as error:
                    raise ValueError(f"{path} does not fit {folder}: {error}") from error
        return cls(base, stacks[0], stacks[1], attention=attention, defaults=read_defaults(folder))

    # -- the three steps

    @torch.inference_mode()
    def starting_frame(self, prompt: str, settings: Settings = Settings(), progress: Progress | None = None) -> torch.Tensor:
        """The picture (1, H, W, 3) that the image model, without its temporal layers, makes of the prompt."""
        prompt, base = self._prompt(prompt), self.base
        height, width = self._size(settings)
        steps = settings.steps or int(self.defaults.get("steps", 50))
        weight = self.defaults.get("text_guidance", 7.5) if settings.t2i_guidance is None else settings.t2i_guidance
        plan = calls(1.0, weight, has_image=False)
        texts = self._texts(prompt)
        noise = self._noise(settings.seed, 1, height, width)

        def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            outputs = []
            for call in plan:
                text = texts[call.text]
                added = base.added_conditions(text.pooled, height, width)
                y = base.unet(x.to(base.dtype), t, text.hidden, added_cond_kwargs=added, return_dict=False)[0]
                outputs.append(y.float())
            return combine(outputs, [call.weight for call in plan], settings.rescale)

        latents = sample(
            denoise,
            noise,
            base.schedule,
            steps,
            settings.sampler,
            _generator(settings.seed + 1),
            _step("starting frame", steps, progress),
        )
        return base.decode_latents(latents)

    @torch.inference_mode()
    def video(
        self,
        images: torch.Tensor | None,
        prompt: str,
        settings: Settings = Settings(),
        positions: Sequence[int] = (0,),
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Frames (f, H, W, 3) of a video in which `images` (k, H', W', 3) are the frames at `positions`; None gives none."""
        model = self._model("F")
        config = model.stack.config
        settings.check_stack(config)
        frames = settings.frames or config.clip.frames
        height, width = self._size(settings)
        if images is not None and not config.takes_image:
            raise ValueError(_no_image(config))
        if images is None:
            latents = torch.zeros(1, 0, config.unet.latent_channels, *self._latent_size(height, width))
            positions = ()
        else:
            latents = self.base.encode_images(fit(images, height, width))[None].cpu()
        given = condition(latents, positions, frames, config.channel_order, settings.motion or "moderate")
        output = self._run(model, prompt, given, settings, settings.seed, "video", images is not None, progress)
        return self.base.decode_latents(output)

    @torch.inference_mode()
    def interpolate(
        self, images: torch.Tensor, prompt: str, settings: Settings = Settings(), progress: Progress | None = None
    ) -> torch.Tensor:
        """Keyframes (n, H', W', 3), n >= 2 -> frames (4(n + 1) + 1, H, W, 3) at four times the rate: keyframe k at 4(k + 1).

        The model sees `frames` keyframes at a time (8); windows share none and are stitched (see `conditioning.windows`).
        """
        model = self._model("I")
        config = model.stack.config
        size = (config.clip.frames - 1) // FACTOR - 1
        plan = windows(len(images), size, settings.stitch)
        height, width = self._size(settings)
        latents = self.base.encode_images(fit(images, height, width)).cpu()
        parts = []
        for number, window in enumerate(plan):
            seed = settings.seed + number
            known = latents[window.keyframes][None]
            generator = _generator(seed + 1)
            known = augment(known, config.sampling.image_noise, config.schedule, torch.randn(known.shape, generator=generator))
            given = condition(known, slots(size), slot_count(size), config.channel_order)
            name = "interpolation" if len(plan) == 1 else f"interpolation {number + 1}/{len(plan)}"
            output = self._run(model, prompt, given, settings, seed, name, True, progress)
            parts.append(self.base.decode_latents(output[window.start : window.stop]))
        return torch.cat(parts)

    def __call__(
        self,
        prompt: str,
        settings: Settings = Settings(),
        image: torch.Tensor | None = None,
        interpolate: bool = True,
        progress: Progress | None = None,
        position: int = 0,
    ) -> Result:
        """All three steps; with `image` (1, H, W, 3), which becomes frame `position`, the first is left out. A stack that knows
        no image makes the video from the text alone; its starting frame is then the video's first."""
        model = self._model("F")
        config = model.stack.config
        settings.check_stack(config)
        if interpolate:
            self._model("I")
        height, width = self._size(settings)
        if config.takes_image:
            first = self.starting_frame(prompt, settings, progress) if image is None else fit(image, height, width)
            video = self.video(first, prompt, settings, (position,), progress)
        elif image is not None:
            raise ValueError(_no_image(config))
        else:
            video = self.video(None, prompt, settings, progress=progress)
            first = video[:1]
        fps = settings.fps or config.clip.fps
        finer = self.interpolate(video, prompt, settings, progress) if interpolate and len(video) > 1 else None
        return Result(first, video, fps, finer)

    # -- what they share

    def _run(
        self,
        model: VideoModel,
        prompt: str,
        given: torch.Tensor,
        settings: Settings,
        seed: int,
        name: str,
        has_image: bool,
        progress: Progress | None,
    ) -> torch.Tensor:
        """Sample a video's latents (f, C, h, w) with the given frames `given` (1, f, C+1, h, w)."""
        config, base = model.stack.config, self.base
        frames, (height, width) = given.shape[1], self._size(settings)
        w_i = config.sampling.image_guidance if settings.image_guidance is None else settings.image_guidance
        w_p = config.sampling.text_guidance if settings.text_guidance is None else settings.text_guidance
        plan = calls(w_i, w_p, has_image)
        texts = self._texts(self._prompt(prompt))
        given = given.to(base.device, base.dtype)
        steps = settings.steps or config.sampling.steps
        window = min(settings.window or frames, frames) if config.role == "F" else frames

        def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            outputs = []
            for call in plan:  # one after the other: a single call already fills the device with its frames
                text = texts[call.text]
                added = base.added_conditions(text.pooled, height, width)
                image = given if call.image and config.takes_image else None
                video = x.to(base.dtype)[None]

                def part(window: list[int], text=text, image=image, added=added, video=video) -> torch.Tensor:  # type: ignore[no-untyped-def]
                    seen = None if image is None else image[:, window]
                    output = model(video[:, window], t, text.hidden, seen, added, settings.strength, settings.values)
                    return output.float()

                outputs.append(over_windows(part, frames, window, settings.overlap))
            guided = combine(outputs, [call.weight for call in plan], settings.rescale)
            return rearrange(guided, "1 f c h w -> f c h w")

        noise = self._noise(seed, frames, height, width, config.sampling.shared_noise)
        step = _step(name, steps, progress)
        return sample(denoise, noise, config.schedule, steps, settings.sampler, _generator(seed + 1), step)

    def _model(self, role: str) -> VideoModel:
        if role not in self.models:
            what, option = ("video", "--stack") if role == "F" else ("interpolation", "--interpolation-stack")
            other = "" if role == "F" else ", or leave this step out with --no-interpolate"
            raise ValueError(f"{self.base.source} comes with no {what} stack (role {role}): name one with {option}{other}")
        return self.models[role]

    def _size(self, settings: Settings) -> tuple[int, int]:
        if settings.size is not None:
            return settings.size
        for model in self.models.values():
            return model.stack.config.clip.size
        side = int(self.base.unet.config["sample_size"]) * self.base.pixels_per_latent
        return side, side

    def _latent_size(self, height: int, width: int) -> tuple[int, int]:
        return height // self.base.pixels_per_latent, width // self.base.pixels_per_latent

    def _noise(self, seed: int, frames: int, height: int, width: int, shared: float = 0.0) -> torch.Tensor:
        """Unit noise (f, C, h, w), drawn on the CPU in one call, as ComfyUI draws it."""
        shape = (frames, self.base.latent_channels, *self._latent_size(height, width))
        return frame_noise(shape, _generator(seed), shared).to(self.base.device)

    def _texts(self, prompt: str) -> dict[bool, TextStates]:
        """Text states of the prompt (True) and of no text (False)."""
        return {True: self.base.encode_text([prompt]), False: self.base.encode_text([""])}

    def _prompt(self, prompt: str) -> str:
        prompt = check_prompt(prompt)
        if unknown := self.base.unknown_words(prompt):
            known = self.base.known_words() or []
            logger.warning("the model does not know %s and passes over it; it knows: %s", _quoted(unknown), " ".join(known))
        return prompt


def _no_image(config: StackConfig) -> str:
    return (
        f"a stack of family {config.origin.family} makes videos from the text alone, found an image: leave it out, or choose a "
        "stack of family emu, pia or fancyvideo"
    )


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(f'"{word}"' for word in dict.fromkeys(words))


def _own(folder: Path, role: str) -> Path | None:
    path = folder / f"stack_{role}.safetensors"
    return path if path.is_file() else None


def read_defaults(folder: Path) -> dict[str, Any]:
    """What a model's maker recommends for its image model: `steps` and `text_guidance`, from DEFAULTS_FILE; may be empty."""
    path = folder / DEFAULTS_FILE
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} should be JSON, found {error}: mend or remove it") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} should hold a JSON object, found {type(values).__name__}: mend or remove it")
    return values


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed % 2**64)


def _step(stage: str, steps: int, progress: Progress | None) -> Callable[[int, torch.Tensor], None] | None:
    if progress is None:
        return None
    report = progress
    return lambda i, latents: report(stage, i + 1, steps)


__all__ = ["BUNDLED", "EmuVideoPipeline", "Progress", "Result", "Settings", "check_prompt"]
