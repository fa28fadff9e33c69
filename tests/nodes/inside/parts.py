"""What the checks share: models, conditionings, runs of the ordinary sampler, stacks with weights or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import folder_paths
import torch

PROMPT = "a big red circle moves right on a white background"
SIZE = {"width": 64, "height": 64}
RECOMMENDED = {"text_guidance": -1.0, "image_guidance": -1.0}


def texts(clip: Any, prompt: str = PROMPT) -> tuple[list[Any], list[Any]]:
    return tuple(clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, ""))  # type: ignore[return-value]


def picture(seed: int = 0, count: int = 1, height: int = 64, width: int = 64) -> torch.Tensor:
    """Smooth random pictures (count, H, W, 3) in 0..1."""
    small = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1).movedim(1, -1)


def conditioning(pack: Any, clip: Any, vae: Any, prompt: str = PROMPT, **changes: Any) -> tuple[Any, ...]:
    positive, negative = texts(clip, prompt)
    settings = {**SIZE, "length": 8, "videos": 1, "positions": "0", "resize": "none", "image": picture(), **changes}
    return pack.run("EmuVideoConditioning", positive=positive, negative=negative, vae=vae, **settings)


def ksample(
    model: Any, positive: Any, negative: Any, latent: torch.Tensor, seed: int = 5, steps: int = 3, **changes: Any
) -> torch.Tensor:
    """ComfyUI's ordinary sampler."""
    settings = {"sampler_name": "euler", "scheduler": "sgm_uniform", "cfg": 2.0, **changes}
    noise = comfy.sample.prepare_noise(latent, seed)
    name, scheduler, cfg = settings.pop("sampler_name"), settings.pop("scheduler"), settings.pop("cfg")
    return comfy.sample.sample(
        model, noise, steps, cfg, name, scheduler, positive, negative, latent, disable_pbar=True, seed=seed, **settings
    )


def save_new_stack(pack: Any, model: Any, name: str, weights: float = 0.0, **settings: Any) -> str:
    """Write a stack for this MODEL's U-Net to models/emu_video: the identity, or with random weights of this size."""
    stack_module, checkpoint = pack.module("emu_core.stack"), pack.module("emu_core.checkpoint")
    schedule = pack.module("emu_core.schedule").ScheduleConfig(**settings.pop("schedule", {}))
    settings = {"base": "tiny", "head_dim": 32, "size": (64, 64), "mlp_ratio": 1, "schedule": schedule, **settings}
    stack = stack_module.TemporalStack.for_unet(model.model.diffusion_model, **settings)
    if weights:
        generator = torch.Generator().manual_seed(1)
        for parameter in stack.parameters():
            parameter.data += weights * torch.randn(parameter.shape, generator=generator)
    folder = Path(folder_paths.get_folder_paths("emu_video")[0])
    checkpoint.save_stack(stack, folder / name, torch.float32)
    return name


def apply(pack: Any, model: Any, stack: str = "tiny F (bundled)", strength: float = 1.0) -> Any:
    return pack.run("EmuVideoApplyStack", model=model, stack=stack, strength=strength)[0]


def on_the_same_schedule(pack: Any, model: Any, **schedule: Any) -> Any:
    """The plain MODEL, sampled as a stack's MODEL is, so that only the U-Nets are compared."""
    sampling = pack.module("nodes.adapter.sampling").VideoModelSampling
    result = model.clone()
    result.add_object_patch("model_sampling", sampling(pack.module("emu_core.schedule").ScheduleConfig(**schedule)))
    return result


def hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) for module in model.model.modules())


def refusal(action: Any) -> str:
    """The sentence of a ValueError that `action` must raise."""
    try:
        action()
    except ValueError as error:
        return str(error)
    raise AssertionError("expected a ValueError, nothing was raised")


def forget() -> None:
    comfy.model_management.unload_all_models()
