"""The numbers of progressive distillation (Salimans & Ho, arXiv 2202.00512): which step of a student leads where several of its
teacher's DDIM steps do.

With sqrt(abar) = cos(a) and sqrt(1 - abar) = sin(a), a DDIM step from angle a to angle b is x_b = cos(a - b) x_a - sin(a - b) v.
It is solved for v, so that nothing is divided by the signal, which is 0 at the last timestep of a zero terminal SNR schedule.
A timestep -1 is the clean sample, angle 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.schedule import ScheduleConfig, abar, add_noise, denoised, implied_noise, signal_noise, trailing_timesteps


def step_grid(config: ScheduleConfig, steps: int, teacher_steps: int) -> Tensor:
    """For each of the student's steps the timesteps between which its teacher's go, (steps, teacher_steps / steps + 1): the first
    is the student's own, the last the next one's, or -1. They are those of the samplers with so many steps."""
    each = teacher_steps // steps
    begun = trailing_timesteps(config, steps)
    grid = torch.cat([trailing_timesteps(config, teacher_steps).view(steps, each), begun.roll(-1)[:, None]], 1)
    grid[:, 0] = begun  # which rounding may put one beside the teacher's
    grid[-1, -1] = -1
    return grid


def ddim_step(config: ScheduleConfig, x: Tensor, output: Tensor, t: Tensor, after: Tensor) -> Tensor:
    """x (n, ...) at timesteps `after` (n,), from x at `t` (n,) and the network's output there; -1: the clean sample."""
    clean = denoised(config, x, output, t)
    noised = add_noise(config, clean, implied_noise(config, x, output, t), after.clamp(min=0))
    return torch.where(_beside(after < 0, x), clean, noised)


def output_between(config: ScheduleConfig, x: Tensor, end: Tensor, t: Tensor, after: Tensor) -> Tensor:
    """The network's output, float32, with which one DDIM step leads from x (n, ...) at timesteps `t` (n,) to `end` at `after`."""
    power = abar(config)
    signal, left = power[t.cpu()].sqrt(), torch.where(after.cpu() < 0, 1.0, power[after.cpu().clamp(min=0)].sqrt())
    sigma, lower = (1 - signal**2).sqrt(), (1 - left**2).sqrt()
    cosine, sine = (_beside(part.to(x.device), x) for part in (left * signal + lower * sigma, left * sigma - lower * signal))
    v = (cosine * x.double() - end.double()) / sine
    if config.prediction == "epsilon":
        signal, sigma = (_beside(part.to(x.device), x) for part in (signal, sigma))
        v = signal * v + sigma * x.double()
    return v.float()


def distance(config: ScheduleConfig, output: Tensor, wanted: Tensor, t: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean square difference of outputs (n, ...) at timesteps t (n,), in v whatever the network predicts: the loss that Salimans
    & Ho call SNR + 1, for the noise alone says nothing of the clean sample where there is nearly none. Each place as much as
    `counts` says, which has as many dimensions."""
    squares = (output.float() - wanted).square()
    squares = (squares if counts is None else squares * counts).flatten(1).mean(1)
    if config.prediction == "epsilon":
        return squares / signal_noise(config, t, 1)[0].square()
    return squares


def _beside(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *[1] * (x.dim() - 1))
