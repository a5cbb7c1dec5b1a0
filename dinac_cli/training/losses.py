"""The losses of a training. Each loss is a float32 mean over the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from dinac_cli.models.dinac.posterior import Posterior

# The loss adds this to each squared error, so that nearly perfect crops do not count too much. It
# is the square of a tenth of an 8-bit level, for pixels in [-1, 1].
_MSE_FLOOR = (0.01 / 127.5) ** 2 * 1e2


def measure_mse(x0: Tensor, images: Tensor) -> Tensor:
    """Returns the mean squared error of each reconstruction, [B], for images [B, 3, H, W]."""
    return (x0 - images).square().mean(dim=(1, 2, 3))


def reconstruction_loss(mse: Tensor, group: int = 1) -> Tensor:
    """Returns the mean logarithm of the squared errors: the mean PSNR, negated and scaled.

    `mse` [B] holds the mean squared error of each crop. The crops of an image follow
    each other, and `group` is the number of crops per image. The errors of these crops are averaged
    before the logarithm. So a smooth crop of a busy image counts as little as it would in the PSNR
    of the whole image.
    """
    return (mse.reshape(-1, group).mean(dim=1) + _MSE_FLOOR).log().mean()


def expansion_loss(posterior: Posterior) -> Tensor:
    """Returns the mean KL divergence of the posterior from N(0, 1), in nats per latent value.

    This loss keeps the scale of the latents. In addition, it makes the posterior as noisy as the
    image tolerates, so that quantisation does little harm. If this loss has weight w and the
    reconstruction loss has weight 1, the noise grows until it causes about w/2 of the squared
    error.
    """
    alpha_squared = posterior.logsnr.sigmoid()
    log_sigma_squared = torch.nn.functional.logsigmoid(-posterior.logsnr)
    second_moment = alpha_squared * posterior.mean.square() + (1 - alpha_squared)
    return 0.5 * (second_moment - 1 - log_sigma_squared).mean()


def alignment_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Returns one minus the mean cosine similarity of features [..., D]."""
    return 1 - torch.nn.functional.cosine_similarity(predicted, target, dim=-1).mean()
