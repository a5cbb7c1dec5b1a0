"""Log-SNR and class token come from the encoding pass and leave the latents unchanged."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from dinac_cli.codec.engine import Engine
from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.container.tensors import Encoded
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.graphs import Compute, GraphCache

from .conftest import Pixels, draw, make_handle


def open_engine(dtype: str, *, is_fast: bool = True) -> Engine:
    resolved = make_handle().resolved
    if is_fast:
        choice = DeviceChoice(device="cpu", dtype=dtype)
        return ModelHandle(resolved, "encoder", choice, ("class_head",)).engine
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    parts = ("encoder", "class_head")
    return Engine(DinacAE.from_pretrained(resolved.path, dtype=kind, parts=parts))


def encode(engine: Engine, images: list[Pixels], **extras: bool) -> list[Encoded]:
    return engine.submit_images(images, **extras).result()


def to_bytes(encoded: Encoded) -> list[bytes | None]:
    return [None if array is None else array.tobytes() for array in encoded]


IMAGES = [draw(33, 48, 1), draw(48, 40, 2), draw(48, 48, 3)]  # share one padded size


@pytest.mark.parametrize("is_fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_extras_do_not_change_each_other_or_the_latents(dtype: str, is_fast: bool) -> None:
    engine = open_engine(dtype, is_fast=is_fast)
    plain = encode(engine, IMAGES[:1])[0]
    token = encode(engine, IMAGES[:1], class_token=True)[0]
    logsnr = encode(engine, IMAGES[:1], logsnr=True)[0]
    both = encode(engine, IMAGES[:1], logsnr=True, class_token=True)[0]
    assert (plain.logsnr, plain.class_token, token.logsnr, logsnr.class_token) == (None,) * 4
    assert both.logsnr is not None
    assert both.class_token is not None
    expected = [plain.latents.tobytes(), both.logsnr.tobytes(), both.class_token.tobytes()]
    assert to_bytes(both) == [*expected, None]  # a mask comes from the image, not from the model
    assert to_bytes(token) == [expected[0], None, expected[2], None]
    assert to_bytes(logsnr) == [*expected[:2], None, None]
    assert (both.logsnr.shape, both.class_token.shape) == (plain.latents.shape, (64,))
    assert {array.dtype for array in both if array is not None} == {np.dtype(np.float32)}


def test_extras_equal_the_outputs_of_the_model() -> None:
    model = DinacAE.from_pretrained(make_handle().resolved.path, parts=("encoder", "class_head"))
    [encoded] = encode(open_engine("f32"), [IMAGES[2]], logsnr=True, class_token=True)
    with torch.inference_mode():
        image = torch.from_numpy(IMAGES[2]).permute(2, 0, 1)[None] / 127.5 - 1
        posterior = model.encode_posterior(image)
        token = model.predict_class(torch.from_numpy(encoded.latents)[None])
    assert encoded.logsnr is not None
    assert encoded.class_token is not None
    np.testing.assert_allclose(encoded.logsnr, posterior.logsnr[0], atol=1e-4)
    np.testing.assert_allclose(encoded.class_token, token[0], atol=1e-5)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_batch_mates_do_not_change_extras(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "batch_size", lambda self, height, width: 4)
    engine = open_engine(dtype)
    together = encode(engine, IMAGES, logsnr=True, class_token=True)
    for image, encoded in zip(IMAGES, together, strict=True):
        [alone] = encode(engine, [image], logsnr=True, class_token=True)
        assert to_bytes(alone) == to_bytes(encoded)


def test_each_set_of_extras_has_its_own_recording() -> None:
    recorded: list[Compute] = []

    def record(compute: Compute, batch: torch.Tensor) -> Compute:
        recorded.append(compute)
        return compute

    engine = open_engine("f32")
    engine._graphs = GraphCache(record)
    requests = [{}, {"logsnr": True}, {"class_token": True}, {"logsnr": True, "class_token": True}]
    first = [to_bytes(encode(engine, IMAGES[:1], **extras)[0]) for extras in requests]
    for _ in range(4):
        again = [to_bytes(encode(engine, IMAGES[:1], **extras)[0]) for extras in requests]
        assert again == first
    assert len(recorded) == 4


def test_out_of_memory_in_the_class_head_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine("f32")
    expected = to_bytes(encode(engine, IMAGES[:1], class_token=True)[0])
    predict, failures = DinacAE.predict_class, [torch.OutOfMemoryError("CUDA out of memory")]

    def fail_once(model: DinacAE, latents: torch.Tensor) -> torch.Tensor:
        if failures:
            raise failures.pop()
        return predict(model, latents)

    collections: list[bool] = []
    monkeypatch.setattr(gc, "collect", lambda: collections.append(True))
    monkeypatch.setattr(DinacAE, "predict_class", fail_once)
    assert to_bytes(encode(engine, IMAGES[:1], class_token=True)[0]) == expected
    assert len(collections) == 1


def test_only_the_requested_parts_are_loaded() -> None:
    model = open_engine("f32")._model
    assert isinstance(model, DinacAE)
    assert model.count_parameters().keys() == {"encoder", "class_head", "total"}
