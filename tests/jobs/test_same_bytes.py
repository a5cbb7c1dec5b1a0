"""An image's record is the same bytes in any company, order and trouble, at full model width.

At that width sums over the inner dimension of 3584 are long enough for a product of another shape
to add them up in another order; a narrow network would not show it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable
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
from dinac_cli.jobs.decode import DecodeOptions, decode_files
from dinac_cli.jobs.encode import EncodeOptions, encode_files
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.request import Selection
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.checkpoint import save_checkpoint
from dinac_cli.models.dinac.config import DinacAEConfig, DinacAEInferenceConfig
from dinac_cli.models.dinac.fast.autoencoder import FastDinacAE
from dinac_cli.models.registry import ResolvedModel
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.parts import Shard

from .hand_made import (
    images_out,
    latents_out,
    read_tree,
    select_images,
    select_latents,
    write_images,
)

WIDE = DinacAEConfig(
    encoder_depth=1, decoder_depth=3, decoder_start_blocks=1, decoder_end_blocks=1
).without_class_head()

# (workers, in flight): what --workers and --batch-size set.
CONTROLS = [(1, 1), (2, 3), (4, 16)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    model = DinacAE(WIDE)
    assert WIDE.mlp_dim == 3584
    for name, tensor in model.named_parameters():
        if "adaln" in name or name.endswith(("gamma", "beta")):
            torch.nn.init.normal_(tensor, std=0.05)
    folder = tmp_path_factory.mktemp("wide")
    save_checkpoint(model.state_dict(), WIDE, folder)
    return folder


@pytest.fixture(scope="module", params=["f32", "bf16"])
def encoder(request: pytest.FixtureRequest, checkpoint: Path) -> ModelHandle:
    choice = DeviceChoice("cpu", request.param)
    return ModelHandle(ResolvedModel(checkpoint, "wide"), "encoder", choice)


@pytest.fixture(scope="module", params=["f32", "bf16"])
def decoder(request: pytest.FixtureRequest, checkpoint: Path) -> ModelHandle:
    choice = DeviceChoice("cpu", request.param)
    return ModelHandle(ResolvedModel(checkpoint, "wide"), "decoder", choice)


@pytest.fixture(params=[1, 3], ids=["one a call", "three a call"])
def batch_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The micro-batches of the processor, and of the kind that a GPU computes in."""
    size: int = request.param
    monkeypatch.setattr(Engine, "batch_size", lambda engine, height, width: size)
    return size


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    write_images(folder, "a.png", "b.png", "c.png", "d.png", height=64, width=80)
    write_images(folder, "e.png", "f.png", height=50, width=70)  # padded to the same size
    write_images(folder, "g.png", "h.png", height=33, width=100)
    return folder


def encode(
    inputs: Iterable[Input],
    out: Path,
    model: ModelHandle,
    control: RunControl,
    geometry: Geometry = NO_GEOMETRY,
) -> dict[str, bytes]:
    options = EncodeOptions(posterior=True, geometry=geometry)
    results = list(encode_files(inputs, latents_out(out), model, options, control))
    assert not [result.reason for result in results if result.failed]
    return read_tree(out)


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every second first try of the model, side by side with others, lacks memory; counts them."""
    tries: list[int] = []
    for name in ("encode_posterior", "decode"):
        real = getattr(DinacAE, name)

        def lack(
            model: FastDinacAE, *args: object, real: object = real, **kwargs: object
        ) -> Tensor:
            if threading.current_thread() is not threading.main_thread():
                tries.append(1)
                if len(tries) % 2:
                    raise torch.OutOfMemoryError("CUDA out of memory")
            assert callable(real)
            result: Tensor = real(model, *args, **kwargs)
            return result

        monkeypatch.setattr(FastDinacAE, name, lack, raising=False)
    return tries


class TestEncode:
    def test_in_any_company_and_order(
        self, images: Path, tmp_path: Path, encoder: ModelHandle, batch_size: int
    ) -> None:
        alone: dict[str, bytes] = {}
        for path in sorted(images.iterdir()):
            out = tmp_path / f"alone-{path.stem}"
            alone |= encode(select_images(path), out, encoder, RunControl(1, 1))
        assert len(alone) == 8
        assert len({data[-64:] for data in alone.values()}) == 8
        entries = list(select_images(images))
        for number, (workers, in_flight) in enumerate(CONTROLS):
            for turn, inputs in enumerate((entries, entries[::-1], entries[3:] + entries[:3])):
                out = tmp_path / f"{number}-{turn}"
                assert encode(inputs, out, encoder, RunControl(workers, in_flight)) == alone

    @pytest.mark.parametrize("batch_size", [3], indirect=True)
    def test_with_mirrored_twins(
        self, images: Path, tmp_path: Path, encoder: ModelHandle, batch_size: int
    ) -> None:
        plain = encode(select_images(images), tmp_path / "plain", encoder, RunControl(2, 4))
        twins = [
            encode(
                select_images(images), tmp_path / f"{workers}", encoder,
                RunControl(workers, in_flight), Geometry(flip=True),
            )
            for workers, in_flight in CONTROLS
        ]  # fmt: skip
        assert twins[0] == twins[1] == twins[2]
        for path in sorted(images.iterdir()):
            with Image.open(path) as image:
                image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
        mirrored = encode(select_images(images), tmp_path / "mirrored", encoder, RunControl(2, 4))
        for name, data in twins[0].items():
            record = unpack_record(data, COMPANIONS, with_twin=True)
            assert record.flipped is not None
            for made, alone in ((record, plain[name]), (record.flipped, mirrored[name])):
                expected = unpack_record(alone, COMPANIONS)
                np.testing.assert_array_equal(made.latents, expected.latents)
                np.testing.assert_array_equal(made.logsnr, expected.logsnr)

    def test_whatever_memory_was_lacking(
        self,
        images: Path,
        tmp_path: Path,
        encoder: ModelHandle,
        batch_size: int,
        request: pytest.FixtureRequest,
    ) -> None:
        expected = encode(select_images(images), tmp_path / "calm", encoder, RunControl(2, 4))
        tries = request.getfixturevalue("short_of_memory")
        short = encode(select_images(images), tmp_path / "short", encoder, RunControl(2, 4))
        assert short == expected
        assert len(tries) >= 3  # the first and the third lacked it

    @pytest.mark.parametrize("batch_size", [3], indirect=True)
    def test_in_parts_and_from_where_it_stopped(
        self, images: Path, tmp_path: Path, encoder: ModelHandle, batch_size: int
    ) -> None:
        whole = encode(select_images(images), tmp_path / "whole", encoder, RunControl(2, 4))
        parts: dict[str, bytes] = {}
        for index in range(3):
            part = dataclasses.replace(select_images(images), shard=Shard(index, 3))
            made = encode(part, tmp_path / f"{index}", encoder, RunControl(2, 4))
            assert not parts.keys() & made.keys()
            parts |= made
        assert parts == whole
        for stop in (1, 4, 7):
            out = tmp_path / f"stopped-{stop}"
            start = dataclasses.replace(select_images(images), limit=stop)
            assert len(encode(start, out, encoder, RunControl(2, 4))) == stop
            assert encode(select_images(images), out, encoder, RunControl(4, 16)) == whole


class TestDecode:
    @pytest.mark.parametrize("batch_size", [3], indirect=True)
    def test_in_parts_and_from_where_it_stopped(
        self, images: Path, tmp_path: Path, checkpoint: Path, decoder: ModelHandle, batch_size: int
    ) -> None:
        latents = tmp_path / "latents"
        model = ModelHandle(
            ResolvedModel(checkpoint, "wide"), "encoder", DeviceChoice("cpu", "bf16")
        )
        encode(select_images(images), latents, model, RunControl())
        options = DecodeOptions(
            DinacAEInferenceConfig(num_steps=1, seed=1), OUTPUT_FORMATS["png"], lambda _: decoder
        )

        def decode(inputs: Selection, name: str, limit: int | None = None) -> dict[str, bytes]:
            limited = dataclasses.replace(options, limit=limit)
            out = images_out(tmp_path / name)
            results = list(decode_files(inputs, out, limited, RunControl(2, 4)))
            assert not [result.reason for result in results if result.failed]
            return read_tree(tmp_path / name)

        whole = decode(select_latents(latents), "whole")
        parts: dict[str, bytes] = {}
        for index in range(3):
            part = dataclasses.replace(select_latents(latents), shard=Shard(index, 3))
            parts |= decode(part, f"{index}")
        assert parts == whole
        assert len(decode(select_latents(latents), "stopped", limit=5)) == 5
        assert decode(select_latents(latents), "stopped") == whole

    def test_in_any_company_and_trouble(
        self,
        images: Path,
        tmp_path: Path,
        checkpoint: Path,
        decoder: ModelHandle,
        batch_size: int,
        request: pytest.FixtureRequest,
    ) -> None:
        latents = tmp_path / "latents"
        model = ModelHandle(
            ResolvedModel(checkpoint, "wide"), "encoder", DeviceChoice("cpu", "f32")
        )
        encode(select_images(images), latents, model, RunControl())
        settings = DinacAEInferenceConfig(num_steps=2, pdg=True, seed=1)
        options = DecodeOptions(settings, OUTPUT_FORMATS["png"], lambda header: decoder)

        def decode(source: Path, name: str, control: RunControl) -> dict[str, bytes]:
            out = tmp_path / name
            results = decode_files(select_latents(source), images_out(out), options, control)
            assert not [result.reason for result in list(results) if result.failed]
            return read_tree(out)

        alone: dict[str, bytes] = {}
        for path in sorted(latents.iterdir()):
            alone |= decode(path, f"alone-{path.stem}", RunControl(1, 1))
        assert len(set(alone.values())) == 8
        for workers, in_flight in CONTROLS:
            assert decode(latents, f"{workers}", RunControl(workers, in_flight)) == alone
        request.getfixturevalue("short_of_memory")
        assert decode(latents, "short", RunControl(2, 4)) == alone
