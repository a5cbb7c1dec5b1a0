"""The reference results, and the small networks that they belong to."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEConfig, DinacAEInferenceConfig, from_json
from dinac_cli.models.dinac.fast.autoencoder import accelerate
from dinac_cli.models.dinac.fast.operations import Operations

GOLDEN = Path(__file__).parent.parent / "golden"


@dataclass(frozen=True)
class Golden:
    """One folder of reference results: network, images, and what comes of them."""

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


def _read_golden(name: str) -> Golden:
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
    return _read_golden("tiny")


@pytest.fixture(scope="session")
def pair() -> Golden:
    return _read_golden("pair")


@pytest.fixture(scope="session")
def goldens(tiny: Golden, pair: Golden) -> list[Golden]:
    return [tiny, pair]


def accelerate_golden(golden: Golden, operations: Operations, tried: Sequence[int]) -> Golden:
    """The same reference results, with the fast networks."""
    float32, bfloat16 = (accelerate(m, operations) for m in (golden.float32, golden.bfloat16))
    return replace(golden, float32=float32, bfloat16=bfloat16, settings_tried=tried)


@pytest.fixture(scope="session")
def triton_operations() -> Operations:
    """Triton's kernels, interpreted (see the outer conftest) or compiled."""
    pytest.importorskip("triton")
    return importlib.import_module("dinac_cli.models.dinac.fast.triton_operations")


@pytest.fixture(scope="session")
def manifest() -> dict[str, Any]:
    document: dict[str, Any] = read_json(GOLDEN / "dinac_ae_d2.manifest.json")
    return document


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what is remembered out of the user's cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DINAC_CACHE", str(folder))
    return folder
