"""Training of a small LoRA on the tiny image model: the bundled example, which draws in pastel colours."""

from __future__ import annotations

from pathlib import Path

import torch

from ..base import load_base
from ..errors import UserError
from ..training.folder import write_sheet
from ..training.loop import Task
from ..training.processes import Processes
from ..training.recipes import Recipe
from ..weights import save_tensors
from . import shapes
from .detect import nearest, separate
from .source import LatentSource
from .text_to_image import denoising_loss, draw
from .worlds import kind_of

RANK = 8
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")


def pastel(palette: shapes.Palette) -> shapes.Palette:
    """Each colour of a palette, half way to white."""
    return {name: (r // 2 + 115, g // 2 + 115, b // 2 + 115) for name, (r, g, b) in palette.items()}


class LoraTask(Task):
    """See `training.loop.Task`. The LoRA's weights alone have gradients. ValueError without peft."""

    def __init__(self, recipe: Recipe, folder: Path, processes: Processes) -> None:
        super().__init__()
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise UserError("training a LoRA needs peft: pip install 'emuvideo[lora]'") from error
        torch.manual_seed(recipe.optimisation.seed)
        self.recipe, self.base = recipe, load_base(recipe.start.base, device=processes.device)
        self.kind = kind_of(recipe.world)
        self.tones = pastel(self.kind.palette)
        self.source = LatentSource(self.base.vae, recipe.world, folder, processes, palette=self.tones, posed=True)
        self.unet = self.base.unet
        self.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS)))

    def forward(self, indices: range, generator: torch.Generator, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of the starting frames of these clips."""
        clips, latents = self.source(indices)
        drop = self.recipe.given.text_drop
        text = self.base.encode_text([c.said(generator, drop, keep_motion=False) for c in clips]).hidden
        return denoising_loss(self.unet, self.base.schedule, latents[:, 0].float(), text, generator), {}

    def sheet(self, path: Path | None) -> dict[str, float]:
        """Starting frames of held-out prompts, and how many have the colour that was asked for in its pastel tone."""
        base = self.base
        clips, images = draw(base.unet, base.vae, lambda said: base.encode_text(said).hidden, base.schedule, 32, self.kind)
        write_sheet(images, path, columns=16)
        tones = {**self.tones, **{f"full {name}": value for name, value in self.kind.palette.items()}}
        _, colours, _, _ = separate(images)
        if self.recipe.world.kind != "shapes":  # grounds with a texture: what is in the middle
            colours = images[:, :, 26:38, 26:38].flatten(2).median(-1).values
        return {"pastel": sum(nearest(tone, tones) == c.colour for tone, c in zip(colours, clips, strict=True)) / len(clips)}

    def export(self, folder: Path | None) -> None:
        """Write the LoRA alone, under the names that ComfyUI and others read, float16."""
        if folder is None:
            return
        from peft import get_peft_model_state_dict

        folder.mkdir(parents=True, exist_ok=True)
        state = {}
        for name, value in get_peft_model_state_dict(self.base.unet).items():
            module, _, part = name.removesuffix(".weight").rpartition(".")
            kind = {"lora_A": "lora_down", "lora_B": "lora_up"}[part]
            state[f"lora_unet_{module.replace('.', '_')}.{kind}.weight"] = value.detach().half()
        path = folder / "emu_video_tiny_pastel.safetensors"
        save_tensors(state, path, {"base": "tiny", "source": "trained on pastel-coloured procedural clips by this project"})
