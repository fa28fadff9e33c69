"""Training of the tiny text-to-image model: text encoder and U-Net together, on starting frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel

from ..errors import UserError
from ..model.guidance import GuidedDenoiser, calls
from ..model.sampling import build_scheduler, sample
from ..model.schedule import ScheduleConfig, add_noise, stratified_timesteps, target
from ..model.streams import stream
from ..model_folder import DEFAULTS_FILE
from ..training.folder import write_sheet
from ..training.loop import Task
from ..training.processes import Processes
from ..training.recipes import Recipe
from . import shapes
from .autoencoder import decode, encode
from .detect import read_frames
from .judge import agreement
from .reading import read, right
from .source import HELD_OUT_SEED, LatentSource
from .text import WIDTH, build_text_encoder, build_tokenizer, token_ids
from .worlds import KINDS, Kind, kind_of

SCHEDULE = ScheduleConfig()
STEPS, TEXT_GUIDANCE = 20, 3.0  # recommended for the starting frame
FEW = 8  # of the little world: the fewest steps at which no measure fell, on prompts that no figure comes from
SCALE = 4  # and for files of videos, which players show too small
SHEET_SEED = 20_000
WORD_LOSS = 0.1
"""Weight of reading each word back from its text state. A starting frame does not show how it will move, so the image loss alone
leaves the words of motion faint in the text states, which are all that a stack on the frozen model has of them."""


def build_unet(widths: tuple[int, ...], layers: int, latents: int = 4) -> UNet2DConditionModel:
    """Stable Diffusion's layout at two levels, 8 x 8 and 4 x 4, with attention at both."""
    n = len(widths)
    kinds = {"down_block_types": ("CrossAttnDownBlock2D",) * n, "up_block_types": ("CrossAttnUpBlock2D",) * n}
    sizes = {"block_out_channels": widths, "layers_per_block": layers, "cross_attention_dim": WIDTH, "attention_head_dim": 4}
    channels = {"in_channels": latents, "out_channels": latents, "norm_num_groups": 32}
    return UNet2DConditionModel(sample_size=shapes.SIZE // 8, **channels, **kinds, **sizes)


def denoising_loss(
    unet: Any,
    schedule: ScheduleConfig,
    x0: Tensor,
    states: Tensor,
    generator: torch.Generator,
    power: float = 1.0,
    counts: Tensor | None = None,
) -> Tensor:
    """Mean square error of the U-Net's output for clean latents x0 (n, C, h, w) and text states, at timesteps all over the
    schedule, N u^power; `counts` (n, 1, h, w): how much each place does."""
    t = stratified_timesteps(schedule, len(x0), generator)
    if power != 1.0:
        t = ((t + 0.5) / schedule.steps).pow(power).mul(schedule.steps).long()
    t, noise = t.to(x0.device), torch.randn(x0.shape, generator=generator).to(x0.device)
    output = unet(add_noise(schedule, x0, noise, t), t, states).sample
    error = (output.float() - target(schedule, x0, noise, t)).square()
    return error.mean() if counts is None else (error * counts.to(error.device)).mean()


def draw(
    unet: Any, vae: Any, states: Callable[[list[str]], Tensor], schedule: ScheduleConfig, count: int, kind: Kind = KINDS["shapes"]
) -> tuple[list[Any], Tensor]:
    """Held-out clips, and a starting frame for the caption of each, (count, 3, 64, 64) in -1..1, as the tiny model recommends."""
    clips = [kind.posed(clip) for clip in kind.clips(SHEET_SEED, range(count), held_out=True)]
    return clips, starting_frames(unet, vae, states, schedule, [c.caption for c in clips])


def starting_frames(
    unet: Any, vae: Any, states: Callable[[list[str]], Tensor], schedule: ScheduleConfig, captions: list[str]
) -> Tensor:
    """A picture for each caption, (n, 3, 64, 64) in -1..1, as the tiny model recommends, in main memory."""
    texts = {text: states(said) for text, said in {True: captions, False: [""] * len(captions)}.items()}
    plan = calls(1.0, TEXT_GUIDANCE, has_image=False)
    with torch.no_grad():
        denoise = GuidedDenoiser(lambda x, t, part: unet(x, t, texts[part[0].text]).sample, plan)
        noise = torch.randn(len(captions), vae.config.latent_channels, 8, 8, generator=stream(0, "sheet")).to(vae.device)
        return decode(vae, sample(denoise, noise, schedule, STEPS)).cpu()


INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "requires_safety_checker": False,
    **dict.fromkeys(("feature_extractor", "image_encoder", "safety_checker"), [None, None]),
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


class TextToImageTask(Task):
    """See `training.loop.Task`. ValueError if the autoencoder is missing."""

    def __init__(self, recipe: Recipe, folder: Path, processes: Processes) -> None:
        super().__init__()
        vae_folder = Path(recipe.start.base) / "vae"
        if not vae_folder.is_dir():
            raise UserError(f"recipe {recipe.name!r} needs an autoencoder in {vae_folder}: run `emu-video train tiny-vae` first")
        self.vae = AutoencoderKL.from_pretrained(vae_folder).eval().requires_grad_(False).to(processes.device)
        self.held_out: Tensor | None = None
        self.recipe, self.kind = recipe, kind_of(recipe.world)
        self.source = LatentSource(self.vae, recipe.world, folder, processes, posed=True)
        torch.manual_seed(recipe.optimisation.seed)
        self.tokenizer = build_tokenizer(self.kind.vocabulary())
        self.text_encoder = build_text_encoder(len(self.tokenizer))
        self.read_back = nn.Linear(self.text_encoder.config.hidden_size, len(self.tokenizer))
        self.unet = build_unet(recipe.network.widths, recipe.network.layers, self.vae.config.latent_channels)
        if recipe.start.init:
            start = Path(recipe.start.init)
            self.unet.load_state_dict(UNet2DConditionModel.from_pretrained(start / "unet").float().state_dict())
            self.text_encoder.load_state_dict(CLIPTextModel.from_pretrained(start / "text_encoder").float().state_dict())

    def forward(self, indices: range, generator: torch.Generator, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of the starting frames of these clips."""
        clips, latents = self.source(indices)
        captions = [c.said(generator, self.recipe.given.text_drop, keep_motion=False) for c in clips]
        ids = self.ids(captions)
        states = self.text_encoder(ids).last_hidden_state
        x0, power = latents[:, 0].float(), self.recipe.optimisation.t_power
        image_loss = denoising_loss(self.unet, SCHEDULE, x0, states, generator, power, self.source.counts(clips, x0.shape[-1]))
        word_loss = F.cross_entropy(self.read_back(F.layer_norm(states, states.shape[-1:])).flatten(0, 1), ids.flatten())
        return image_loss + WORD_LOSS * word_loss, {"image_loss": image_loss.item(), "word_loss": word_loss.item()}

    def ids(self, captions: list[str]) -> Tensor:
        """Tokens (n, tokens) where the text encoder reads them."""
        return token_ids(self.tokenizer, captions).to(self.text_encoder.device)

    def states(self, captions: list[str]) -> Tensor:
        """Text states (n, tokens, width)."""
        return self.text_encoder(self.ids(captions)).last_hidden_state

    def validate(self) -> dict[str, float]:
        """The loss on combinations that are never trained on, all places counting alike; and where figures are, at little noise,
        in a share of it that grows with them."""
        generator, count = stream(0, "validate"), self.recipe.clips.validation
        clips = [self.kind.posed(clip) for clip in self.kind.clips(HELD_OUT_SEED, range(count), held_out=True)]
        if self.held_out is None:
            self.held_out = self.source.encode(clips)[:, 0].to(self.vae.device)
        states = self.states([c.caption for c in clips])
        figures = {"validation": denoising_loss(self.unet, SCHEDULE, self.held_out, states, generator).item()}
        if (counts := self.source.counts(clips, self.held_out.shape[-1])) is not None:
            only = counts - 1
            at_little = denoising_loss(self.unet, SCHEDULE, self.held_out, states, generator, 3.0, only / only.mean())
            figures["validation_figure"] = at_little.item()
        return figures

    def sheet(self, path: Path | None) -> dict[str, float]:
        """Starting frames of held-out prompts, and how many show what was asked."""
        clips, images = draw(self.unet, self.vae, self.states, SCHEDULE, 64, self.kind)
        write_sheet(images, path, columns=16)
        if self.recipe.world.kind != "shapes":
            found = [right(read(image[None], torch.zeros(1)), clip) for image, clip in zip(images, clips, strict=True)]
            return {part: sum(one[part] for one in found) / len(found) for part in ("colour", "ground", "size", "figure")}
        readings = read_frames(images)
        return {part: agreement(readings, clips, part) for part in ("colour", "background", "size", "shape")}

    def preview(self) -> list[list[float]]:
        """A least-squares fit of colours (r, g, b) by latents, for previews: a row a channel, the last one the constant."""
        images = shapes.render(self.kind.mixed(self.recipe.world.seed, range(100), 0.1), torch.zeros(1), self.kind.palette)[:, 0]
        latents = encode(self.vae, images).cpu().movedim(1, -1).flatten(0, 2)
        colours = F.avg_pool2d(images, 8).movedim(1, -1).flatten(0, 2)
        fit = torch.linalg.lstsq(F.pad(latents, (0, 1), value=1.0), colours).solution
        return [[round(value, 4) for value in row] for row in fit.tolist()]

    def export(self, folder: Path | None) -> None:
        """Write the whole image model as a diffusers folder, float16."""
        if folder is None:
            return
        self.tokenizer.save_pretrained(folder / "tokenizer")
        parts: dict[str, Any] = {"unet": self.unet, "text_encoder": self.text_encoder, "vae": self.vae}
        for name, part in parts.items():
            copy = type(part).from_config(part.config) if name != "text_encoder" else type(part)(part.config)
            copy.load_state_dict(part.state_dict())
            copy.half().save_pretrained(folder / name)
        build_scheduler("ddim", SCHEDULE).save_pretrained(folder / "scheduler")
        (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2, sort_keys=True) + "\n")
        recommended: dict[str, Any] = {"family": "tiny", "steps": STEPS, "text_guidance": TEXT_GUIDANCE, "scale": SCALE}
        recommended |= {"latent_rgb": self.preview()}
        if self.recipe.world.kind != "shapes":
            recommended |= {"world": self.recipe.world.kind, "steps": FEW}
        (folder / DEFAULTS_FILE).write_text(json.dumps(recommended, indent=2) + "\n")
