"""Builds the linear optimum, a Karhunen-Loève transform (KLT) of image patches, as a checkpoint.

The encoder's patch embedding projects patches onto their principal components and divides by the
standard deviations. The decoder computes the inverse. Before training, the blocks of encoder and
decoder add nothing. In the encoder, the weights of the last norms are zero. In the decoder, the
last layers are zero and the gates are open. All other weights are random, ready for training.

    python -m dinac_cli.training.klt IMAGES OUT
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dinac_cli.codec.quantizer import SENSITIVITY_KEY
from dinac_cli.errors import UsageError
from dinac_cli.images.formats import is_image_name
from dinac_cli.images.pixels import Pixels
from dinac_cli.images.reading import read_image
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.checkpoint import save_checkpoint
from dinac_cli.models.dinac.config import DinacAEConfig

NANO_CONFIG = DinacAEConfig(
    model_dim=256,
    encoder_depth=2,
    decoder_depth=4,
    decoder_start_blocks=1,
    decoder_end_blocks=1,
    adaln_low_rank_rank=16,
).without_class_head()
"""The architecture of the embedded model, `nano`."""

POSTERIOR_STD = 0.02
"""The standard deviation of the posterior, in units of a whitened latent."""
_POSTERIOR_LOGSNR = torch.tensor(-2.0 * math.log(POSTERIOR_STD))

_NOISE_SHARE = 0.1  # weight of the noisy image in the trunk; at t = 1 this image is pure noise
_FILTER_NOISE = 0.6  # the weight of the random filters, which are added to the identity

_SEED = 0
_LEAST_VARIANCE = 1e-9  # of a component; in real images, 8-bit rounding alone causes 5e-6
_LEVELS_PER_UNIT = 127.5  # pixels in [-1, 1]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PatchStatistics:
    """The mean [n], the principal components [n, n] and the variances [n] of patches.

    Each column of the components is one component. The strongest component is first. A patch is
    a vector of n = 3·P·P values in [-1, 1], ordered (channel, y, x).
    """

    mean: Floats
    components: Floats
    variances: Floats


def measure_patches(images: Iterable[Pixels], patch_size: int) -> PatchStatistics:
    """Measures the patches of uint8 images [H, W, 3] in all eight orientations.

    Takes the patches from two grids that are half a patch apart. The weight of an image is
    proportional to its area. Raises UsageError if no image holds a whole patch.
    """
    size = 3 * patch_size**2
    total, products, count = np.zeros(size), np.zeros((size, size)), 0
    for image in images:
        for offset in (0, patch_size // 2):
            patches = cut_patches(image[offset:, offset:], patch_size)
            total += patches.sum(0)
            products += patches.T @ patches
            count += len(patches)
    if not count:
        raise UsageError(f"no image holds a patch of {patch_size}x{patch_size}; give larger images")
    symmetries = list(_list_symmetries(patch_size))
    mean = np.mean([total[order] for order in symmetries], axis=0) / count
    moments = np.mean([products[np.ix_(order, order)] for order in symmetries], axis=0) / count
    variances, components = np.linalg.eigh(moments - np.outer(mean, mean))
    return PatchStatistics(mean, components[:, ::-1], variances[::-1])


def cut_patches(image: Pixels, patch_size: int) -> Floats:
    """Returns the whole patches of an image, [N, 3·P·P] in [-1, 1], ordered (channel, y, x)."""
    rows, columns = image.shape[0] // patch_size, image.shape[1] // patch_size
    whole = image[: rows * patch_size, : columns * patch_size].astype(np.float64)
    grid = whole.reshape(rows, patch_size, columns, patch_size, 3)  # [h, P, w, P, 3]
    vectors = grid.transpose(0, 2, 4, 1, 3).reshape(rows * columns, 3 * patch_size**2)  # [N, 3·P·P]
    return vectors / _LEVELS_PER_UNIT - 1.0


def build_klt(statistics: PatchStatistics, config: DinacAEConfig) -> dict[str, Tensor]:
    """Returns the float32 weights of a network that computes the KLT of `statistics`.

    Raises UsageError if the patches vary in fewer than `config.model_dim` directions.
    """
    if statistics.variances[config.model_dim - 1] < _LEAST_VARIANCE:
        raise UsageError(
            f"the images are too few or too flat for {config.model_dim} components; "
            "give more images"
        )
    torch.manual_seed(_SEED)
    state = DinacAE(config).state_dict()
    _set_encoder(state, statistics, config)
    _set_decoder(state, statistics, config)
    signal = torch.sigmoid(_POSTERIOR_LOGSNR)  # the posterior's mode is its mean times sqrt(signal)
    state["latent_norm_running_mean"].zero_()
    state["latent_norm_running_var"].fill_(signal.item())
    return state


def measure_sensitivity(statistics: PatchStatistics, channels: int) -> list[float]:
    """Returns the sensitivity of each latent channel.

    The sensitivity is the change of the image, in 8-bit levels (root mean square), if all values
    of the whitened channel change by one unit.
    """
    levels = np.sqrt(statistics.variances[:channels] / len(statistics.mean)) * _LEVELS_PER_UNIT
    return [float(f"{level:.5g}") for level in levels]


def _set_encoder(state: dict[str, Tensor], stats: PatchStatistics, config: DinacAEConfig) -> None:
    width, channels = config.model_dim, config.bottleneck_dim
    # Each channel of the trunk holds one component. The latents hold only the first components, but
    # training may use the others.
    rows = stats.components[:, :width].T / np.sqrt(stats.variances[:width, None])
    state["encoder.patchify.proj.weight"].copy_(_shape_like_patches(rows, config))
    state["encoder.patchify.proj.bias"].copy_(torch.from_numpy(-rows @ stats.mean))
    for name, tensor in state.items():
        if name.startswith("encoder.blocks.") and "_norm2." in name:
            tensor.zero_()
    weight, bias = state["encoder.to_bottleneck.weight"], state["encoder.to_bottleneck.bias"]
    weight.zero_()
    weight[:channels, :channels, 0, 0] = torch.eye(channels)
    bias.zero_()
    bias[channels:] = _POSTERIOR_LOGSNR


def _set_decoder(state: dict[str, Tensor], stats: PatchStatistics, config: DinacAEConfig) -> None:
    width, channels = config.model_dim, config.bottleneck_dim
    spare = width - channels  # channels that hold the noisy image; the output ignores them
    rows = stats.components[:, :width].T
    state["decoder.patchify.proj.weight"].copy_(_shape_like_patches(rows, config))
    state["decoder.patchify.proj.bias"].zero_()
    _set_linear(state, "decoder.latent_up", torch.eye(width, channels))
    fuse_in = torch.zeros(width, 2 * width)
    fuse_in[channels:, :spare] = torch.eye(spare) * _NOISE_SHARE
    fuse_in[:channels, width : width + channels] = torch.eye(channels)
    _set_linear(state, "decoder.fuse_in", fuse_in)
    _set_linear(state, "decoder.fuse_skip", torch.eye(width).repeat(1, 2) / 2)
    scale = torch.sigmoid(_POSTERIOR_LOGSNR).sqrt().item()
    columns = stats.components[:, :channels] * np.sqrt(stats.variances[:channels]) / scale
    out = torch.zeros(len(stats.mean), width)
    out[:, :channels] = torch.from_numpy(columns)
    _set_linear(state, "decoder.out_proj", out)
    state["decoder.out_proj.bias"].copy_(torch.from_numpy(stats.mean))
    _open_blocks(state, config)


def _open_blocks(state: dict[str, Tensor], config: DinacAEConfig) -> None:
    """Makes the decoder's blocks add nothing before training, but learn from the first step on."""
    state["decoder.adaln_base.proj.bias"][config.model_dim :] = 1.0  # the gates
    middle = config.depthwise_kernel_size // 2
    for name, tensor in state.items():
        if name.startswith("decoder.") and ".pwconv2." in name:
            tensor.zero_()
        elif name.endswith(".dwconv.weight"):
            tensor *= _FILTER_NOISE
            tensor[:, 0, middle, middle] += 1.0
        elif name.endswith(".dwconv.bias"):
            tensor.zero_()


def _set_linear(state: dict[str, Tensor], name: str, weight: Tensor) -> None:
    """Sets the weight of a pointwise convolution, and sets its bias to zero."""
    state[f"{name}.weight"].copy_(weight[:, :, None, None])
    state[f"{name}.bias"].zero_()


def _shape_like_patches(rows: Floats, config: DinacAEConfig) -> Tensor:
    side = config.patch_size
    return torch.from_numpy(np.ascontiguousarray(rows)).reshape(-1, 3, side, side)


def _list_symmetries(patch_size: int) -> Iterable[npt.NDArray[np.intp]]:
    """Yields the eight orientations of a patch, as permutations of the patch vector."""
    grid = np.arange(3 * patch_size**2).reshape(3, patch_size, patch_size)
    for transpose, flip_y, flip_x in itertools.product((False, True), repeat=3):
        oriented = grid.transpose(0, 2, 1) if transpose else grid
        oriented = oriented[:, ::-1] if flip_y else oriented
        oriented = oriented[:, :, ::-1] if flip_x else oriented
        yield oriented.ravel()


def main(folder: str, out: str) -> None:
    """Builds the KLT of a folder of images in the architecture of `nano`. Writes the checkpoint."""
    paths = sorted(path for path in Path(folder).rglob("*") if is_image_name(path))
    images = (read_image(path.read_bytes()).pixels for path in paths)
    statistics = measure_patches(images, NANO_CONFIG.patch_size)
    settings = {SENSITIVITY_KEY: measure_sensitivity(statistics, NANO_CONFIG.bottleneck_dim)}
    state = build_klt(statistics, NANO_CONFIG)
    save_checkpoint(state, NANO_CONFIG, Path(out), torch.bfloat16, settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
