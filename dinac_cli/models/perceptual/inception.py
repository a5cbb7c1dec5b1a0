"""The Inception network of the Fréchet inception distance (FID), with weights from a file.

It is the network of TensorFlow's release of 2015-12-05, under the tensor names of pytorch-fid and
torch-fidelity. It differs from torchvision's Inception V3 in its pooling: averages leave out the
padding, and the last block takes a maximum.

Source: Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception architecture for
computer vision", CVPR 2016; Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, "GANs trained by
a two time-scale update rule converge to a local Nash equilibrium", NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinac_cli.models.perceptual.weight_file import load_weights
from dinac_cli.models.tensor_file import read_tensor_table

SIDE = 299
"""The side in pixels of the image that the network sees."""

_BATCH_NORM_EPSILON = 0.001
_STATISTICS = ("weight", "bias", "running_mean", "running_var")

Pixels = NDArray[np.uint8]
Kernel = tuple[int, int]
_ONE, _THREE, _FIVE, _WIDE, _HIGH = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


class Convolve(Protocol):
    """A convolution, batch normalisation and ReLU: [B, C, h, w] to `out` channels."""

    def __call__(
        self,
        name: str,
        x: Tensor,
        out: int,
        kernel: Kernel,
        stride: int = 1,
        is_padded: bool = True,
    ) -> Tensor:
        """If `is_padded`, the padding keeps the size (with stride 1)."""


def extract_features(x: Tensor, conv: Convolve) -> Tensor:
    """Returns the features [B, 2048] of images [B, 3, 299, 299], scaled to -1 to 1."""
    x = conv("Conv2d_1a_3x3", x, 32, _THREE, stride=2, is_padded=False)  # B 32 149 149
    x = conv("Conv2d_2a_3x3", x, 32, _THREE, is_padded=False)
    x = conv("Conv2d_2b_3x3", x, 64, _THREE)
    x = F.max_pool2d(x, 3, stride=2)  # B 64 73 73
    x = conv("Conv2d_3b_1x1", x, 80, _ONE)
    x = conv("Conv2d_4a_3x3", x, 192, _THREE, is_padded=False)
    x = F.max_pool2d(x, 3, stride=2)  # B 192 35 35
    for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = _mix_small(name, x, pooled, conv)
    x = _reduce_early("Mixed_6a", x, conv)  # B 768 17 17
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = _mix_long(name, x, width, conv)
    x = _reduce_late("Mixed_7a", x, conv)  # B 1280 8 8
    x = _mix_wide("Mixed_7b", x, _average, conv)
    x = _mix_wide("Mixed_7c", x, _take_maximum, conv)
    return x.mean(dim=(2, 3))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _take_maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def _mix_small(name: str, x: Tensor, pooled: int, conv: Convolve) -> Tensor:
    five = conv(f"{name}.branch5x5_1", x, 48, _ONE)
    double = conv(f"{name}.branch3x3dbl_1", x, 64, _ONE)
    double = conv(f"{name}.branch3x3dbl_2", double, 96, _THREE)
    branches = [
        conv(f"{name}.branch1x1", x, 64, _ONE),
        conv(f"{name}.branch5x5_2", five, 64, _FIVE),
        conv(f"{name}.branch3x3dbl_3", double, 96, _THREE),
        conv(f"{name}.branch_pool", _average(x), pooled, _ONE),
    ]
    return torch.cat(branches, dim=1)


def _reduce_early(name: str, x: Tensor, conv: Convolve) -> Tensor:
    double = conv(f"{name}.branch3x3dbl_1", x, 64, _ONE)
    double = conv(f"{name}.branch3x3dbl_2", double, 96, _THREE)
    branches = [
        conv(f"{name}.branch3x3", x, 384, _THREE, stride=2, is_padded=False),
        conv(f"{name}.branch3x3dbl_3", double, 96, _THREE, stride=2, is_padded=False),
        F.max_pool2d(x, 3, stride=2),
    ]
    return torch.cat(branches, dim=1)


def _mix_long(name: str, x: Tensor, width: int, conv: Convolve) -> Tensor:
    seven = conv(f"{name}.branch7x7_1", x, width, _ONE)
    seven = conv(f"{name}.branch7x7_2", seven, width, _WIDE)
    double = conv(f"{name}.branch7x7dbl_1", x, width, _ONE)
    for number, kernel in ((2, _HIGH), (3, _WIDE), (4, _HIGH)):
        double = conv(f"{name}.branch7x7dbl_{number}", double, width, kernel)
    branches = [
        conv(f"{name}.branch1x1", x, 192, _ONE),
        conv(f"{name}.branch7x7_3", seven, 192, _HIGH),
        conv(f"{name}.branch7x7dbl_5", double, 192, _WIDE),
        conv(f"{name}.branch_pool", _average(x), 192, _ONE),
    ]
    return torch.cat(branches, dim=1)


def _reduce_late(name: str, x: Tensor, conv: Convolve) -> Tensor:
    three = conv(f"{name}.branch3x3_1", x, 192, _ONE)
    seven = conv(f"{name}.branch7x7x3_1", x, 192, _ONE)
    seven = conv(f"{name}.branch7x7x3_2", seven, 192, _WIDE)
    seven = conv(f"{name}.branch7x7x3_3", seven, 192, _HIGH)
    branches = [
        conv(f"{name}.branch3x3_2", three, 320, _THREE, stride=2, is_padded=False),
        conv(f"{name}.branch7x7x3_4", seven, 192, _THREE, stride=2, is_padded=False),
        F.max_pool2d(x, 3, stride=2),
    ]
    return torch.cat(branches, dim=1)


def _mix_wide(name: str, x: Tensor, pool: Callable[[Tensor], Tensor], conv: Convolve) -> Tensor:
    three = conv(f"{name}.branch3x3_1", x, 384, _ONE)
    double = conv(f"{name}.branch3x3dbl_1", x, 448, _ONE)
    double = conv(f"{name}.branch3x3dbl_2", double, 384, _THREE)
    branches = [
        conv(f"{name}.branch1x1", x, 320, _ONE),
        conv(f"{name}.branch3x3_2a", three, 384, (1, 3)),
        conv(f"{name}.branch3x3_2b", three, 384, (3, 1)),
        conv(f"{name}.branch3x3dbl_3a", double, 384, (1, 3)),
        conv(f"{name}.branch3x3dbl_3b", double, 384, (3, 1)),
        conv(f"{name}.branch_pool", pool(x), 192, _ONE),
    ]
    return torch.cat(branches, dim=1)


def list_shapes() -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of all tensors of the network."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(
        name: str, x: Tensor, out: int, kernel: Kernel, stride: int = 1, is_padded: bool = True
    ) -> Tensor:
        shapes[f"{name}.conv.weight"] = (out, x.shape[1], *kernel)
        shapes.update({f"{name}.bn.{part}": (out,) for part in _STATISTICS})
        weight = torch.empty(shapes[f"{name}.conv.weight"], device="meta")
        return F.conv2d(x, weight, stride=stride, padding=_pad(kernel, is_padded))

    extract_features(torch.empty(1, 3, SIDE, SIDE, device="meta"), note)
    return shapes


def _pad(kernel: Kernel, is_padded: bool) -> Kernel:
    return (kernel[0] // 2, kernel[1] // 2) if is_padded else (0, 0)


@dataclass(frozen=True)
class Inception:
    """The network in float32 on the CPU."""

    weights: Mapping[str, Tensor]

    def describe(self, pixels: Pixels) -> NDArray[np.float64]:
        """Returns the features [2048] of a uint8 [H, W, 3] image of any size."""
        with torch.inference_mode():
            features = extract_features(resize(pixels).sub_(128).div_(128), self._convolve)
        return features[0].to(torch.float64).numpy()

    def _convolve(
        self,
        name: str,
        x: Tensor,
        out: int,
        kernel: Kernel,
        stride: int = 1,
        is_padded: bool = True,
    ) -> Tensor:
        weight = self.weights[f"{name}.conv.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=_pad(kernel, is_padded))
        gain, bias, mean, variance = (self.weights[f"{name}.bn.{part}"] for part in _STATISTICS)
        return F.relu_(F.batch_norm(x, mean, variance, gain, bias, eps=_BATCH_NORM_EPSILON))


def resize(pixels: Pixels) -> Tensor:
    """Scales uint8 [H, W, 3] to float32 [1, 3, 299, 299] as TensorFlow 1 does, from 0 to 255.

    Bilinear without antialiasing; the corner pixels of both grids have the same upper left corner,
    not the same centre. Large images are therefore sampled, not averaged: the published FID is
    defined so.
    """
    rows, columns = (_place(length) for length in pixels.shape[:2])
    top, bottom = (_mix_columns(pixels[index], columns) for index in rows[:2])
    share = rows[2][:, None, None]
    scaled = top * (1 - share) + bottom * share  # 299 299 3
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1))[None])


_Place = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def _place(length: int) -> _Place:
    """Returns the two neighbours of each of 299 positions, and the share of the second."""
    position = np.arange(SIDE, dtype=np.float32) * np.float32(length / SIDE)
    lower = np.floor(position).astype(np.int64)
    return lower, np.minimum(lower + 1, length - 1), position - lower.astype(np.float32)


def _mix_columns(rows: Pixels, columns: _Place) -> NDArray[np.float32]:
    left, right, share = columns
    share = share[None, :, None]
    mixed: NDArray[np.float32] = rows[:, left] * (1 - share) + rows[:, right] * share
    return mixed


def load_inception(path: Path) -> Inception:
    """Loads the network from a safetensors file.

    Raises ModelError if the file cannot be read, CheckpointError if it does not hold the weights.
    """
    shapes = list_shapes()
    return Inception(load_weights(read_tensor_table(path), shapes, "the Inception network of FID"))
