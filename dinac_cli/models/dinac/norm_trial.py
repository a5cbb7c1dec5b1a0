"""Measures whitened latents of sample images; see `norm_choice.py`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dinac_cli.images.samples import draw_scenes
from dinac_cli.models.checkpoint_files import CheckpointFiles
from dinac_cli.models.dinac.autoencoder import DinacAE, load_parts
from dinac_cli.models.dinac.config import CHANNEL_WISE, DISABLED, DinacAEConfig
from dinac_cli.models.dinac.conv_encoder import normalize_mean
from dinac_cli.models.dinac.norm_choice import measure_distance
from dinac_cli.models.dinac.posterior import Posterior
from dinac_cli.models.interface import ENCODER

SCENE_SIDE = 256
"""The height and width of each sample image, in pixels, or the next multiple of the patch."""

_POSITIONS = 64
"""The most latent positions along a side, so that a model with tiny patches takes little memory."""


@torch.inference_mode()
def measure_spreads(files: CheckpointFiles, config: DinacAEConfig) -> dict[str, float]:
    """Returns the spread of the whitened latents for each mode of the norm; 1 is right.

    The spread is the variance or the second moment, whichever is farther from 1: the variance shows
    a wrong scale, and the second moment also shows a wrong mean. Both are the median over the
    channels, so a few unusual ones do not matter. Computes on the CPU in float32, so that every
    machine finds the same. Raises ModelError if the checkpoint cannot be loaded.
    """
    plain = replace(config, bottleneck_norm_mode=DISABLED)
    model = load_parts(files, plain, (ENCODER,), torch.device("cpu"), torch.float32)
    side = min(-(-SCENE_SIDE // config.patch_size), _POSITIONS) * config.patch_size
    posteriors = [model.encode_pixels(torch.tensor(pixels)[None]) for pixels in draw_scenes(side)]
    normalized = [normalize_mean(posterior) for posterior in posteriors]
    return {
        DISABLED: _measure_spread(model, posteriors),
        CHANNEL_WISE: _measure_spread(model, normalized),
    }


def _measure_spread(model: DinacAE, posteriors: list[Posterior]) -> float:
    latents = torch.cat([_whiten(model, posterior) for posterior in posteriors])  # [B·h·w, C]
    moments = latents.square().mean(dim=0), latents.var(dim=0)
    return max((float(moment.median()) for moment in moments), key=measure_distance)


def _whiten(model: DinacAE, posterior: Posterior) -> Tensor:
    latents: Tensor = model.whiten(posterior.mode())
    return latents.permute(0, 2, 3, 1).flatten(0, 2)
