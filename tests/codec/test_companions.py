"""Log-SNR and class token from the pass that makes the latents, which stay what they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dinac_cli.codec import engine as engine_module
from dinac_cli.codec.engine import Engine
from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.container.tensors import Encoded
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.fast.graphs import Compute, GraphCache

from .conftest import make_handle

Pixels = npt.NDArray[np.uint8]


def open_engine(dtype: str, *, is_fast: bool = True) -> Engine:
    resolved = make_handle().resolved
    if is_fast:
        choice = DeviceChoice("cpu", dtype)
        return ModelHandle(resolved, "encoder", choice, ("class_head",)).engine
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    parts = ("encoder", "class_head")
    return Engine(DinacAE.from_pretrained(resolved.path, dtype=kind, parts=parts))


def draw(height: int, width: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(engine: Engine, images: list[Pixels], **asked: bool) -> list[Encoded]:
    return engine.submit_images(images, **asked).result()


def to_bytes(encoded: Encoded) -> list[bytes | None]:
    return [None if array is None else array.tobytes() for array in encoded]


IMAGES = [draw(33, 48, 1), draw(48, 40, 2), draw(48, 48, 3)]  # one padded size


@pytest.mark.parametrize("is_fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_nothing_that_is_asked_for_changes_the_rest(dtype: str, is_fast: bool) -> None:
    engine = open_engine(dtype, is_fast=is_fast)
    plain = encode(engine, IMAGES[:1])[0]
    token = encode(engine, IMAGES[:1], class_token=True)[0]
    logsnr = encode(engine, IMAGES[:1], logsnr=True)[0]
    both = encode(engine, IMAGES[:1], logsnr=True, class_token=True)[0]
    assert (plain.logsnr, plain.class_token, token.logsnr, logsnr.class_token) == (None,) * 4
    assert both.logsnr is not None
    assert both.class_token is not None
    expected = [plain.latents.tobytes(), both.logsnr.tobytes(), both.class_token.tobytes()]
    assert to_bytes(both) == expected
    assert to_bytes(token) == [expected[0], None, expected[2]]
    assert to_bytes(logsnr) == [*expected[:2], None]
    assert (both.logsnr.shape, both.class_token.shape) == (plain.latents.shape, (64,))
    assert {array.dtype for array in both if array is not None} == {np.dtype(np.float32)}


def test_values_are_those_of_the_network() -> None:
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
def test_all_is_the_same_alone_and_in_company(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "batch_size", lambda self, height, width: 4)
    engine = open_engine(dtype)
    together = encode(engine, IMAGES, logsnr=True, class_token=True)
    for image, encoded in zip(IMAGES, together, strict=True):
        [alone] = encode(engine, [image], logsnr=True, class_token=True)
        assert to_bytes(alone) == to_bytes(encoded)


def test_recordings_of_other_requests_are_others() -> None:
    recorded: list[Compute] = []

    def record(compute: Compute, batch: torch.Tensor) -> Compute:
        recorded.append(compute)
        return compute

    engine = open_engine("f32")
    engine._graphs = GraphCache(record)
    requests = [{}, {"logsnr": True}, {"class_token": True}, {"logsnr": True, "class_token": True}]
    first = [to_bytes(encode(engine, IMAGES[:1], **asked)[0]) for asked in requests]
    for _ in range(4):
        again = [to_bytes(encode(engine, IMAGES[:1], **asked)[0]) for asked in requests]
        assert again == first
    assert len(recorded) == 4


def test_out_of_memory_in_the_class_head_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine("f32")
    expected = to_bytes(encode(engine, IMAGES[:1], class_token=True)[0])
    real, lacks = DinacAE.predict_class, [torch.OutOfMemoryError("CUDA out of memory")]

    def lack(model: DinacAE, latents: torch.Tensor) -> torch.Tensor:
        if lacks:
            raise lacks.pop()
        return real(model, latents)

    freed: list[torch.device] = []
    monkeypatch.setattr(engine_module, "_free_memory", freed.append)
    monkeypatch.setattr(DinacAE, "predict_class", lack)
    assert to_bytes(encode(engine, IMAGES[:1], class_token=True)[0]) == expected
    assert len(freed) == 1


def test_only_what_is_needed_is_loaded() -> None:
    counts = open_engine("f32")._model.count_parameters()
    assert counts.keys() == {"encoder", "class_head", "total"}
