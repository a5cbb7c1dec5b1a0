"""LPIPS, the distance of two images in the features of a network, with weights from a file.

Source: Zhang, Isola, Efros, Shechtman and Wang, "The unreasonable effectiveness of deep features as
a perceptual metric", CVPR 2018; version 0.1 of the linear layers.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinac_cli.errors import CheckpointError, ImageError, quote_error
from dinac_cli.models.perceptual.backbones import ALEX, SQUEEZE, VGG, Backbone, Weights
from dinac_cli.models.perceptual.weight_file import load_weights
from dinac_cli.models.tensor_file import TensorTable, read_tensor_table

Pixels = NDArray[np.uint8]

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and divisor per channel, for RGB values from -1 to 1."""

_EPSILON = 1e-10  # added to the length of a feature vector, as the package lpips does

_SLICE = re.compile(r"net\.slice\d+\.(?=\d)")
_LINEAR = re.compile(r"lin(\d+)\.model\.1\.weight")


def canonical_name(stored: str) -> str:
    """Returns the name of a tensor: `features.N.…` of the backbone, or `linN.weight`.

    Accepts the names of the package lpips, `net.sliceK.N.…` and `linN.model.1.weight`. Other names
    stay as they are.
    """
    if found := _LINEAR.fullmatch(stored):
        return f"lin{found[1]}.weight"
    return _SLICE.sub("features.", stored, count=1) if _SLICE.match(stored) else stored


@dataclass(frozen=True)
class Lpips:
    """LPIPS with the features of `backbone`, in float32 on the CPU."""

    backbone: Backbone
    weights: Weights
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def measure(self, first: Pixels, second: Pixels) -> float:
        """Returns the distance of two uint8 [H, W, 3] images: 0 if they are identical.

        Their sizes are equal and within the limits of the backbone. Only one thread measures at a
        time, because torch uses all cores, and to bound the memory. Raises ImageError if torch
        fails, for example without enough memory.
        """
        with self._lock, torch.inference_mode():
            try:
                return self._measure(prepare(first), prepare(second))
            except RuntimeError as exc:
                height, width, _ = first.shape
                message = f"LPIPS failed for {width}x{height} pixels; leave out lpips"
                raise ImageError(message, [quote_error(exc)]) from exc

    def _measure(self, first: Tensor, second: Tensor) -> float:
        total = 0.0
        for index, stage in enumerate(self.backbone.stages):
            for layer in stage:
                first, second = layer.run(first, self.weights), layer.run(second, self.weights)
            total += compare_features(first, second, self.weights[f"lin{index}.weight"])
        return total


def prepare(pixels: Pixels) -> Tensor:
    """Returns uint8 [H, W, 3] as float32 [1, 3, H, W], scaled to -1 to 1 and normalised."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    x = torch.from_numpy(planes)[None].to(torch.float32)  # 1 3 H W
    shift, scale = (torch.tensor(values)[:, None, None] for values in (SHIFT, SCALE))
    x.div_(127.5).sub_(1).sub_(shift).div_(scale)
    return x


def compare_features(first: Tensor, second: Tensor, weight: Tensor) -> float:
    """Returns the weighted squared distance of unit features [1, C, h, w], averaged over h and w.

    `weight` is [1, C, 1, 1].
    """
    difference = _normalise(first).sub_(_normalise(second)).square_()
    return float(F.conv2d(difference, weight).mean(dtype=torch.float64))


def _normalise(features: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / length.add_(_EPSILON)


def load_lpips(path: Path) -> Lpips:
    """Loads LPIPS from a safetensors file; its tensors decide the backbone.

    Raises ModelError if the file cannot be read, CheckpointError if it does not hold the weights.
    """
    table = read_tensor_table(path, canonical_name)
    backbone = choose_backbone(table)
    shapes = dict(backbone.list_shapes())
    linear = {f"lin{n}.weight": (1, count, 1, 1) for n, count in enumerate(backbone.channels)}
    return Lpips(backbone, load_weights(table, shapes | linear, f"LPIPS ({backbone.name})"))


def choose_backbone(table: TensorTable) -> Backbone:
    """Returns the backbone that the shapes and names belong to. Raises CheckpointError."""
    shapes = table.canonical_shapes
    for backbone in (ALEX, SQUEEZE, VGG):
        # The first two layers tell the backbones apart.
        (first, shape), _, (second, _) = list(backbone.list_shapes())[:3]
        if shapes.get(first) == shape and second in shapes:
            return backbone
    raise CheckpointError(
        f"{table.path} does not hold the features of AlexNet, VGG16 or SqueezeNet 1.1; "
        "'dinac man metrics' lists the tensors"
    )
