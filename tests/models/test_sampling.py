"""The noise schedule, the times, the samplers, and the posterior's Gaussian."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dinac_cli.models.dinac.posterior import Posterior
from dinac_cli.models.dinac.rope import AxialRope2d, leave_unrotated, rotate
from dinac_cli.models.dinac.sampling import SAMPLERS, Sampler, draw_noise, guide
from dinac_cli.models.dinac.schedule import CosineSchedule, noise_scale, signal_scale, space_times
from dinac_cli.models.interface import SAMPLERS as SAMPLER_NAMES

SCHEDULE = CosineSchedule(-10.0, 10.0)


def test_logsnr_spans_its_range() -> None:
    logsnr = SCHEDULE.logsnr(torch.linspace(0, 1, 101))
    assert logsnr[0].item() == pytest.approx(10, abs=1e-4)
    assert logsnr[-1].item() == pytest.approx(-10, abs=1e-4)
    assert (logsnr.diff() < 0).all()
    assert SCHEDULE.logsnr(torch.tensor(0.5)).item() == pytest.approx(0, abs=1e-5)


def test_signal_and_noise_preserve_the_variance() -> None:
    logsnr = torch.tensor([-200.0, -40.0, -3.0, 0.0, 5.0, 40.0, 200.0])
    alpha, sigma = signal_scale(logsnr), noise_scale(logsnr)
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones(7))
    expected = torch.sigmoid(logsnr.double()).sqrt().float()
    torch.testing.assert_close(alpha, expected, rtol=1e-5, atol=0)


def test_times_descend_to_zero() -> None:
    assert space_times(4, "linear").tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert space_times(1, "cosine").tolist() == [1.0, 0.0]
    cosine = [0.5 * (1 - math.cos(math.pi * i / 3)) * 0.6 for i in (3, 2, 1, 0)]
    torch.testing.assert_close(space_times(3, "cosine", 0.6), torch.tensor(cosine))


@pytest.mark.parametrize("count", [1, 3, 7, 10, 50])
def test_linear_times_have_the_bits_of_linspace(count: int) -> None:
    """The published code flips torch.linspace; i / N differs in the last bit for most N."""
    published = torch.linspace(0, 1, count + 1, dtype=torch.float32).flip(0)
    assert torch.equal(space_times(count, "linear"), published)
    assert torch.equal(space_times(count, "linear", 0.6), published * 0.6)


def test_settings_and_samplers_have_the_same_names() -> None:
    assert tuple(SAMPLERS) == SAMPLER_NAMES


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_constant_estimate_is_sampled_exactly(sampler: Sampler, steps: int) -> None:
    # With a constant estimate both samplers are exact: x is always alpha·x0 + sigma·noise.
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 2, 3, 4, 4, generator=generator).unbind()
    times = space_times(steps, "linear")
    called_at: list[float] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        called_at.append(t.item())
        return x0

    alpha, sigma = SCHEDULE.alpha(times), SCHEDULE.sigma(times)
    result = sampler(denoise, alpha[0] * x0 + sigma[0] * noise, times, SCHEDULE)
    torch.testing.assert_close(result, alpha[-1] * x0 + sigma[-1] * noise, rtol=1e-4, atol=1e-4)
    assert called_at == times[:-1].tolist()


def test_one_ddim_step_by_hand() -> None:
    times = space_times(1, "linear")
    x, x0 = torch.full((1, 3, 1, 1), 0.5), torch.full((1, 3, 1, 1), 0.25)
    low, high = 1 / (1 + math.exp(10)), 1 / (1 + math.exp(-10))  # sigmoid(-10), sigmoid(10)
    noise = (0.5 - math.sqrt(low) * 0.25) / math.sqrt(high)
    expected = math.sqrt(high) * 0.25 + math.sqrt(low) * noise
    for sampler in SAMPLERS.values():  # both have the same first step
        result = sampler(lambda *_: x0, x, times, SCHEDULE)
        assert result.flatten()[0].item() == pytest.approx(expected, rel=1e-5)


def test_second_dpmpp_step_uses_the_first_estimate() -> None:
    times = space_times(2, "linear")
    estimates = [torch.tensor(0.2), torch.tensor(0.6)]
    result = SAMPLERS["dpmpp_2m"](lambda *_: estimates.pop(0), torch.tensor(1.0), times, SCHEDULE)
    half = [5.0 * sign for sign in (-1, 0, 1)]  # half the log-SNR at 1, 0.5 and 0
    alpha = [math.sqrt(1 / (1 + math.exp(-2 * value))) for value in half]
    sigma = [math.sqrt(1 / (1 + math.exp(2 * value))) for value in half]
    phi = math.expm1(-5)
    x = sigma[1] / sigma[0] - alpha[1] * phi * 0.2
    x = sigma[2] / sigma[1] * x - alpha[2] * phi * 0.6 - 0.5 * alpha[2] * phi * (0.6 - 0.2)
    assert result.item() == pytest.approx(x, rel=1e-4)


def test_guidance_extrapolates_past_the_full_estimate() -> None:
    full, dropped = torch.tensor([1.0, 3.0]), torch.tensor([0.5, 4.0])
    assert guide(full, dropped, 1.0).tolist() == full.tolist()
    assert guide(full, dropped, 2.0).tolist() == [1.5, 2.0]


def test_seeded_noise_does_not_depend_on_the_batch() -> None:
    alone = torch.randn((1, 3, 8, 16), generator=torch.Generator().manual_seed(7))
    noise = draw_noise(3, 8, 16, seed=7)
    assert noise.shape == (3, 3, 8, 16)
    assert all(torch.equal(image, alone[0]) for image in noise)


def test_unseeded_noise_is_fresh_for_every_image_and_call() -> None:
    torch.manual_seed(0)
    first, second = draw_noise(2, 8, 8, seed=None)
    torch.manual_seed(0)
    third = draw_noise(1, 8, 8, seed=None)[0]
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)


def test_drawing_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draw_noise(1, 8, 8, seed=3)
    draw_noise(1, 8, 8, seed=None)
    assert torch.equal(torch.get_rng_state(), before)


def test_posterior_mode_and_sample() -> None:
    logsnr = torch.full((1, 2, 100, 100), 1.0)
    mean = torch.full((1, 2, 100, 100), 3.0)
    posterior = Posterior(mean, logsnr)
    alpha, sigma = math.sqrt(torch.sigmoid(torch.tensor(1.0))), math.sqrt(1 / (1 + math.e))
    torch.testing.assert_close(posterior.mode(), alpha * mean)
    draws = [posterior.sample(torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    noise = draws[0] - posterior.mode()
    assert noise.std().item() == pytest.approx(sigma, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)


def test_rotation_is_by_row_then_column() -> None:
    rope = AxialRope2d(8)
    assert rope.periods.tolist() == [1.0, 100.0]
    cos, sin = rope(2, 3)
    angles = torch.tensor([[y / 1, y / 100, x / 1, x / 100] for y in range(2) for x in range(3)])
    torch.testing.assert_close(cos, angles.cos())
    torch.testing.assert_close(sin, angles.sin())


@pytest.mark.parametrize("prefix", [0, 5])
def test_rotation_rotates_pairs_and_keeps_prefix_tokens(prefix: int) -> None:
    rotation = leave_unrotated(AxialRope2d(8)(2, 3), prefix)
    x = torch.randn(1, 2, prefix + 6, 8, generator=torch.Generator().manual_seed(0))
    rotated = rotate(x, rotation)
    angles = torch.complex(*rotation)
    expected = torch.view_as_complex(x.view(1, 2, -1, 4, 2)) * angles
    torch.testing.assert_close(torch.view_as_complex(rotated.view(1, 2, -1, 4, 2)), expected)
    assert torch.equal(rotated[:, :, :prefix], x[:, :, :prefix])
