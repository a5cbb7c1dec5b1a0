"""A small model and random images for the tests of the codec."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.models.dinac.model import DinacModel

GOLDEN = Path(__file__).parent.parent / "golden"

Pixels = npt.NDArray[np.uint8]


def draw(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_handle(name: str = "tiny", part: str = "encoder") -> ModelHandle:
    return ModelHandle(
        DinacModel(GOLDEN / name, name), part, DeviceChoice(device="cpu", dtype="f32")
    )


@pytest.fixture(scope="session")
def encoder() -> ModelHandle:
    return make_handle()


@pytest.fixture(scope="session")
def decoder() -> ModelHandle:
    return make_handle(part="decoder")
