"""`encode_files`, `decode_files` and `verify_files` do from Python what the commands do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinac_cli import FileResult, decode_files, encode_files, verify_files
from dinac_cli.container.record import read_record
from dinac_cli.container.tensors import COMPANIONS
from dinac_cli.errors import ModelError, OutputError, Rejection, UsageError
from dinac_cli.jobs.results import SourceState, Status

from .hand_made import GOLDEN, make_handle, make_record, read_tree, write_images

TINY = str(GOLDEN / "tiny")


def by_name(results: Iterable[FileResult]) -> dict[str, FileResult]:
    return {result.name: result for result in results}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Returns a folder of two images, and of two files that cannot be read as one."""
    write_images(tmp_path / "photos", "a.png", "trip/b.png")
    (tmp_path / "photos/text.png").write_bytes(b"text")
    (tmp_path / "photos/gone.png").symlink_to("nowhere")
    return tmp_path / "photos"


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    """Returns a folder of a good, a truncated and a damaged record, and of a record of no model."""
    folder, model = tmp_path / "latents", make_handle("tiny", "encoder")
    folder.mkdir()
    good = make_record(model, "good.png")
    (folder / "good.png.dinac").write_bytes(good)
    (folder / "cut.png.dinac").write_bytes(good[:-9])
    (folder / "damaged.png.dinac").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    (folder / "other.png.dinac").write_bytes(make_record(model, "o", latent_space="0" * 16))
    return folder


class TestEncode:
    def test_results_name_each_file_and_its_failure(self, photos: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        results = by_name(encode_files(photos, out, model=TINY, device="cpu", dtype="f32"))
        assert set(results) == {"a.png", "trip/b.png", "text.png", "gone.png"}
        for name, result in results.items():
            assert result.file == str(photos / name)
        written = results["trip/b.png"]
        assert (written.status, written.output) == (Status.WRITTEN, f"{out}/trip/b.png.dinac")
        assert (written.error, written.rejection, written.reason) == (None, None, None)
        assert written.bytes_out == (out / "trip/b.png.dinac").stat().st_size
        for name, error in (("text.png", "ImageError"), ("gone.png", "InputError")):
            failed = results[name]
            assert (failed.status, failed.output) == (Status.FAILED, None)
            assert (failed.error, failed.rejection) == (error, None)
            assert failed.reason
        assert set(read_tree(out)) == {"a.png.dinac", "trip/b.png.dinac"}

    def test_json_of_a_result(self, photos: Path, tmp_path: Path) -> None:
        results = by_name(encode_files(photos, tmp_path / "out", model=TINY))
        failed, written = results["text.png"], results["a.png"]
        assert failed.to_json() == {
            "file": str(photos / "text.png"),
            "status": "failed",
            "name": "text.png",
            "reason": failed.reason,
            "error": "ImageError",
        }
        assert written.to_json() == {
            "file": str(photos / "a.png"),
            "status": "written",
            "name": "a.png",
            "output": written.output,
            "width": 30,
            "height": 20,
            "bytes_in": written.bytes_in,
            "bytes_out": written.bytes_out,
        }

    def test_a_second_run_finds_the_records_done(self, photos: Path, tmp_path: Path) -> None:
        def encode(**options: Any) -> dict[str, FileResult]:
            return by_name(encode_files(photos, tmp_path / "out", model=TINY, **options))

        first = encode()
        again = encode()["a.png"]
        assert (again.status, again.output) == (Status.DONE, first["a.png"].output)
        assert encode(overwrite=True)["a.png"].status is Status.WRITTEN

    def test_keywords_are_those_of_the_command(self, photos: Path, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((20, 30, 4), np.uint8)).save(photos / "clear.png")
        results = encode_files(
            [str(photos / "clear.png")],
            tmp_path / "out",
            model=TINY,
            precision="q6",
            resize=24,
            crop=(24, 16),
            flip=True,
            background="#010203",
            features=True,
            posterior=True,
            anonymous=True,
            device="cpu",
            dtype="f32",
            workers=1,
        )
        assert [result.reason for result in results] == [None]
        record = read_record(tmp_path / "out/clear.png.dinac", COMPANIONS, with_twin=True)
        assert record.logsnr is not None
        assert record.class_token is not None
        assert record.flipped is not None
        header = record.header
        assert (header.precision, header.width, header.height) == ("q6", 24, 16)
        assert header.is_anonymous
        assert "alpha=composited-#010203" in header.image
        assert "resize=24;crop=24x16;flip=twin" in header.image

    def test_inputs_are_one_path_or_several(self, photos: Path, tmp_path: Path) -> None:
        one, other = photos / "a.png", photos / "trip/b.png"
        cases: list[tuple[str | Path | Iterable[str | Path], int]] = [
            (str(one), 1),
            (one, 1),
            ([one, str(other)], 2),
            ((path for path in (one, other)), 2),
        ]
        for number, (inputs, count) in enumerate(cases):
            results = encode_files(inputs, tmp_path / f"{number}", model=TINY)
            assert [result.status for result in results] == [Status.WRITTEN] * count

    def test_closing_the_results_ends_the_run(self, photos: Path, tmp_path: Path) -> None:
        before = set(threading.enumerate())
        results = encode_files(photos, tmp_path / "out", model=TINY, workers=1)
        next(results)
        results.close()
        left = {thread for thread in set(threading.enumerate()) - before if thread.is_alive()}
        assert not [thread for thread in left if thread.name.startswith(("read", "write"))]


class TestDecode:
    def test_results_name_each_record_and_its_failure(self, latents: Path, tmp_path: Path) -> None:
        out = tmp_path / "images"
        results = by_name(decode_files(latents, out, model=TINY, device="cpu", dtype="f32"))
        good = results["good.png.dinac"]
        assert (good.status, good.output) == (Status.WRITTEN, f"{out}/good.png")
        assert (good.error, good.rejection) == (None, None)
        failures = {
            result.name: (result.status, result.error, result.rejection, result.output)
            for result in results.values()
            if result is not good
        }
        assert failures == {
            "cut.png.dinac": (Status.FAILED, "FormatError", Rejection.TRUNCATED.value, None),
            "damaged.png.dinac": (Status.FAILED, "FormatError", Rejection.CHECKSUM.value, None),
            "other.png.dinac": (Status.FAILED, "ModelError", None, None),
        }
        assert results["cut.png.dinac"].to_json() == {
            "file": str(latents / "cut.png.dinac"),
            "status": "failed",
            "name": "cut.png.dinac",
            "reason": results["cut.png.dinac"].reason,
            "error": "FormatError",
            "rejection": "truncated",
        }

    def test_keywords_are_those_of_the_command(self, latents: Path, tmp_path: Path) -> None:
        record = latents / "good.png.dinac"
        settings: list[dict[str, Any]] = [
            {"steps": 2, "guidance": 1.5, "strength": 0.9},
            {"seed": 3},
            {},
        ]
        images = set()
        for number, options in enumerate(settings):
            out = tmp_path / f"{number}"
            (result,) = decode_files(record, out, model=TINY, format="bmp", **options)
            assert result.output == f"{out}/good.png.bmp"
            images |= set(read_tree(out).values())
        assert len(images) == 3
        (result,) = decode_files(record, tmp_path / "flipped", model=TINY, flipped=True)
        assert (result.error, result.rejection) == ("FormatError", Rejection.TENSOR.value)


class TestVerify:
    def test_results_name_each_record_and_its_failure(self, latents: Path) -> None:
        results = by_name(verify_files(latents))
        assert {
            name: (result.status, result.error, result.rejection, result.output)
            for name, result in results.items()
        } == {
            "good.png.dinac": (Status.VERIFIED, None, None, None),
            "other.png.dinac": (Status.VERIFIED, None, None, None),
            "cut.png.dinac": (Status.FAILED, "FormatError", "truncated", None),
            "damaged.png.dinac": (Status.FAILED, "FormatError", "checksum", None),
        }

    def test_keywords_are_those_of_the_command(self, photos: Path, tmp_path: Path) -> None:
        latents = tmp_path / "latents"
        choice: dict[str, Any] = {"model": TINY, "device": "cpu", "dtype": "f32"}
        list(encode_files(photos, latents, **choice))
        write_images(photos, "trip/b.png", height=10)
        results = by_name(
            verify_files(latents, source=photos, reencode=100, max_delta=0, workers=1, **choice)
        )
        same, changed = results["a.png.dinac"], results["trip/b.png.dinac"]
        assert (same.status, same.source, same.delta) == (
            Status.VERIFIED,
            SourceState.UNCHANGED,
            0.0,
        )
        assert (changed.status, changed.source) == (Status.FAILED, SourceState.CHANGED)
        assert "has changed" in str(changed.reason)
        assert changed.error is None  # a finding, not an error


class TestErrorsOfTheRequest:
    """They are raised by the call; taking the first result is not necessary."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Returns the working folder: two folders of one image name each, and an empty one."""
        monkeypatch.chdir(tmp_path)
        write_images(tmp_path, "1/a.png", "2/a.png")
        (tmp_path / "empty").mkdir()
        for name in "12":
            record = make_record(make_handle("tiny", "encoder"), "a.png")
            (tmp_path / name / "a.png.dinac").write_bytes(record)
        return tmp_path

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda: encode_files("empty", "out"), UsageError, "no images found in empty"),
            (lambda: decode_files("empty", "out"), UsageError, "no latent files found in empty"),
            (lambda: verify_files("empty"), UsageError, "no latent files found in empty"),
            (lambda: encode_files([], "out"), UsageError, "no input"),
            (
                lambda: encode_files("gone", "out"),
                UsageError,
                "gone: no such file or folder; check the path",
            ),
            (lambda: encode_files("", "out"), UsageError, "is an empty name"),
            (lambda: encode_files("1", ""), UsageError, "is an empty name"),
            (lambda: encode_files(["1", "2"], "out", model=TINY), UsageError, "would both be"),
            (lambda: decode_files(["1", "2"], "out", model=TINY), UsageError, "would both be"),
            (lambda: encode_files("1", "3", precision=""), UsageError, "--precision : choose one"),
            (lambda: decode_files("2", "3", quality=0), UsageError, "--quality 0: expected"),
            (lambda: encode_files("1", "2/a.png"), UsageError, "2/a.png: OUT, the last"),
            (
                lambda: encode_files("-", "out"),
                UsageError,
                "-: only the command line can use standard input",
            ),
            (
                lambda: encode_files("1", "-"),
                UsageError,
                "-: only the command line can use standard input",
            ),
            (
                lambda: decode_files(["1", "-"], "out"),
                UsageError,
                "-: only the command line can use standard input",
            ),
            (
                lambda: decode_files("1", "-"),
                UsageError,
                "-: only the command line can use standard input",
            ),
            (
                lambda: verify_files("-"),
                UsageError,
                "-: only the command line can use standard input",
            ),
            (lambda: encode_files("1", "out", workers=0), UsageError, "--workers 0"),
            (lambda: encode_files("1", "out", precision="q9"), UsageError, "--precision q9"),
            (lambda: encode_files("1", "out", resize=0), UsageError, "--resize 0: expected 1 to"),
            (lambda: encode_files("1", "out", crop=(8, 0)), UsageError, "--crop 0: expected 1 to"),
            (lambda: encode_files("1", "out", device="gpu"), UsageError, "--device gpu: choose"),
            (lambda: decode_files("1", "out", dtype="f16"), UsageError, "--dtype f16: choose"),
            (lambda: verify_files("1", device="cuda:x"), UsageError, "--device cuda:x: choose"),
            (lambda: encode_files("1", "out", background="x"), UsageError, "--background x"),
            (lambda: encode_files("1", "out", features=True), UsageError, "no class head"),
            (lambda: decode_files("1", "out", steps=0), UsageError, "num_steps is 0"),
            (lambda: decode_files("1", "out", format="gif"), UsageError, "--format gif"),
            (lambda: verify_files("1", source="gone"), UsageError, "--source gone"),
            (lambda: verify_files("1", reencode=5), UsageError, "--reencode reads"),
            (lambda: verify_files("1", reencode=0, source="1"), UsageError, "--reencode 0"),
            (lambda: verify_files("1", max_delta=1), UsageError, "--max-delta needs"),
            (lambda: verify_files("1", max_delta=-1), UsageError, "--max-delta -1: expected a"),
            (lambda: verify_files("1", max_delta=inf), UsageError, "--max-delta inf: expected a"),
            (lambda: verify_files("1", max_delta=nan), UsageError, "--max-delta nan: expected a"),
            (lambda: encode_files("1", "out", model="empty"), ModelError, "empty"),
            (lambda: decode_files("1", "out", model="empty"), ModelError, "empty"),
            (lambda: verify_files("1", model="empty"), ModelError, "empty"),
            (lambda: encode_files("1", "1/a.png/out", model=TINY), OutputError, "1/a.png"),
            (lambda: decode_files("1", "1/a.png/out", model=TINY), OutputError, "1/a.png"),
        ],
    )
    def test_the_call_raises(
        self,
        folder: Path,
        call: Callable[[], object],
        error: type[Exception],
        message: str,
    ) -> None:
        before = read_tree(folder)
        with pytest.raises(error) as caught:
            call()
        assert message in str(caught.value)
        assert read_tree(folder) == before
