"""An image's record has the same bytes in any batch, in any order, and after any failure.

The network has the inner dimension of the released model, 3584: sums that long may be added up in
another order in a product of another shape. So may products of few rows at any width: with torch
2.13 on an x86 CPU, in float32, those of 1, 2, 3, 5 or 6 tokens differ from the same tokens in a
product of two or three times as many. The other dimensions are small, to save time.
"""

from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dinac_cli.codec.engine import Engine
from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.container.record import unpack_record
from dinac_cli.container.tensors import COMPANIONS
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry
from dinac_cli.jobs.decode import DecodeOptions, decode_inputs
from dinac_cli.jobs.encode import EncodeOptions, encode_inputs
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.model_choice import FixedModel
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.checkpoint import save_checkpoint
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.fast.autoencoder import FastDinacAE
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.interface import DinacAEInferenceConfig
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.parts import Shard

from .hand_made import (
    images_out,
    latents_out,
    read_tree,
    run_control,
    select_images,
    select_latents,
    write_images,
)

LONG_SUMS = DinacAEConfig(
    model_dim=128,
    mlp_ratio=28.0,
    encoder_depth=1,
    decoder_depth=3,
    decoder_start_blocks=1,
    decoder_end_blocks=1,
).without_class_head()

# (workers, in flight): the values of --workers and --batch-size.
CONTROLS = [(1, 1), (2, 3), (4, 16)]
NAMES = ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png", "g.png"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    model = DinacAE(LONG_SUMS)
    assert LONG_SUMS.mlp_dim == 3584
    for name, tensor in model.named_parameters():
        if "adaln" in name or name.endswith(("gamma", "beta")):
            torch.nn.init.normal_(tensor, std=0.05)
    folder = tmp_path_factory.mktemp("long-sums")
    save_checkpoint(model.state_dict(), LONG_SUMS, folder)
    return folder


def make_handle(checkpoint: Path, part: str, dtype: str) -> ModelHandle:
    choice = DeviceChoice(device="cpu", dtype=dtype)
    return ModelHandle(DinacModel(checkpoint, "long-sums"), part, choice)


@pytest.fixture(scope="module", params=["f32", "bf16"])
def encoder(request: pytest.FixtureRequest, checkpoint: Path) -> ModelHandle:
    return make_handle(checkpoint, "encoder", request.param)


@pytest.fixture(scope="module", params=["f32", "bf16"])
def decoder(request: pytest.FixtureRequest, checkpoint: Path) -> ModelHandle:
    return make_handle(checkpoint, "decoder", request.param)


@pytest.fixture(params=[1, 3], ids=["one a call", "three a call"])
def batch_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Sets the micro-batch: that of the CPU, or one of several images as on a GPU."""
    size: int = request.param
    monkeypatch.setattr(Engine, "batch_size", lambda engine, height, width: size)
    return size


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of images of 6, 1 and 20 tokens."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, *NAMES[:3], height=32, width=48)
    write_images(folder, "d.png", height=25, width=40)  # padded to the same size
    write_images(folder, "e.png", "f.png", height=16, width=16)
    write_images(folder, "g.png", height=64, width=80)
    return folder


@pytest.fixture(scope="module")
def latents(images: Path, tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """Returns the folder of the records of `images`."""
    folder = tmp_path_factory.mktemp("latents")
    model = make_handle(checkpoint, "encoder", "f32")
    encode(select_images(images), folder, model, run_control())
    return folder


def encode(
    inputs: Iterable[Input],
    out: Path,
    model: ModelHandle,
    control: RunControl,
    geometry: Geometry = NO_GEOMETRY,
) -> dict[str, bytes]:
    options = EncodeOptions(posterior=True, geometry=geometry)
    results = list(encode_inputs(inputs, latents_out(out), model, options, control))
    assert not [result.reason for result in results if result.failed]
    return read_tree(out)


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Lets every second call in a thread of the model run out of memory; counts the calls.

    Each failure collects garbage, which is slow with all modules of the tests loaded: these are
    left out.
    """
    calls: list[int] = []
    for name in ("encode_pixels", "decode_pixels"):
        real = getattr(FastDinacAE, name)

        def call(
            model: FastDinacAE, *args: object, real: object = real, **kwargs: object
        ) -> Tensor:
            if threading.current_thread() is not threading.main_thread():
                calls.append(1)
                if len(calls) % 2:
                    raise torch.OutOfMemoryError("CUDA out of memory")
            assert callable(real)
            result: Tensor = real(model, *args, **kwargs)
            return result

        monkeypatch.setattr(FastDinacAE, name, call)
    gc.freeze()
    yield calls
    gc.unfreeze()


class TestEncode:
    def test_batch_and_order_do_not_matter(
        self, images: Path, tmp_path: Path, encoder: ModelHandle, batch_size: int
    ) -> None:
        alone: dict[str, bytes] = {}
        for name in NAMES:
            inputs = select_images(images / name)
            alone |= encode(inputs, tmp_path / f"alone-{name}", encoder, run_control(1, 1))
        assert len({data[-64:] for data in alone.values()}) == len(NAMES)
        entries = list(select_images(images))
        for number, (workers, in_flight) in enumerate(CONTROLS):
            for turn, order in enumerate((entries[::-1], entries[3:] + entries[:3])):
                control = run_control(workers, in_flight)
                assert encode(order, tmp_path / f"{number}-{turn}", encoder, control) == alone

    @pytest.mark.parametrize("batch_size", [3], indirect=True)
    def test_mirrored_twins_do_not_matter(
        self, images: Path, tmp_path: Path, encoder: ModelHandle, batch_size: int
    ) -> None:
        plain = encode(select_images(images), tmp_path / "plain", encoder, run_control())
        twins = [
            encode(
                select_images(images),
                tmp_path / f"{workers}",
                encoder,
                run_control(workers, in_flight),
                Geometry(flip=True),
            )
            for workers, in_flight in CONTROLS
        ]
        assert twins[0] == twins[1] == twins[2]
        (tmp_path / "in").mkdir()
        for path in images.iterdir():
            with Image.open(path) as image:
                image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "in" / path.name)
        inputs = select_images(tmp_path / "in")
        mirrored = encode(inputs, tmp_path / "mirrored", encoder, run_control())
        for name, data in twins[0].items():
            record = unpack_record(data, COMPANIONS, with_twin=True)
            assert record.flipped is not None
            for made, alone in ((record, plain[name]), (record.flipped, mirrored[name])):
                expected = unpack_record(alone, COMPANIONS)
                np.testing.assert_array_equal(made.latents, expected.latents)
                np.testing.assert_array_equal(made.logsnr, expected.logsnr)

    def test_running_out_of_memory_does_not_matter(
        self,
        images: Path,
        tmp_path: Path,
        encoder: ModelHandle,
        batch_size: int,
        request: pytest.FixtureRequest,
    ) -> None:
        expected = encode(select_images(images), tmp_path / "calm", encoder, run_control())
        calls = request.getfixturevalue("short_of_memory")
        short = encode(select_images(images), tmp_path / "short", encoder, run_control())
        assert short == expected
        assert len(calls) >= 3  # the first and the third ran out of memory

    @pytest.mark.parametrize("batch_size", [3], indirect=True)
    def test_shards_and_interruptions_do_not_matter(
        self, images: Path, tmp_path: Path, encoder: ModelHandle, batch_size: int
    ) -> None:
        whole = encode(select_images(images), tmp_path / "whole", encoder, run_control())
        parts: dict[str, bytes] = {}
        for index in range(3):
            part = dataclasses.replace(select_images(images), shard=Shard(index, 3))
            made = encode(part, tmp_path / f"{index}", encoder, run_control())
            assert not parts.keys() & made.keys()
            parts |= made
        assert parts == whole
        for stop in (1, 4):
            out = tmp_path / f"stopped-{stop}"
            start = dataclasses.replace(select_images(images), limit=stop)
            assert len(encode(start, out, encoder, run_control())) == stop
            assert encode(select_images(images), out, encoder, run_control(4, 16)) == whole


class TestDecode:
    @staticmethod
    def decode(
        inputs: Iterable[Input],
        out: Path,
        model: ModelHandle,
        control: RunControl,
        settings: DinacAEInferenceConfig,
        limit: int | None = None,
    ) -> dict[str, bytes]:
        options = DecodeOptions(settings=settings, format=OUTPUT_FORMATS["png"])
        models = FixedModel(model)
        results = decode_inputs(inputs, images_out(out), models, options, control, limit=limit)
        assert not [result.reason for result in results if result.failed]
        return read_tree(out)

    @pytest.mark.parametrize("batch_size", [3], indirect=True)
    def test_shards_and_interruptions_do_not_matter(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle, batch_size: int
    ) -> None:
        def decode(
            name: str, limit: int | None = None, shard: Shard | None = None
        ) -> dict[str, bytes]:
            inputs = dataclasses.replace(select_latents(latents), shard=shard)
            settings = DinacAEInferenceConfig(seed=1)
            return self.decode(inputs, tmp_path / name, decoder, run_control(), settings, limit)

        whole = decode("whole")
        assert len(whole) == len(NAMES)
        parts: dict[str, bytes] = {}
        for index in range(3):
            parts |= decode(f"{index}", shard=Shard(index, 3))
        assert parts == whole
        assert len(decode("stopped", limit=5)) == 5
        assert decode("stopped") == whole

    def test_batch_and_failures_do_not_matter(
        self,
        latents: Path,
        tmp_path: Path,
        decoder: ModelHandle,
        batch_size: int,
        request: pytest.FixtureRequest,
    ) -> None:
        def decode(source: Path, name: str, workers: int, in_flight: int) -> dict[str, bytes]:
            control = run_control(workers, in_flight)
            settings = DinacAEInferenceConfig(num_steps=2, pdg=True, seed=1)
            return self.decode(select_latents(source), tmp_path / name, decoder, control, settings)

        alone: dict[str, bytes] = {}
        for name in NAMES:
            alone |= decode(latents / f"{name}.dinac", f"alone-{name}", 1, 1)
        assert len(set(alone.values())) == len(NAMES)
        for workers, in_flight in CONTROLS:
            assert decode(latents, f"{workers}", workers, in_flight) == alone
        request.getfixturevalue("short_of_memory")
        assert decode(latents, "short", 2, 4) == alone
