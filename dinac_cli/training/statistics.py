"""Measures a network: its whitening, its PSNR, and the sensitivity of each latent channel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from dinac_cli.codec.engine import Engine
from dinac_cli.images.metrics import measure_psnr
from dinac_cli.images.pixels import Pixels, crop_pixels, pad_pixels
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.interface import DinacAEInferenceConfig

_LEVELS_PER_UNIT = 127.5
_PROBE = 0.25  # how far to move a latent, in standard deviations, to measure its effect
_MAX_SIDE = 1024
_PROBE_SIDE = 128  # pixels; each image is decoded once per channel, so only its middle is


@torch.inference_mode()
def measure_whitening(model: DinacAE, images: Iterable[Pixels]) -> tuple[Tensor, Tensor]:
    """Encodes uint8 images [H, W, 3] and measures the posterior modes.

    Returns the mean and the variance, float32 [C].
    """
    posteriors = (model.encode_posterior(batch) for batch in _batches(model, images))
    mean, variance = _measure_moments(posterior.mode() for posterior in posteriors)
    return mean.float(), variance.float()


@torch.inference_mode()
def measure_spread(model: DinacAE, images: Iterable[Pixels]) -> dict[str, list[float]]:
    """Returns the range of the channel means, and the range of the channel standard deviations."""
    mean, variance = _measure_moments(model.encode(batch) for batch in _batches(model, images))
    return {
        name: [round(float(figure.min()), 3), round(float(figure.max()), 3)]
        for name, figure in (("mean", mean), ("std", variance.sqrt()))
    }


def _measure_moments(latents: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the mean and the variance, float64 [C], of latents [1, C, h, w].

    Large and small images have the same weight, because values such as the brightness hardly vary
    within an image.
    """
    means, squares = [], []
    for values in latents:
        flat = values[0].flatten(1).double().cpu()
        means.append(flat.mean(dim=1))
        squares.append(flat.square().mean(dim=1))
    mean = torch.stack(means).mean(dim=0)
    variance = torch.stack(squares).mean(dim=0) - mean.square()
    return mean, variance.clamp(min=0)


@torch.inference_mode()
def measure_sensitivity(model: DinacAE, images: Iterable[Pixels], seed: int) -> list[float]:
    """Returns the sensitivity of each latent channel.

    The sensitivity is the change of the image, in 8-bit levels (root mean square), if all values
    of the whitened channel change by one unit. It is measured in the middle of each image.
    """
    generator = torch.Generator().manual_seed(seed)
    settings = DinacAEInferenceConfig(seed=0)
    squares, count = np.zeros(model.config.bottleneck_dim), 0
    for batch in _batches(model, map(_cut_middle, images)):
        count += 1
        height, width = batch.shape[2:]
        latents = model.encode(batch)  # [1, C, h, w]
        before = model.decode(latents, height, width, settings)
        for channel in range(len(squares)):
            moved = latents.clone()
            signs = torch.randint(0, 2, latents.shape[2:], generator=generator) * 2 - 1
            moved[:, channel] += _PROBE * signs.to(latents.device)
            change = model.decode(moved, height, width, settings) - before
            squares[channel] += float(change.square().mean())
    levels = np.sqrt(squares / count) * _LEVELS_PER_UNIT / _PROBE
    return [float(f"{max(level, 1e-4):.5g}") for level in levels]


def measure_reconstruction(model: DinacAE, images: Iterable[Pixels]) -> list[float]:
    """Encodes and decodes images as the commands do by default. Returns their PSNR in dB."""
    engine, settings, values = Engine(model), DinacAEInferenceConfig(seed=0), []
    for pixels in images:
        height, width, _ = pixels.shape
        [decoded] = engine.decode(engine.encode([pixels]), [(height, width)], settings)
        values.append(measure_psnr(pixels, decoded))
    return values


def _cut_middle(pixels: Pixels) -> Pixels:
    """Returns the middle of an image [H, W, 3], at most `_PROBE_SIDE` pixels a side."""
    top, left = (max(0, (side - _PROBE_SIDE) // 2) for side in pixels.shape[:2])
    return crop_pixels(pixels[top:, left:], _PROBE_SIDE, _PROBE_SIDE)


def _batches(model: DinacAE, images: Iterable[Pixels]) -> Iterator[Tensor]:
    """Yields each image as a batch [1, 3, H, W] in [-1, 1], cropped to limit the memory."""
    for pixels in images:
        part = crop_pixels(pixels, _MAX_SIDE, _MAX_SIDE)
        padded = torch.from_numpy(pad_pixels(part, model.config.patch_size)).to(model.device)
        yield padded.permute(2, 0, 1)[None].float() / _LEVELS_PER_UNIT - 1
