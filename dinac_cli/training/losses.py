"""What training makes small. Every loss is a mean over the batch, float32."""

from __future__ import annotations

import torch
from torch import Tensor

from dinac_cli.models.dinac.posterior import Posterior

# Below this a crop counts as perfect: a hundredth of an 8-bit level, squared, in [-1, 1].
_MSE_FLOOR = (0.01 / 127.5) ** 2 * 1e2


def measure_mse(x0: Tensor, images: Tensor) -> Tensor:
    """Mean squared error [B] of estimates against images [B, 3, H, W] in [-1, 1]."""
    return (x0 - images).square().mean(dim=(1, 2, 3))


def reconstruction_loss(mse: Tensor, group: int = 1) -> Tensor:
    """Mean logarithm of the images' squared errors: the negative of the mean PSNR, up to a factor.

    `mse` [B] are those of crops; each `group` of them in a row is of one image. So a smooth crop
    of a busy image counts as little as it does in that image's PSNR.
    """
    return (mse.reshape(-1, group).mean(dim=1) + _MSE_FLOOR).log().mean()


def expansion_loss(posterior: Posterior) -> Tensor:
    """Mean KL divergence of the posterior from N(0, 1), in nats a latent value.

    It expands the posterior's variance as far as the picture bears it, so that latents bear noise
    and quantisation, and keeps their scale where it is. With weight w beside the logarithmic
    reconstruction loss, noise is expanded until it makes about w/2 of the squared error.
    """
    alpha_squared = posterior.logsnr.sigmoid()
    log_sigma_squared = torch.nn.functional.logsigmoid(-posterior.logsnr)
    second_moment = alpha_squared * posterior.mean.square() + (1 - alpha_squared)
    return 0.5 * (second_moment - 1 - log_sigma_squared).mean()


def alignment_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """One minus the mean cosine similarity of features [..., D]; 0 where they agree."""
    return 1 - torch.nn.functional.cosine_similarity(predicted, target, dim=-1).mean()
