"""Decoding many records: each as if it were alone, from files and streams, of several models."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dinac_cli.codec.engine import Engine
from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.container.frame import PREAMBLE
from dinac_cli.container.header import RecordHeader, header_to_metadata
from dinac_cli.container.record import Record, hash_record, pack_record, unpack_record
from dinac_cli.container.zstd import compress_content
from dinac_cli.errors import ModelError, UsageError
from dinac_cli.images.formats import OUTPUT_FORMATS, detect_format
from dinac_cli.images.stamp import read_stamp
from dinac_cli.jobs.decode import DecodeJob, DecodeOptions, decode_files, describe_settings
from dinac_cli.jobs.encode import EncodeOptions, encode_files
from dinac_cli.jobs.entries import RecordEntry
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.models.dinac.config import DinacAEInferenceConfig
from dinac_cli.models.registry import resolve_model
from dinac_cli.storage.output import Output, OutputKind

from .hand_made import (
    images_out,
    latents_out,
    make_handle,
    make_header,
    make_record,
    read_tree,
    reasons,
    run_control,
    select_images,
    select_latents,
    statuses,
    write_images,
)

ONE_STEP = DinacAEInferenceConfig(seed=0)
PNG = OUTPUT_FORMATS["png"]


def make_options(model: ModelHandle, **options: object) -> DecodeOptions:
    defaults = DecodeOptions(ONE_STEP, PNG, lambda header: model)
    return dataclasses.replace(defaults, **options)  # type: ignore[arg-type]


def decode(
    source: Path | str,
    output: Output,
    options: DecodeOptions,
    workers: int = 2,
    in_flight: int = 4,
    stdin: bytes = b"",
    stdout: io.BytesIO | None = None,
) -> list[FileResult]:
    return list(
        decode_files(
            select_latents(source),
            output,
            options,
            run_control(workers, in_flight),
            stdin=io.BytesIO(stdin),
            stdout=stdout,
        )
    )


def pack_with_zeros(model: ModelHandle, size: int) -> bytes:
    """A record with a second tensor, of `size` zeros, which compress to almost nothing."""
    header = make_header(model, "padded.png")
    count = 4 * int(np.prod(header.shape))
    tensors = {
        "latents": {"dtype": "F32", "shape": [*header.shape], "data_offsets": [0, count]},
        "more": {"dtype": "U8", "shape": [size], "data_offsets": [count, count + size]},
    }
    text = json.dumps({"__metadata__": header_to_metadata(header), **tensors}).encode()
    head = len(text).to_bytes(8, "little") + text
    return PREAMBLE + compress_content([head, bytes(count), bytes(size)])


def read_pixels(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture
def latents(tmp_path: Path, decoder: ModelHandle) -> Path:
    """Eight records, one of another size, two in a folder."""
    folder = tmp_path / "latents"
    (folder / "trip").mkdir(parents=True)
    for seed, name in enumerate([*"abcde", "trip/x", "trip/y"]):
        (folder / f"{name}.jpg.dinac").write_bytes(make_record(decoder, name, seed))
    other_size = make_record(decoder, "f", 9, height=40, width=16, shape=(8, 3, 1))
    (folder / "f.png.dinac").write_bytes(other_size)
    return folder


@pytest.fixture
def expected(latents: Path, tmp_path: Path, decoder: ModelHandle) -> dict[str, bytes]:
    """The images of the eight records by one worker, one at a time."""
    out = tmp_path / "expected"
    decode(latents, images_out(out), make_options(decoder), workers=1, in_flight=1)
    return read_tree(out)


class TestSameBytes:
    def test_alone_and_in_a_folder_of_eight(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle, expected: dict[str, bytes]
    ) -> None:
        assert len(expected) == 8
        for name, image in (("c.jpg.dinac", "c.jpg.png"), ("f.png.dinac", "f.png")):
            decode(latents / name, images_out(tmp_path / "alone"), make_options(decoder))
            assert read_tree(tmp_path / "alone")[image] == expected[image]

    @pytest.mark.parametrize(("workers", "in_flight"), [(1, 8), (4, 1), (2, 64)])
    def test_any_workers_and_batch(
        self,
        latents: Path,
        tmp_path: Path,
        decoder: ModelHandle,
        expected: dict[str, bytes],
        workers: int,
        in_flight: int,
    ) -> None:
        options = make_options(decoder)
        decode(latents, images_out(tmp_path / "out"), options, workers, in_flight)
        assert read_tree(tmp_path / "out") == expected

    def test_batches_of_a_graphics_card(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of three here, so that the last one of seven is filled up."""
        monkeypatch.setattr(Engine, "batch_size", lambda self, height, width: 3)
        options = make_options(decoder)
        decode(latents, images_out(tmp_path / "out"), options, in_flight=8)
        decode(latents, images_out(tmp_path / "narrow"), options, in_flight=1)
        decode(latents / "d.jpg.dinac", images_out(tmp_path / "alone"), options)
        out = read_tree(tmp_path / "out")
        assert out == read_tree(tmp_path / "narrow")
        assert out["d.jpg.png"] == read_tree(tmp_path / "alone")["d.jpg.png"]

    def test_files_and_a_stream_of_the_same_records(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle
    ) -> None:
        stream = b"".join(path.read_bytes() for path in sorted(latents.rglob("*.dinac")))
        decode("-", images_out(tmp_path / "out"), make_options(decoder), stdin=stream)
        decode(latents, images_out(tmp_path / "files"), make_options(decoder))
        from_stream = set(read_tree(tmp_path / "out").values())
        assert from_stream == set(read_tree(tmp_path / "files").values())


def test_result_and_image_of_a_record(latents: Path, tmp_path: Path, decoder: ModelHandle) -> None:
    output = images_out(tmp_path / "out")
    (result,) = decode(latents / "a.jpg.dinac", output, make_options(decoder))
    record = (latents / "a.jpg.dinac").read_bytes()
    image = (tmp_path / "out/a.jpg.png").read_bytes()
    assert result == FileResult(
        file=str(latents / "a.jpg.dinac"),
        status=Status.WRITTEN,
        output=str(tmp_path / "out/a.jpg.png"),
        width=30,
        height=20,
        bytes_in=len(record),
        bytes_out=len(image),
    )
    values = unpack_record(record).latents
    (pixels,) = decoder.engine.decode([values], [(20, 30)], ONE_STEP)
    assert np.array_equal(read_pixels(image), pixels)
    assert read_stamp(image) == {
        "record": hash_record(record),
        "weights": decoder.identity.weights,
        "settings": "steps=1;sampler=ddim;schedule=linear;guidance=off;strength=1;seed=0",
    }


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            DinacAEInferenceConfig(
                num_steps=4, sampler="dpmpp-2m", schedule="cosine", strength=0.5, seed=None
            ),
            "steps=4;sampler=dpmpp_2m;schedule=cosine;guidance=off;strength=0.5;seed=fresh",
        ),
        (
            DinacAEInferenceConfig(pdg=True, pdg_strength=1.5, seed=7),
            "steps=1;sampler=ddim;schedule=linear;guidance=1.5;strength=1;seed=7",
        ),
    ],
)
def test_settings_as_text(settings: DinacAEInferenceConfig, text: str) -> None:
    assert describe_settings(settings) == text


class TestAgain:
    def test_everything_is_done_and_no_model_is_loaded(
        self, latents: Path, tmp_path: Path, expected: dict[str, bytes]
    ) -> None:
        model = make_handle("tiny", "decoder")
        results = decode(latents, images_out(tmp_path / "expected"), make_options(model))
        assert set(statuses(results).values()) == {Status.DONE}
        assert all(Path(str(result.output)).is_file() for result in results)
        assert "engine" not in vars(model)

    def test_changed_latents_are_decoded_again(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle, expected: dict[str, bytes]
    ) -> None:
        (latents / "b.jpg.dinac").write_bytes((latents / "c.jpg.dinac").read_bytes())
        results = decode(latents, images_out(tmp_path / "expected"), make_options(decoder))
        changed = [result for result in results if result.status is Status.WRITTEN]
        assert reasons(changed) == {"b.jpg.dinac": "the latents have changed"}
        now = read_tree(tmp_path / "expected")
        assert now["b.jpg.png"] == now["c.jpg.png"] == expected["c.jpg.png"]

    def test_other_settings_are_an_error_unless_overwritten(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle, expected: dict[str, bytes]
    ) -> None:
        options = make_options(decoder, settings=DinacAEInferenceConfig(num_steps=2, seed=0))
        results = decode(latents, images_out(tmp_path / "expected"), options)
        assert set(statuses(results).values()) == {Status.FAILED}
        assert "was decoded with settings steps=1, not steps=2; choose" in str(results[0].reason)
        assert read_tree(tmp_path / "expected") == expected
        output = images_out(tmp_path / "expected", overwrite=True)
        assert set(statuses(decode(latents, output, options)).values()) == {Status.WRITTEN}

    def test_originals_are_safe(
        self, tmp_path: Path, encoder: ModelHandle, decoder: ModelHandle
    ) -> None:
        """`encode images latents; decode latents images` harms none of them."""
        images = tmp_path / "images"
        write_images(images, "a.png", "b.jpg", "trip/c.png")
        before = read_tree(images)
        output = latents_out(tmp_path / "latents")
        list(encode_files(select_images(images), output, encoder, EncodeOptions(), run_control()))
        results = decode(tmp_path / "latents", images_out(images), make_options(decoder))
        assert statuses(results) == {
            "a.png.dinac": Status.FAILED,
            "b.jpg.dinac": Status.WRITTEN,
            "c.png.dinac": Status.FAILED,
        }
        after = read_tree(images)
        assert set(after) == {*before, "b.jpg.png"}
        assert {name: after[name] for name in before} == before


class TestBadRecords:
    def test_fail_and_the_rest_goes_on(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle
    ) -> None:
        (latents / "a.jpg.dinac").write_bytes(b"")
        (latents / "b.jpg.dinac").write_bytes((latents / "b.jpg.dinac").read_bytes()[:-1])
        damaged = bytearray((latents / "c.jpg.dinac").read_bytes())
        damaged[-1] ^= 1  # in the checksum
        (latents / "c.jpg.dinac").write_bytes(damaged)
        results = decode(latents, images_out(tmp_path / "out"), make_options(decoder))
        failed = [result for result in results if result.failed]
        assert set(statuses(failed)) == {"a.jpg.dinac", "b.jpg.dinac", "c.jpg.dinac"}
        assert set(read_tree(tmp_path / "out")) == {
            "d.jpg.png", "e.jpg.png", "f.png", "trip/x.jpg.png", "trip/y.jpg.png"
        }  # fmt: skip

    def test_damaged_record_in_a_file_of_several(
        self, tmp_path: Path, decoder: ModelHandle
    ) -> None:
        records = [make_record(decoder, f"{name}.jpg", seed) for seed, name in enumerate("abc")]
        damaged = bytearray(records[1])
        damaged[-30] ^= 0xFF
        (tmp_path / "all.dinac").write_bytes(records[0] + bytes(damaged) + records[2])
        results = decode(
            tmp_path / "all.dinac", images_out(tmp_path / "out"), make_options(decoder)
        )
        assert [result.status for result in sorted(results, key=lambda r: r.file)] == [
            Status.WRITTEN, Status.FAILED, Status.WRITTEN
        ]  # fmt: skip
        assert set(read_tree(tmp_path / "out")) == {"a.jpg.png", "c.jpg.png"}

    def test_file_of_several_records_makes_an_image_of_each(
        self, tmp_path: Path, decoder: ModelHandle
    ) -> None:
        (tmp_path / "sub").mkdir()
        records = [make_record(decoder, name) for name in ("a.jpg", "trip/b.png", "")]
        (tmp_path / "sub/all.dinac").write_bytes(b"".join(records))
        output = images_out(tmp_path / "out")
        options = make_options(decoder)
        assert set(statuses(decode(tmp_path / "sub", output, options)).values()) == {Status.WRITTEN}
        names = {"a.jpg.png", "trip/b.png", "000003.png"}
        assert set(read_tree(tmp_path / "out")) == names
        assert set(statuses(decode(tmp_path / "sub", output, options)).values()) == {Status.DONE}

    def test_no_output_is_written_twice_in_one_run(
        self, tmp_path: Path, decoder: ModelHandle
    ) -> None:
        records = [make_record(decoder, name, i) for i, name in enumerate(("a.jpg", "a.jpg.png"))]
        output = images_out(tmp_path / "out")
        results = decode("-", output, make_options(decoder), stdin=b"".join(records))
        assert statuses(results) == {
            "stdin: a.jpg": Status.WRITTEN, "stdin: a.jpg.png": Status.FAILED
        }  # fmt: skip
        stamp = read_stamp((tmp_path / "out/a.jpg.png").read_bytes())
        assert stamp is not None
        assert stamp["record"] == hash_record(records[0])

    def test_larger_than_memory(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dinac_cli.codec.engine.free_bytes", lambda device: 1000)
        results = decode(latents, images_out(tmp_path / "out"), make_options(decoder))
        assert set(statuses(results).values()) == {Status.FAILED}
        assert "GiB of memory on cpu" in str(results[0].reason)


class TestModels:
    @pytest.fixture
    def nano(self) -> ModelHandle:
        return ModelHandle(resolve_model("nano"), "decoder", DeviceChoice("cpu", "f32"))

    @pytest.fixture
    def find(
        self, decoder: ModelHandle, nano: ModelHandle
    ) -> Callable[[RecordHeader], ModelHandle]:
        def find(header: RecordHeader) -> ModelHandle:
            for model in (decoder, nano):
                if model.identity.latent_space == header.latent_space:
                    return model
            raise ModelError("neither embedded nor cached")

        return find

    def test_two_in_one_folder(
        self,
        tmp_path: Path,
        decoder: ModelHandle,
        nano: ModelHandle,
        find: Callable[[RecordHeader], ModelHandle],
    ) -> None:
        for number in range(6):
            model = (decoder, nano)[number % 2]
            path = tmp_path / f"in/{number}.dinac"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(make_record(model, str(number), number))
        unknown = make_record(decoder, "6", latent_space="0" * 16)
        (tmp_path / "in/6.dinac").write_bytes(unknown)
        options = make_options(decoder, find_model=find)
        results = decode(tmp_path / "in", images_out(tmp_path / "out"), options)
        assert {name: reason for name, reason in reasons(results).items() if reason} == {
            "6.dinac": "neither embedded nor cached"
        }
        for number, model in ((0, decoder), (1, nano)):
            record = unpack_record((tmp_path / f"in/{number}.dinac").read_bytes())
            (pixels,) = model.engine.decode([record.latents], [(20, 30)], ONE_STEP)
            image = (tmp_path / f"out/{number}.png").read_bytes()
            assert np.array_equal(read_pixels(image), pixels)

    def test_other_space_is_refused_unless_allowed(
        self, tmp_path: Path, decoder: ModelHandle
    ) -> None:
        record = make_record(decoder, "a", latent_space="0" * 16)
        (tmp_path / "a.dinac").write_bytes(record)
        output = images_out(tmp_path / "out")
        (result,) = decode(tmp_path / "a.dinac", output, make_options(decoder))
        assert result.reason is not None
        assert result.reason.startswith("encoded with model tiny (latent space 0000000000000000)")
        options = make_options(decoder, allow_other_model=True)
        (result,) = decode(tmp_path / "a.dinac", output, options)
        assert result.status is Status.WRITTEN

    def test_other_shape_is_refused_always(
        self, tmp_path: Path, decoder: ModelHandle, nano: ModelHandle
    ) -> None:
        (tmp_path / "a.dinac").write_bytes(make_record(nano, "a"))
        options = make_options(decoder, allow_other_model=True)
        (result,) = decode(tmp_path / "a.dinac", images_out(tmp_path / "out"), options)
        assert "do not fit model tiny (8 at 16)" in str(result.reason)


class TestSingleImage:
    def test_to_standard_output(self, latents: Path, decoder: ModelHandle) -> None:
        stdout = io.BytesIO()
        output = images_out(Path("-"), OutputKind.STREAM)
        (result,) = decode(
            "-", output, make_options(decoder),
            stdin=(latents / "a.jpg.dinac").read_bytes(), stdout=stdout,
        )  # fmt: skip
        assert (result.status, result.output) == (Status.WRITTEN, None)
        assert read_pixels(stdout.getvalue()).shape == (20, 30, 3)

    def test_to_a_file_in_its_format(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle
    ) -> None:
        options = make_options(decoder, format=OUTPUT_FORMATS["webp"])
        output = images_out(tmp_path / "x.webp", OutputKind.FILE)
        decode(latents / "a.jpg.dinac", output, options)
        assert detect_format((tmp_path / "x.webp").read_bytes()) == "WEBP"

    @pytest.mark.parametrize(
        ("kind", "place"), [(OutputKind.FILE, "x.png"), (OutputKind.STREAM, "standard output")]
    )
    def test_second_record_is_refused_before_any_work(
        self, tmp_path: Path, decoder: ModelHandle, kind: OutputKind, place: str
    ) -> None:
        records = make_record(decoder, "a") + make_record(decoder, "b")
        (tmp_path / "all.dinac").write_bytes(records)
        stdout = io.BytesIO()
        for source in (tmp_path / "all.dinac", "-"):
            with pytest.raises(UsageError, match=f"{place} takes one image and there is"):
                decode(
                    source, images_out(tmp_path / "x.png", kind), make_options(decoder),
                    stdin=records, stdout=stdout,
                )  # fmt: skip
        assert stdout.getvalue() == b""
        assert not (tmp_path / "x.png").exists()

    def test_limit_counts_records(self, tmp_path: Path, decoder: ModelHandle) -> None:
        records = make_record(decoder, "a") + make_record(decoder, "b")
        stdout = io.BytesIO()
        output = images_out(Path("-"), OutputKind.STREAM)
        results = decode("-", output, make_options(decoder, limit=1), stdin=records, stdout=stdout)
        assert statuses(results) == {"stdin: a": Status.WRITTEN}


def test_format_without_room_for_a_stamp_is_redone_and_never_replaces_another_image(
    latents: Path, tmp_path: Path, decoder: ModelHandle
) -> None:
    options = make_options(decoder, format=OUTPUT_FORMATS["bmp"])
    source = latents / "a.jpg.dinac"
    for _ in range(2):
        (result,) = decode(source, images_out(tmp_path / "out"), options)
        assert (result.status, result.output) == (
            Status.WRITTEN, str(tmp_path / "out/a.jpg.bmp")
        )  # fmt: skip
    image = (tmp_path / "out/a.jpg.bmp").read_bytes()
    (tmp_path / "out/a.jpg.bmp").write_bytes(b"mine")
    (result,) = decode(source, images_out(tmp_path / "out"), options)
    assert "exists and is another image, and bmp files do not say who" in str(result.reason)
    assert (tmp_path / "out/a.jpg.bmp").read_bytes() == b"mine"
    (result,) = decode(source, images_out(tmp_path / "out", overwrite=True), options)
    assert result.status is Status.WRITTEN
    assert (tmp_path / "out/a.jpg.bmp").read_bytes() == image


def test_whole_way_keeps_the_exact_size(
    tmp_path: Path, encoder: ModelHandle, decoder: ModelHandle
) -> None:
    for height, width in ((1, 1), (16, 16), (17, 31), (5, 50)):
        write_images(tmp_path / "in", f"{height}x{width}.png", height=height, width=width)
    output = latents_out(tmp_path / "latents")
    inputs = select_images(tmp_path / "in")
    list(encode_files(inputs, output, encoder, EncodeOptions(), run_control()))
    decode(tmp_path / "latents", images_out(tmp_path / "out"), make_options(decoder))
    for name, data in read_tree(tmp_path / "out").items():
        height, width, _ = read_pixels(data).shape
        assert name == f"{height}x{width}.png"


def test_extreme_latents_are_decoded_all_the_same(tmp_path: Path, decoder: ModelHandle) -> None:
    header = make_header(decoder, "a")
    latents = np.full(header.shape, 3e38, np.float32)
    (tmp_path / "a.dinac").write_bytes(pack_record(header, latents))
    output = images_out(tmp_path / "out")
    (result,) = decode(tmp_path / "a.dinac", output, make_options(decoder))
    assert result.status is Status.WRITTEN


def test_content_is_held_before_it_is_decompressed(
    tmp_path: Path, decoder: ModelHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few KiB of record may decompress to a GiB in every reader at once."""
    size = 4 << 20
    record = pack_with_zeros(decoder, size)
    assert len(record) < size // 100
    events: list[int | str] = []

    def unpack(data: bytes, **options: bool) -> Record:
        events.append("unpack")
        return unpack_record(data)

    monkeypatch.setattr("dinac_cli.jobs.decode.unpack_record", unpack)
    job = DecodeJob(images_out(tmp_path / "out"), make_options(decoder))
    job.read(RecordEntry("padded", "padded", data=record), events.append)
    assert isinstance(events[0], int)
    assert events[0] > size
    assert events[1:] == ["unpack"]
