"""Small checkpoints of the SemDisDiffAE family, with random weights, as the published ones look."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dinac_cli.images.pixels import Pixels
from dinac_cli.images.samples import draw_scenes
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.conv_encoder import normalize_mean
from dinac_cli.models.dinac.norm_trial import SCENE_SIDE
from dinac_cli.models.dinac.posterior import Posterior

CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "patch_size": 16,
    "model_dim": 64,
    "encoder_depth": 2,
    "decoder_depth": 3,
    "decoder_start_blocks": 1,
    "decoder_end_blocks": 1,
    "bottleneck_dim": 8,
    "mlp_ratio": 2.0,
    "depthwise_kernel_size": 7,
    "adaln_low_rank_rank": 8,
    "bottleneck_posterior_kind": "diagonal_gaussian",
    "bottleneck_norm_mode": "disabled",
    "logsnr_min": -10.0,
    "logsnr_max": 10.0,
    "pixel_noise_std": 0.558,
    "latent_running_stats_eps": 1e-4,
}
"""The keys of a published config.json, with small sizes."""

UNCLEAR = 1.0
"""The root mean square of a posterior mean that its norm hardly changes."""


def draw_model(mode: str = "disabled", scale: float = 0.3, **sizes: int) -> DinacAE:
    """Draws a network whose statistics are those of the sample images under `mode`.

    `scale` is the root mean square of the posterior's mean; the norm makes it 1.
    """
    values = {key: value for key, value in (CONFIG | sizes).items() if key in _SIZES}
    config = DinacAEConfig(**values, encoder_type="fcdm").without_class_head()
    torch.manual_seed(5)
    model = DinacAE(config).eval().requires_grad_(False)
    for name, tensor in model.named_parameters():
        if name.endswith(("gamma", "beta", "layer_scale", "path_drop_mask_feature")):
            tensor.normal_(0, 0.5)
        elif "adaln" in name:
            tensor.normal_(0, 0.05)
    bias = model.get_parameter("encoder.to_bottleneck.bias")
    bias[config.bottleneck_dim :] += 3  # almost no noise
    _set_statistics(model, mode, scale)
    return model


_SIZES = set(CONFIG) - {"bottleneck_posterior_kind", "bottleneck_norm_mode"}


@torch.inference_mode()
def _set_statistics(model: DinacAE, mode: str, scale: float) -> None:
    channels = model.config.bottleneck_dim
    posteriors = list(encode_scenes(model))
    size = torch.cat([p.mean.flatten() for p in posteriors]).square().mean().sqrt()
    for name in ("weight", "bias"):
        model.get_parameter(f"encoder.to_bottleneck.{name}")[:channels] *= scale / size
    posteriors = list(encode_scenes(model))
    if mode == "channel_wise":
        posteriors = [normalize_mean(posterior) for posterior in posteriors]
    raw = torch.cat([p.mode().permute(1, 0, 2, 3).flatten(1) for p in posteriors], dim=1)
    model.latent_norm_running_mean.copy_(raw.mean(dim=1))
    model.latent_norm_running_var.copy_(raw.var(dim=1))


def encode_scenes(model: DinacAE) -> Iterable[Posterior]:
    """Yields the posterior of each sample image of the trial."""
    return (model.encode_pixels(torch.tensor(pixels)[None]) for pixels in _draw_scenes())


@functools.cache
def _draw_scenes() -> list[Pixels]:
    return list(draw_scenes(SCENE_SIDE))


def write_checkpoint(
    folder: Path, model: DinacAE, config: dict[str, Any] | None = None, part: str = ""
) -> Path:
    """Writes the tensors whose names begin with `part`, and the configuration; returns the folder.

    By default, the configuration is that of a published checkpoint of the size of `model`. If it
    is {}, the folder has no config.json.
    """
    folder.mkdir(parents=True)
    state: dict[str, Tensor] = dict(model.state_dict())
    tensors = {name: tensor for name, tensor in state.items() if name.startswith(part)}
    save_file(tensors, folder / "model.safetensors")
    if config is None:
        config = {key: getattr(model.config, key, value) for key, value in CONFIG.items()}
    if config:
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder
