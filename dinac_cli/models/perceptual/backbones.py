"""The networks whose features LPIPS compares: AlexNet, VGG16, SqueezeNet 1.1.

Layers and tensor names are those of torchvision, `features.N.…`. Each stage ends with features that
LPIPS compares, as in the package lpips 0.1.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = Iterator[tuple[str, tuple[int, ...]]]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Conv:
    """A convolution with bias, then ReLU. `name` is the tensors' prefix."""

    name: str
    channels_in: int
    channels_out: int
    kernel: int
    stride: int = 1
    padding: int = 0

    def list_shapes(self) -> Shapes:
        """Yields the names and shapes of the tensors."""
        yield f"{self.name}.weight", (self.channels_out, self.channels_in, *[self.kernel] * 2)
        yield f"{self.name}.bias", (self.channels_out,)

    def run(self, x: Tensor, weights: Weights) -> Tensor:
        weight, bias = weights[f"{self.name}.weight"], weights[f"{self.name}.bias"]
        return F.relu_(F.conv2d(x, weight, bias, self.stride, self.padding))


class Fire:
    """The fire module of SqueezeNet: a 1x1 convolution, then a 1x1 and a 3x3 beside each other."""

    def __init__(self, name: str, channels_in: int, squeezed: int, expanded: int) -> None:
        self.squeeze = Conv(f"{name}.squeeze", channels_in, squeezed, 1)
        self.expand = (
            Conv(f"{name}.expand1x1", squeezed, expanded, 1),
            Conv(f"{name}.expand3x3", squeezed, expanded, 3, padding=1),
        )

    def list_shapes(self) -> Shapes:
        """Yields the names and shapes of the tensors."""
        return chain.from_iterable(c.list_shapes() for c in (self.squeeze, *self.expand))

    def run(self, x: Tensor, weights: Weights) -> Tensor:
        squeezed = self.squeeze.run(x, weights)
        return torch.cat([conv.run(squeezed, weights) for conv in self.expand], dim=1)


@dataclass(frozen=True)
class Pool:
    """A maximum over windows, with stride 2. `rounds_up` keeps a window that is not whole."""

    kernel: int
    rounds_up: bool = False

    def list_shapes(self) -> Shapes:
        """Yields nothing."""
        yield from ()

    def run(self, x: Tensor, weights: Weights) -> Tensor:
        return F.max_pool2d(x, self.kernel, stride=2, ceil_mode=self.rounds_up)


Stage = tuple[Conv | Fire | Pool, ...]


@dataclass(frozen=True)
class Backbone:
    """A network. `channels` are those of each stage's features.

    `smallest` is the smallest side in pixels that the pooling leaves a value of. `largest` is the
    number of pixels for which comparing two images takes about 4 GiB.
    """

    name: str
    stages: tuple[Stage, ...]
    channels: tuple[int, ...]
    smallest: int
    largest: int

    def list_shapes(self) -> Shapes:
        """Yields the names and shapes of all tensors."""
        for layer in chain.from_iterable(self.stages):
            yield from layer.list_shapes()


def _chain(*layers: tuple[int, int, int]) -> Stage:
    """Returns 3x3 convolutions: index, channels in, channels out."""
    return tuple(Conv(f"features.{n}", c_in, c_out, 3, padding=1) for n, c_in, c_out in layers)


ALEX = Backbone(
    "alex",
    (
        (Conv("features.0", 3, 64, 11, stride=4, padding=2),),
        (Pool(3), Conv("features.3", 64, 192, 5, padding=2)),
        (Pool(3), *_chain((6, 192, 384))),
        _chain((8, 384, 256)),
        _chain((10, 256, 256)),
    ),
    (64, 192, 384, 256, 256),
    smallest=31,
    largest=50_000_000,
)

VGG = Backbone(
    "vgg",
    (
        _chain((0, 3, 64), (2, 64, 64)),
        (Pool(2), *_chain((5, 64, 128), (7, 128, 128))),
        (Pool(2), *_chain((10, 128, 256), (12, 256, 256), (14, 256, 256))),
        (Pool(2), *_chain((17, 256, 512), (19, 512, 512), (21, 512, 512))),
        (Pool(2), *_chain((24, 512, 512), (26, 512, 512), (28, 512, 512))),
    ),
    (64, 128, 256, 512, 512),
    smallest=16,
    largest=3_000_000,
)

SQUEEZE = Backbone(
    "squeeze",
    (
        (Conv("features.0", 3, 64, 3, stride=2),),
        (Pool(3, True), Fire("features.3", 64, 16, 64), Fire("features.4", 128, 16, 64)),
        (Pool(3, True), Fire("features.6", 128, 32, 128), Fire("features.7", 256, 32, 128)),
        (Pool(3, True), Fire("features.9", 256, 48, 192)),
        (Fire("features.10", 384, 48, 192),),
        (Fire("features.11", 384, 64, 256),),
        (Fire("features.12", 512, 64, 256),),
    ),
    (64, 128, 256, 384, 384, 512, 512),
    smallest=17,
    largest=12_000_000,
)
