"""The losses equal their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from dinac_cli.models.dinac.posterior import Posterior
from dinac_cli.training.losses import expansion_loss, measure_mse, reconstruction_loss


def test_reconstruction_loss_is_the_negative_mean_psnr_scaled() -> None:
    images = torch.zeros(2, 3, 4, 4)
    x0 = torch.stack((torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 0.01)))
    mse = measure_mse(x0, images)
    torch.testing.assert_close(mse, torch.tensor([1e-2, 1e-4]))
    psnr_db = torch.tensor([10 * math.log10(4 / 1e-2), 10 * math.log10(4 / 1e-4)]).mean()
    decibels = 10 * math.log10(4) - reconstruction_loss(mse).item() * 10 / math.log(10)
    assert decibels == pytest.approx(psnr_db.item(), abs=0.05)


def test_crops_of_one_image_are_averaged_before_the_logarithm() -> None:
    mse = torch.tensor([1e-2, 3e-2, 1e-4, 3e-4])
    expected = torch.tensor([2e-2, 2e-4]).log().mean()
    torch.testing.assert_close(reconstruction_loss(mse, group=2), expected, atol=1e-2, rtol=0)
    smooth_gains_less = reconstruction_loss(torch.tensor([1e-2, 1e-5]), group=2)
    assert smooth_gains_less > reconstruction_loss(torch.tensor([1e-2, 1e-5]))


def test_perfect_crop_has_a_finite_gradient() -> None:
    x0 = torch.zeros(1, 3, 4, 4, requires_grad=True)
    reconstruction_loss(measure_mse(x0, torch.zeros_like(x0))).backward()  # type: ignore[no-untyped-call]
    assert x0.grad is not None
    assert torch.isfinite(x0.grad).all()


def test_expansion_loss_is_the_divergence_from_the_unit_normal() -> None:
    mean, logsnr = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    posterior = Posterior(mean, logsnr)
    sigma = (-logsnr).sigmoid().sqrt()
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(posterior.mode(), sigma),
        torch.distributions.Normal(torch.zeros(()), torch.ones(())),
    ).mean()
    torch.testing.assert_close(expansion_loss(posterior), expected)


def test_expansion_loss_grows_as_the_variance_collapses() -> None:
    losses = [
        expansion_loss(Posterior(torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), logsnr)))
        for logsnr in (-20.0, 0.0, 10.0, 60.0)
    ]
    assert losses == sorted(losses)
    assert losses[0].item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(losses[-1])
