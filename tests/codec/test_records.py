"""What a record contains, and which models may decode it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os

import numpy as np
import pytest

from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.codec.records import Source, build_record, check_model, name_model
from dinac_cli.container.header import PRECISIONS, RecordHeader
from dinac_cli.container.record import unpack_record
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import ModelError
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.registry import resolve_model

from .conftest import GOLDEN, make_handle

SOURCE = Source("trip/a.jpg", 51244, "2c" * 32, "orientation=none;frame=1/1", 33, 48)
LATENTS = np.random.default_rng(0).standard_normal((8, 3, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def header(encoder: ModelHandle) -> RecordHeader:
    return unpack_record(build_record(SOURCE, Encoded(LATENTS), encoder, "cpu/f32", "bf16")).header


def test_header_fields(encoder: ModelHandle, header: RecordHeader) -> None:
    assert dataclasses.asdict(header) == {
        "name": "trip/a.jpg",
        "model": "tiny",
        "revision": "",
        "latent_space": encoder.identity.latent_space,
        "weights": encoder.identity.weights,
        "compute": "cpu/f32",
        "created_by": f"dinac-cli {importlib.metadata.version('dinac-cli')}",
        "image": "orientation=none;frame=1/1",
        "precision": "bf16",
        "predictor": "none",
        "patch": 16,
        "height": 33,
        "width": 48,
        "shape": (8, 3, 3),
        "step": "",
        "source_bytes": 51244,
        "source_sha256": "2c" * 32,
    }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_error_of_latents_is_within_the_precision(encoder: ModelHandle, precision: str) -> None:
    record = unpack_record(build_record(SOURCE, Encoded(LATENTS), encoder, "cpu/f32", precision))
    steps = encoder.choose_steps(precision)
    largest = {"f32": 0.0, "bf16": 2.0**-8 * 4}.get(precision)
    if largest is None:
        assert steps is not None
        largest = steps.max() * 0.5001
    assert np.abs(record.latents - LATENTS).max() <= largest
    assert build_record(SOURCE, Encoded(LATENTS), encoder, "cpu/f32", precision) == build_record(
        SOURCE, Encoded(LATENTS), encoder, "cpu/f32", precision
    )


def test_undecodable_source_name_is_escaped(encoder: ModelHandle) -> None:
    source = dataclasses.replace(SOURCE, name=os.fsdecode(b"caf\xe9\n/con.jpg"))
    header = unpack_record(build_record(source, Encoded(LATENTS), encoder, "cpu/f32", "f32")).header
    assert header.name == "caf%E9%0A/%63on.jpg"


def test_undecodable_label_is_escaped() -> None:
    resolved = DinacModel(GOLDEN / "tiny", os.fsdecode(b"my\xffmodel"))
    model = ModelHandle(resolved, "encoder", DeviceChoice())
    header = unpack_record(build_record(SOURCE, Encoded(LATENTS), model, "cpu/f32", "f32")).header
    assert header.model == "my%FFmodel"


def test_latents_of_the_same_model_are_accepted(decoder: ModelHandle, header: RecordHeader) -> None:
    check_model(header, decoder, allow_other=False)


def test_other_latent_space_is_refused_unless_allowed(
    decoder: ModelHandle, header: RecordHeader
) -> None:
    other = dataclasses.replace(header, latent_space="0123456789abcdef", model="mine")
    with pytest.raises(ModelError) as caught:
        check_model(other, decoder, allow_other=False)
    assert str(caught.value) == (
        "encoded with model mine (latent space 0123456789abcdef), not with tiny (latent space "
        f"{decoder.identity.latent_space}): give the --model it was encoded with, or "
        "--allow-other-model"
    )
    check_model(other, decoder, allow_other=True)


def test_other_weights_of_the_same_space_are_accepted(
    decoder: ModelHandle, header: RecordHeader
) -> None:
    check_model(dataclasses.replace(header, weights="f" * 16), decoder, allow_other=False)


@pytest.mark.parametrize("allow_other", [False, True])
def test_other_shape_is_always_refused(header: RecordHeader, allow_other: bool) -> None:
    pair = make_handle("pair", "decoder")
    with pytest.raises(
        ModelError, match=r"latents of 8 channels at patch 16 do not fit model pair"
    ):
        check_model(header, pair, allow_other=allow_other)
    nano = ModelHandle(resolve_model("nano"), "decoder", DeviceChoice())
    with pytest.raises(ModelError, match=r"do not fit model nano \(128 at 16\)"):
        check_model(header, nano, allow_other=allow_other)


def test_record_without_a_label_has_an_unknown_model(header: RecordHeader) -> None:
    nameless = dataclasses.replace(header, model="")
    assert name_model(nameless) == f"unknown (latent space {header.latent_space})"


def test_anonymous_record_omits_source_and_local_label(encoder: ModelHandle) -> None:
    record = build_record(SOURCE, Encoded(LATENTS), encoder, "cpu/f32", "f32", anonymous=True)
    header = unpack_record(record).header
    assert header.is_anonymous
    assert (header.name, header.source_bytes, header.source_sha256) == ("", None, None)
    assert (header.model, header.revision) == ("", "")  # the folder's name may identify its owner
    assert header.latent_space == encoder.identity.latent_space
    named = unpack_record(build_record(SOURCE, Encoded(LATENTS), encoder, "cpu/f32", "f32")).header
    assert not named.is_anonymous


def test_anonymous_record_keeps_a_public_label(encoder: ModelHandle) -> None:
    for label, kept in (("nano", "nano"), ("somebody/private", "")):
        resolved = dataclasses.replace(encoder.resolved, label=label, revision="4")
        model = ModelHandle(resolved, "encoder", DeviceChoice())
        record = build_record(SOURCE, Encoded(LATENTS), model, "cpu/f32", "f32", anonymous=True)
        assert unpack_record(record).header.model == kept
