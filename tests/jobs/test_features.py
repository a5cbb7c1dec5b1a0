"""What a features run does that its command line cannot show: stopping, and other arithmetic."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import pack_encoded, pack_record, read_header
from dinac_cli.container.tensors import Encoded
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.feature_set import FeatureSet, is_feature_file
from dinac_cli.jobs.features import FeatureOptions, predict_features
from dinac_cli.models.registry import ResolvedModel
from dinac_cli.storage.inputs import InputScan
from dinac_cli.storage.output import Output, OutputKind

from .hand_made import GOLDEN, LATENTS, make_handle


@pytest.fixture(scope="module")
def model() -> ModelHandle:
    return make_handle("tiny", "class_head")


def fill(folder: Path, model: ModelHandle, latents: npt.NDArray[np.float32], count: int) -> Path:
    folder.mkdir()
    _, rows, columns = latents.shape
    header = RecordHeader(
        shape=(8, rows, columns),
        height=16 * rows,
        width=16 * columns,
        patch=16,
        latent_space=model.identity.latent_space,
        weights=model.identity.weights,
        precision="f32",
    )
    for number in range(count):
        (folder / f"{number}.dinac").write_bytes(pack_record(header, latents))
    return folder


def test_a_run_that_is_stopped_writes_no_file(tmp_path: Path, model: ModelHandle) -> None:
    folder = fill(tmp_path / "latents", model, np.zeros((8, 2, 2), np.float32), 5)
    output = Output(str(tmp_path / "out.safetensors"), OutputKind.FILE, is_feature_file)
    features, control = FeatureSet(), RunControl(workers=1, in_flight=1)
    options = FeatureOptions(lambda header: model)
    scan = InputScan(LATENTS, (str(folder),))
    for result in predict_features(scan, output, options, features, control):
        assert not result.failed
        control.stop.set()
    assert 1 <= len(features.rows) < 5
    assert features.size_bytes == 0
    assert list(tmp_path.iterdir()) == [folder]


def test_bfloat16_is_near_and_a_model_is_loaded_with_its_class_head_alone(tmp_path: Path) -> None:
    choice = DeviceChoice("cpu", "bf16")
    model = ModelHandle(ResolvedModel(GOLDEN / "tiny", "tiny"), "class_head", choice)
    cases = load_file(GOLDEN / "tiny/cases.safetensors")
    folder = fill(tmp_path / "latents", model, cases["latents.0"][0], 1)
    features = FeatureSet()
    options = FeatureOptions(lambda header: model)
    scan = InputScan(LATENTS, (str(folder),))
    [result] = predict_features(scan, None, options, features, RunControl())
    assert dataclasses.asdict(result)["facts"] == {"name": "0"}
    exact = cases["class_token.0"][0]
    error = np.abs(features.rows[0].class_token - exact).max()
    theirs = np.abs(cases["class_token_autocast_bf16.0"][0] - exact).max()
    assert 0 < error <= 2 * theirs
    assert model.engine.compute == "cpu/bf16"
    assert set(model.engine._model.count_parameters()) == {"class_head", "total"}


def test_stored_tokens_are_taken_but_not_with_patch_tokens_or_of_other_weights(
    tmp_path: Path, model: ModelHandle
) -> None:
    latents, token = np.zeros((8, 2, 2), np.float32), np.ones(64, np.float32)
    folder = fill(tmp_path / "latents", model, latents, 1)
    header = read_header((folder / "0.dinac").read_bytes())
    for number, weights in ((1, header.weights), (2, "0" * 16)):
        stored = dataclasses.replace(header, weights=weights)
        record = pack_encoded(stored, Encoded(latents, class_token=token))
        (folder / f"{number}.dinac").write_bytes(record)
    taken: list[list[bool]] = []
    for spatial in (False, True):
        features, scan = FeatureSet(), InputScan(LATENTS, (str(folder),))
        options = FeatureOptions(lambda header: model, spatial)
        results = list(predict_features(scan, None, options, features, RunControl()))
        assert not [result.reason for result in results if result.failed]
        taken.append([bool((row.class_token == token).all()) for row in features.list_rows()])
    assert taken == [[False, True, False], [False] * 3]
