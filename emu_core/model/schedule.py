"""The noise schedule: betas, zero terminal SNR, targets, trailing steps, noise augmentation.

`abar` is the cumulative product of 1 - beta, (N,) float64; entry t is the share of signal power left at timestep t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from ..errors import UserError

BetaSchedule = Literal["scaled_linear", "linear", "cosine"]
Prediction = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class ScheduleConfig:
    """A noise schedule and what the network predicts on it. The defaults are Emu Video's 512 px stage."""

    beta_schedule: BetaSchedule = "scaled_linear"
    beta_start: float = 8.5e-4
    beta_end: float = 1.2e-2
    zero_snr: bool = True
    prediction: Prediction = "v_prediction"
    steps: int = 1000

    def __post_init__(self) -> None:
        if self.beta_schedule not in (known := get_args(BetaSchedule)):
            raise UserError(f"beta schedule must be one of {', '.join(known)}, found {self.beta_schedule!r}")
        if self.prediction not in ("epsilon", "v_prediction"):
            raise UserError(f"prediction must be epsilon or v_prediction, found {self.prediction!r}")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise UserError(f"betas must rise within 0..1, found {self.beta_start} to {self.beta_end}")
        if self.steps < 2:
            raise UserError(f"a schedule needs 2 or more steps, found {self.steps}")
        if self.zero_snr and self.prediction == "epsilon":
            raise UserError("epsilon prediction is undefined at zero terminal SNR: use v_prediction, or set zero_snr to false")


def betas(config: ScheduleConfig) -> torch.Tensor:
    """(N,) float64. `scaled_linear` is linear in the square root (Stable Diffusion; Emu Video's "quad"). `cosine` has no ends of
    its own: abar(t) = f(t) / f(0), f(t) = cos^2((t / N + 0.008) / 1.008 pi / 2), betas at most 0.999 (improved DDPM, Nichol &
    Dhariwal, arXiv 2102.09672, equation 17)."""
    if config.beta_schedule == "cosine":
        steps = torch.arange(config.steps + 1, dtype=torch.float64) / config.steps
        share = ((steps + 0.008) / 1.008 * torch.pi / 2).cos().square()
        return (1 - share[1:] / share[:-1]).clamp(max=0.999)
    if config.beta_schedule == "linear":
        return torch.linspace(config.beta_start, config.beta_end, config.steps, dtype=torch.float64)
    return torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.steps, dtype=torch.float64).square()


def abar(config: ScheduleConfig) -> torch.Tensor:
    """(N,) float64, rescaled to zero terminal SNR when the schedule says so."""
    root = (1 - betas(config)).cumprod(0).sqrt()
    return (zero_terminal_snr(root) if config.zero_snr else root).square()


def zero_terminal_snr(root: torch.Tensor) -> torch.Tensor:
    """Shift and scale sqrt(abar) so that the last is 0 and the first stays (Lin et al., arXiv 2305.08891, algorithm 1)."""
    first, last = root[0], root[-1]
    return (root - last) * (first / (first - last))


def signal_noise(config: ScheduleConfig, t: torch.Tensor, dims: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """sqrt(abar) and sqrt(1 - abar) at integer timesteps t (n,), each (n, 1, ...) of `dims` dimensions, float32."""
    power = abar(config)[t.cpu()].to(torch.float64)
    shape = (-1, *[1] * (dims - 1))
    return power.sqrt().float().view(shape).to(t.device), (1 - power).sqrt().float().view(shape).to(t.device)


def add_noise(config: ScheduleConfig, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t = sqrt(abar) x0 + sqrt(1 - abar) noise; x0 and noise (n, ...), t (n,)."""
    signal, sigma = signal_noise(config, t, x0.dim())
    return signal * x0 + sigma * noise


def frame_noise(shape: Sequence[int], generator: torch.Generator, shared: float = 0.0) -> torch.Tensor:
    """Unit noise (f, ...) of one clip. With `shared` > 0, PYoCo's alpha, a part of it is the same in all frames:
    eps_i = (alpha eps + eps'_i) / sqrt(1 + alpha^2) (Ge et al., arXiv 2305.10474, mixed noise model)."""
    noise = torch.randn(*shape, generator=generator)
    if not shared:
        return noise
    same = torch.randn(1, *shape[1:], generator=generator)
    return (noise + shared * same) / (1 + shared**2) ** 0.5


def videos_noise(shape: Sequence[int], frames: int, generator: torch.Generator, shared: float) -> torch.Tensor:
    """Unit noise (v frames, ...) of videos that stand one after the other, each with a part of its own that its frames share;
    `frames` 0: all are one video."""
    return torch.cat([frame_noise(video.shape, generator, shared) for video in torch.empty(*shape).split(frames or shape[0])])


def target(config: ScheduleConfig, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What the network should say: the noise, or v = sqrt(abar) noise - sqrt(1 - abar) x0 (Salimans & Ho 2202.00512)."""
    if config.prediction == "epsilon":
        return noise
    signal, sigma = signal_noise(config, t, x0.dim())
    return signal * noise - sigma * x0


def denoised(config: ScheduleConfig, x_t: torch.Tensor, output: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The clean sample that a network output implies; for v at zero SNR it is -output."""
    signal, sigma = signal_noise(config, t, x_t.dim())
    if config.prediction == "epsilon":
        return (x_t - sigma * output) / signal
    return signal * x_t - sigma * output


def implied_noise(config: ScheduleConfig, x_t: torch.Tensor, output: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The noise that a network output implies: the output itself, or sqrt(abar) v + sqrt(1 - abar) x_t."""
    if config.prediction == "epsilon":
        return output
    signal, sigma = signal_noise(config, t, x_t.dim())
    return signal * output + sigma * x_t


def trailing_timesteps(config: ScheduleConfig, steps: int) -> torch.Tensor:
    """`steps` timesteps that begin at the last, N - 1, and are evenly spaced, (steps,) int64 falling.

    250 of 1000: 999, 995, ..., 7, 3. "Leading" spacing never visits the last, where all signal is gone.
    """
    if not 1 <= steps <= config.steps:
        raise UserError(f"sampling steps must be 1 to {config.steps}, found {steps}")
    # numpy's arange, as in diffusers: ties round as they do there; it may add a last one, which would be timestep -1
    ends = np.arange(config.steps, 0, -config.steps / steps)[:steps]
    return torch.from_numpy(ends.round().astype(np.int64) - 1)


def stratified_timesteps(config: ScheduleConfig, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` timesteps for training, one drawn from each equal part of 0..N-1, in shuffled order."""
    places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (places * config.steps).long().clamp(max=config.steps - 1)[torch.randperm(count, generator=generator)]
