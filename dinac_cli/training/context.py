"""The KLT with a decoder that looks at neighbours, in closed form: how the embedded model is made.

What the 128 leading components leave out of a patch is in part foreseen by the latents of the
patches around it. The best linear guess is a least-squares problem; it is solved, cut to as many
features as the decoder's trunk has room for, and written into the decoder's blocks:

- a constant trunk channel, far larger than all others, makes each block's normalisation a constant;
- the difference of two GELUs, gelu(y) - gelu(-y), is y itself;
- so a block adds a linear map of one depthwise filter a channel: right minus left, below minus
  above, left plus right, above plus below, one pair in each of the four blocks.

    python -m dinac_cli.training.context IMAGES OUT
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dinac_cli.codec.quantizer import SENSITIVITY_KEY
from dinac_cli.errors import UsageError
from dinac_cli.images.reading import read_image
from dinac_cli.model.autoencoder import DinacAE
from dinac_cli.model.checkpoint import save_checkpoint
from dinac_cli.model.config import DinacAEConfig
from dinac_cli.training.klt import (
    NANO_CONFIG,
    Floats,
    PatchStatistics,
    build_klt,
    cut_patches,
    list_images,
    measure_patches,
)
from dinac_cli.training.statistics import measure_sensitivity

Pixels = npt.NDArray[np.uint8]

# (offset of the first neighbour, of the second, sign of the second), as (row, column)
_PAIRS = (
    ((0, 1), (0, -1), -1.0),
    ((1, 0), (-1, 0), -1.0),
    ((0, -1), (0, 1), 1.0),
    ((-1, 0), (1, 0), 1.0),
)
_RIDGE = 3e-3  # relative to the mean variance of the regressors
_ANCHOR = 512.0  # the constant channel, a power of two so that bfloat16 has it exactly
_SENSITIVITY_IMAGES = 8


@dataclass(frozen=True)
class LinearContext:
    """What a patch is corrected by, in units of whitened latents and pixels in [-1, 1].

    `center` [C, n] acts on the patch's own latents; `taps` [4, C, k] make k features of the pairs
    of neighbours, which `basis` [k, n] turns into pixels.
    """

    center: Floats
    taps: Floats
    basis: Floats


def fit_context(
    images: Iterable[Pixels], statistics: PatchStatistics, channels: int, features: int
) -> LinearContext:
    """The best linear correction of the KLT with `channels` latents, in `features` dimensions (at
    most 4·channels).

    Least squares over the patches of uint8 images [H, W, 3], each image weighted by the inverse of
    its own error, so that it is the mean PSNR that is made best.
    """
    size = len(_PAIRS) * channels + channels
    gram, moment = np.zeros((size, size)), np.zeros((size, len(statistics.mean)))
    for latents, residual in _project(images, statistics, channels):
        regressors = np.concatenate((latents, *_pair_neighbours(latents)), axis=-1)
        flat = regressors.reshape(-1, size)
        weight = 1 / (len(flat) * max(float(np.mean(residual**2)), 1e-8))
        gram += weight * (flat.T @ flat)
        moment += weight * (flat.T @ residual.reshape(len(flat), -1))
    gram += _RIDGE * np.trace(gram) / size * np.eye(size)
    return _reduce(gram, moment, channels, features)


def add_context(state: dict[str, Tensor], context: LinearContext, config: DinacAEConfig) -> None:
    """Write a correction into the state of a network that `build_klt` made.

    Raises UsageError where the decoder has not one start, two middle and one end block.
    """
    blocks = ("start_blocks.0", "middle_blocks.0", "middle_blocks.1", "end_blocks.0")
    if any(f"decoder.{name}.dwconv.weight" not in state for name in blocks):
        raise UsageError("the context needs one start, two middle and one end block")
    _set_trunk(state, config)
    channels = config.bottleneck_dim
    out = state["decoder.out_proj.weight"][:, :, 0, 0]
    out[:, :channels] += torch.from_numpy(context.center.T)
    out[:, channels:-1] = torch.from_numpy(context.basis.T)
    for name, taps, pair in zip(blocks, context.taps, _PAIRS, strict=True):
        _set_filter(state, f"decoder.{name}.dwconv", pair, channels)
        _set_linear_block(state, f"decoder.{name}", taps, channels)
    bias = state["decoder.adaln_base.proj.bias"]
    bias[config.model_dim :] = 1.0  # the gates are open, the scales stay zero


def _project(
    images: Iterable[Pixels], statistics: PatchStatistics, channels: int
) -> Iterator[tuple[Floats, Floats]]:
    """Whitened latents [h, w, C] and what they leave out [h, w, n], of images and their mirrors."""
    basis = statistics.components[:, :channels]
    deviation = np.sqrt(statistics.variances[:channels])
    side = round((len(statistics.mean) / 3) ** 0.5)
    for image in images:
        for turned in (image, image[:, ::-1], image[::-1], image.transpose(1, 0, 2)):
            grid = (turned.shape[0] // side, turned.shape[1] // side)
            patches = cut_patches(turned, side) - statistics.mean
            projected = patches @ basis
            residual = patches - projected @ basis.T
            yield (projected / deviation).reshape(*grid, -1), residual.reshape(*grid, -1)


def _pair_neighbours(latents: Floats) -> list[Floats]:
    """For each of `_PAIRS` the combined neighbours [h, w, C]; there is nothing beyond the edge."""
    rows, columns, _ = latents.shape
    padded = np.pad(latents, ((1, 1), (1, 1), (0, 0)))

    def shift(offset: tuple[int, int]) -> Floats:
        y, x = 1 + offset[0], 1 + offset[1]
        return padded[y : y + rows, x : x + columns]

    return [shift(first) + sign * shift(second) for first, second, sign in _PAIRS]


def _reduce(gram: Floats, moment: Floats, channels: int, features: int) -> LinearContext:
    """Solve the least squares, the neighbours' part in `features` dimensions (reduced rank).

    Source: reduced-rank regression, Izenman 1975: the singular vectors of the whitened solution.
    """
    own, cross = gram[:channels, :channels], gram[:channels, channels:]
    solution = np.linalg.solve(gram, moment)[channels:]
    conditional = gram[channels:, channels:] - cross.T @ np.linalg.solve(own, cross)
    values, vectors = np.linalg.eigh(conditional)
    root = np.sqrt(np.maximum(values, 1e-12))
    left, strengths, right = np.linalg.svd((vectors * root).T @ solution, full_matrices=False)
    taps = (vectors / root) @ left[:, :features]
    # Features of unit size suit bfloat16; the basis takes their strength.
    size = np.sqrt(np.einsum("ik,ij,jk->k", taps, gram[channels:, channels:], taps) / gram[0, 0])
    basis = strengths[:features, None] * right[:features]
    center = np.linalg.solve(own, moment[:channels] - cross @ (taps @ basis))
    split = (taps / size).reshape(len(_PAIRS), channels, features)
    return LinearContext(center, split, size[:, None] * basis)


def _set_trunk(state: dict[str, Tensor], config: DinacAEConfig) -> None:
    """Trunk channels: the latents, then features, then a constant one.

    The features come from the middle path, all else from the start: with the middle left out the
    picture is the plain KLT's, which is what path-drop guidance goes away from.
    """
    width, channels = config.model_dim, config.bottleneck_dim
    fuse_in = state["decoder.fuse_in.weight"]
    fuse_in[channels:] = 0
    state["decoder.fuse_in.bias"][-1] = 1.0
    fuse_skip = torch.zeros(width, 2 * width)
    for channel in range(width):
        is_feature = channels <= channel < width - 1
        fuse_skip[channel, channel + (width if is_feature else 0)] = 1.0
    state["decoder.fuse_skip.weight"].copy_(fuse_skip[:, :, None, None])


def _set_filter(
    state: dict[str, Tensor],
    name: str,
    pair: tuple[tuple[int, int], tuple[int, int], float],
    channels: int,
) -> None:
    """One pair of neighbours for every latent channel, and the anchor in the last channel."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    middle = weight.shape[-1] // 2
    (y, x), (other_y, other_x), sign = pair
    weight.zero_()
    weight[:channels, 0, middle + y, middle + x] = 1.0
    weight[:channels, 0, middle + other_y, middle + other_x] = sign
    bias.zero_()
    bias[-1] = _ANCHOR


def _set_linear_block(state: dict[str, Tensor], name: str, taps: Floats, channels: int) -> None:
    """Make a block add `taps` [C, k] of its filtered latents to the features."""
    up, down = state[f"{name}.pwconv1.weight"], state[f"{name}.pwconv2.weight"]
    width = up.shape[1]
    # The norm divides by the root mean square, which the anchor alone decides.
    scale = _ANCHOR / width**0.5 * torch.eye(channels)
    up[: 2 * channels] = 0
    up[:channels, :channels, 0, 0] = scale
    up[channels : 2 * channels, :channels, 0, 0] = -scale
    state[f"{name}.pwconv1.bias"][: 2 * channels] = 0
    down.zero_()
    weight = torch.from_numpy(taps.T).float()  # [k, C]
    down[channels:-1, :channels, 0, 0] = weight
    down[channels:-1, channels : 2 * channels, 0, 0] = -weight
    state[f"{name}.pwconv2.bias"].zero_()


def main(folder: str, out: str) -> None:
    """Make the embedded model from a folder of images and write the checkpoint."""
    config, paths = NANO_CONFIG, list_images(folder)

    def read() -> Iterator[Pixels]:
        return (read_image(path.read_bytes()).pixels for path in paths)

    statistics = measure_patches(read(), config.patch_size)
    state = build_klt(statistics, config)
    features = config.model_dim - config.bottleneck_dim - 1
    context = fit_context(read(), statistics, config.bottleneck_dim, features)
    add_context(state, context, config)
    model = DinacAE(config)
    model.load_state_dict(state)
    sample = [image for _, image in zip(range(_SENSITIVITY_IMAGES), read(), strict=False)]
    settings = {SENSITIVITY_KEY: measure_sensitivity(model.eval(), sample, seed=0)}
    save_checkpoint(state, config, Path(out), torch.bfloat16, settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
