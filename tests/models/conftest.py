"""The reference results, and the small networks that produced them."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEConfig, from_json
from dinac_cli.models.dinac.fast.autoencoder import accelerate
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.interface import DinacAEInferenceConfig

GOLDEN = Path(__file__).parent.parent / "golden"


@dataclass(frozen=True)
class Golden:
    """One folder of reference results: a network, images and expected outputs."""

    folder: Path
    config: DinacAEConfig
    cases: dict[str, Tensor]
    image_count: int
    settings: list[DinacAEInferenceConfig]
    float32: DinacAE
    bfloat16: DinacAE
    settings_tried: Sequence[int] = range(8)

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def read_golden(name: str) -> Golden:
    """Reads the reference results in the folder `name`, and loads their networks on the CPU."""
    folder = GOLDEN / name
    described = read_json(folder / "cases.json")
    return Golden(
        folder=folder,
        config=from_json(read_json(folder / "config.json")),
        cases=load_file(folder / "cases.safetensors"),
        image_count=len(described["sizes"]),
        settings=[DinacAEInferenceConfig(**case) for case in described["decode_cases"]],
        float32=DinacAE.from_pretrained(folder),
        bfloat16=DinacAE.from_pretrained(folder, dtype=torch.bfloat16),
    )


@pytest.fixture(scope="session")
def tiny() -> Golden:
    return read_golden("tiny")


@pytest.fixture(scope="session")
def pair() -> Golden:
    return read_golden("pair")


@pytest.fixture(scope="session")
def goldens(tiny: Golden, pair: Golden) -> list[Golden]:
    return [tiny, pair]


def accelerate_golden(golden: Golden, operations: Operations, tried: Sequence[int]) -> Golden:
    """Returns the same reference results with the fast networks."""
    float32, bfloat16 = (accelerate(m, operations) for m in (golden.float32, golden.bfloat16))
    return replace(golden, float32=float32, bfloat16=bfloat16, settings_tried=tried)


@pytest.fixture(scope="session")
def triton_operations() -> Operations:
    """Triton's kernels: interpreted (see tests/conftest.py) or compiled."""
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    return importlib.import_module("dinac_cli.models.dinac.fast.triton_operations")


@pytest.fixture(scope="module")
def interpreted_operations(triton_operations: Operations) -> Iterator[Operations]:
    """Triton's operations for a network on the CPU.

    The interpreter takes a fixed time for each instruction of each program, so the kernels run few
    and wide programs. `test_fast_operations.py` tests the usual block sizes.
    """
    if os.environ["TRITON_INTERPRET"] != "1":
        pytest.skip("compiled kernels cannot read the CPU tensors of these networks")
    with pytest.MonkeyPatch.context() as patch:
        for name, size in {"CONV_CHANNELS": 128, "GRN_ROWS": 16, "GRN_COLUMNS": 512}.items():
            patch.setattr(triton_operations, name, size)
        yield triton_operations


@pytest.fixture(scope="session")
def manifest() -> dict[str, Any]:
    document: dict[str, Any] = read_json(GOLDEN / "dinac_ae_d2.manifest.json")
    return document


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps the tests out of the user's cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DINAC_CACHE", str(folder))
    return folder
