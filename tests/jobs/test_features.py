"""Features runs, beyond what the tests of the command show: stops, precision, stored tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import pack_encoded, pack_record, read_header
from dinac_cli.container.tensors import Encoded
from dinac_cli.jobs.feature_set import FeatureSet, is_feature_file
from dinac_cli.jobs.features import FeatureOptions, predict_features
from dinac_cli.jobs.model_choice import FixedModel
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.storage.output import Output, OutputKind

from .hand_made import GOLDEN, make_handle, run_control, select_latents


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


def test_a_stopped_run_writes_no_file(tmp_path: Path, model: ModelHandle) -> None:
    folder = fill(tmp_path / "latents", model, np.zeros((8, 2, 2), np.float32), 5)
    output = Output(str(tmp_path / "out.safetensors"), OutputKind.FILE, is_feature_file)
    features, control = FeatureSet(), run_control(1, 1)
    inputs, models = select_latents(folder), FixedModel(model)
    for result in predict_features(inputs, output, models, FeatureOptions(), features, control):
        assert not result.failed
        control.stop.set()
    assert 1 <= len(features.rows) < 5
    assert features.size_bytes == 0
    assert list(tmp_path.iterdir()) == [folder]


def test_bfloat16_is_near_float32_and_only_the_class_head_is_loaded(tmp_path: Path) -> None:
    model = make_handle("tiny", "class_head", "bf16")
    cases = load_file(GOLDEN / "tiny/cases.safetensors")
    folder = fill(tmp_path / "latents", model, cases["latents.0"][0], 1)
    features = FeatureSet()
    inputs, models = select_latents(folder), FixedModel(model)
    [result] = predict_features(inputs, None, models, FeatureOptions(), features, run_control())
    assert result.facts == {"name": "0"}
    exact = cases["class_token.0"][0]
    error = np.abs(features.rows[0].class_token - exact).max()
    theirs = np.abs(cases["class_token_autocast_bf16.0"][0] - exact).max()
    assert 0 < error <= 2 * theirs
    assert model.engine.compute == "cpu/bf16"
    network = model.engine._model
    assert isinstance(network, DinacAE)
    assert set(network.count_parameters()) == {"class_head", "total"}


def test_stored_tokens_are_used_unless_of_other_weights_or_patch_tokens_are_wanted(
    tmp_path: Path, model: ModelHandle
) -> None:
    latents, token = np.zeros((8, 2, 2), np.float32), np.ones(64, np.float32)
    folder = fill(tmp_path / "latents", model, latents, 1)
    header = read_header((folder / "0.dinac").read_bytes())
    for number, weights in ((1, header.weights), (2, "0" * 16)):
        stored = dataclasses.replace(header, weights=weights)
        record = pack_encoded(stored, Encoded(latents, class_token=token))
        (folder / f"{number}.dinac").write_bytes(record)
    used: list[list[bool]] = []
    for spatial in (False, True):
        features, options = FeatureSet(), FeatureOptions(spatial=spatial)
        inputs, models = select_latents(folder), FixedModel(model)
        results = list(predict_features(inputs, None, models, options, features, run_control()))
        assert not [result.reason for result in results if result.failed]
        used.append([bool((row.class_token == token).all()) for row in features.list_rows()])
    assert used == [[False, True, False], [False] * 3]
