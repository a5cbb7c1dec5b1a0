"""Whole records: round trips, deterministic bytes, refused headers, and opening files."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
import zstandard

from dinac_cli.container.frame import PREAMBLE
from dinac_cli.container.header import PRECISIONS
from dinac_cli.container.record import (
    hash_record,
    measure_record,
    open_record,
    pack_record,
    read_header,
    read_latents,
    unpack_record,
)
from dinac_cli.container.tensors import join_planes, split_planes
from dinac_cli.errors import FormatError, Rejection

from .hand_made import (
    SHAPE,
    checksum,
    frame_of,
    make_header,
    make_latents,
    make_record,
    plain_content,
    raw_blocks,
    steps_for,
)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_record_comes_back(precision: str) -> None:
    header, latents = make_header(SHAPE, precision), make_latents(SHAPE)
    steps = steps_for(precision)
    record = unpack_record(pack_record(header, latents, steps))
    assert record.header == header
    assert record.latents.dtype == np.float32
    expected = join_planes(split_planes(latents, precision, steps), SHAPE)
    np.testing.assert_array_equal(record.latents, expected)
    half_step = 0 if steps is None else steps.max() * 0.5001
    np.testing.assert_allclose(record.latents, latents, rtol=2**-8, atol=half_step)


def test_anonymous_record_comes_back() -> None:
    header = make_header((1, 1, 1), name="", source_bytes=None, source_sha256=None)
    assert unpack_record(pack_record(header, make_latents((1, 1, 1)))).header == header


def test_strided_array_packs_to_the_same_bytes() -> None:
    latents = make_latents(SHAPE)
    strided = np.repeat(latents, 2, axis=2)[:, :, ::2]
    assert pack_record(make_header(SHAPE), strided) == pack_record(make_header(SHAPE), latents)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_same_input_gives_same_bytes_in_every_thread(precision: str) -> None:
    shape = (16, 24, 24)
    records = [make_record(precision, shape)]
    thread = threading.Thread(target=lambda: records.append(make_record(precision, shape)))
    thread.start()
    make_record("f32", SHAPE)
    thread.join()
    records.append(make_record(precision, shape))
    assert len(set(records)) == 1


def test_header_is_written_canonically() -> None:
    content = zstandard.ZstdDecompressor().decompress(make_record("q8")[len(PREAMBLE) :])
    size = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + size].decode()
    entries = json.loads(text)
    assert text.rstrip(" ") == json.dumps(entries, sort_keys=True, separators=(",", ":"))
    assert size % 8 == 0
    assert entries == {
        "__metadata__": {
            "compute": "cpu/bf16",
            "created_by": "dinac-cli 0.1.0",
            "dinac": "1",
            "height": "31",
            "image": "orientation=applied;color=srgb;alpha=none;frame=1/1",
            "latent_space": "9f86d081884c7d65",
            "model": "nano",
            "name": "trip/a.jpg",
            "patch": "16",
            "precision": "q8",
            "predictor": "none",
            "revision": "1",
            "shape": "[3,2,5]",
            "source_bytes": "51244",
            "source_sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
            "step": "",
            "weights": "a54d88e06612d820",
            "width": "79",
        },
        "latents.q.high": {"dtype": "I8", "shape": [3, 2, 5], "data_offsets": [12, 42]},
        "latents.q.low": {"dtype": "I8", "shape": [3, 2, 5], "data_offsets": [42, 72]},
        "latents.step": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
    }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_safetensors_library_opens_the_content(precision: str) -> None:
    record = make_record(precision)
    tensors = safetensors.numpy.load(zstandard.ZstdDecompressor().decompress(record[24:]))
    expected = split_planes(make_latents(SHAPE), precision, steps_for(precision))
    assert tensors.keys() == expected.keys()
    for name, plane in expected.items():
        np.testing.assert_array_equal(tensors[name], plane)


def read_by_the_specification(record: bytes) -> npt.NDArray[np.float32]:
    """A second reader of valid records, written from the specification alone."""
    content = zstandard.ZstdDecompressor().decompress(record[24:])
    tensors = safetensors.numpy.load(content)
    size = int.from_bytes(content[:8], "little")
    values = json.loads(content[8 : 8 + size])["__metadata__"]
    shape = json.loads(values["shape"])
    if values["precision"] == "f32":
        return tensors["latents"].astype(np.float32)
    if values["precision"] == "bf16":
        rotated = tensors["latents.exponent"].astype(np.uint32) << 8 | tensors["latents.mantissa"]
        return np.asarray(rotated << 15 & 0x7FFF0000 | rotated << 31, np.uint32).view(np.float32)
    if "latents.q.high" in tensors:
        symbols = tensors["latents.q.high"] * np.int16(256) + tensors["latents.q.low"]
    elif tensors["latents.q"].dtype == np.uint8:
        halves = np.stack([tensors["latents.q"] >> 4, tensors["latents.q"] & 15], axis=1)
        symbols = halves.astype(np.int8).ravel()[: np.prod(shape)].reshape(shape) - np.int8(8)
    else:
        symbols = tensors["latents.q"]
    steps = tensors["latents.step"].astype(np.float32)
    return np.asarray(steps[:, None, None] * symbols, np.float32)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_second_reader_agrees(precision: str) -> None:
    for shape in (SHAPE, (3, 3, 3)):
        record = make_record(precision, shape)
        np.testing.assert_array_equal(
            read_by_the_specification(record), unpack_record(record).latents
        )


def test_zstd_program_opens_records(tmp_path: Path) -> None:
    program = shutil.which("zstd")
    if program is None:
        pytest.skip("zstd is not installed")
    path = tmp_path / "a.dinac"
    path.write_bytes(make_record("bf16") + make_record("f32"))
    output = subprocess.run([program, "-dc", path], capture_output=True, check=True).stdout
    contents = [
        zstandard.ZstdDecompressor().decompress(make_record(precision)[24:])
        for precision in ("bf16", "f32")
    ]
    assert output == b"".join(contents)
    latents = safetensors.numpy.load(output[len(contents[0]) :])["latents"]
    np.testing.assert_array_equal(latents, make_latents(SHAPE))


def test_content_that_compresses_well_is_read() -> None:
    latents = np.full((128, 64, 64), 0.5, np.float32)
    record = pack_record(make_header(latents.shape, "f32"), latents)
    assert len(record) < 2000
    np.testing.assert_array_equal(unpack_record(record).latents, latents)


@pytest.mark.parametrize("precision", ["f32", "bf16", "q3"])
def test_header_is_read_from_the_first_block(precision: str) -> None:
    record = make_record(precision, (128, 32, 32))
    assert read_header(record) == unpack_record(record).header
    assert read_header(memoryview(record)[:800]) == unpack_record(record).header
    file = io.BytesIO(b"before" + record)
    file.seek(6)
    assert read_header(file) == unpack_record(record).header
    assert file.tell() < 800


def test_header_in_many_small_blocks_is_read() -> None:
    content = plain_content(model="m" * 20_000)
    blocks = raw_blocks(content, size=997)
    record = PREAMBLE + frame_of(blocks, len(content), checksum(content))
    assert read_header(record).model == "m" * 20_000
    assert unpack_record(record).header == read_header(record)


def test_header_above_the_limit_is_not_written() -> None:
    with pytest.raises(FormatError) as caught:
        pack_record(make_header(SHAPE, model="m" * (1 << 16)), make_latents(SHAPE))
    assert caught.value.rejection is Rejection.HEADER_SIZE


def test_latents_of_another_shape_are_not_written() -> None:
    with pytest.raises(FormatError) as caught:
        pack_record(make_header((3, 5, 2)), make_latents(SHAPE))
    assert caught.value.rejection is Rejection.SHAPE


@pytest.mark.parametrize(
    ("field", "value", "rejection"),
    [
        ("name", "../a", Rejection.NAME),
        ("precision", "q2", Rejection.PRECISION),
        ("predictor", "left", Rejection.PREDICTOR),
        ("height", 64, Rejection.SHAPE),
        ("weights", "", Rejection.METADATA),
        ("model", "models/\udcff", Rejection.METADATA),
        ("source_bytes", -1, Rejection.METADATA),
        ("source_bytes", 10**15, Rejection.METADATA),
    ],
)
def test_invalid_header_cannot_be_constructed(field: str, value: Any, rejection: Rejection) -> None:
    with pytest.raises(FormatError) as caught:
        make_header(SHAPE, **{field: value})
    assert caught.value.rejection is rejection


def test_latents_and_header_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.dinac"
    path.write_bytes(make_record("f32"))
    latents, header = read_latents(path)
    np.testing.assert_array_equal(latents, make_latents(SHAPE))
    assert header == make_header(SHAPE, "f32")
    assert read_latents(str(path))[1] == header


def test_file_of_two_records_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.dinac"
    path.write_bytes(make_record("f32") * 2)
    with pytest.raises(FormatError) as caught:
        read_latents(path)
    assert caught.value.rejection is Rejection.TRAILING


def test_only_a_file_of_exactly_one_record_is_whole(tmp_path: Path) -> None:
    record = make_record("bf16", (128, 32, 32))
    path = tmp_path / "a.dinac"
    zeroed = record[:2000] + bytes(len(record) - 2000)  # as after a power failure
    for data, whole in [
        (record, True),
        (record[:-1], False),
        (record + b"\0", False),
        (record * 2, False),
        (zeroed, False),
    ]:
        path.write_bytes(data)
        with path.open("rb") as file:
            opened = open_record(file)
            assert opened.header == read_header(record)
            assert opened.is_whole() is whole
    for data in (b"", record[:60] + bytes(len(record) - 60)):  # not even a header
        with pytest.raises(FormatError):
            open_record(io.BytesIO(data))


def test_open_record_unpacks_exactly_its_bytes() -> None:
    record = make_record("bf16", (128, 32, 32))
    opened = open_record(record)
    assert opened.header == read_header(record)
    np.testing.assert_array_equal(opened.unpack().latents, unpack_record(record).latents)
    for data, rejection in [
        (record[:-1], Rejection.TRUNCATED),
        (record + b"\0", Rejection.TRAILING),
        (record[:-1] + bytes([record[-1] ^ 1]), Rejection.CHECKSUM),
    ]:
        with pytest.raises(FormatError) as caught:
            open_record(memoryview(data)).unpack()
        assert caught.value.rejection is rejection


def test_record_is_measured_at_the_position_of_the_file() -> None:
    first, second = make_record("f32"), make_record("bf16", (128, 32, 32))
    file = io.BytesIO(first + second)
    assert [measure_record(file), measure_record(file)] == [len(first), len(second)]


def test_record_hash_is_the_sha256_of_its_bytes() -> None:
    assert hash_record(b"abc").startswith("ba7816bf8f01cfea")
    assert hash_record(memoryview(b"abc")) == hash_record(b"abc")


def test_overhead_stays_small() -> None:
    shape = (128, 16, 16)
    latents = make_latents(shape)
    record = pack_record(make_header(shape, height=256, width=256), latents)
    payload_bits = 10.63  # per value of unit normal bfloat16; the entropy is 10.5
    assert len(record) < latents.size * payload_bits / 8 + 480
    assert read_header(record).width == 256


def test_container_imports_without_torch() -> None:
    program = "import sys, dinac_cli.container.record; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert result.stdout.split() == [b"False"]
