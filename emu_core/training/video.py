"""Training of a temporal stack, F or I, on a frozen image model."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import nn

from ..base import Base, TextStates, load_base
from ..base.architectures import SLIM, STACK_SETTINGS
from ..checkpoint import load_stack, save_stack
from ..model.conditioning import KEYFRAMES, augment, condition, slots
from ..model.guidance import calls, combine
from ..model.sampling import sample
from ..model.schedule import add_noise, frame_noise, stratified_timesteps, target
from ..model.stack import TemporalStack
from ..model.video_model import VideoModel
from ..toy import shapes
from ..toy.detect import direction_of, read_frames
from ..toy.source import WorldSource
from .loop import PRECISIONS, TaskDefaults
from .processes import Processes, whole
from .recipes import Recipe
from .sheets import save_grid
from .sources import Batch, ShardSource, Source, frame_times

SHEET_STEPS = 10
BANDS = 4  # of timesteps, for the validation loss
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


class _Module(nn.Module):
    """Loss of a stack; frozen parts are kept out of reach of `parameters()` and of distributed wrappers, unless `unet` is given:
    to be trained along, or to be sharded."""

    def __init__(self, recipe: Recipe, model: VideoModel, base: Base, unet: nn.Module | None = None) -> None:
        super().__init__()
        self.recipe, self.model = recipe, model
        self._base = [base]
        if unet is not None:
            self.unet = unet

    @property
    def base(self) -> Base:
        return self._base[0]

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> tuple[torch.Tensor, dict[str, Any]]:
        """`generator`, which differs from process to process, is not used: every draw belongs to a sample."""
        recipe, config = self.recipe, self.model.stack.config
        generators = [sample_generator(recipe.optimisation.seed, p) for p in batch.positions]
        x0 = batch.latents
        said = [batch.says(i, g, recipe.text_drop) for i, g in enumerate(generators)]
        given = [self.given(video.cpu(), g) for video, g in zip(x0, generators, strict=True)] if config.takes_image else None
        t = torch.stack([self.timestep(p) for p in batch.positions]).to(x0.device)
        noise = torch.stack([frame_noise(x0.shape[1:], g, config.sampling.shared_noise) for g in generators]).to(x0.device)
        channels = None if given is None else torch.stack(given).to(x0.device)
        errors = self.errors(x0, self.states(batch, said), t, noise, channels)
        late = errors[t >= 0.7 * config.schedule.steps].detach()
        return errors.mean(), {"loss_high_noise": late.mean()} if len(late) else {}

    def timestep(self, position: int) -> torch.Tensor:
        """Of one sample: the samples of a step, over all processes, have one in each equal part of the schedule."""
        recipe, schedule = self.recipe, self.model.stack.config.schedule
        step, place = divmod(position, recipe.optimisation.batch)
        uniform = _timesteps(schedule, recipe.optimisation.batch, recipe.optimisation.seed, step)[place]
        return ((uniform + 0.5) / schedule.steps).pow(recipe.t_power).mul(schedule.steps).long()

    def states(self, batch: Batch, said: Sequence[str]) -> TextStates:
        if batch.text is None:
            return self.base.encode_text(list(said))
        empty = _empty_states(self)
        dropped = torch.tensor([not words for words in said], device=batch.text.device)
        hidden = torch.where(dropped[:, None, None], empty.hidden.to(batch.text), batch.text)
        if batch.pooled is None or empty.pooled is None:
            return TextStates(hidden)
        return TextStates(hidden, torch.where(dropped[:, None], empty.pooled.to(batch.pooled), batch.pooled))

    def errors(
        self, x0: torch.Tensor, text: TextStates, t: torch.Tensor, noise: torch.Tensor, given: torch.Tensor | None
    ) -> torch.Tensor:
        """Mean square error of each clip's output, (n,)."""
        config = self.model.stack.config
        output = self.predict(add_noise(config.schedule, x0, noise, t), t, text, given)
        return (output.float() - target(config.schedule, x0, noise, t)).square().flatten(1).mean(1)

    def predict(self, x: torch.Tensor, t: torch.Tensor, text: TextStates, given: torch.Tensor | None) -> torch.Tensor:
        base, dtype = self.base, self.base.dtype
        height, width = (side * base.pixels_per_latent for side in x.shape[-2:])
        hidden = text.hidden.to(x.device, dtype)
        pooled = None if text.pooled is None else text.pooled.to(x.device, dtype)
        added = base.added_conditions(pooled, height, width)
        return self.model(x.to(dtype), t, hidden, given, added)

    forward_methods = ("measure", "draw")
    """What else is called from outside: a sharded module has to gather its weights for these as for `forward`."""

    def measure(
        self, x0: torch.Tensor, text: TextStates, t: torch.Tensor, noise: torch.Tensor, given: torch.Tensor | None
    ) -> torch.Tensor:
        """`errors`, outside of training."""
        return self.errors(x0, text, t, noise, given)

    def draw(self, x: torch.Tensor, t: torch.Tensor, text: TextStates, given: torch.Tensor | None) -> torch.Tensor:
        """`predict`, outside of training."""
        return self.predict(x, t, text, given)

    def given(self, video: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Conditioning channels (f, C+1, h, w) of one training clip (f, C, h, w)."""
        config, recipe = self.model.stack.config, self.recipe
        frames = len(video)
        places = slots(KEYFRAMES) if config.role == "I" else draw_positions(frames, generator, recipe.first_frame)
        level = int(torch.randint(recipe.image_noise + 1, (1,), generator=generator))
        latents = video[places][None]
        latents = augment(latents, level, config.schedule, torch.randn(latents.shape, generator=generator))
        dropped = bool(torch.rand(1, generator=generator) < recipe.image_drop)
        channels = condition(latents, places, frames, config.channel_order)[0]
        return torch.zeros_like(channels) if dropped else channels


@lru_cache(maxsize=8)
def _timesteps(schedule: Any, batch: int, seed: int, step: int) -> torch.Tensor:
    return stratified_timesteps(schedule, batch, sample_generator(seed + 2**20, step))


def _empty_states(module: _Module) -> TextStates:
    found = module.__dict__.get("_empty")
    if found is None:
        found = module.__dict__["_empty"] = module.base.encode_text([""])
    return found


class VideoTask(TaskDefaults):
    """See `loop.Task`."""

    def __init__(self, recipe: Recipe, folder: Path, processes: Processes = Processes()) -> None:
        self.recipe, self.processes = recipe, processes
        self.base = load_training_base(recipe, processes.device)
        self.source: Source = build_source(recipe, self.base, folder, processes)
        torch.manual_seed(recipe.optimisation.seed)
        stack = self.fresh_stack().requires_grad_(True).train().to(processes.device)
        everything = recipe.method.trained == "all"
        if everything:
            self.base.unet.float().requires_grad_(True)
        model = VideoModel(self.base.unet, stack)
        if self.base.dtype != torch.float32:
            model.attachment.autocast = self.base.dtype  # the U-Net is in it already, the stack keeps float32 weights
        if recipe.compute.checkpointing:
            self.base.unet.train()  # diffusers recomputes in training mode only; the U-Nets here have no dropout
            model.attachment.enable_gradient_checkpointing()
        held = self.base.unet if everything or recipe.compute.parallel == "fsdp" else None
        self.module: nn.Module = _Module(recipe, model, self.base, held)
        self.kept_out: Batch | None = None

    def fresh_stack(self) -> TemporalStack:
        """The identity, or the stack that the recipe starts from, in its new role."""
        recipe = self.recipe
        role: dict[str, Any] = {
            "role": recipe.role,
            "frames": recipe.clips.frames,
            "fps": recipe.clips.fps,
            "size": recipe.clips.size,
            "stage": recipe.name,
            "schedule": recipe.schedule,
            "image_noise": recipe.image_noise_inference,
            "text_guidance": recipe.text_guidance,
            "image_guidance": recipe.image_guidance if recipe.method.image else 1.0,
            "steps": recipe.sampling_steps,
            "shared_noise": recipe.method.shared_noise,
        }
        if recipe.init:
            stack = load_stack(stack_file(recipe.init), dtype=torch.float32)
            stack.config = stack.config.changed(**role)
            return stack
        shape = dict(STACK_SETTINGS.get(self.base.family, {}))
        if recipe.method.stack == "slim":
            shape |= SLIM
        stack = TemporalStack.for_unet(
            self.base.unet,
            base=self.base.family,
            source="trained by this project's trainer",
            mixing=recipe.method.mixing,
            **({} if recipe.method.image else {"channel_order": ()}),
            **shape,
            **role,
        )
        if recipe.method.start == "random":
            stack.randomise()
        return stack

    @property
    def inner(self) -> _Module:
        return self.module  # type: ignore[return-value]

    @property
    def model(self) -> VideoModel:
        return self.inner.model

    def stream(self, positions: Iterable[Sequence[int]]) -> Iterator[Batch]:
        return self.source.stream(positions)

    def frozen(self) -> list[nn.Module]:
        frozen: list[nn.Module] = [self.base.vae, *self.base.text_encoders]
        return frozen if self.recipe.method.trained == "all" else [self.base.unet, *frozen]

    # -- measuring

    def validate(self) -> dict[str, float]:
        """Loss on clips that are kept out, at fixed noise: the mean, and that of each band of timesteps, the cleanest first."""
        batch = self._kept_out()
        if not len(batch.latents):
            return {}
        rank, world = self.processes.rank, self.processes.world
        places = list(range(rank, len(batch.latents), world) if len(batch.latents) % world == 0 else range(len(batch.latents)))
        size = self.recipe.compute.micro or min(8, max(1, self.recipe.optimisation.batch // world))
        sums = torch.zeros(BANDS, dtype=torch.float64)
        for start in range(0, len(places), size):
            sums += self._band_errors(batch, places[start : start + size]).double().cpu().sum(1)
        means = self.processes.mean((sums / len(places)).to(self.processes.device)).tolist()
        return {"val_loss": sum(means) / BANDS, **{f"val_loss_{i + 1}": mean for i, mean in enumerate(means)}}

    def _kept_out(self) -> Batch:
        if self.kept_out is None:
            self.kept_out = self.source.validation()
        return self.kept_out

    def _band_errors(self, batch: Batch, places: list[int]) -> torch.Tensor:
        """(BANDS, n), conditioned on the frames and the words that the recipe gives, nothing dropped."""
        inner, config = self.inner, self.model.stack.config
        x0 = batch.latents[places]
        generators = [sample_generator(2**21, int(batch.positions[i])) for i in places]
        text = inner.base.encode_text([str(batch.captions[i]) for i in places])
        fixed = slots(KEYFRAMES) if config.role == "I" else [0]
        errors = []
        given = self.known(x0.cpu(), fixed, torch.Generator().manual_seed(0)) if config.takes_image else None
        channels = None if given is None else given.to(x0.device)
        for band in range(BANDS):
            within = torch.tensor([torch.rand(1, generator=g).item() for g in generators])
            t = ((band + within) / BANDS * config.schedule.steps).long().to(x0.device)
            noise = torch.stack([frame_noise(x0.shape[1:], g, config.sampling.shared_noise) for g in generators]).to(x0.device)
            errors.append(inner.measure(x0, text, t, noise, channels))
        return torch.stack(errors)

    def known(self, latents: torch.Tensor, places: list[int], generator: torch.Generator) -> torch.Tensor:
        """Conditioning channels of clean videos (n, f, C, h, w) whose frames `places` are given, as at inference."""
        config = self.model.stack.config
        given = latents[:, places]
        given = augment(given, config.sampling.image_noise, config.schedule, torch.randn(given.shape, generator=generator))
        return condition(given, places, latents.shape[1], config.channel_order)

    def sheet(self, path: Path | None, count: int = 32) -> dict[str, float]:
        """Videos of clips that are kept out, from their true given frames. Of the procedural world: how many move as asked, and
        how still the still are."""
        config, device = self.model.stack.config, self.processes.device
        world = isinstance(self.source, WorldSource)
        clips: list[shapes.Clip] = []
        if world:
            count = count if config.role == "F" else 4
            clips, truth = self.source.held_out(count)  # type: ignore[attr-defined]
            words = [c.caption for c in clips]
        else:
            batch = self._kept_out()
            truth, words = batch.latents[:4].cpu().float(), [str(c) for c in batch.captions[:4]]
            if not len(truth):
                return {}
        places = slots(KEYFRAMES) if config.role == "I" else [0]
        generator = torch.Generator().manual_seed(0)
        given = self.known(truth, places, generator) if config.takes_image else None
        latents = self.sample(words, truth.shape, None if given is None else given.to(device), generator)
        videos = self.decode(latents)
        rows = videos[:8] if config.role == "F" else videos[:, ::3]
        save_grid(rearrange(rows, "n f c h w -> (n f) c h w"), path, columns=rows.shape[1])
        small = self.recipe.clips.size != (shapes.SIZE, shapes.SIZE)
        return {} if not world or small else judge(clips, videos, frame_times(self.recipe.clips, config.role))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(n, f, C, h, w) -> (n, f, 3, H, W) in -1..1, in main memory."""
        images = torch.stack([self.base.decode_latents(video) for video in latents])
        return rearrange(images, "n f h w c -> n f c h w") * 2 - 1

    def sample(
        self, words: list[str], shape: Sequence[int], given: torch.Tensor | None, generator: torch.Generator
    ) -> torch.Tensor:
        """Latents of `shape` (n, f, C, h, w) at the stack's own recommended guidance, in few steps."""
        config, device = self.model.stack.config, self.processes.device
        plan = calls(config.sampling.image_guidance if config.takes_image else 1.0, config.sampling.text_guidance)
        texts = {text: self.base.encode_text(said) for text, said in {True: words, False: [""] * len(words)}.items()}
        images = {True: given, False: None if given is None else torch.zeros_like(given)}
        n, f = shape[:2]

        def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            video = rearrange(x, "(b f) c h w -> b f c h w", f=f)
            outputs = [self.inner.draw(video, t, texts[call.text], images[call.image]).float() for call in plan]
            return combine(outputs, [call.weight for call in plan]).flatten(0, 1)

        noise = torch.cat([frame_noise(shape[1:], generator, config.sampling.shared_noise) for _ in range(n)]).to(device)
        return rearrange(sample(denoise, noise, config.schedule, SHEET_STEPS), "(b f) c h w -> b f c h w", f=f)

    # -- the result

    def export(self, folder: Path | None) -> None:
        """`stack_F.safetensors` or `stack_I.safetensors`; with the U-Net trained along, also that, in the base's own folder."""
        stack = self.model.stack
        weights = {name: whole(value).detach().cpu() for name, value in stack.state_dict().items()}
        unet = None
        if self.recipe.method.trained == "all":
            unet = {name: whole(value).detach().to("cpu", torch.float16) for name, value in self.base.unet.state_dict().items()}
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with torch.device("meta"):
            copy = TemporalStack(stack.config)
        copy.load_state_dict(weights, assign=True)
        save_stack(copy, folder / f"stack_{stack.config.role}.safetensors")
        if unet is not None:
            source = Path(self.recipe.base)
            if source.is_dir():
                shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("unet", "stack_*"))
            self.base.unet.save_pretrained(folder / "unet", state_dict=unet)


def load_training_base(recipe: Recipe, device: torch.device) -> Base:
    """The frozen image model, in the recipe's precision, with the U-Net that an earlier stage trained along."""
    precision = PRECISIONS[recipe.compute.precision]
    base = load_base(recipe.base, device=device, dtype=precision, tokenizer=recipe.tokenizer or None)
    if recipe.init and (Path(recipe.init) / "unet").is_dir():
        from diffusers.models import UNet2DConditionModel

        trained = UNet2DConditionModel.from_pretrained(Path(recipe.init) / "unet")
        base.unet.load_state_dict({k: v.to(precision) for k, v in trained.state_dict().items()})
    return base


def stack_file(init: str) -> Path:
    """The stack that a recipe starts from: a file, or stack_F.safetensors in the folder of an earlier stage."""
    path = Path(init)
    return path / "stack_F.safetensors" if path.is_dir() else path


def judge(clips: list[shapes.Clip], videos: torch.Tensor, times: torch.Tensor) -> dict[str, float]:
    """Direction right, drift of the still in pixels, distance from the true path in pixels."""
    n, f = videos.shape[:2]
    readings = read_frames(videos.flatten(0, 1))
    path = torch.tensor([r.centre for r in readings]).view(n, f, 2)
    move = path[:, -1] - path[:, 0]
    right = [direction_of(*m.tolist()) == c.direction for m, c in zip(move, clips, strict=True)]
    still = [float(m.norm()) for m, c in zip(move, clips, strict=True) if c.direction == "still"]
    error = (path - shapes.positions(clips, times)).norm(dim=-1).nan_to_num(nan=32.0)
    figures = {"direction": sum(right) / n, "path_error_px": float(error.mean())}
    return figures | ({"still_drift_px": sum(still) / len(still)} if still else {})


def build_source(recipe: Recipe, base: Base, folder: Path, processes: Processes) -> Source:
    if not recipe.clips.shards:
        return WorldSource(recipe, base, folder, processes)
    return ShardSource(recipe, base, folder, processes)
