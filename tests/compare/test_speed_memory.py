"""Speeds are found again on the same machine; entries that somebody damaged are not."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dinac_cli.compare.figures import Speed
from dinac_cli.compare.throughput import SpeedMemory, Task
from dinac_cli.compare.variants import ComparedModel

TASK = Task("decode", 4, 256)
SPEED = Speed(model="m", task="decode", steps=4, side=256, batch=1, ms_per_batch=5.0, peak_mib=None)


@pytest.fixture
def model() -> ComparedModel:
    identity = SimpleNamespace(weights="w", latent_space="l")
    handle = SimpleNamespace(identity=identity, compute="c")
    return cast(ComparedModel, SimpleNamespace(label="m", handle=handle))


def store(path: Path, model: ComparedModel, **changes: Any) -> SpeedMemory:
    """Writes one speed, changes it in the file, and returns what another run reads."""
    SpeedMemory(str(path), {"name": "box"}).add(model, TASK, SPEED)
    entries = json.loads(path.read_bytes())
    path.write_text(json.dumps({key: asdict(SPEED) | changes for key in entries}), "ascii")
    return SpeedMemory(str(path), {"name": "box"})


def test_a_speed_is_found_again_on_this_machine_only(tmp_path: Path, model: ComparedModel) -> None:
    path = tmp_path / "speeds.json"
    assert store(path, model).find(model, TASK) == SPEED
    assert SpeedMemory(str(path), {"name": "other"}).find(model, TASK) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"ms_per_batch": 0},
        {"ms_per_batch": "x"},
        {"ms_per_batch": float("nan")},
        {"batch": None},
        {"side": -1},
        {"steps": "4"},
        {"peak_mib": [1]},
        {"another": 1},
    ],
)
def test_a_damaged_speed_is_measured_again(
    tmp_path: Path, model: ComparedModel, changes: dict[str, Any]
) -> None:
    assert store(tmp_path / "speeds.json", model, **changes).find(model, TASK) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": 1}', b"[" * 100_000])
def test_a_damaged_file_holds_no_speeds(
    tmp_path: Path, model: ComparedModel, content: bytes
) -> None:
    (tmp_path / "speeds.json").write_bytes(content)
    memory = SpeedMemory(str(tmp_path / "speeds.json"), {})
    assert memory.find(model, TASK) is None
