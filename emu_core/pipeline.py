"""Text -> starting frame -> video -> interpolated video, on a frozen image model and its temporal stacks.

Shapes at the edges: images (f, H, W, 3) float32 0..1 on the CPU; a single picture is f = 1. Rates are frames a second.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from .base import Base, check_base, load_base, outline
from .base.base import TextStates, preserved
from .base.lora import merge
from .base.unknown import UnknownWords
from .checkpoint import load_stack, merge_motion_loras, read_config
from .errors import UserError
from .media import fit, pad
from .model.compiled import CompiledUNet
from .model.conditioning import FACTOR, Window, augment, checked_positions, condition, slot_count, slots, windows
from .model.guidance import BatchCalls, Batching, Call, GuidedDenoiser, calls
from .model.kernels import Backend, choose
from .model.noise import free_init, window_noise
from .model.sampling import sample
from .model.schedule import ScheduleConfig, frame_noise
from .model.sites import find_sites
from .model.stack import TemporalStack, check_fit
from .model.streams import derived, stream
from .model.video_model import VideoModel
from .model.windows import over_windows
from .model_folder import BUNDLED, few_steps_lora, has_fast, missing_stack, read_defaults, recommended_with, stack_files
from .settings import Keep, Progress, Settings, check_prompt, share

logger = logging.getLogger(__name__)

TEXTS = 32
"""Of how many texts the states are kept."""
MOST_JUDGED = 4
"""Of pictures that are given: how many are decoded to see what is left of them."""


@dataclass(frozen=True)
class _Stage:
    """One of the three steps: what it makes of which text, from which seed, and who is told how far it is. `on_the_way`: the seed
    of samplers that add noise, to which 1 is added as ComfyUI does; None: the same."""

    name: str
    prompt: str
    settings: Settings
    seed: int
    progress: Progress | None
    on_the_way: int | None = None


_Network = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Any, Sequence[bool]], torch.Tensor]
"""(noisy latents (b, f, C, h, w), timestep, text states (b, n, d), SDXL's further conditions (b, ...), which of them with the
image?) -> output, same shape."""


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


@dataclass(frozen=True)
class Coming:
    """A result of which the last frames are yet to be decoded: `starting_frame` (1, H, W, 3), and `count` frames at `fps` in
    parts (k, H, W, 3), made as they are asked for."""

    starting_frame: torch.Tensor
    parts: Iterator[torch.Tensor]
    count: int
    fps: float


class EmuVideoPipeline:
    """A base with stack F and, if there is one, stack I, both attached to its one U-Net.

    What changes time and memory alone: `batch_calls` (see `guidance.Batching`), `compiled` for torch.compile of the video U-Net
    (see `compiled.CompiledUNet`). The states of a text are computed once, of the text encoders' weights as they were then.

    `tell_preserved`, where one is set, is told how many dB the autoencoder keeps of the pictures that a video is given, of the
    first MOST_JUDGED of them; it costs their decoding.

    `image_unet` makes the starting frame in the base's place: a copy of its U-Net with a LoRA for few steps, which the temporal
    layers were not trained on.
    """

    tell_preserved: Callable[[Sequence[float]], None] | None = None
    fast: bool | None = None
    """Whether what the model's folder holds for few calls was taken; None where it holds nothing."""

    def __init__(
        self,
        base: Base,
        video: TemporalStack | None = None,
        interpolation: TemporalStack | None = None,
        attention: Backend = "auto",
        defaults: dict[str, Any] | None = None,
        batch_calls: BatchCalls = "auto",
        compiled: bool = False,
        image_unet: Any = None,
    ) -> None:
        self.base = base
        self.batching = Batching(batch_calls, base.device)
        self.image_unet = image_unet
        self.states = lru_cache(TEXTS)(self._states)
        self.defaults = defaults or {}
        self.name_unknown = UnknownWords(base)
        self.attend = choose(attention, base.device, base.dtype)
        if attention == "xformers":
            for unet in (base.unet, image_unet):
                if unet is not None:
                    unet.enable_xformers_memory_efficient_attention()
        self.models: dict[str, VideoModel] = {}
        for role, stack in (("F", video), ("I", interpolation)):
            if stack is not None:
                if stack.config.role != role:
                    raise UserError(f"expected a stack of role {role}, found role {stack.config.role}: exchange the two files")
                self.models[role] = VideoModel(base.unet, stack.to(base.device, base.dtype), self.attend)
        self.compiled = CompiledUNet(base.unet) if compiled else None
        for model in self.models.values():
            model.compiled = self.compiled

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
        variant: str | None = None,
        motion_loras: Sequence[tuple[str | Path, float]] = (),
        loras: Sequence[tuple[str | Path, float]] = (),
        vae: str | Path | None = None,
        vae_tiling: bool = False,
        batch_calls: BatchCalls = "auto",
        compiled: bool = False,
        fast: bool = False,
        starting_frames: bool = True,
    ) -> EmuVideoPipeline:
        """Load a base (default: the bundled tiny model) and its stacks; a model folder may hold `stack_F.safetensors` and
        `stack_I.safetensors` itself. `variant`: what `stack` is, where its keys cannot tell (see `interop.VARIANTS`).
        `motion_loras`, (file, strength) each, are added to the weights of stack F, `loras` to those of the base; `vae`, a file or
        a folder, takes the place of the base's; with `vae_tiling` it takes pictures larger than those that it was trained on in
        tiles that overlap, which needs less memory and alters them a little. `fast`: what the folder holds for few calls, its
        distilled stacks and its LoRA for the starting frame, where nothing is named instead; the latter makes a second U-Net,
        which is left out where no `starting_frames` are to be made."""
        folder, files = Path(model or BUNDLED), stack_files(model, stack, interpolation_stack, fast)
        few_steps = few_steps_lora(folder) if fast and starting_frames else None
        variants = {"F": variant if stack else None, "I": None}
        extra = [] if few_steps is None else [(few_steps, 1.0)]
        choose(attention, device, dtype)
        if motion_loras and files["F"] is None:
            raise UserError(f"{motion_loras[0][0]} is for a video stack, and {folder} has none: name one with --stack")
        found = find_sites(outline(check_base(folder, tokenizer=tokenizer, vae=vae, loras=[*loras, *extra])))
        defaults = read_defaults(folder) | ({} if few_steps is None else recommended_with(few_steps))
        for role, path in files.items():
            if path is None:
                continue
            config = read_config(path, variants[role])
            try:
                check_fit(config, found)
            except ValueError as error:
                raise UserError(f"{path} does not fit {folder}: {error}") from error
        stacks = [None if p is None else load_stack(p, variant=variants[role], dtype=dtype) for role, p in files.items()]
        if stacks[0] is not None and motion_loras:
            merge_motion_loras(stacks[0], motion_loras)
        base = load_base(folder, tokenizer=tokenizer, dtype=dtype, device=device, vae=vae, loras=loras)
        if vae_tiling:
            base.vae.enable_tiling()
        how: dict[str, Any] = {"attention": attention, "batch_calls": batch_calls, "compiled": compiled}
        if few_steps is not None:
            how["image_unet"] = unet = copy.deepcopy(base.unet)
            merge(extra, {"unet": unet}, base.family)
        pipeline = cls(base, stacks[0], stacks[1], defaults=defaults, **how)
        pipeline.fast = fast if has_fast(folder) else None
        return pipeline

    # -- the three steps

    @torch.inference_mode()
    def starting_frame(self, prompt: str, settings: Settings = Settings(), progress: Progress | None = None) -> torch.Tensor:
        """The picture (1, H, W, 3) that the image model, without its temporal layers, makes of the prompt."""
        unet = self.base.unet if self.image_unet is None else self.image_unet
        stage = _Stage("starting frame", prompt, settings, settings.seed, progress)
        steps = settings.steps or int(self.defaults.get("steps", 50))
        weight = self.defaults.get("text_guidance", 7.5) if settings.t2i_guidance is None else settings.t2i_guidance

        def network(x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, added: Any, image: Sequence[bool]) -> torch.Tensor:
            return unet(x[:, 0], t, text, added_cond_kwargs=added, return_dict=False)[0][:, None]

        noise = frame_noise((1, *self.latent_shape(settings)), stream(settings.seed))
        plan = calls(1.0, weight, has_image=False)
        return self.base.decode_latents(self._sample(stage, network, plan, self.base.schedule, steps, noise))

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
        settings.check_stack(self._model("F").stack.config)
        known = torch.zeros(0, *self.latent_shape(settings)) if images is None else self.encode(images, settings)
        latents = self.video_latents(known, () if images is None else positions, prompt, settings, progress)
        return self.base.decode_latents(latents)

    @torch.inference_mode()
    def encode(self, images: torch.Tensor, settings: Settings = Settings()) -> torch.Tensor:
        """Latents (k, C, h, w) on the CPU of pictures (k, H', W', 3) that are to be given frames, cut and resized to the video's
        size."""
        fitted = fit(images, *self.size(settings))
        latents = self.base.encode_images(fitted).cpu()
        self.judge(fitted, latents)
        return latents

    @torch.inference_mode()
    def judge(self, images: torch.Tensor, latents: torch.Tensor) -> None:
        """Tell who wants to know how much of pictures (k, H, W, 3), as they are encoded, their latents (k, C, h, w) keep."""
        if self.tell_preserved is not None and len(images):
            self.tell_preserved(preserved(self.base, images[:MOST_JUDGED], latents[:MOST_JUDGED]))

    @torch.inference_mode()
    def video_latents(
        self,
        known: torch.Tensor,
        positions: Sequence[int],
        prompt: str,
        settings: Settings = Settings(),
        progress: Progress | None = None,
        start: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Latents (f, C, h, w) of a video in which `known` (k, C, h, w), of which there may be none, are the frames at
        `positions`. `start`, latents of as many frames, is changed by as much as `settings.denoise` says."""
        model = self._model("F")
        config = model.stack.config
        if len(known) and not config.takes_image:
            what = f"a stack of family {config.origin.family} makes videos from the text alone, found an image"
            raise UserError(f"{what}: leave it out, or choose a stack of family emu, pia or fancyvideo")
        frames = settings.frames or config.clip.frames
        given = condition(known[None], positions, frames, config.channel_order, settings.motion or "moderate")
        stage = _Stage("video", prompt, settings, settings.seed, progress)
        return self._sample_video(stage, model, given, len(known) > 0, start)

    @torch.inference_mode()
    def changed(
        self,
        video: torch.Tensor,
        prompt: str,
        settings: Settings = Settings(),
        positions: Sequence[int] = (0,),
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Frames (f, H, W, 3) of a video (f, H', W', 3) that is changed as the prompt says, by as much as `settings.denoise`;
        its frames at `positions` are given, where the stack takes any."""
        config = self._model("F").stack.config
        settings = replace(settings, frames=len(video))
        settings.check_stack(config)
        start = self.encode(video, settings)
        places = checked_positions(positions, len(positions), len(video)) if config.takes_image else []
        return self.base.decode_latents(self.video_latents(start[places], places, prompt, settings, progress, start))

    def interpolate(
        self, images: torch.Tensor, prompt: str, settings: Settings = Settings(), progress: Progress | None = None
    ) -> torch.Tensor:
        """Keyframes (n, H, W, 3), n >= 2 -> frames (4(n + 1) + 1, H, W, 3) at four times the rate: keyframe k at 4(k + 1).

        The model sees `frames` keyframes at a time (8); windows share none and are stitched (see `conditioning.windows`). What
        comes out is as large as what comes in, or of `settings.size`, to which the keyframes are then cut and resized.
        """
        return torch.cat([*self.interpolated(images, len(images), prompt, settings, progress)])

    @torch.inference_mode()
    def interpolated(
        self,
        images: Iterable[torch.Tensor],
        count: int,
        prompt: str | Callable[[int], str],
        settings: Settings = Settings(),
        progress: Progress | None = None,
        keep: Keep | None = None,
    ) -> Iterator[torch.Tensor]:
        """As `interpolate`, of `count` keyframes (H, W, 3) that come one by one: the frames of one window after the other, some
        at a time. What is held does not grow with their number. `prompt`: one for all, or that of a keyframe by its number, of
        which a window has that of the one in its middle. `keep` has the latents of windows that were made before."""
        plan, coming = self._windows(count, settings), iter(images)
        for number, window in enumerate(plan):
            known = torch.stack([*islice(coming, window.given)])
            height, width = settings.size or known.shape[1:3]
            fitted = fit(known, height, width) if settings.size else pad(known.float().clamp(0, 1), self.base.pixels_per_latent)
            told = replace(settings, size=(fitted.shape[1], fitted.shape[2]))
            said = prompt if isinstance(prompt, str) else prompt(window.first + window.given // 2)
            make = partial(self._window, fitted, window, number, said, told, share(progress, number, len(plan)))
            output = make() if keep is None else keep("interpolation", number, make)
            for part in self.base.decoded(output[window.start : window.stop]):
                yield part[:, :height, :width]

    def _window(
        self, images: torch.Tensor, window: Window, number: int, prompt: str, settings: Settings, progress: Progress | None
    ) -> torch.Tensor:
        """Latents (f, C, h, w) on the CPU that stack I makes of a window's keyframes (k, H, W, 3)."""
        model = self._model("I")
        config = model.stack.config
        latents = self.base.encode_images(images).cpu()
        known = latents[[place - window.first for place in window.keyframes]][None]
        noise = torch.randn(known.shape, generator=stream(settings.seed, "augmentation", number))
        known = augment(known, config.sampling.image_noise, config.schedule, noise)
        given = condition(known, slots(window.size), slot_count(window.size), config.channel_order)
        later = derived(settings.seed, "sampler", number)
        stage = _Stage("interpolation", prompt, settings, settings.seed + number, progress, later)
        return self._sample_video(stage, model, given, True).cpu()

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
        first, latents, fps = self._latents(prompt, settings, image, interpolate, progress, position)
        video = self.base.decode_latents(latents)
        finer = self.interpolate(video, prompt, settings, progress) if interpolate and len(video) > 1 else None
        return Result(video[:1] if first is None else first, video, fps, finer)

    def coming(
        self,
        prompt: str,
        settings: Settings = Settings(),
        image: torch.Tensor | None = None,
        interpolate: bool = True,
        progress: Progress | None = None,
        position: int = 0,
    ) -> Coming:
        """As calling it, of which the best frames there are come in parts, so that they are decoded while others are written."""
        first, latents, fps = self._latents(prompt, settings, image, interpolate, progress, position)
        if not interpolate or len(latents) < 2:
            parts = self.base.decoded(latents)
            begun = next(parts)
            return Coming(begun[:1] if first is None else first, chain([begun], parts), len(latents), fps)
        video = self.base.decode_latents(latents)
        plan = self._windows(len(video), settings)
        parts = self.interpolated(video, len(video), prompt, settings, progress)
        return Coming(video[:1] if first is None else first, parts, sum(w.stop - w.start for w in plan), FACTOR * fps)

    # -- what they share

    @torch.inference_mode()
    def _latents(
        self,
        prompt: str,
        settings: Settings,
        image: torch.Tensor | None,
        interpolate: bool,
        progress: Progress | None,
        position: int,
    ) -> tuple[torch.Tensor | None, torch.Tensor, float]:
        """The starting frame, None for a stack that knows no image; the video's latents, and its rate."""
        config = self._model("F").stack.config
        settings.check_stack(config)
        if interpolate:
            self._model("I")
        if not config.takes_image and image is None:
            none = torch.zeros(0, *self.latent_shape(settings))
            return None, self.video_latents(none, (), prompt, settings, progress), settings.fps or config.clip.fps
        first = self.starting_frame(prompt, settings, progress) if image is None else fit(image, *self.size(settings))
        latents = self.video_latents(self.encode(first, settings), (position,), prompt, settings, progress)
        return first, latents, settings.fps or config.clip.fps

    def _sample_video(
        self, stage: _Stage, model: VideoModel, given: torch.Tensor, has_image: bool, start: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A video's latents (f, C, h, w) with the given frames `given` (1, f, C+1, h, w), from noise alone or from `start`."""
        settings, config, frames = stage.settings, model.stack.config, given.shape[1]
        stage = replace(stage, settings=replace(settings, sampler=settings.sampler or config.sampling.sampler))
        w_i = config.sampling.image_guidance if settings.image_guidance is None else settings.image_guidance
        w_p = config.sampling.text_guidance if settings.text_guidance is None else settings.text_guidance
        given = given.to(self.base.device, self.base.dtype)
        length = min(settings.window or frames, frames) if config.role == "F" else frames

        def network(x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, added: Any, image: Sequence[bool]) -> torch.Tensor:
            known = torch.cat([given if each else torch.zeros_like(given) for each in image])
            # zeros are the same as none; compiled, they save a graph of their own
            looks = config.takes_image and (any(image) or self.compiled is not None)

            def within(window: list[int]) -> torch.Tensor:
                seen = known[:, window] if looks else None
                return model(x[:, window], t, text, seen, added, settings.strength, settings.values).float()

            return over_windows(within, frames, length, settings.overlap)

        shape, steps = (frames, *self.latent_shape(settings)), settings.steps or config.sampling.steps
        plan, shared = calls(w_i, w_p, has_image), config.sampling.shared_noise
        samplings, free = (settings.freeinit or 1, settings.freenoise) if config.role == "F" else (1, False)

        def draw(number: int) -> torch.Tensor:
            seed = derived(stage.seed, "freeinit", number) if number else stage.seed
            return window_noise(shape, seed, length, settings.overlap, shared, free)

        def make(number: int, noise: torch.Tensor) -> torch.Tensor:
            later = derived(stage.seed, "freeinit sampler", number) if number else stage.on_the_way
            told = replace(stage, progress=share(stage.progress, number, samplings), on_the_way=later)
            return self._sample(told, network, plan, config.schedule, steps, noise, start)

        return free_init(make, draw, samplings, config.schedule, settings.freeinit_filter or "butterworth")

    def _sample(
        self,
        stage: _Stage,
        network: _Network,
        plan: list[Call],
        schedule: ScheduleConfig,
        steps: int,
        noise: torch.Tensor,
        start: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Latents (f, C, h, w) from such `noise`, which was drawn on the CPU in one call, as ComfyUI draws it; with `start`,
        latents that are changed."""
        base, size, prompt = self.base, self.size(stage.settings), check_prompt(stage.prompt)
        negative = stage.settings.negative
        self.name_unknown([prompt, negative])
        texts = {own: self.states(text, base.device, base.dtype) for own, text in ((True, prompt), (False, negative))}

        def evaluate(x: torch.Tensor, t: torch.Tensor, part: Sequence[Call]) -> torch.Tensor:
            states, noisy = [texts[call.text] for call in part], x.to(base.dtype).expand(len(part), *x.shape[1:])
            pooled = [text.pooled for text in states if text.pooled is not None]
            added = base.added_conditions(torch.cat(pooled) if pooled else None, *size)
            return network(noisy, t, torch.cat([text.hidden for text in states]), added, [call.image for call in part])

        alike = texts[True].hidden.shape == texts[False].hidden.shape
        what = stage.name, noise.shape, stage.settings.window, texts[True].hidden.shape
        guided = GuidedDenoiser(evaluate, plan, stage.settings.rescale, self.batching, alike, what)

        def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return guided(x[None], t)[0]  # all frames are one sample for the guidance, and a batch for the sampler

        report = stage.progress
        generator = stream((stage.seed if stage.on_the_way is None else stage.on_the_way) + 1)
        tell = None if report is None else lambda step, latents: report(stage.name, step + 1, steps)
        begun = None if start is None else start.to(base.device)
        how = stage.settings.sampler or "ddim", generator, tell, begun, stage.settings.denoise or 1.0
        return sample(denoise, noise.to(base.device), schedule, steps, *how)

    def _windows(self, count: int, settings: Settings) -> list[Window]:
        """The windows in which so many keyframes are interpolated."""
        size = (self._model("I").stack.config.clip.frames - 1) // FACTOR - 1
        return windows(count, size, settings.stitch)

    def _states(self, prompt: str, device: torch.device, dtype: torch.dtype) -> TextStates:
        """Of one prompt; where the text encoders are and their precision are named for the cache's sake."""
        return self.base.encode_prompt(prompt)

    def _model(self, role: str) -> VideoModel:
        if role not in self.models:
            raise missing_stack(self.base.source, role)
        return self.models[role]

    def size(self, settings: Settings) -> tuple[int, int]:
        """(height, width) of what is made, in pixels: the settings', or else what the model was trained on."""
        if settings.size is not None:
            return settings.size
        for model in self.models.values():
            return model.stack.config.clip.size
        side = int(self.base.unet.config["sample_size"]) * self.base.pixels_per_latent
        return side, side

    def latent_shape(self, settings: Settings) -> tuple[int, ...]:
        """(C, h, w) of one frame's latents."""
        return self.base.latent_channels, *(side // self.base.pixels_per_latent for side in self.size(settings))
