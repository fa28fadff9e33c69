"""What long videos, and videos of the text alone, begin with: FreeNoise's noise, and FreeInit's.

Latents and noise are (f, C, h, w) of one video.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch

from ..errors import UserError
from .schedule import ScheduleConfig, add_noise, frame_noise
from .streams import stream

Filter = Literal["butterworth", "gaussian", "ideal"]
MOST_SAMPLINGS = 20
"""Of FreeInit. The paper stops at 5, where nothing improves any more."""
STOP = 0.25
"""FreeInit's stop frequency, of space and of time: what lies lower is kept. 1 is the highest that there is."""


def window_noise(
    shape: tuple[int, ...], seed: int, length: int, overlap: int, shared: float = 0.0, free: bool = True
) -> torch.Tensor:
    """Unit noise (f, C, h, w) of a video over which windows of `length` slide; `shared` as of `schedule.frame_noise`.

    `free`: FreeNoise's (Qiu et al., arXiv 2310.15169, section 3.1), for which what follows the first window is made of its
    frames again, in another order within each stride.
    """
    noise = frame_noise(shape, stream(seed), shared)
    return noise[frame_order(shape[0], length, overlap, stream(seed))] if free else noise


def frame_order(frames: int, length: int, overlap: int, generator: torch.Generator) -> list[int]:
    """Which frame of the first window's noise each frame of FreeNoise's begins with: those of one window before, shuffled within
    each stride of the windows. ComfyUI's context windows and AnimateDiff-Evolved draw it like this, from the seed of the noise;
    what is left at the end is shuffled in itself."""
    order, stride = [*range(min(length, frames))], length - overlap
    while len(order) < frames:
        start = len(order) - length
        part = torch.randperm(min(stride, frames - len(order)), generator=generator)
        order += [order[start + place] for place in part.tolist()]
    return order


def low_pass(frames: int, height: int, width: int, kind: Filter = "butterworth", order: int = 4) -> torch.Tensor:
    """FreeInit's filter (f, h, w), 0..1, the lowest frequency in the middle; `order` is that of Butterworth's.

    Sizes that are odd have their middle beside the lowest frequency, as in the authors' program.
    """
    t, h, w = ((2 * torch.arange(size, dtype=torch.float64) / size - 1).square() for size in (frames, height, width))
    square = t[:, None, None] + h[:, None] + w  # time and space stop at the same frequency
    if kind == "ideal":
        return (square <= 2 * STOP).float()
    return (torch.exp(-square / (2 * STOP**2)) if kind == "gaussian" else 1 / (1 + (square / STOP**2) ** order)).float()


def mixed(low: torch.Tensor, high: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The frequencies of `low` as far as `kept` (f, h, w) keeps them, and those of `high` for the rest; both (f, C, h, w)."""
    dims = (0, 2, 3)
    of_low, of_high = (torch.fft.fftshift(torch.fft.fftn(x.float(), dim=dims), dim=dims) for x in (low, high))
    share = kept[:, None].to(low.device)
    return torch.fft.ifftn(torch.fft.ifftshift(of_low * share + of_high * (1 - share), dim=dims), dim=dims).real


def begin_again(
    latents: torch.Tensor, noise: torch.Tensor, fresh: torch.Tensor, schedule: ScheduleConfig, kind: Filter = "butterworth"
) -> torch.Tensor:
    """FreeInit's noise to sample from again: a video's `latents` are noised to the last timestep with the `noise` that they came
    from; of this the low frequencies are kept, and the others are those of `fresh` noise."""
    noised = add_noise(schedule, latents, noise.to(latents.device), torch.full((1,), schedule.steps - 1, device=latents.device))
    return mixed(noised, fresh.to(latents.device), low_pass(len(latents), latents.shape[2], latents.shape[3], kind))


def free_init(
    make: Callable[[int, torch.Tensor], torch.Tensor],
    draw: Callable[[int], torch.Tensor],
    samplings: int,
    schedule: ScheduleConfig,
    kind: Filter = "butterworth",
) -> torch.Tensor:
    """FreeInit (Wu et al., arXiv 2312.07537): latents of the last of so many samplings. `make` samples, told which sampling it
    is (0, 1, ...) and the noise to begin with; `draw` gives the unit noise of each."""
    noise = draw(0)
    latents = make(0, noise)
    for number in range(1, samplings):
        latents = make(number, begin_again(latents, noise, draw(number), schedule, kind))
    return latents


def check_free_init(samplings: int | None, kind: str | None) -> None:
    """Refuse numbers and filters that FreeInit does not have."""
    if samplings is None:
        if kind is not None:
            raise UserError("freeinit_filter is FreeInit's, and there is none: say how often to sample with freeinit")
        return
    if not 1 <= samplings <= MOST_SAMPLINGS:
        raise UserError(f"freeinit must be 1 to {MOST_SAMPLINGS} samplings in all, found {samplings}")
    if kind not in (None, *get_args(Filter)):
        raise UserError(f"unknown freeinit_filter {kind!r}: expected one of {', '.join(get_args(Filter))}")


def check_signal_is_left(schedule: ScheduleConfig, family: str) -> None:
    """Refuse FreeInit for a schedule whose last timestep is noise alone."""
    if schedule.zero_snr:
        raise UserError(
            f"freeinit keeps what is left of a video at the last timestep, and the schedule of this {family} stack leaves "
            "nothing there (zero terminal SNR): leave it out"
        )
