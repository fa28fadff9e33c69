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
from .autoencoder import decode
from .detect import read_frames
from .judge import agreement
from .source import LatentSource
from .text import WIDTH, build_text_encoder, build_tokenizer, token_ids

SCHEDULE = ScheduleConfig()
STEPS, TEXT_GUIDANCE = 20, 3.0  # recommended for the starting frame
SCALE = 4  # and for files of videos, which players show too small
SHEET_SEED = 20_000
WORD_LOSS = 0.1
"""Weight of reading each word back from its text state. A starting frame does not show how it will move, so the image loss alone
leaves the words of motion faint in the text states, which are all that a stack on the frozen model has of them."""


def build_unet(widths: tuple[int, ...], layers: int) -> UNet2DConditionModel:
    """Stable Diffusion's layout at two levels, 8 x 8 and 4 x 4, with attention at both."""
    n = len(widths)
    kinds = {"down_block_types": ("CrossAttnDownBlock2D",) * n, "up_block_types": ("CrossAttnUpBlock2D",) * n}
    sizes = {"block_out_channels": widths, "layers_per_block": layers, "cross_attention_dim": WIDTH, "attention_head_dim": 4}
    return UNet2DConditionModel(sample_size=shapes.SIZE // 8, norm_num_groups=32, **kinds, **sizes)


def denoising_loss(unet: Any, schedule: ScheduleConfig, x0: Tensor, states: Tensor, generator: torch.Generator) -> Tensor:
    """Mean square error of the U-Net's output for clean latents x0 (n, 4, h, w) and text states, at timesteps all over the
    schedule."""
    t = stratified_timesteps(schedule, len(x0), generator)
    noise = torch.randn(x0.shape, generator=generator)
    output = unet(add_noise(schedule, x0, noise, t), t, states).sample
    return F.mse_loss(output, target(schedule, x0, noise, t))


def draw(
    unet: Any, vae: Any, states: Callable[[list[str]], Tensor], schedule: ScheduleConfig, count: int
) -> tuple[list[shapes.Clip], Tensor]:
    """Held-out clips, and a starting frame for the caption of each, (count, 3, 64, 64) in -1..1, as the tiny model recommends."""
    clips = shapes.clips(SHEET_SEED, range(count), held_out=True)
    captions = [c.caption for c in clips]
    texts = {text: states(said) for text, said in {True: captions, False: [""] * len(captions)}.items()}
    plan = calls(1.0, TEXT_GUIDANCE, has_image=False)
    denoise = GuidedDenoiser(lambda x, t, part: unet(x, t, texts[part[0].text]).sample, plan)
    noise = torch.randn(len(captions), 4, 8, 8, generator=stream(0, "sheet"))
    return clips, decode(vae, sample(denoise, noise, schedule, STEPS))


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
        self.vae = AutoencoderKL.from_pretrained(vae_folder).eval().requires_grad_(False)
        self.recipe, self.source = recipe, LatentSource(self.vae, recipe.world, folder, processes)
        torch.manual_seed(recipe.optimisation.seed)
        self.tokenizer = build_tokenizer()
        self.text_encoder = build_text_encoder(len(self.tokenizer))
        self.read_back = nn.Linear(self.text_encoder.config.hidden_size, len(self.tokenizer))
        self.unet = build_unet(recipe.network.widths, recipe.network.layers)
        if recipe.start.init:
            start = Path(recipe.start.init)
            self.unet.load_state_dict(UNet2DConditionModel.from_pretrained(start / "unet").float().state_dict())
            self.text_encoder.load_state_dict(CLIPTextModel.from_pretrained(start / "text_encoder").float().state_dict())

    def forward(self, indices: range, generator: torch.Generator, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of the starting frames of these clips."""
        clips, latents = self.source(indices)
        captions = [c.said(generator, self.recipe.given.text_drop, keep_motion=False) for c in clips]
        ids = token_ids(self.tokenizer, captions)
        states = self.text_encoder(ids).last_hidden_state
        image_loss = denoising_loss(self.unet, SCHEDULE, latents[:, 0], states, generator)
        word_loss = F.cross_entropy(self.read_back(F.layer_norm(states, states.shape[-1:])).flatten(0, 1), ids.flatten())
        return image_loss + WORD_LOSS * word_loss, {"image_loss": image_loss.item(), "word_loss": word_loss.item()}

    def states(self, captions: list[str]) -> Tensor:
        """Text states (n, tokens, width)."""
        return self.text_encoder(token_ids(self.tokenizer, captions)).last_hidden_state

    def sheet(self, path: Path | None) -> dict[str, float]:
        """Starting frames of held-out prompts, and how many show what was asked."""
        clips, images = draw(self.unet, self.vae, self.states, SCHEDULE, 64)
        write_sheet(images, path, columns=16)
        readings = read_frames(images)
        return {part: agreement(readings, clips, part) for part in ("colour", "background", "size", "shape")}

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
        recommended = {"family": "tiny", "steps": STEPS, "text_guidance": TEXT_GUIDANCE, "scale": SCALE}
        (folder / DEFAULTS_FILE).write_text(json.dumps(recommended, indent=2) + "\n")
