"""The embedded model gives the stored results, and wrong results are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinac_cli import artifacts
from dinac_cli.doctor import probe, reference
from dinac_cli.doctor.finding import Level
from dinac_cli.doctor.reference import (
    REFERENCE,
    draw_image,
    judge_parity,
    measure_bfloat16,
    measure_error,
    measure_float32,
    measure_levels,
    measure_parity,
    read_reference,
)
from dinac_cli.models.aliases import NANO
from dinac_cli.models.dinac.fast import torch_operations
from dinac_cli.models.registry import resolve_model

from .canned import CPU


def test_the_reference_belongs_to_the_embedded_model() -> None:
    """For new weights, run `python -m dinac_cli.artifacts reference`."""
    assert read_reference().weights == resolve_model(NANO).identify().weights
    assert REFERENCE.stat().st_size < 20_000


def test_the_artifact_is_reproduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "reference.safetensors"
    monkeypatch.setattr(artifacts, "REFERENCE", path)
    assert artifacts.main(["reference"]) == 0
    stored = read_reference()
    monkeypatch.setattr(reference, "REFERENCE", path)
    made = read_reference()
    assert measure_error(made.latents, stored.latents) < 1e-5
    assert measure_levels(made.pixels, stored.pixels) < 0.1


def test_the_image_uses_the_whole_range() -> None:
    image = draw_image()
    assert (image.shape, image.dtype) == ((45, 61, 3), np.dtype(np.uint8))
    assert (image.min(), image.max()) == (0, 255)
    assert image.astype(np.int64).sum() == 1_100_891  # the same on every system


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_this_machine_computes_right(dtype: str) -> None:
    facts = measure_parity("cpu", dtype)
    assert facts["compute"] == f"cpu/{dtype}"
    assert judge_parity(facts).level is Level.OK
    assert (facts["latents_error"] > 1e-4) is (dtype == "bf16")


def test_bfloat16_is_compared_only_if_auto_chooses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    for is_fast in (True, False):
        for name in probes:
            monkeypatch.setattr(torch.cpu, name, lambda value=is_fast: value, raising=False)
        facts = measure_bfloat16("cpu")
        assert (facts is not None) is is_fast


@pytest.mark.parametrize("operation", ["normalize", "convolve", "add_gated"])
def test_a_wrong_operation_is_found(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, positive values are 1 % too large. A norm may follow, which removes any scale."""
    exact: Any = getattr(torch_operations, operation)

    def distort(*args: Any) -> torch.Tensor:
        made: torch.Tensor = exact(*args)
        return made + 0.01 * made.relu()

    monkeypatch.setattr(torch_operations, operation, distort)
    assert judge_parity(measure_float32("cpu")).level is Level.FAIL


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latents_error": 0.3}, "latents differ by 0.3 (limit 0.0001)"),
        ({"latents_error": None}, "latents are not numbers"),
        ({"pixels_error": 9.0}, "decoded pixels differ by 9 of 255 levels (limit 0.2)"),
    ],
)
def test_wrong_results_are_a_fault(device: str, changes: dict[str, Any], words: str) -> None:
    facts = {**CPU[probe.FLOAT32], "compute": f"{device}/f32"}
    assert judge_parity(facts).level is Level.OK
    found = judge_parity({**facts, **changes})
    assert found.level is Level.FAIL
    assert words in found.text
    assert ("DINAC_CUDA=plain" in found.remedy) is (device == "cuda")


def test_values_that_are_no_numbers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = torch_operations.normalize
    monkeypatch.setattr(torch_operations, "normalize", lambda *args: exact(*args) * torch.nan)
    facts = measure_float32("cpu")
    assert facts["latents_error"] is None
    assert judge_parity(facts).level is Level.FAIL
