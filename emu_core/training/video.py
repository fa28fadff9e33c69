"""Training of a temporal stack, F or I, on a frozen image model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers.models import UNet2DConditionModel
from einops import rearrange
from torch import Tensor, nn

from ..base import Base, TextStates, load_base
from ..base.architectures import STACK_SETTINGS, STACKS
from ..base.base import vae_dtype
from ..checkpoint import load_stack, save_stack
from ..errors import UserError
from ..model.conditioning import KEYFRAMES, augment, condition, slots
from ..model.config import StackConfig
from ..model.guidance import Call, GuidedDenoiser, calls
from ..model.sampling import sample
from ..model.schedule import add_noise, frame_noise, stratified_timesteps, target
from ..model.stack import TemporalStack
from ..model.streams import stream
from ..model.video_model import VideoModel
from ..model_folder import FEW_STEPS_LORA
from .folder import write_sheet
from .loop import PRECISIONS, Task
from .processes import Processes, whole
from .recipes import Recipe
from .sources import Batch, ShardSource, SourceFactory

SHEET_STEPS = 10
BANDS = 4  # of timesteps, for the validation loss
Predict = Callable[[Tensor, Tensor, TextStates, Tensor | None], Tensor]
"""(noisy latents (n, f, C, h, w), timesteps, text, given frames) -> the network's output."""
SALT = 1_000_003


def draw_positions(frames: int, generator: torch.Generator, first: float = 0.7) -> list[int]:
    """Which frames of a training clip are given: in a share `first` the first alone; else first and last, the first few, the
    last few, or any one. (None is the recipe's image_drop.)"""
    kind, size, place = torch.rand(3, generator=generator).tolist()
    rest = (kind - first) / max(1 - first, 1e-9)
    if kind < first:
        return [0]
    if rest < 1 / 3:
        return [0, frames - 1]
    if rest < 0.57:
        return list(range(1 + int(size * (frames - 1))))
    if rest < 0.8:
        return list(range(frames - 1 - int(size * (frames - 1)), frames))
    return [int(place * frames)]


def sample_generator(seed: int, position: int) -> torch.Generator:
    """The generator of one sample, on the CPU: the same in whichever process it is trained."""
    return torch.Generator().manual_seed(((seed + 1) * SALT * 4_000_037 + position) & (2**62 - 1))


@lru_cache(maxsize=8)
def _timesteps(schedule: Any, batch: int, seed: int, step: int) -> torch.Tensor:
    return stratified_timesteps(schedule, batch, sample_generator(seed + 2**20, step))


class VideoTask(Task):
    """See `loop.Task`. `source` makes the clips of a recipe without shards; ValueError if it takes one and there is none."""

    def __init__(
        self, recipe: Recipe, folder: Path, processes: Processes = Processes(), source: SourceFactory | None = None
    ) -> None:
        super().__init__()
        make = ShardSource if recipe.clips.shards else source
        if make is None:
            raise UserError(f"recipe {recipe.name!r} needs real videos: name a folder that `emu-video curate` wrote")
        self.recipe, self.processes = recipe, processes
        self.base = training_base(recipe, processes.device)
        self.source = make(recipe, self.base, folder, processes)
        torch.manual_seed(recipe.optimisation.seed)
        self.attach()

    @property
    def config(self) -> StackConfig:
        """Of the stack that is trained."""
        return self.model.stack.config

    def attach(self) -> None:
        """Put the stack that is trained on the image model."""
        recipe = self.recipe
        stack = self.fresh_stack().requires_grad_(True).train().to(self.processes.device)
        everything = recipe.method.trained == "all"
        if everything:
            self.base.unet.requires_grad_(True)
        self.model = model = VideoModel(self.base.unet, stack)
        if self.base.dtype != torch.float32:
            model.attachment.autocast = self.base.dtype  # the U-Net is in it already, the stack keeps float32 weights
        if recipe.compute.checkpointing:
            self.base.unet.train()  # diffusers recomputes in training mode only; the U-Nets here have no dropout
            model.attachment.enable_gradient_checkpointing()
        if everything or recipe.compute.parallel == "fsdp":
            self.unet = self.base.unet  # to be trained along, or to be sharded; else out of reach of `parameters()`

    def fresh_stack(self) -> TemporalStack:
        """The identity, or the stack that the recipe starts from, in its new role."""
        recipe, clips, method = self.recipe, self.recipe.clips, self.recipe.method
        role = {**asdict(recipe.recommended), "role": recipe.role, "stage": recipe.name, "schedule": recipe.schedule}
        role |= {"frames": clips.frames, "fps": clips.fps, "size": clips.size, "shared_noise": method.shared_noise}
        role["keeps_given"] = method.keep_given
        if not method.image:
            role["image_guidance"] = 1.0
        if recipe.start.init:
            stack = load_stack(start_file(recipe), dtype=torch.float32)
            stack.config = stack.config.changed(**role)
            return stack
        shape = STACK_SETTINGS.get(self.base.family, {}) | STACKS[method.stack] | {"mixing": method.mixing}
        if not method.image:
            shape["channel_order"] = ()
        source = "trained by this project's trainer"
        stack = TemporalStack.for_unet(self.base.unet, base=self.base.family, source=source, **shape, **role)
        if method.start == "random":
            stack.randomise()
        return stack

    # -- the loss

    @cached_property
    def empty(self) -> TextStates:
        """The states of no text."""
        return self.base.encode_text([""])

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Any]]:
        """`generator`, which differs from process to process, is not used: every draw belongs to a sample."""
        recipe, config, x0 = self.recipe, self.config, batch.latents
        generators = [sample_generator(recipe.optimisation.seed, p) for p in batch.positions]
        said = [batch.says(i, g, recipe.given.text_drop) for i, g in enumerate(generators)]
        given = None
        if config.takes_image:
            shown = batch.shown or [None] * len(x0)
            parts = [self.given(video, g, n) for video, g, n in zip(x0.cpu(), generators, shown, strict=True)]
            given = torch.stack(parts).to(x0.device)
        t = torch.stack([self.timestep(p) for p in batch.positions]).to(x0.device)
        errors = self.errors(x0, self.states(batch, said), t, self.noise(x0, generators), given, batch.counts)
        late = errors[t >= 0.7 * config.schedule.steps].detach()
        return errors.mean(), {"loss_high_noise": late.mean()} if len(late) else {}

    def timestep(self, position: int) -> Tensor:
        """Of one sample: the samples of a step, over all processes, have one in each equal part of the schedule."""
        optimisation, schedule = self.recipe.optimisation, self.config.schedule
        step, place = divmod(position, optimisation.batch)
        uniform = _timesteps(schedule, optimisation.batch, optimisation.seed, step)[place]
        return ((uniform + 0.5) / schedule.steps).pow(optimisation.t_power).mul(schedule.steps).long()

    def states(self, batch: Batch, said: Sequence[str]) -> TextStates:
        """Of the words that training uses: made now, or those that are kept, or of no text."""
        if batch.text is None:
            return self.base.encode_text(list(said))
        dropped = torch.tensor([not words for words in said], device=batch.text.device)
        hidden = torch.where(dropped[:, None, None], self.empty.hidden.to(batch.text), batch.text)
        if batch.pooled is None or self.empty.pooled is None:
            return TextStates(hidden)
        return TextStates(hidden, torch.where(dropped[:, None], self.empty.pooled.to(batch.pooled), batch.pooled))

    def errors(
        self, x0: Tensor, text: TextStates, t: Tensor, noise: Tensor, given: Tensor | None, counts: Tensor | None = None
    ) -> Tensor:
        """Mean square error of each clip's output, (n,), each place as much as `Batch.counts` says."""
        schedule = self.config.schedule
        output = self.predict(add_noise(schedule, x0, noise, t), t, text, given)
        error = (output.float() - target(schedule, x0, noise, t)).square()
        return (error if counts is None else error * counts).flatten(1).mean(1)

    def predict(self, x: Tensor, t: Tensor, text: TextStates, given: Tensor | None, model: VideoModel | None = None) -> Tensor:
        """The network's output for noisy latents x (n, f, C, h, w), of the same shape; that of the stack that is trained, or of
        another `model` on the same base."""
        return (model or self.model)(x.to(self.base.dtype), t, self.states_for(x, text), given, self.added_for(x, text))

    def states_for(self, x: Tensor, text: TextStates) -> Tensor:
        """A text's hidden states where and as the network reads them."""
        return text.hidden.to(x.device, self.base.dtype)

    def added_for(self, x: Tensor, text: TextStates) -> dict[str, Tensor] | None:
        """What SDXL's U-Net is told besides of latents x (..., h, w)."""
        height, width = (side * self.base.pixels_per_latent for side in x.shape[-2:])
        pooled = None if text.pooled is None else text.pooled.to(x.device, self.base.dtype)
        return self.base.added_conditions(pooled, height, width)

    measure, draw = errors, predict
    forward_methods = ("measure", "draw")
    """The same, outside of training: a sharded module has to gather its weights for these as for `forward`."""

    def given(self, video: Tensor, generator: torch.Generator, shown: int | None = None) -> Tensor:
        """Conditioning channels (f, C+1, h, w) of one training clip (f, C, h, w), of which its first `shown` frames are given."""
        given, interpolates = self.recipe.given, self.config.role == "I"
        places = slots(KEYFRAMES) if interpolates else draw_positions(len(video), generator, given.first_frame)
        places = places if shown is None else list(range(shown))
        level = int(torch.randint(given.image_noise + 1, (1,), generator=generator))
        channels = self.channels(video[None], places, level, generator)[0]
        dropped = bool(torch.rand(1, generator=generator) < given.image_drop)
        return torch.zeros_like(channels) if dropped else channels

    def known(self, videos: Tensor, use: str, positions: Iterable[int]) -> Tensor | None:
        """Conditioning channels of whole videos (n, f, C, h, w), given as at inference: their first frame, their keyframes, or
        nothing. Their noise is a function of `use` and of each video's position."""
        config = self.config
        if not config.takes_image:
            return None
        places, level = slots(KEYFRAMES) if config.role == "I" else [0], config.sampling.image_noise
        drawn = [stream(0, use, "given", int(position)) for position in positions]
        channels = [self.channels(v[None], places, level, g)[0] for v, g in zip(videos.cpu(), drawn, strict=True)]
        return torch.stack(channels).to(videos.device)

    def noise(self, videos: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Noise for each of the videos (n, f, C, h, w), from its own generator."""
        shared = self.config.sampling.shared_noise
        return torch.stack([frame_noise(videos.shape[1:], g, shared) for g in generators]).to(videos.device)

    def channels(self, videos: Tensor, places: list[int], level: int, generator: torch.Generator) -> Tensor:
        """Conditioning channels (n, f, C+1, h, w) of clean videos whose frames `places` are given, noised to timestep `level`."""
        config, given = self.config, videos[:, places]
        given = augment(given, level, config.schedule, torch.randn(given.shape, generator=generator))
        return condition(given, places, videos.shape[1], config.channel_order)

    # -- the samples

    def stream(self, positions: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """See `loop.Task`."""
        return self.source.stream(positions)

    def frozen(self) -> list[nn.Module]:
        """The image model, or what of it is not trained along."""
        frozen: list[nn.Module] = [self.base.vae, *self.base.text_encoders]
        return frozen if self.recipe.method.trained == "all" else [self.base.unet, *frozen]

    # -- measuring

    def validate(self) -> dict[str, float]:
        """Loss on clips that are kept out, at fixed noise, conditioned on the frames and the words that the recipe gives, nothing
        dropped: the mean, and that of each band of timesteps, the cleanest first."""
        steps, found = self.config.schedule.steps, []
        for x0, text, given, generators in self.measuring():
            errors = []
            for band in range(BANDS):
                within = torch.tensor([torch.rand(1, generator=g).item() for g in generators])
                t = ((band + within) / BANDS * steps).long().to(x0.device)
                errors.append(self.measure(x0, text, t, self.noise(x0, generators), given))
            found.append(torch.stack(errors))
        if not found:
            return {}
        means = self.over_all(found)
        return {"val_loss": sum(means) / BANDS, **{f"val_loss_{i + 1}": mean for i, mean in enumerate(means)}}

    def measuring(self) -> Iterator[tuple[Tensor, TextStates, Tensor | None, list[torch.Generator]]]:
        """Of the clips that are kept out this process's share, some at a time: latents, states of their words, what is given of
        them, and a generator for each."""
        batch, rank, world = self.source.kept_out, self.processes.rank, self.processes.world
        count = len(batch.latents)
        places = list(range(rank, count, world) if count % world == 0 else range(count))
        size = self.recipe.compute.micro or min(8, max(1, self.recipe.optimisation.batch // world))
        for part in (places[start : start + size] for start in range(0, len(places), size)):
            positions = [int(batch.positions[i]) for i in part]
            given = self.known(batch.latents[part], "validation", positions)
            text = self.base.encode_text([batch.captions[i] for i in part])
            yield batch.latents[part], text, given, [sample_generator(2**21, position) for position in positions]

    def over_all(self, errors: Sequence[Tensor]) -> list[float]:
        """The means over all clips of all processes, of errors (kinds, n) of some clips after the other."""
        sums = sum((part.cpu().double().sum(1) for part in errors), torch.zeros(len(errors[0]), dtype=torch.float64))
        return self.processes.mean(sums / sum(part.shape[1] for part in errors)).tolist()

    def sheet(self, path: Path | None, count: int = 32) -> dict[str, float]:
        """Videos of up to `count` clips that are kept out, from their true given frames, and what the source says of them."""
        batch = self.source.examples(count)
        if not len(batch.latents):
            return {}
        videos = self.decoded(self.sample(batch))
        self.write(videos, path)
        return self.source.judge(videos)

    def decoded(self, latents: Tensor) -> Tensor:
        """Videos (n, f, 3, H, W) in -1..1 of latents (n, f, C, h, w)."""
        images = torch.stack([self.base.decode_latents(video) for video in latents])
        return rearrange(images, "n f h w c -> n f c h w") * 2 - 1

    def write(self, videos: Tensor, path: Path | None) -> None:
        """The first eight as a PNG, a row each; of interpolated ones, which are few, every third frame."""
        rows = videos[:8] if self.config.role == "F" else videos[:, ::3]
        write_sheet(rearrange(rows, "n f c h w -> (n f) c h w"), path, columns=rows.shape[1])

    def sample(self, batch: Batch) -> Tensor:
        """Latents (n, f, C, h, w) for the frames and words of clips, at the stack's own recommended guidance, in few steps."""
        sampling, has_image = self.config.sampling, self.config.takes_image
        plan = calls(sampling.image_guidance, sampling.text_guidance, has_image)
        return self.sampled(batch, self.draw, plan, SHEET_STEPS)

    def sampled(self, batch: Batch, network: Predict, plan: Sequence[Call], steps: int) -> Tensor:
        """As `sample`, by whatever network, with this guidance in so many steps."""
        like = batch.latents.to(self.processes.device)
        given = self.known(like, "sheet", batch.positions)
        noise = self.noise(like, [stream(0, "sheet", "noise", int(position)) for position in batch.positions])
        said = {True: list(batch.captions), False: [""] * len(like)}
        texts = {text: self.base.encode_text(words) for text, words in said.items()}
        return sample(guided(network, plan, texts, given), noise, self.config.schedule, steps)

    # -- the result

    def export(self, folder: Path | None) -> None:
        """`stack_F.safetensors` or `stack_I.safetensors`; with the U-Net trained along, also that, in the base's own folder."""
        stack, everything = self.model.stack, self.recipe.method.trained == "all"
        weights = _gathered(stack)
        unet = _gathered(self.base.unet, PRECISIONS[self.recipe.compute.exported]) if everything else None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with torch.device("meta"):
            copy = TemporalStack(stack.config)
        copy.load_state_dict(weights, assign=True)
        save_stack(copy, folder / f"stack_{stack.config.role}.safetensors")
        if unet is not None:
            source = Path(self.recipe.start.base)
            if source.is_dir():
                shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("unet", "stack_*"))
            with torch.device("meta"):  # the one that was trained may have its weights in shares
                plain = UNet2DConditionModel.from_config(self.base.unet.config)
            plain.load_state_dict(unet, assign=True)
            plain.save_pretrained(folder / "unet")


def guided(network: Predict, plan: Sequence[Call], texts: Mapping[bool, TextStates], given: Tensor | None) -> GuidedDenoiser:
    """What a sampler calls for videos (n, f, C, h, w) with given frames and, by whether a call has its text, these texts."""
    images = {True: given, False: None if given is None else torch.zeros_like(given)}

    def call_by_call(x: Tensor, t: Tensor, part: Sequence[Call]) -> Tensor:
        (call,) = part
        return network(x, t, texts[call.text], images[call.image])

    return GuidedDenoiser(call_by_call, plan)


def _gathered(module: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """All weights in main memory. Every process has to ask."""
    return {name: whole(value).detach().to("cpu", dtype) for name, value in module.state_dict().items()}


def training_base(recipe: Recipe, device: torch.device) -> Base:
    """The image model, with the U-Net that an earlier stage trained along; what is frozen of it in the recipe's precision, what
    is trained in float32 from the first read on."""
    start, precision, everything = recipe.start, PRECISIONS[recipe.compute.precision], recipe.method.trained == "all"
    base = load_base(start.base, dtype=torch.float32 if everything else precision, tokenizer=start.tokenizer or None)
    unet = Path(start.init) / "unet"
    if start.init and unet.is_dir():
        trained = UNet2DConditionModel.from_pretrained(unet)
        base.unet.load_state_dict({k: v.to(base.dtype) for k, v in trained.state_dict().items()})
    if everything:
        nn.Module.to(base.vae, dtype=vae_dtype(precision, base.vae.config))
        for encoder in base.text_encoders:
            nn.Module.to(encoder, dtype=precision)
    return base.to(device)


def start_file(recipe: Recipe) -> Path:
    """What a recipe starts from: a file, or that of an earlier stage in its folder, which is stack F, or what is distilled."""
    path = Path(recipe.start.init)
    role = recipe.role if recipe.distil.steps else "F"
    name = FEW_STEPS_LORA if recipe.task == "image" else f"stack_{role}.safetensors"
    return path / name if path.is_dir() else path
