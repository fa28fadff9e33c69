"""Distillation of an image model: a LoRA with which it makes a picture in few steps without guidance."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base import TextStates
from ..base.lora import merge
from ..errors import UserError
from ..model.config import ClipShape, SamplingConfig, StackConfig, UNetShape
from ..model_folder import FEW_STEPS_LORA
from ..weights import open_weights, save_tensors
from .distil import DistilTask
from .processes import Processes
from .recipes import Recipe
from .sources import SourceFactory
from .video import start_file

TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),
)
"""Nearly all of a U-Net, as in LCM-LoRA (Luo et al., arXiv 2311.05556): guidance is more than attention."""


class ImageDistilTask(DistilTask):
    """See `DistilTask`. A picture is a video of one frame here, of which nothing is given. ValueError without peft."""

    def __init__(
        self, recipe: Recipe, folder: Path, processes: Processes = Processes(), source: SourceFactory | None = None
    ) -> None:
        try:
            import peft  # noqa: F401
        except ImportError as error:
            raise UserError("training a LoRA needs peft: pip install 'emuvideo[lora]'") from error
        super().__init__(recipe, folder, processes, source)

    @property
    def config(self) -> StackConfig:
        """The image model in the terms of a stack; this one has no layers."""
        clips, base = self.recipe.clips, self.base
        shape, clip = UNetShape(base.family, base.latent_channels), ClipShape(clips.frames, clips.fps, clips.size)
        few = SamplingConfig(self.recipe.distil.steps, 1.0, 1.0)
        return StackConfig(shape, (), channel_order=(), clip=clip, schedule=base.schedule, sampling=few)

    def attach(self) -> None:
        """The student: a copy of the U-Net with a LoRA. The teacher: the U-Net, with that of the round before merged into it."""
        from peft import LoraConfig

        recipe, unet = self.recipe, self.base.unet
        self.student = copy.deepcopy(unet)
        rank = recipe.distil.rank
        self.student.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)))
        for parameter in self.student.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if recipe.start.init:
            file = start_file(recipe)
            merge([(file, 1.0)], {"unet": unet}, self.base.family)
            self._begin_with(open_weights(file).read())
        self.teacher = unet
        if recipe.compute.checkpointing:
            self.student.train()
            self.student.enable_gradient_checkpointing()

    def _begin_with(self, weights: dict[str, Tensor]) -> None:
        for name, pair in self._layers():
            for end, parameter in pair.items():
                if (key := f"{name}.{end}.weight") not in weights or weights[key].shape != parameter.shape:
                    file = start_file(self.recipe)
                    raise UserError(
                        f"{file} should hold {key} of shape {tuple(parameter.shape)}: use the rank that it was made with"
                    )
                parameter.data = weights[key].to(parameter)

    def _layers(self) -> Iterator[tuple[str, dict[str, nn.Parameter]]]:
        """The LoRA's weights under the names that ComfyUI, diffusers and others read."""
        for name, module in self.student.named_modules():
            if hasattr(module, "lora_A"):
                pair: Any = {"lora_down": module.lora_A["default"].weight, "lora_up": module.lora_B["default"].weight}
                yield f"lora_unet_{name.replace('.', '_')}", pair

    def frozen(self) -> list[nn.Module]:
        """The image model, which is the teacher."""
        return [self.teacher, self.base.vae, *self.base.text_encoders]

    def predict(self, x: Tensor, t: Tensor, text: TextStates, given: Tensor | None, model: Any = None) -> Tensor:
        """The output for noisy latents x (n, 1, C, h, w), of the same shape, of the student or another U-Net."""
        states, added = self.states_for(x, text), self.added_for(x, text)
        times = t.expand(len(x))
        output = (model or self.student)(x[:, 0].to(self.base.dtype), times, states, added_cond_kwargs=added, return_dict=False)
        return output[0][:, None]

    draw = predict

    def export(self, folder: Path | None) -> None:
        """Write the LoRA alone, float16."""
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        distil, base = self.recipe.distil, self.base.family
        state = {f"{name}.{end}.weight": p.detach().half() for name, pair in self._layers() for end, p in pair.items()}
        said = {"base": base, "steps": str(distil.steps), "text_guidance": "1", "source": "distilled by this project's trainer"}
        if not all(bool(torch.isfinite(value).all()) for value in state.values()):
            raise UserError(f"{folder / FEW_STEPS_LORA} is not written: it holds NaN or infinite values; its training failed")
        save_tensors(state, folder / FEW_STEPS_LORA, said)
