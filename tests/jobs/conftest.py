"""The golden model, loaded once for all tests of the jobs."""

from __future__ import annotations

import pytest

from dinac_cli.codec.handle import ModelHandle

from .hand_made import make_handle


@pytest.fixture(scope="session")
def encoder() -> ModelHandle:
    return make_handle("tiny", "encoder")


@pytest.fixture(scope="session")
def decoder() -> ModelHandle:
    return make_handle("tiny", "decoder")
