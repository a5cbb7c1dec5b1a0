"""Encoding many images: the records do not depend on the batch, and a second run is free."""

from __future__ import annotations

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dinac_cli.codec.engine import Engine
from dinac_cli.codec.flight import Pending
from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.container.record import hash_record, read_header, unpack_record
from dinac_cli.container.stream import read_records
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import ModelError, UnwritableDiskError
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.jobs.encode import EncodeOptions, encode_inputs
from dinac_cli.jobs.held import find_held_record
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.models.dinac.fast.ladder import Choice
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.interface import TORCH, TRITON
from dinac_cli.storage.output import OutputKind

from .hand_made import (
    GOLDEN,
    draw,
    latents_out,
    make_handle,
    read_tree,
    reasons,
    run_control,
    select_images,
    statuses,
    write_images,
)

EIGHT = [f"{number}.png" for number in range(6)] + ["trip/x.png", "trip/y.png"]


def encode(
    source: Path | str,
    out: Path,
    model: ModelHandle,
    options: EncodeOptions | None = None,
    *,
    workers: int = 2,
    in_flight: int = 4,
    overwrite: bool = False,
    fsync: bool = False,
) -> list[FileResult]:
    results = encode_inputs(
        select_images(source, out=out),
        latents_out(out, overwrite=overwrite, fsync=fsync),
        model,
        options or EncodeOptions(),
        run_control(workers, in_flight),
    )
    return list(results)


def set_step(model: ModelHandle, step: str) -> ModelHandle:
    """Returns the model as it would compute on a GPU."""
    changed = replace(model)
    choice = Choice(step, "Triton is not installed", "pip install triton")
    changed.__dict__["gpu_step"] = choice if step == TORCH else Choice(step)
    return changed


def encode_and_listen(source: Path, out: Path, model: ModelHandle) -> list[str]:
    """Encodes as a request does; returns the remarks."""
    told: list[str] = []
    output = latents_out(out)
    held = find_held_record(output)
    control = run_control()
    control.warn = told.append
    compute = None if held is None else held.header.compute
    inputs = select_images(source, out=out)
    results = list(
        encode_inputs(inputs, output, model, EncodeOptions(), control, held_compute=compute)
    )
    assert not any(result.failed for result in results)
    return told


def test_a_gpu_that_computes_in_another_way_is_told_once(
    tmp_path: Path, encoder: ModelHandle
) -> None:
    images = tmp_path / "images"
    write_images(images, "a.png", "trip/x.png")
    slow = "the GPU computes with torch's operations, which is slower: Triton is not installed; "
    slow += "pip install triton"
    out = tmp_path / "out"
    assert encode_and_listen(images / "trip", out, set_step(encoder, TRITON)) == []
    assert read_header((out / "x.png.dinac").read_bytes()).compute == "cpu/f32"
    assert encode_and_listen(images, out, set_step(encoder, TORCH)) == [
        slow,
        f"{out} holds latents computed as cpu/f32; this run computes as cpu/f32/torch, which "
        "rounds differently",
    ]
    assert read_header((out / "a.png.dinac").read_bytes()).compute == "cpu/f32/torch"
    assert encode_and_listen(images, out, set_step(encoder, TORCH)) == []  # nothing to encode


def encode_to_stream(source: Path | str, model: ModelHandle, stdin: bytes = b"") -> bytes:
    stdout = io.BytesIO()
    results = encode_inputs(
        select_images(source),
        latents_out(Path("-"), OutputKind.STREAM),
        model,
        EncodeOptions(),
        run_control(workers=3, stdin=io.BytesIO(stdin), stdout=stdout),
    )
    list(results)
    return stdout.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "in", *EIGHT)
    write_images(tmp_path / "in", "5.png", height=40, width=16)  # another size
    return tmp_path / "in"


@pytest.fixture
def expected(images: Path, encoder: ModelHandle) -> dict[str, bytes]:
    """Returns the records of the eight images, encoded by one worker, one at a time."""
    encode(images, images.parent / "expected", encoder, workers=1, in_flight=1)
    return read_tree(images.parent / "expected")


class TestSameBytes:
    def test_an_image_alone_and_among_eight(
        self, images: Path, tmp_path: Path, encoder: ModelHandle, expected: dict[str, bytes]
    ) -> None:
        assert len(expected) == 8
        for name in ("3.png", "5.png"):
            encode(images / name, tmp_path / "alone", encoder)
            assert read_tree(tmp_path / "alone")[f"{name}.dinac"] == expected[f"{name}.dinac"]

    @pytest.mark.parametrize(("workers", "in_flight"), [(1, 8), (4, 1), (3, 2), (2, 64)])
    def test_any_number_of_workers_and_images_in_flight(
        self,
        images: Path,
        tmp_path: Path,
        encoder: ModelHandle,
        expected: dict[str, bytes],
        workers: int,
        in_flight: int,
    ) -> None:
        encode(images, tmp_path / "out", encoder, workers=workers, in_flight=in_flight)
        assert read_tree(tmp_path / "out") == expected

    def test_batches_of_a_gpu(
        self, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Batches of three: the last one of seven images is padded."""
        model = make_handle("tiny", "encoder")
        monkeypatch.setattr(Engine, "batch_size", lambda self, height, width: 3)
        encode(images, tmp_path / "out", model, in_flight=8)
        encode(images, tmp_path / "narrow", model, in_flight=1)
        encode(images / "4.png", tmp_path / "alone", model)
        out = read_tree(tmp_path / "out")
        assert out == read_tree(tmp_path / "narrow")
        assert out["4.png.dinac"] == read_tree(tmp_path / "alone")["4.png.dinac"]

    def test_a_stream_holds_the_records_in_order(
        self, images: Path, encoder: ModelHandle, expected: dict[str, bytes]
    ) -> None:
        stream = encode_to_stream(images, encoder)
        assert stream == b"".join(expected[name] for name in sorted(expected))

    def test_a_bad_file_leaves_no_gap_in_a_stream(
        self, images: Path, encoder: ModelHandle, expected: dict[str, bytes]
    ) -> None:
        (images / "2.png").write_bytes(b"no image")
        stream = encode_to_stream(images, encoder)
        del expected["2.png.dinac"]
        assert stream == b"".join(expected[name] for name in sorted(expected))


def test_result_and_record_of_one_image(tmp_path: Path, encoder: ModelHandle) -> None:
    write_images(tmp_path, "trip/a.png")
    (result,) = encode(tmp_path, tmp_path / "out", encoder)
    source = (tmp_path / "trip/a.png").read_bytes()
    data = (tmp_path / "out/trip/a.png.dinac").read_bytes()
    assert result == FileResult(
        file=str(tmp_path / "trip/a.png"),
        status=Status.WRITTEN,
        output=str(tmp_path / "out/trip/a.png.dinac"),
        width=30,
        height=20,
        bytes_in=len(source),
        bytes_out=len(data),
        name="trip/a.png",
    )
    header = unpack_record(data).header
    assert (header.name, header.height, header.width) == ("trip/a.png", 20, 30)
    assert header.source_bytes == len(source)
    assert header.source_sha256 == hash_record(source)
    (latents,) = encoder.engine.encode([draw(0)])
    record = unpack_record(data)
    assert np.abs(record.latents - latents).max() <= 2.0**-8 * np.abs(latents).max()


def test_bad_files_fail_and_the_others_are_encoded(images: Path, encoder: ModelHandle) -> None:
    out = images.parent / "out"
    (images / "0.png").write_bytes(b"")
    (images / "1.png").write_bytes(b"text")
    (images / "2.png").write_bytes((images / "2.png").read_bytes()[:100])
    (images / "3.png").unlink()
    (images / "3.png").symlink_to("nowhere")
    (images / "notes.txt").write_text("no image")
    results = encode(images, out, encoder)
    failed = {name: reason for name, reason in reasons(results).items() if reason}
    assert set(failed) == {"0.png", "1.png", "2.png", "3.png"}
    assert {result.name: result.error for result in results if result.failed} == {
        "0.png": "ImageError",
        "1.png": "ImageError",
        "2.png": "ImageError",
        "3.png": "InputError",
    }
    assert failed["0.png"] == "empty file (0 bytes); copy or download it again"
    assert failed["3.png"] == (
        "cannot read: No such file or directory; check the path and its permissions"
    )
    assert set(read_tree(out)) == {f"{n}.dinac" for n in ("4.png", "5.png", *EIGHT[6:])}


def test_a_missing_file_is_one_failure(images: Path, tmp_path: Path, encoder: ModelHandle) -> None:
    results = encode_inputs(
        select_images(images / "gone.png", images / "1.png"),
        latents_out(tmp_path / "out"),
        encoder,
        EncodeOptions(),
        run_control(),
    )
    assert reasons(results) == {"gone.png": "no such file or folder; check the path", "1.png": None}


def test_an_image_of_too_many_pixels_fails(
    images: Path, tmp_path: Path, encoder: ModelHandle
) -> None:
    options = EncodeOptions(max_pixels=600)
    results = statuses(encode(images, tmp_path / "out", encoder, options))
    assert results.pop("5.png") is Status.FAILED
    assert set(results.values()) == {Status.WRITTEN}


def test_default_pixel_limit_equals_the_readers_limit() -> None:
    assert EncodeOptions().max_pixels == MAX_PIXELS


class TestSecondRun:
    def test_all_records_are_done_and_no_model_is_loaded(
        self, images: Path, expected: dict[str, bytes]
    ) -> None:
        out = images.parent / "expected"
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*.dinac")}
        model = make_handle("tiny", "encoder")
        results = encode(images, out, model)
        assert set(statuses(results).values()) == {Status.DONE}
        assert {result.output for result in results} == {str(path) for path in before}
        assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.dinac")}
        assert "engine" not in vars(model)

    def test_missing_changed_and_damaged_records_are_encoded_again(
        self, images: Path, encoder: ModelHandle, expected: dict[str, bytes]
    ) -> None:
        out = images.parent / "expected"
        (out / "0.png.dinac").unlink()
        (out / "1.png.dinac").write_bytes(expected["1.png.dinac"][:-20])
        (out / "2.png.dinac").write_bytes(expected["2.png.dinac"][:40])
        shutil.copy(images / "4.png", images / "3.png")
        os.utime(images / "3.png", (4e9, 4e9))
        results = encode(images, out, encoder)
        made = {
            result.file.rpartition("/")[2]: result.reason
            for result in results
            if result.status is Status.WRITTEN
        }
        assert made.pop("2.png", "").startswith("the output was damaged (")  # type: ignore[union-attr]
        assert made == {
            "0.png": None,
            "1.png": "the output was cut short",
            "3.png": "the source has changed",
        }
        now = read_tree(out)
        assert {n: now[f"{n}.png.dinac"] == expected[f"{n}.png.dinac"] for n in range(6)} == {
            0: True, 1: True, 2: True, 3: False, 4: True, 5: True
        }  # fmt: skip

    def test_a_change_that_keeps_size_and_time_is_found(
        self, images: Path, encoder: ModelHandle, expected: dict[str, bytes]
    ) -> None:
        out = images.parent / "expected"
        data = bytearray((images / "1.png").read_bytes())
        data[-1] ^= 1  # in the checksum of the last chunk, which readers ignore
        (images / "1.png").write_bytes(data)
        os.utime(images / "1.png", (1, 1))
        again = statuses(encode(images, out, encoder))
        assert [name for name, status in again.items() if status is Status.WRITTEN] == ["1.png"]

    def test_another_precision_is_an_error_unless_overwritten(
        self, images: Path, encoder: ModelHandle, expected: dict[str, bytes]
    ) -> None:
        out = images.parent / "expected"
        options = EncodeOptions(precision="f32")
        results = encode(images, out, encoder, options)
        assert set(statuses(results).values()) == {Status.FAILED}
        assert "holds bf16 latents; this run uses --precision f32" in str(results[0].reason)
        assert read_tree(out) == expected
        results = encode(images, out, encoder, options, overwrite=True)
        assert set(statuses(results).values()) == {Status.WRITTEN}
        assert {result.reason for result in results} == {None}
        records = read_tree(out).values()
        assert {unpack_record(data).header.precision for data in records} == {"f32"}

    def test_a_foreign_file_is_kept_unless_overwritten(
        self, images: Path, tmp_path: Path, encoder: ModelHandle
    ) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/1.png.dinac").write_bytes(b"mine")
        results = encode(images, tmp_path / "out", encoder)
        assert "was not written by dinac" in str(reasons(results)["1.png"])
        assert (tmp_path / "out/1.png.dinac").read_bytes() == b"mine"
        results = encode(images, tmp_path / "out", encoder, overwrite=True)
        assert set(statuses(results).values()) == {Status.WRITTEN}

    def test_a_foreign_file_written_while_the_model_runs_is_kept(
        self, images: Path, tmp_path: Path, encoder: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = Engine.submit_images

        def slow(
            engine: Engine, pixels: list[np.ndarray], **extras: bool
        ) -> Pending[list[Encoded]]:
            (tmp_path / "out/1.png.dinac").write_bytes(b"mine")
            return real(engine, pixels, **extras)

        monkeypatch.setattr(Engine, "submit_images", slow)
        results = encode(images / "1.png", tmp_path / "out", encoder)
        assert "was not written by dinac" in str(results[0].reason)
        assert (tmp_path / "out/1.png.dinac").read_bytes() == b"mine"

    def test_temporary_files_of_a_killed_run_are_removed(
        self, images: Path, tmp_path: Path, encoder: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "out/trip").mkdir(parents=True)
        monkeypatch.setattr("dinac_cli.storage.atomic._is_dead", lambda path: True)
        (tmp_path / "out/trip/.dinac-tmp-x").write_bytes(b"half a rec")
        encode(images, tmp_path / "out", encoder)
        assert set(read_tree(tmp_path / "out")) == {f"{name}.dinac" for name in EIGHT}


class TestErrorsOfTheRun:
    def test_a_full_disk_ends_the_run(
        self, images: Path, tmp_path: Path, encoder: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fsync(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(UnwritableDiskError):
            encode(images, tmp_path / "out", encoder, fsync=True)
        assert read_tree(tmp_path / "out") == {}

    def test_an_invalid_model_ends_the_run_before_any_file_fails(
        self, images: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(GOLDEN / "tiny", tmp_path / "mine")
        config = tmp_path / "mine/config.json"
        values = json.loads(config.read_text())
        config.chmod(0o644)
        config.write_text(json.dumps({**values, "model_dim": 65}))
        model = ModelHandle(DinacModel(tmp_path / "mine", "mine"), "encoder", DeviceChoice())
        with pytest.raises(ModelError, match="model_dim is 65"):
            encode(images, tmp_path / "out", model)
        assert not (tmp_path / "out").exists()


class TestStandardInput:
    def test_it_is_encoded_to_a_stream(self, images: Path, encoder: ModelHandle) -> None:
        data = (images / "0.png").read_bytes()
        record = unpack_record(encode_to_stream("-", encoder, data))
        assert record.header.name == "stdin"
        assert record.header.source_bytes == len(data)

    def test_it_is_always_encoded_again(
        self, images: Path, tmp_path: Path, encoder: ModelHandle
    ) -> None:
        for reason in (None, "standard input is always encoded"):
            (result,) = encode_inputs(
                select_images("-"),
                latents_out(tmp_path / "out"),
                encoder,
                EncodeOptions(),
                run_control(stdin=io.BytesIO((images / "0.png").read_bytes())),
            )
            assert (result.status, result.reason) == (Status.WRITTEN, reason)
        assert set(read_tree(tmp_path / "out")) == {"stdin.dinac"}

    def test_it_must_not_be_empty(self, encoder: ModelHandle) -> None:
        assert encode_to_stream("-", encoder) == b""


def test_the_stream_of_a_closed_run_holds_complete_records(
    images: Path, encoder: ModelHandle
) -> None:
    stdout = io.BytesIO()
    results = encode_inputs(
        select_images(images),
        latents_out(Path("-"), OutputKind.STREAM),
        encoder,
        EncodeOptions(),
        run_control(workers=1, in_flight=1, stdout=stdout),
    )
    next(results)
    next(results)
    results.close()
    items = list(read_records(io.BytesIO(stdout.getvalue())))
    names = [
        unpack_record(item.record).header.name for item in items if isinstance(item.record, bytes)
    ]
    assert names == ["0.png", "1.png"]
