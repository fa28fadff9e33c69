"""Every sampler on a denoiser that knows the answer, and DDIM against its closed form and diffusers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from emu_core.model.sampling import SAMPLERS, build_scheduler, sample
from emu_core.model.schedule import ScheduleConfig, abar, trailing_timesteps

EMU = ScheduleConfig()
PLAIN = ScheduleConfig(zero_snr=False)
EPSILON = ScheduleConfig(zero_snr=False, prediction="epsilon")
CONFIGS = pytest.mark.parametrize("config", [EMU, PLAIN, EPSILON], ids=["zero SNR, v", "v", "epsilon"])
SHAPE = (3, 4, 5, 5)

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def normal(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def oracle(config: ScheduleConfig, x0: torch.Tensor, seen: list[int] | None = None) -> Denoise:
    """The output of a network that knows the clean sample: x_t = a x0 + s eps, so eps = (x_t - a x0) / s; v = a eps - s x0."""
    power = abar(config)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.shape == ()
        if seen is not None:
            seen.append(int(t))
        a, s = power[int(t)].sqrt().item(), (1 - power[int(t)]).sqrt().item()
        noise = (x - a * x0) / s
        return noise if config.prediction == "epsilon" else a * noise - s * x0

    return denoise


def toy(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Some smooth network that depends on both."""
    return torch.tanh(x.roll(1, -1)) * (0.3 + t.float() / 1000) - 0.2 * x


@CONFIGS
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 10, 15, 61, 217])
def test_every_sampler_ends_at_the_clean_sample(sampler: str, config: ScheduleConfig, steps: int) -> None:
    x0, seen = normal(1), []
    y = sample(oracle(config, x0, seen), normal(2), config, steps, sampler, torch.Generator().manual_seed(3))
    assert seen == trailing_timesteps(config, steps).tolist()
    # At zero SNR Euler's method begins at sigma 4096, where numbers in float32 lie 2^-10 apart: four roundings by half of that.
    torch.testing.assert_close(y, x0, rtol=0, atol=2**-9)


def by_hand(denoise: Denoise, x: torch.Tensor, config: ScheduleConfig, steps: int) -> torch.Tensor:
    """DDIM, eta 0, in double precision (arXiv 2010.02502, equation 12), but for its coefficients, which are float32's."""

    def root(value: float) -> float:
        return torch.tensor(math.sqrt(value), dtype=torch.float32).item()

    power = abar(config).tolist()
    timesteps = [round(config.steps - i * config.steps / steps) - 1 for i in range(steps)]
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        output = denoise(x, torch.tensor(t))
        a, s = root(power[t]), root(1 - power[t])
        if config.prediction == "epsilon":
            x0, noise = (x - s * output) / a, output
        else:
            x0, noise = a * x - s * output, a * output + s * x
        after = 1.0 if following is None else power[following]
        x = root(after) * x0 + root(1 - after) * noise
    return x


@CONFIGS
@pytest.mark.parametrize("steps", [1, 10, 15, 30, 61, 600])
def test_ddim_is_its_closed_form(config: ScheduleConfig, steps: int) -> None:
    x = normal(2).double()
    torch.testing.assert_close(sample(toy, x, config, steps), by_hand(toy, x, config, steps))


@CONFIGS
@pytest.mark.parametrize("steps", [10, 50, 250])
def test_ddim_is_that_of_diffusers_where_the_steps_divide_the_schedule(config: ScheduleConfig, steps: int) -> None:
    scheduler = build_scheduler("ddim", config)
    scheduler.set_timesteps(steps)
    x = normal(2)
    for t in scheduler.timesteps:
        x = scheduler.step(toy(x, t), t, x, return_dict=False)[0]
    # its products of up to 1,000 alphas are float32's, 2^-24 each: 6e-5 of a value, which enters a step several times
    torch.testing.assert_close(sample(toy, normal(2), config, steps), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_same_seed_same_result(sampler: str) -> None:
    first, second, other = (sample(toy, normal(2), EMU, 8, sampler, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, second)
    assert torch.equal(first, other) == (sampler not in ("dpmpp_2m_sde", "euler_ancestral", "lcm"))
    assert not torch.equal(first, sample(toy, normal(9), EMU, 8, sampler, torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler", "unipc"])
def test_samplers_without_noise_agree_when_the_steps_are_many(sampler: str) -> None:
    """All of them solve the same differential equation; of 500 steps Euler's method, of first order, leaves 0.018."""
    fine = sample(toy, normal(2), PLAIN, 1000)
    torch.testing.assert_close(sample(toy, normal(2), PLAIN, 500, sampler), fine, rtol=0, atol=0.03)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_callback_sees_every_step_and_may_stop(sampler: str) -> None:
    seen: list[int] = []

    def watch(step: int, latents: torch.Tensor) -> None:
        assert latents.shape == SHAPE
        seen.append(step)
        if len(seen) == 6:
            raise InterruptedError

    generator = torch.Generator().manual_seed(0)
    sample(toy, normal(2), EMU, 5, sampler, generator, watch)
    assert seen == [0, 1, 2, 3, 4]
    with pytest.raises(InterruptedError):
        sample(toy, normal(2), EMU, 5, sampler, generator, watch)
    assert seen == [0, 1, 2, 3, 4, 0]


def test_callback_ends_with_the_result() -> None:
    latents: list[torch.Tensor] = []
    y = sample(toy, normal(2), EMU, 5, callback=lambda step, x: latents.append(x))
    assert torch.equal(latents[-1], y)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(sampler: str, steps: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 1000, found {steps}"):
        sample(toy, normal(2), EMU, steps, sampler)


def test_unknown_sampler_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'plms': expected one of ddim, dpmpp_2m"):
        sample(toy, normal(2), EMU, 5, "plms")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_video_that_is_there_is_changed_as_much_as_is_asked(sampler: str) -> None:
    """With a network that knows the truth, any sampler ends in it; what is asked of it begins late."""
    truth, seen = normal(1), list[int]()
    made = sample(
        oracle(EMU, truth, seen), normal(2), EMU, 10, sampler, torch.Generator().manual_seed(3), start=truth, amount=0.4
    )
    torch.testing.assert_close(made, truth, atol=1e-3, rtol=0)
    assert len(seen) == 10
    assert max(seen) == trailing_timesteps(EMU, 25)[-10]


def test_what_is_begun_with_is_the_video_with_noise() -> None:
    begun = list[torch.Tensor]()
    start, noise = torch.ones(1, 4, 8, 8), torch.full((1, 4, 8, 8), 2.0)

    def looks(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        begun.append(x)
        return torch.zeros_like(x)

    sample(looks, noise, EMU, 5, start=start, amount=0.5)
    share = abar(EMU)[trailing_timesteps(EMU, 10)[-5]].item()
    torch.testing.assert_close(begun[0], torch.full_like(start, share**0.5 + 2 * (1 - share) ** 0.5))
    with pytest.raises(ValueError, match="the last of 2000"):
        sample(looks, noise, EMU, 200, start=start, amount=0.1)
