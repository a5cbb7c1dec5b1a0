"""Tests that need a GPU: `pytest -n 0 tests/gpu`. Without a GPU, all of them are skipped.

`DINAC_TEST_DEVICE=cpu` runs those that can also run on a CPU: it shows that the tests themselves
work.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from dinac_cli.codec.engine import Engine
from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.models.device import prepare_device
from dinac_cli.models.dinac.fast.ladder import Choice
from dinac_cli.models.interface import GRAPHS, PLAIN, STEP_VARIABLE, TORCH, TRITON
from dinac_cli.models.registry import resolve_model

from ..models.conftest import Golden, read_golden

DEVICE = torch.device(os.environ.get("DINAC_TEST_DEVICE", "cuda:0"))
IS_GPU = DEVICE.type == "cuda"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips these tests if they cannot run, and those that need a real GPU on a CPU."""
    for item in items:
        if "gpu" not in item.path.parent.parts[-1:]:
            continue
        if IS_GPU and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        elif IS_GPU and os.environ.get("TRITON_INTERPRET") == "1":
            reason = "needs compiled kernels: run `pytest -n 0 tests/gpu` alone"
            item.add_marker(pytest.mark.skip(reason=reason))
        elif not IS_GPU and item.get_closest_marker("needs_gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a real GPU"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    prepare_device(DEVICE)
    return DEVICE


@pytest.fixture(scope="session")
def goldens(device: torch.device) -> list[Golden]:
    """The reference results, and the small networks that must give them, on the device."""
    return [
        replace(
            golden,
            cases={name: tensor.to(device) for name, tensor in golden.cases.items()},
            float32=golden.float32.to(device),
            bfloat16=golden.bfloat16.to(device),
        )
        for golden in map(read_golden, ("tiny", "pair"))
    ]


@pytest.fixture(params=[GRAPHS, TRITON, TORCH, PLAIN])
def step(request: pytest.FixtureRequest) -> Choice:
    """A step of the ladder. On a CPU, there are no graphs."""
    if request.param == GRAPHS and not IS_GPU:
        pytest.skip("needs a real GPU")
    return Choice(request.param)


@pytest.fixture
def named_step(step: Choice, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same step, named by the user."""
    monkeypatch.setenv(STEP_VARIABLE, step.step)
    return step.step


def load_nano(part: str, dtype: str = "bf16", *, device: torch.device = DEVICE) -> ModelHandle:
    """Returns the embedded model on the device; its engine is not cached between tests."""
    choice = DeviceChoice(device=str(device), dtype=dtype)
    return ModelHandle(resolve_model("nano"), part, choice)


def make_engine(part: str, dtype: str = "bf16") -> Engine:
    return load_nano(part, dtype).engine
