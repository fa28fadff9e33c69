"""The noise schedule against the values that the paper's formulas give and against diffusers."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from emu_core.model.schedule import (
    ScheduleConfig,
    abar,
    add_noise,
    betas,
    denoised,
    implied_noise,
    stratified_timesteps,
    target,
    trailing_timesteps,
    zero_terminal_snr,
)

EMU = ScheduleConfig()
PLAIN = ScheduleConfig(zero_snr=False)
EPSILON = ScheduleConfig(zero_snr=False, prediction="epsilon")
COSINE = ScheduleConfig("cosine", zero_snr=False)
ALL = [EMU, PLAIN, EPSILON, COSINE, ScheduleConfig(beta_schedule="linear"), ScheduleConfig(steps=50)]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# diffusers multiplies up to 1,000 factors in float32, which rounds each product by up to 2^-24, this way or that: 2e-6 at the
# end, and ten times that. Of betas, differences of the products' quotients from 1, less is left.
PRODUCTS = 2e-5


def as_diffusers(config: ScheduleConfig, **settings: Any) -> Any:
    betas: dict[str, Any] = {"beta_start": config.beta_start, "beta_end": config.beta_end}
    betas["beta_schedule"] = "squaredcos_cap_v2" if config.beta_schedule == "cosine" else config.beta_schedule
    kind = {"prediction_type": config.prediction, "rescale_betas_zero_snr": config.zero_snr}
    return diffusers.DDIMScheduler(num_train_timesteps=config.steps, **betas, **kind, **settings)


def test_defaults_are_those_of_the_512_pixel_stage() -> None:
    assert ScheduleConfig("scaled_linear", 8.5e-4, 1.2e-2, True, "v_prediction", 1000) == EMU


def test_signal_has_the_papers_values() -> None:
    before, after = abar(PLAIN).sqrt(), abar(EMU).sqrt()
    assert (before.dtype, before[-1].item(), after[-1].item()) == (torch.float64, pytest.approx(0.0682649, abs=1e-7), 0)
    assert (before[0].item(), after[0].item()) == (pytest.approx(0.99957491, abs=1e-8), pytest.approx(0.99957491, abs=1e-8))
    assert after[-2].item() == pytest.approx(0.00044361, abs=1e-8)
    assert (after.diff() < 0).all()


def test_betas_are_linear_in_the_square_root() -> None:
    values = betas(EMU)
    step = (math.sqrt(1.2e-2) - math.sqrt(8.5e-4)) / 999
    for t in (0, 1, 500, 999):
        assert values[t].item() == pytest.approx((math.sqrt(8.5e-4) + t * step) ** 2, rel=1e-12)
    straight = betas(ScheduleConfig(beta_schedule="linear"))
    assert straight[500].item() == pytest.approx(8.5e-4 + 500 * (1.2e-2 - 8.5e-4) / 999, rel=1e-12)


def test_cosine_has_the_signal_of_improved_ddpm() -> None:
    """Half way, a quarter of the way, and the last beta, which is cut off at 0.999 (arXiv 2102.09672, equation 17)."""
    first = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    for t, share in ((499, 0.5), (249, 0.25)):
        signal = math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2 / first
        assert abar(COSINE)[t].item() == pytest.approx(signal, rel=1e-9)
    assert betas(COSINE)[-1].item() == 0.999


@pytest.mark.parametrize("config", ALL)
def test_schedule_equals_that_of_diffusers(config: ScheduleConfig) -> None:
    scheduler = as_diffusers(config)
    torch.testing.assert_close(abar(config).float(), scheduler.alphas_cumprod, rtol=PRODUCTS, atol=2e-7)
    theirs = as_diffusers(config, trained_betas=None).betas
    ours = betas(config).float()
    torch.testing.assert_close(rescale_zero_terminal_snr(ours) if config.zero_snr else ours, theirs, rtol=1e-3, atol=1e-6)


def test_rescaling_keeps_the_first_and_empties_the_last() -> None:
    root = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    expected = torch.tensor([0.9, 0.4 * 0.9 / 0.8, 0.0], dtype=torch.float64)
    torch.testing.assert_close(zero_terminal_snr(root), expected)


# -- noising


@pytest.mark.parametrize("config", ALL)
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 2, 3, 5, 5)])
def test_noising_and_target_equal_those_of_diffusers(config: ScheduleConfig, shape: tuple[int, ...]) -> None:
    x0, noise, t = normal(*shape), normal(*shape, seed=1), torch.tensor([0, 7, 31, config.steps - 1])
    scheduler = as_diffusers(config)
    torch.testing.assert_close(add_noise(config, x0, noise, t), scheduler.add_noise(x0, noise, t), rtol=0, atol=PRODUCTS)
    v = noise if config.prediction == "epsilon" else scheduler.get_velocity(x0, noise, t)
    torch.testing.assert_close(target(config, x0, noise, t), v, rtol=0, atol=PRODUCTS)


def test_velocity_is_that_of_the_formula() -> None:
    x0, noise, t = normal(2, 1, 1, 1), normal(2, 1, 1, 1, seed=1), torch.tensor([3, 640])
    power = abar(EMU)[t].view(2, 1, 1, 1)
    torch.testing.assert_close(target(EMU, x0, noise, t), (power.sqrt() * noise - (1 - power).sqrt() * x0).float())
    torch.testing.assert_close(add_noise(EMU, x0, noise, t), (power.sqrt() * x0 + (1 - power).sqrt() * noise).float())


@pytest.mark.parametrize("config", ALL)
def test_output_implies_the_clean_sample_and_the_noise(config: ScheduleConfig) -> None:
    count = 8
    t = torch.linspace(0, config.steps - 1, count).long()
    x0, noise = normal(count, 3, 4, 4), normal(count, 3, 4, 4, seed=1)
    x_t, output = add_noise(config, x0, noise, t), target(config, x0, noise, t)
    error = 8 * 2**-24 / 0.068  # of numbers up to 8, which for epsilon are divided by a signal of no less than that
    torch.testing.assert_close(denoised(config, x_t, output, t), x0, rtol=0, atol=error)
    torch.testing.assert_close(implied_noise(config, x_t, output, t), noise, rtol=0, atol=error)


def test_at_zero_snr_the_input_is_noise_alone_and_the_output_is_the_negative_sample() -> None:
    x0, noise, last = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1), torch.tensor([999, 999])
    assert torch.equal(add_noise(EMU, x0, noise, last), noise)
    assert torch.equal(target(EMU, x0, noise, last), -x0)
    assert torch.equal(denoised(EMU, noise, x0, last), -x0)


def test_epsilon_at_zero_snr_is_refused() -> None:
    with pytest.raises(ValueError, match="undefined at zero terminal SNR.*use v_prediction, or set zero_snr"):
        ScheduleConfig(prediction="epsilon")


IMPOSSIBLE = [({"beta_schedule": "square"}, "square"), ({"prediction": "sample"}, "sample"), ({"steps": 1}, "found 1")]
IMPOSSIBLE += [({"beta_start": 0.0}, "0.0"), ({"beta_start": 0.5, "beta_end": 0.1}, "0.5 to 0.1"), ({"beta_end": 1.0}, "1.0")]


@pytest.mark.parametrize(("changes", "words"), IMPOSSIBLE)
def test_impossible_schedules_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ScheduleConfig(**changes)


# -- timesteps


def test_250_trailing_steps_are_the_papers() -> None:
    timesteps = trailing_timesteps(EMU, 250).tolist()
    assert (timesteps, timesteps[:3], timesteps[-2:]) == (list(range(999, 0, -4)), [999, 995, 991], [7, 3])


def test_every_number_of_steps_falls_from_the_last_timestep_and_stays_within() -> None:
    for steps in range(1, 1001):
        timesteps = trailing_timesteps(EMU, steps)
        assert (timesteps.dtype, len(timesteps), timesteps[0]) == (torch.int64, steps, 999)
        assert timesteps[-1] >= 0
        assert (timesteps.diff() < 0).all()


def test_trailing_steps_are_those_of_diffusers() -> None:
    """But for the timestep -1 that it adds for some numbers of steps, such as 61."""
    scheduler, longer = as_diffusers(EMU, timestep_spacing="trailing"), []
    for steps in range(1, 1001):
        scheduler.set_timesteps(steps)
        theirs = scheduler.timesteps
        if len(theirs) > steps:
            assert theirs[-1] == -1
            longer.append(steps)
        assert torch.equal(trailing_timesteps(EMU, steps), theirs[:steps])
    assert len(longer) < 100


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 1000, found {steps}"):
        trailing_timesteps(EMU, steps)


@pytest.mark.parametrize("count", [1, 3, 16, 1000])
def test_stratified_timesteps_take_one_from_each_part(count: int) -> None:
    seen = []
    for seed in range(20):
        t = stratified_timesteps(EMU, count, torch.Generator().manual_seed(seed))
        assert t.dtype == torch.int64
        parts = (t.sort().values * count / 1000 + 1e-9).floor()  # a timestep on a border may round down
        assert ((parts == torch.arange(count)) | (parts + 1 == torch.arange(count))).all()
        assert 0 <= t.min() <= t.max() <= 999
        seen.append(t)
    assert torch.equal(seen[0], stratified_timesteps(EMU, count, torch.Generator().manual_seed(0)))
    assert not torch.equal(seen[0], seen[1])
    assert torch.stack(seen).double().mean() == pytest.approx(499.5, abs=200 if count == 1 else 25)
