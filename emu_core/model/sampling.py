"""Sampling with DDIM, or through diffusers' schedulers, trailing from the last timestep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import UserError
from .schedule import ScheduleConfig, add_noise, denoised, implied_noise, trailing_timesteps

Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(noisy latents (n, c, h, w), timestep ()) -> the network's guided output, same shape."""
Callback = Callable[[int, torch.Tensor], None]
"""(step, latents) after each step; may raise to stop."""

SAMPLERS = ("ddim", "dpmpp_2m", "dpmpp_2m_sde", "euler", "euler_ancestral", "lcm", "unipc")


def build_scheduler(name: str, config: ScheduleConfig) -> Any:
    """A diffusers scheduler on exactly this schedule."""
    import diffusers

    if name not in SAMPLERS:
        raise UserError(f"unknown sampler {name!r}: expected one of {', '.join(SAMPLERS)}")
    common: dict[str, Any] = {
        "num_train_timesteps": config.steps,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "beta_schedule": "squaredcos_cap_v2" if config.beta_schedule == "cosine" else config.beta_schedule,
        "prediction_type": config.prediction,
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": config.zero_snr,
    }
    if name == "ddim":
        return diffusers.DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=True)
    if name == "euler":
        return diffusers.EulerDiscreteScheduler(**common)
    if name == "euler_ancestral":
        return diffusers.EulerAncestralDiscreteScheduler(**common)
    if name == "lcm":
        return diffusers.LCMScheduler(**common, original_inference_steps=config.steps)
    common["final_sigmas_type"] = "zero"
    if name == "unipc":
        return diffusers.UniPCMultistepScheduler(**common)
    kind = "sde-dpmsolver++" if name == "dpmpp_2m_sde" else "dpmsolver++"
    return diffusers.DPMSolverMultistepScheduler(**common, algorithm_type=kind, solver_order=2)


def sample(
    denoise: Denoiser,
    noise: torch.Tensor,
    config: ScheduleConfig,
    steps: int,
    sampler: str = "ddim",
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
    start: torch.Tensor | None = None,
    amount: float = 1.0,
) -> torch.Tensor:
    """Turn unit noise (n, c, h, w) into latents of the same shape. `generator` feeds the samplers that add noise on the way.

    With `start`, clean latents, those are noised and changed, the more the larger `amount` is, 0..1: of the timesteps of
    steps / amount steps the last `steps` are taken, which is ComfyUI's denoise."""
    whole = steps if start is None else whole_steps(config, steps, amount)
    timesteps = trailing_timesteps(config, whole)[-steps:].to(noise.device)
    if sampler == "ddim":
        begun = noise if start is None else add_noise(config, start, noise, timesteps[:1])
        return _ddim(denoise, begun, config, timesteps, callback)
    scheduler = build_scheduler(sampler, config)
    if sampler == "lcm":  # its own spacing rounds otherwise
        scheduler.set_timesteps(timesteps=timesteps.tolist(), device=noise.device)
    else:
        scheduler.set_timesteps(whole, device=noise.device)
    if len(scheduler.timesteps) > whole:  # rounding in its arange adds a timestep -1 for some numbers of steps, such as 217
        scheduler.timesteps = scheduler.timesteps[:whole]
        scheduler.sigmas = torch.cat([scheduler.sigmas[:whole], scheduler.sigmas[-1:]])
    first = len(scheduler.timesteps) - steps
    latents = noise * scheduler.init_noise_sigma
    if start is not None:
        scheduler.set_begin_index(first)
        latents = scheduler.add_noise(start, noise, scheduler.timesteps[first : first + 1])
    extra = {} if sampler == "unipc" else {"generator": generator}
    for i, t in enumerate(scheduler.timesteps[first:]):
        output = denoise(scheduler.scale_model_input(latents, t), t)
        latents = scheduler.step(output, t, latents, **extra, return_dict=False)[0]
        if callback is not None:
            callback(i, latents)
    return latents


def whole_steps(config: ScheduleConfig, steps: int, amount: float) -> int:
    """Steps of the schedule of which the last `steps` begin with an `amount` of noise, 0..1. ValueError where there are fewer."""
    whole = int(steps / amount)
    if whole > config.steps:
        few = f"{steps} steps at {amount:g} are the last of {whole}"
        raise UserError(f"{few}, and the schedule has {config.steps}: take fewer steps, or change more of the video")
    return whole


def _ddim(
    denoise: Denoiser, noise: torch.Tensor, config: ScheduleConfig, timesteps: torch.Tensor, callback: Callback | None
) -> torch.Tensor:
    """DDIM with eta 0 (Song et al., arXiv 2010.02502, equation 12): from each timestep to the next, and at last to x0.

    diffusers' steps go to t - N // steps instead. That is the next timestep only where the number of steps divides N;
    elsewhere the noise that is left is not what the network is told, and some may be left at the end.
    """
    latents = noise
    for i, t in enumerate(timesteps):
        output = denoise(latents, t)
        clean = denoised(config, latents, output, t[None])
        towards = implied_noise(config, latents, output, t[None])
        latents = clean if i + 1 == len(timesteps) else add_noise(config, clean, towards, timesteps[i + 1][None])
        if callback is not None:
            callback(i, latents)
    return latents
