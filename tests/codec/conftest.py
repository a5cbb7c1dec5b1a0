"""A small model for the tests of the codec."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.models.registry import ResolvedModel

GOLDEN = Path(__file__).parent.parent / "golden"


def make_handle(name: str = "tiny", part: str = "encoder") -> ModelHandle:
    return ModelHandle(ResolvedModel(GOLDEN / name, name), part, DeviceChoice("cpu", "f32"))


@pytest.fixture(scope="session")
def encoder() -> ModelHandle:
    return make_handle()


@pytest.fixture(scope="session")
def decoder() -> ModelHandle:
    return make_handle(part="decoder")
