"""Decoding many records: the images do not depend on the batch, and each failure is its own."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dinac_cli.codec.engine import Engine
from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.container.frame import PREAMBLE
from dinac_cli.container.header import RecordHeader, header_to_metadata
from dinac_cli.container.record import (
    OpenRecord,
    Record,
    hash_record,
    pack_record,
    unpack_record,
)
from dinac_cli.container.zstd import compress_content
from dinac_cli.errors import ModelError, UsageError
from dinac_cli.images.formats import OUTPUT_FORMATS, detect_format
from dinac_cli.images.stamp import read_stamp
from dinac_cli.jobs.decode import DecodeJob, DecodeOptions, decode_inputs, describe_settings
from dinac_cli.jobs.encode import EncodeOptions, encode_inputs
from dinac_cli.jobs.entries import RecordEntry
from dinac_cli.jobs.model_choice import FixedModel, ModelFinder
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.models.interface import DinacAEInferenceConfig
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


OPTIONS = DecodeOptions(settings=ONE_STEP, format=PNG)


def decode(
    source: Path | str,
    output: Output,
    model: ModelHandle | ModelFinder,
    options: DecodeOptions = OPTIONS,
    *,
    workers: int = 2,
    in_flight: int = 4,
    limit: int | None = None,
    stdin: bytes = b"",
    stdout: io.BytesIO | None = None,
) -> list[FileResult]:
    results = decode_inputs(
        select_latents(source),
        output,
        FixedModel(model) if isinstance(model, ModelHandle) else model,
        options,
        run_control(workers, in_flight, stdin=io.BytesIO(stdin), stdout=stdout),
        limit=limit,
    )
    return list(results)


def pack_with_zeros(model: ModelHandle, size: int) -> bytes:
    """Returns a record with a second tensor of `size` zeros, which compress to almost nothing."""
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
    """Returns a folder of eight records: one of another size, two in a subfolder."""
    folder = tmp_path / "latents"
    (folder / "trip").mkdir(parents=True)
    for seed, name in enumerate([*"abcde", "trip/x", "trip/y"]):
        (folder / f"{name}.jpg.dinac").write_bytes(make_record(decoder, name, seed))
    other_size = make_record(decoder, "f", 9, height=40, width=16, shape=(8, 3, 1))
    (folder / "f.png.dinac").write_bytes(other_size)
    return folder


@pytest.fixture
def expected(latents: Path, tmp_path: Path, decoder: ModelHandle) -> dict[str, bytes]:
    """Returns the images of the eight records, decoded by one worker, one at a time."""
    out = tmp_path / "expected"
    decode(latents, images_out(out), decoder, workers=1, in_flight=1)
    return read_tree(out)


class TestSameBytes:
    def test_a_record_alone_and_among_eight(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle, expected: dict[str, bytes]
    ) -> None:
        assert len(expected) == 8
        for name, image in (("c.jpg.dinac", "c.jpg.png"), ("f.png.dinac", "f.png")):
            decode(latents / name, images_out(tmp_path / "alone"), decoder)
            assert read_tree(tmp_path / "alone")[image] == expected[image]

    @pytest.mark.parametrize(("workers", "in_flight"), [(1, 8), (4, 1), (2, 64)])
    def test_any_number_of_workers_and_images_in_flight(
        self,
        latents: Path,
        tmp_path: Path,
        decoder: ModelHandle,
        expected: dict[str, bytes],
        workers: int,
        in_flight: int,
    ) -> None:
        output = images_out(tmp_path / "out")
        decode(latents, output, decoder, workers=workers, in_flight=in_flight)
        assert read_tree(tmp_path / "out") == expected

    def test_batches_of_a_gpu(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Batches of three: the last one of seven records is padded."""
        monkeypatch.setattr(Engine, "batch_size", lambda self, height, width: 3)
        decode(latents, images_out(tmp_path / "out"), decoder, in_flight=8)
        decode(latents, images_out(tmp_path / "narrow"), decoder, in_flight=1)
        decode(latents / "d.jpg.dinac", images_out(tmp_path / "alone"), decoder)
        out = read_tree(tmp_path / "out")
        assert out == read_tree(tmp_path / "narrow")
        assert out["d.jpg.png"] == read_tree(tmp_path / "alone")["d.jpg.png"]

    def test_files_and_a_stream_of_the_same_records(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle
    ) -> None:
        stream = b"".join(path.read_bytes() for path in sorted(latents.rglob("*.dinac")))
        decode("-", images_out(tmp_path / "out"), decoder, stdin=stream)
        decode(latents, images_out(tmp_path / "files"), decoder)
        from_stream = set(read_tree(tmp_path / "out").values())
        assert from_stream == set(read_tree(tmp_path / "files").values())


def test_result_and_image_of_one_record(
    latents: Path, tmp_path: Path, decoder: ModelHandle
) -> None:
    output = images_out(tmp_path / "out")
    (result,) = decode(latents / "a.jpg.dinac", output, decoder)
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
        name="a.jpg.dinac",
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
def test_a_stamp_describes_the_settings(settings: DinacAEInferenceConfig, text: str) -> None:
    assert describe_settings(dataclasses.replace(OPTIONS, settings=settings)) == text
    flipped = dataclasses.replace(OPTIONS, settings=settings, flipped=True)
    assert describe_settings(flipped) == f"{text};image=flipped"
    lossy = dataclasses.replace(OPTIONS, settings=settings, quality=80)
    assert describe_settings(lossy) == f"{text};quality=80"


class TestSecondRun:
    def test_all_images_are_done_and_no_model_is_loaded(
        self, latents: Path, tmp_path: Path, expected: dict[str, bytes]
    ) -> None:
        model = make_handle("tiny", "decoder")
        results = decode(latents, images_out(tmp_path / "expected"), model)
        assert set(statuses(results).values()) == {Status.DONE}
        assert all(Path(str(result.output)).is_file() for result in results)
        assert "engine" not in vars(model)

    def test_changed_records_are_decoded_again(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle, expected: dict[str, bytes]
    ) -> None:
        (latents / "b.jpg.dinac").write_bytes((latents / "c.jpg.dinac").read_bytes())
        results = decode(latents, images_out(tmp_path / "expected"), decoder)
        changed = [result for result in results if result.status is Status.WRITTEN]
        assert reasons(changed) == {"b.jpg.dinac": "the record has changed"}
        now = read_tree(tmp_path / "expected")
        assert now["b.jpg.png"] == now["c.jpg.png"] == expected["c.jpg.png"]

    def test_other_settings_are_an_error_unless_overwritten(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle, expected: dict[str, bytes]
    ) -> None:
        options = dataclasses.replace(OPTIONS, settings=DinacAEInferenceConfig(num_steps=2, seed=0))
        results = decode(latents, images_out(tmp_path / "expected"), decoder, options)
        assert set(statuses(results).values()) == {Status.FAILED}
        assert "was decoded with --steps 1; this run uses --steps 2; choose" in str(
            results[0].reason
        )
        assert read_tree(tmp_path / "expected") == expected
        output = images_out(tmp_path / "expected", overwrite=True)
        assert set(statuses(decode(latents, output, decoder, options)).values()) == {Status.WRITTEN}

    def test_decoding_into_the_folder_of_the_originals_keeps_them(
        self, tmp_path: Path, encoder: ModelHandle, decoder: ModelHandle
    ) -> None:
        images = tmp_path / "images"
        write_images(images, "a.png", "b.jpg", "trip/c.png")
        before = read_tree(images)
        output = latents_out(tmp_path / "latents")
        list(encode_inputs(select_images(images), output, encoder, EncodeOptions(), run_control()))
        results = decode(tmp_path / "latents", images_out(images), decoder)
        assert statuses(results) == {
            "a.png.dinac": Status.FAILED,
            "b.jpg.dinac": Status.WRITTEN,
            "c.png.dinac": Status.FAILED,
        }
        after = read_tree(images)
        assert set(after) == {*before, "b.jpg.png"}
        assert {name: after[name] for name in before} == before


class TestBadRecords:
    def test_damaged_records_fail_and_the_others_are_decoded(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle
    ) -> None:
        (latents / "a.jpg.dinac").write_bytes(b"")
        (latents / "b.jpg.dinac").write_bytes((latents / "b.jpg.dinac").read_bytes()[:-1])
        damaged = bytearray((latents / "c.jpg.dinac").read_bytes())
        damaged[-1] ^= 1  # in the checksum
        (latents / "c.jpg.dinac").write_bytes(damaged)
        results = decode(latents, images_out(tmp_path / "out"), decoder)
        failed = [result for result in results if result.failed]
        assert {(result.name, result.error, result.rejection) for result in failed} == {
            ("a.jpg.dinac", "FormatError", "truncated"),
            ("b.jpg.dinac", "FormatError", "truncated"),
            ("c.jpg.dinac", "FormatError", "checksum"),
        }
        assert set(read_tree(tmp_path / "out")) == {
            "d.jpg.png", "e.jpg.png", "f.png", "trip/x.jpg.png", "trip/y.jpg.png"
        }  # fmt: skip

    def test_a_damaged_record_in_a_file_of_several_fails_alone(
        self, tmp_path: Path, decoder: ModelHandle
    ) -> None:
        records = [make_record(decoder, f"{name}.jpg", seed) for seed, name in enumerate("abc")]
        damaged = bytearray(records[1])
        damaged[-30] ^= 0xFF
        (tmp_path / "all.dinac").write_bytes(records[0] + bytes(damaged) + records[2])
        results = decode(tmp_path / "all.dinac", images_out(tmp_path / "out"), decoder)
        assert [result.status for result in sorted(results, key=lambda r: r.file)] == [
            Status.WRITTEN, Status.FAILED, Status.WRITTEN
        ]  # fmt: skip
        assert set(read_tree(tmp_path / "out")) == {"a.jpg.png", "c.jpg.png"}

    def test_each_record_of_a_file_becomes_an_image(
        self, tmp_path: Path, decoder: ModelHandle
    ) -> None:
        (tmp_path / "sub").mkdir()
        records = [make_record(decoder, name) for name in ("a.jpg", "trip/b.png", "")]
        (tmp_path / "sub/all.dinac").write_bytes(b"".join(records))
        output = images_out(tmp_path / "out")
        assert set(statuses(decode(tmp_path / "sub", output, decoder)).values()) == {Status.WRITTEN}
        names = {"a.jpg.png", "trip/b.png", "000003.png"}
        assert set(read_tree(tmp_path / "out")) == names
        assert set(statuses(decode(tmp_path / "sub", output, decoder)).values()) == {Status.DONE}

    def test_a_run_writes_no_output_twice(self, tmp_path: Path, decoder: ModelHandle) -> None:
        records = [make_record(decoder, name, i) for i, name in enumerate(("a.jpg", "a.jpg.png"))]
        output = images_out(tmp_path / "out")
        results = decode("-", output, decoder, stdin=b"".join(records))
        assert statuses(results) == {
            "stdin: a.jpg": Status.WRITTEN, "stdin: a.jpg.png": Status.FAILED
        }  # fmt: skip
        stamp = read_stamp((tmp_path / "out/a.jpg.png").read_bytes())
        assert stamp is not None
        assert stamp["record"] == hash_record(records[0])

    def test_images_larger_than_the_memory_fail(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dinac_cli.codec.engine.free_bytes", lambda device: 1000)
        results = decode(latents, images_out(tmp_path / "out"), decoder)
        assert set(statuses(results).values()) == {Status.FAILED}
        assert "GiB of memory on cpu" in str(results[0].reason)


class TestModels:
    @pytest.fixture
    def nano(self) -> ModelHandle:
        return ModelHandle(
            resolve_model("nano"), "decoder", DeviceChoice(device="cpu", dtype="f32")
        )

    def test_records_of_two_models_in_one_folder(
        self, tmp_path: Path, decoder: ModelHandle, nano: ModelHandle
    ) -> None:
        class TwoModels:
            def find(self, header: RecordHeader) -> ModelHandle:
                for model in (decoder, nano):
                    if model.identity.latent_space == header.latent_space:
                        return model
                raise ModelError("neither embedded nor cached")

            def use_device(self, name: str) -> None:
                raise NotImplementedError

        for number in range(6):
            model = (decoder, nano)[number % 2]
            path = tmp_path / f"in/{number}.dinac"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(make_record(model, str(number), number))
        unknown = make_record(decoder, "6", latent_space="0" * 16)
        (tmp_path / "in/6.dinac").write_bytes(unknown)
        results = decode(tmp_path / "in", images_out(tmp_path / "out"), TwoModels())
        assert {name: reason for name, reason in reasons(results).items() if reason} == {
            "6.dinac": "neither embedded nor cached"
        }
        for number, model in ((0, decoder), (1, nano)):
            record = unpack_record((tmp_path / f"in/{number}.dinac").read_bytes())
            (pixels,) = model.engine.decode([record.latents], [(20, 30)], ONE_STEP)
            image = (tmp_path / f"out/{number}.png").read_bytes()
            assert np.array_equal(read_pixels(image), pixels)

    def test_another_latent_space_is_refused_unless_allowed(
        self, tmp_path: Path, decoder: ModelHandle
    ) -> None:
        record = make_record(decoder, "a", latent_space="0" * 16)
        (tmp_path / "a.dinac").write_bytes(record)
        output = images_out(tmp_path / "out")
        (result,) = decode(tmp_path / "a.dinac", output, decoder)
        assert result.reason is not None
        assert result.reason.startswith("encoded with model tiny (latent space 0000000000000000)")
        options = dataclasses.replace(OPTIONS, allow_other_model=True)
        (result,) = decode(tmp_path / "a.dinac", output, decoder, options)
        assert result.status is Status.WRITTEN

    def test_another_latent_shape_is_always_refused(
        self, tmp_path: Path, decoder: ModelHandle, nano: ModelHandle
    ) -> None:
        (tmp_path / "a.dinac").write_bytes(make_record(nano, "a"))
        options = dataclasses.replace(OPTIONS, allow_other_model=True)
        (result,) = decode(tmp_path / "a.dinac", images_out(tmp_path / "out"), decoder, options)
        assert "do not fit model tiny (8 at 16)" in str(result.reason)


class TestSingleImage:
    def test_standard_output_gets_the_image(self, latents: Path, decoder: ModelHandle) -> None:
        stdout = io.BytesIO()
        output = images_out(Path("-"), OutputKind.STREAM)
        (result,) = decode(
            "-", output, decoder, stdin=(latents / "a.jpg.dinac").read_bytes(), stdout=stdout
        )
        assert (result.status, result.output) == (Status.WRITTEN, None)
        assert read_pixels(stdout.getvalue()).shape == (20, 30, 3)

    def test_a_file_gets_the_image_in_the_requested_format(
        self, latents: Path, tmp_path: Path, decoder: ModelHandle
    ) -> None:
        options = dataclasses.replace(OPTIONS, format=OUTPUT_FORMATS["webp"])
        output = images_out(tmp_path / "x.webp", OutputKind.FILE)
        decode(latents / "a.jpg.dinac", output, decoder, options)
        assert detect_format((tmp_path / "x.webp").read_bytes()) == "WEBP"

    @pytest.mark.parametrize(
        ("kind", "place"), [(OutputKind.FILE, "x.png"), (OutputKind.STREAM, "standard output")]
    )
    def test_a_second_record_is_refused_before_any_work(
        self, tmp_path: Path, decoder: ModelHandle, kind: OutputKind, place: str
    ) -> None:
        records = make_record(decoder, "a") + make_record(decoder, "b")
        (tmp_path / "all.dinac").write_bytes(records)
        stdout = io.BytesIO()
        for source in (tmp_path / "all.dinac", "-"):
            output = images_out(tmp_path / "x.png", kind)
            with pytest.raises(UsageError, match=f"{place} takes one image, but there is"):
                decode(source, output, decoder, stdin=records, stdout=stdout)
        assert stdout.getvalue() == b""
        assert not (tmp_path / "x.png").exists()

    def test_the_limit_counts_records(self, tmp_path: Path, decoder: ModelHandle) -> None:
        records = make_record(decoder, "a") + make_record(decoder, "b")
        stdout = io.BytesIO()
        output = images_out(Path("-"), OutputKind.STREAM)
        results = decode("-", output, decoder, limit=1, stdin=records, stdout=stdout)
        assert statuses(results) == {"stdin: a": Status.WRITTEN}


def test_an_image_without_a_stamp_is_never_replaced(
    latents: Path, tmp_path: Path, decoder: ModelHandle
) -> None:
    options = dataclasses.replace(OPTIONS, format=OUTPUT_FORMATS["bmp"])
    source, path = latents / "a.jpg.dinac", tmp_path / "out/a.jpg.bmp"
    for status in (Status.WRITTEN, Status.DONE):
        (result,) = decode(source, images_out(tmp_path / "out"), decoder, options)
        assert (result.status, result.output) == (status, str(path))
    image = path.read_bytes()
    Image.open(io.BytesIO(image)).save(path)
    edited = path.read_bytes()
    (result,) = decode(source, images_out(tmp_path / "out"), decoder, options)
    assert "exists and was not written by dinac" in str(result.reason)
    assert path.read_bytes() == edited
    (result,) = decode(source, images_out(tmp_path / "out", overwrite=True), decoder, options)
    assert result.status is Status.WRITTEN
    assert path.read_bytes() == image


def test_encode_and_decode_keep_the_exact_size(
    tmp_path: Path, encoder: ModelHandle, decoder: ModelHandle
) -> None:
    for height, width in ((1, 1), (16, 16), (17, 31), (5, 50)):
        write_images(tmp_path / "in", f"{height}x{width}.png", height=height, width=width)
    output = latents_out(tmp_path / "latents")
    inputs = select_images(tmp_path / "in")
    list(encode_inputs(inputs, output, encoder, EncodeOptions(), run_control()))
    decode(tmp_path / "latents", images_out(tmp_path / "out"), decoder)
    for name, data in read_tree(tmp_path / "out").items():
        height, width, _ = read_pixels(data).shape
        assert name == f"{height}x{width}.png"


def test_extreme_latents_are_decoded(tmp_path: Path, decoder: ModelHandle) -> None:
    header = make_header(decoder, "a")
    latents = np.full(header.shape, 3e38, np.float32)
    (tmp_path / "a.dinac").write_bytes(pack_record(header, latents))
    output = images_out(tmp_path / "out")
    (result,) = decode(tmp_path / "a.dinac", output, decoder)
    assert result.status is Status.WRITTEN


def test_memory_is_reserved_before_a_record_is_decompressed(
    tmp_path: Path, decoder: ModelHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record of a few KiB may decompress to a GiB, in every reader at once."""
    size = 4 << 20
    record = pack_with_zeros(decoder, size)
    assert len(record) < size // 100
    events: list[int | str] = []

    real = OpenRecord.unpack

    def unpack(opened: OpenRecord, *, with_twin: bool) -> Record:
        events.append("unpack")
        return real(opened, with_twin=with_twin)

    monkeypatch.setattr(OpenRecord, "unpack", unpack)
    job = DecodeJob(images_out(tmp_path / "out"), FixedModel(decoder), OPTIONS)
    job.read(RecordEntry("padded", "padded", data=record), events.append)
    assert isinstance(events[0], int)
    assert events[0] > size
    assert events[1:] == ["unpack"]
