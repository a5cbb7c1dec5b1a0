"""The summary of a checkpoint, made without loading it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dinac_cli.errors import ModelError
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.dinac.tensor_names import canonical_name, find_part
from dinac_cli.models.facts import count_parameters, read_licence, summarise_model
from dinac_cli.models.registry import resolve_model
from dinac_cli.models.tensor_file import TensorEntry, TensorTable

from .conftest import GOLDEN


def test_parameters_of_the_published_model() -> None:
    manifest = json.loads((GOLDEN / "dinac_ae_d2.manifest.json").read_text())
    entries = {
        name: TensorEntry(name, "F32", tuple(shape), 0, 0)
        for name, shape in manifest["tensors"].items()
    }
    counts = count_parameters(TensorTable(Path("x"), entries, 0, canonical_name), find_part)
    assert counts | {"total": sum(counts.values())} == manifest["parameters"]


def test_nano() -> None:
    summary = summarise_model(resolve_model("nano"))
    assert summary.parameter_count == 5_001_984
    assert (summary.patch, summary.channels, summary.licence) == (16, 128, "apache-2.0")
    assert "class_head" not in summary.parameters


def test_bfloat16_copy_differs_only_in_storage() -> None:
    full, half = (
        summarise_model(DinacModel(GOLDEN / "pair" / name, "pair"))
        for name in ("model.safetensors", "model.bf16.safetensors")
    )
    assert full.parameters == half.parameters
    assert (full.latent_space, full.weights) == (half.latent_space, half.weights)
    assert (full.stored, half.stored) == ("float32", "bfloat16, float32")
    assert full.size_bytes > half.size_bytes


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\ntags:\n- x\nlicense: 'cc-by-4.0'\n---\ntext", "cc-by-4.0"),
        ("---\r\nlicense: apache-2.0\r\n---\r\n", "apache-2.0"),
        ("---\ntags: x\n---\nlicense: mit\n", ""),
        ("license: mit\n", ""),
        ("", ""),
    ],
)
def test_licence_of_a_model_card(tmp_path: Path, card: str, licence: str) -> None:
    (tmp_path / "README.md").write_text(card, newline="")
    assert read_licence(tmp_path) == licence


def test_no_model_card(tmp_path: Path) -> None:
    assert read_licence(tmp_path) == ""


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "tiny/config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        summarise_model(DinacModel(tmp_path, "x"))
