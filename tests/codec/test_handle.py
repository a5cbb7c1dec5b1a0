"""A model is identified before it is loaded, and loaded once."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.codec.quantizer import SENSITIVITY_KEY
from dinac_cli.errors import DeviceError, ModelError, UsageError
from dinac_cli.models.dinac.fast import ladder
from dinac_cli.models.dinac.fast.ladder import Choice
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.interface import TORCH
from dinac_cli.models.registry import resolve_model

from .conftest import GOLDEN, make_handle


def copy_tiny(folder: Path, **settings: object) -> DinacModel:
    shutil.copytree(GOLDEN / "tiny", folder / "mine")
    config = folder / "mine/config.json"
    config.chmod(0o644)
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    return DinacModel(folder / "mine", "mine")


def test_only_the_requested_part_is_loaded() -> None:
    model = make_handle(part="decoder").engine._model
    assert hasattr(model, "decoder")
    assert not hasattr(model, "encoder")


def test_engine_is_loaded_once(encoder: ModelHandle) -> None:
    assert encoder.engine is encoder.engine


def test_handles_are_keys_by_identity() -> None:
    handles = [make_handle(), make_handle()]
    assert len({handle: handle.label for handle in handles}) == 2


def test_identity_does_not_load_the_weights() -> None:
    handle = make_handle()
    assert handle.traits.channels == 8
    assert len(handle.identity.latent_space) == 16
    assert "engine" not in vars(handle)


def test_embedded_model_is_calibrated() -> None:
    nano = ModelHandle(resolve_model("nano"), "encoder", DeviceChoice())
    assert nano.sensitivity is not None
    assert nano.sensitivity.shape == (128,)
    steps = nano.choose_steps("q8")
    assert steps is not None
    assert steps[0] < steps[127]  # an error in the strongest component costs most


def test_absent_or_unknown_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    handle = ModelHandle(
        DinacModel(GOLDEN / "tiny", "tiny"), "encoder", DeviceChoice(device="cuda")
    )
    with pytest.raises(DeviceError, match="device cuda is not available"):
        _ = handle.engine
    handle.choice = DeviceChoice(device="tpu")
    with pytest.raises(UsageError, match="device 'tpu' is unknown"):
        _ = handle.engine


def test_the_device_of_a_model_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker for cuda:1 must not take memory on cuda:0."""
    current: list[str] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: current.append(str(device)))
    monkeypatch.setattr(ladder, "choose_step", lambda *_, **__: Choice(TORCH))
    handle = make_handle()
    handle.use_device("cuda:1")
    assert handle.gpu_step == Choice(TORCH)
    assert current == ["cuda:1"]
    assert handle.compute == "cuda/f32/torch"


class TestCheck:
    def test_sound_model_passes(self, encoder: ModelHandle) -> None:
        encoder.check("q8")
        encoder.check()

    def test_damaged_configuration_is_refused(self, tmp_path: Path) -> None:
        model = copy_tiny(tmp_path, model_dim=65)
        with pytest.raises(ModelError, match="model_dim is 65"):
            ModelHandle(model, "encoder", DeviceChoice()).check()

    def test_missing_checkpoint_is_refused(self, tmp_path: Path) -> None:
        model = DinacModel(tmp_path / "gone", "gone")
        with pytest.raises(ModelError, match="does not exist"):
            ModelHandle(model, "encoder", DeviceChoice()).check()

    def test_damaged_calibration_is_refused(self, tmp_path: Path) -> None:
        model = copy_tiny(tmp_path, **{SENSITIVITY_KEY: [1.0]})
        with pytest.raises(ModelError, match="must be 8 positive numbers"):
            ModelHandle(model, "encoder", DeviceChoice()).check("q8")


def test_steps_follow_the_calibration_of_a_checkpoint(tmp_path: Path) -> None:
    model = copy_tiny(tmp_path, **{SENSITIVITY_KEY: [1, 2, 4, 8, 16, 32, 64, 128]})
    steps = ModelHandle(model, "encoder", DeviceChoice()).choose_steps("q8")
    assert steps is not None
    assert np.array_equal(steps, steps[0] / 2.0 ** np.arange(8))


def test_module_does_not_import_torch() -> None:
    assert "torch" not in vars(sys.modules["dinac_cli.codec.handle"])
