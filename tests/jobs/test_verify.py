"""Verify passes good records and names each fault of the others."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.frame import PREAMBLE
from dinac_cli.container.record import pack_record, unpack_record
from dinac_cli.container.zstd import compress_content, decompress_content
from dinac_cli.errors import ModelError
from dinac_cli.jobs.encode import EncodeOptions, encode_inputs
from dinac_cli.jobs.model_choice import FixedModel
from dinac_cli.jobs.reencode import Reencoding, describe_delta
from dinac_cli.jobs.results import FileResult, SourceState, Status
from dinac_cli.jobs.verify import VerifyOptions, verify_inputs

from .hand_made import (
    draw,
    latents_out,
    make_handle,
    run_control,
    select_images,
    select_latents,
    write_images,
)

NAMES = ("a.png", "b.png", "trip/c.png")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, encoder: ModelHandle) -> Path:
    """Returns a folder with `photos` and their `latents`, which tests must not change."""
    folder = tmp_path_factory.mktemp("encoded")
    write_images(folder / "photos", *NAMES)
    encode(folder, encoder)
    return folder


@pytest.fixture
def own(encoded: Path, tmp_path: Path) -> Path:
    """Returns a copy of `encoded` that a test may change."""
    shutil.copytree(encoded, tmp_path / "own")
    return tmp_path / "own"


def encode(folder: Path, encoder: ModelHandle, **options: object) -> None:
    settings = EncodeOptions(**options)  # type: ignore[arg-type]
    inputs = select_images(folder / "photos")
    out = latents_out(folder / "latents", overwrite=True)
    for result in encode_inputs(inputs, out, encoder, settings, run_control()):
        assert result.status is Status.WRITTEN, result


def verify(
    *paths: Path, stdin: bytes = b"", limit: int | None = None, **options: object
) -> list[FileResult]:
    settings = VerifyOptions(**options)  # type: ignore[arg-type]
    inputs, control = select_latents(*paths), run_control(stdin=io.BytesIO(stdin))
    return list(verify_inputs(inputs, settings, control, limit=limit))


def reasons(results: list[FileResult], folder: Path) -> dict[str, str | None]:
    """Maps each label below `folder` to its finding, or None."""
    for result in results:
        assert (result.reason is None) == (result.status is Status.VERIFIED)
    return {r.file.removeprefix(f"{folder}/"): r.reason for r in results}


def reencode(
    encoder: ModelHandle, percent: float = 100, max_delta: float | None = None
) -> Reencoding:
    return Reencoding(percent, FixedModel(encoder), max_delta)


class TestRecords:
    def test_good_records_pass(self, encoded: Path) -> None:
        results = verify(encoded / "latents")
        assert reasons(results, encoded / "latents") == {f"{name}.dinac": None for name in NAMES}
        assert {(r.width, r.height, r.source, r.delta) for r in results} == {(30, 20, None, None)}

    def test_damaged_records_fail(self, own: Path) -> None:
        latents = own / "latents"
        good = (latents / "a.png.dinac").read_bytes()
        (latents / "a.png.dinac").write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
        (latents / "b.png.dinac").write_bytes(good[:-1])
        (latents / "text.dinac").write_text("no record")
        (latents / "notes.txt").write_text("ignored in a folder")
        cut_short = "the record is cut short; copy it again or re-encode"
        found = reasons(verify(latents), latents)
        assert "copy" in str(found.pop("a.png.dinac"))
        assert found == {
            "b.png.dinac": cut_short,
            "text.dinac": "not a latent record: no dinac preamble",
            "trip/c.png.dinac": None,
        }
        [named] = verify(latents / "notes.txt")
        assert named.reason == "not a latent record: no dinac preamble"

    def test_the_values_of_the_latents_are_checked(self, own: Path) -> None:
        path = own / "latents/a.png.dinac"
        record = unpack_record(path.read_bytes())
        plain = pack_record(replace(record.header, precision="f32"), record.latents)
        content = bytearray(decompress_content(plain[len(PREAMBLE) :]))
        content[-4:] = np.array([np.inf], "<f4").tobytes()
        path.write_bytes(PREAMBLE + compress_content([bytes(content)]))
        [result] = verify(path)
        assert result.reason == "the latents hold NaN or infinity; re-encode"

    def test_trailing_bytes_are_a_finding(self, own: Path) -> None:
        path = own / "latents/a.png.dinac"
        path.write_bytes(path.read_bytes() + b"rest")
        assert reasons(verify(path), path.parent) == {
            "a.png.dinac: a.png": None,
            "a.png.dinac after record 1": "not a latent record: no dinac preamble",
        }

    def test_records_of_one_file_and_of_a_stream_are_all_checked(self, own: Path) -> None:
        latents = [(own / f"latents/{name}.dinac").read_bytes() for name in NAMES]
        together = b"".join([*latents, latents[0][:100]])
        (own / "all.dinac").write_bytes(together)
        cut_short = "the record is cut short; copy it again or re-encode"
        for label, results in (
            ("all.dinac", verify(own / "all.dinac")),
            ("stdin", verify(Path("-"), stdin=together)),
        ):
            assert reasons(results, own) == {
                **{f"{label}: {name}": None for name in NAMES},
                f"{label} record 4": cut_short,
            }

    def test_a_record_may_be_verified_twice(self, encoded: Path) -> None:
        path = encoded / "latents/a.png.dinac"
        assert [r.status for r in verify(path, path)] == [Status.VERIFIED] * 2

    def test_the_limit_counts_records(self, encoded: Path) -> None:
        stream = b"".join((encoded / f"latents/{name}.dinac").read_bytes() for name in NAMES)
        assert len(verify(Path("-"), stdin=stream, limit=2)) == 2

    def test_a_stop_request_takes_no_more_records(self, encoded: Path) -> None:
        control = run_control(workers=1)
        control.stop.set()
        inputs = select_latents(encoded / "latents")
        assert list(verify_inputs(inputs, VerifyOptions(), control)) == []


class TestModel:
    def test_the_named_model_passes(self, encoded: Path, encoder: ModelHandle) -> None:
        assert {r.reason for r in verify(encoded / "latents", model=encoder)} == {None}

    def test_a_record_of_another_model_fails_and_the_finding_names_both_models(
        self, own: Path, encoder: ModelHandle
    ) -> None:
        identity = encoder.identity
        path = own / "latents/a.png.dinac"
        record = unpack_record(path.read_bytes())
        own_parts = f"latent space {identity.latent_space}, weights {identity.weights}"
        others = (
            replace(record.header, precision="f32", latent_space="0" * 16),
            replace(record.header, precision="f32", weights="0" * 16, model=""),
        )
        for header in others:
            path.write_bytes(pack_record(header, record.latents))
            [result] = verify(path, model=encoder)
            assert result.reason == (
                f"encoded with model {header.model or 'unknown'} (latent space "
                f"{header.latent_space}, weights {header.weights}), not with tiny ({own_parts})"
            )


class TestSource:
    def test_unchanged_sources_pass(self, encoded: Path) -> None:
        results = verify(encoded / "latents", source=str(encoded / "photos"))
        assert [(r.status, r.source) for r in results] == [
            (Status.VERIFIED, SourceState.UNCHANGED)
        ] * 3

    def test_changed_and_missing_sources_are_findings(self, own: Path) -> None:
        photos = own / "photos"
        data = (photos / "a.png").read_bytes()
        (photos / "a.png").write_bytes(data + b"!")
        data = (photos / "b.png").read_bytes()
        (photos / "b.png").write_bytes(data[:-1] + b"!")
        (photos / "trip/c.png").unlink()
        results = verify(own / "latents", source=str(photos))
        size = len((photos / "a.png").read_bytes())
        assert reasons(results, own / "latents") == {
            "a.png.dinac": f"its source {photos}/a.png has changed "
            f"({size} bytes, not {size - 1}); run encode --checksum again",
            "b.png.dinac": f"its source {photos}/b.png has changed "
            "(same size, other bytes); run encode --checksum again",
            "trip/c.png.dinac": f"its source {photos}/trip/c.png does not exist",
        }
        assert [r.source for r in results] == [
            SourceState.CHANGED, SourceState.CHANGED, SourceState.MISSING
        ]  # fmt: skip

    def test_a_record_named_by_itself_or_renamed_finds_its_source_by_its_own_name(
        self, own: Path
    ) -> None:
        renamed = own / "renamed.dinac"
        shutil.copy(own / "latents/trip/c.png.dinac", renamed)
        for path in (own / "latents/trip/c.png.dinac", renamed):
            [result] = verify(path, source=str(own / "photos"))
            assert result.source is SourceState.UNCHANGED

    def test_a_record_named_by_itself_is_not_compared_with_another_image(self, own: Path) -> None:
        photos, record = own / "photos", own / "latents/trip/c.png.dinac"
        shutil.copy(photos / "a.png", photos / "c.png")
        [result] = verify(record, source=str(photos))
        assert result.source is SourceState.UNCHANGED
        shutil.copy(photos / "a.png", photos / "trip/c.png")
        results = verify(record, source=str(photos))
        [reason] = reasons(results, own / "latents").values()
        assert reason is not None
        assert reason.startswith(f"its source {photos}/trip/c.png has changed")

    def test_swapped_records_are_findings(self, own: Path) -> None:
        a, b = own / "latents/a.png.dinac", own / "latents/b.png.dinac"
        first, second = a.read_bytes(), b.read_bytes()
        a.write_bytes(second)
        b.write_bytes(first)
        results = verify(a, b, source=str(own / "photos"))
        assert [result.source for result in results] == [SourceState.CHANGED] * 2

    def test_a_record_of_a_stream_finds_its_source_by_its_own_name(self, encoded: Path) -> None:
        stream = (encoded / "latents/trip/c.png.dinac").read_bytes()
        [result] = verify(Path("-"), stdin=stream, source=str(encoded / "photos"))
        assert result.source is SourceState.UNCHANGED

    def test_the_source_of_an_anonymous_record_is_unknown(
        self, own: Path, encoder: ModelHandle
    ) -> None:
        encode(own, encoder, anonymous=True)
        (own / "photos/a.png").write_bytes(b"something else")
        photos, latents = own / "photos", own / "latents"
        results = verify(latents, source=str(photos))
        results += verify(
            Path("-"), stdin=(latents / "b.png.dinac").read_bytes(), source=str(photos)
        )
        assert [(r.status, r.source) for r in results] == [
            (Status.VERIFIED, SourceState.UNKNOWN)
        ] * 4
        (photos / "a.png").unlink()
        assert verify(latents, source=str(photos))[0].source is SourceState.MISSING


class TestReencoding:
    @pytest.mark.parametrize("precision", ["f32", "bf16", "q6"])
    def test_the_same_model_on_the_same_machine_is_exact(
        self, own: Path, encoder: ModelHandle, precision: str
    ) -> None:
        Image.fromarray(np.dstack([draw(9), draw(8)[..., :1]])).save(own / "photos/alpha.png")
        encode(own, encoder, precision=precision, background=(9, 200, 70))
        results = verify(
            own / "latents", source=str(own / "photos"), reencoding=reencode(encoder, max_delta=0)
        )
        assert [(r.status, r.delta) for r in results] == [(Status.VERIFIED, 0.0)] * 4

    def test_deviating_latents_are_a_finding(self, own: Path, encoder: ModelHandle) -> None:
        path = own / "latents/a.png.dinac"
        record = unpack_record(path.read_bytes())
        latents = record.latents.copy()
        latents[3, 1, 1] += 1
        path.write_bytes(pack_record(replace(record.header, precision="f32"), latents))
        [result] = verify(path, source=str(own / "photos"), reencoding=reencode(encoder))
        assert result.delta == pytest.approx(1, abs=0.05)
        assert result.reason == (
            f"re-encoded, its latents differ by up to {result.delta:.3g}, more than 0.25"
        )
        [result] = verify(path, source=str(own / "photos"), reencoding=reencode(encoder, 100, 1.5))
        assert result.status is Status.VERIFIED

    def test_one_step_of_the_quantiser_is_not_a_finding(self) -> None:
        assert describe_delta((0.8, 0.01), None) is None
        assert describe_delta((0.8, 0.3), None) == (
            "re-encoded, its latents differ by up to 0.8, more than 0.25 plus a step of the "
            "quantiser"
        )
        assert describe_delta((0.8, 0.01), 0.5) == (
            "re-encoded, its latents differ by up to 0.8, more than 0.5"
        )

    def test_a_source_of_another_size_is_a_finding(self, own: Path, encoder: ModelHandle) -> None:
        encode(own, encoder, anonymous=True)
        write_images(own / "photos", "a.png", height=16, width=16)
        (own / "photos/b.png").write_text("not an image")
        photos = own / "photos"
        results = verify(own / "latents", source=str(photos), reencoding=reencode(encoder))
        assert reasons(results, own / "latents") == {
            "a.png.dinac": f"its source {photos}/a.png has 16x16 pixels, the record 30x20; "
            "re-encode it",
            "b.png.dinac": f"its source {photos}/b.png: not an image (no known image format); "
            "see 'dinac man images'",
            "trip/c.png.dinac": None,
        }

    def test_the_sample_is_the_first_record_and_a_share_of_the_others(
        self, tmp_path: Path, encoder: ModelHandle
    ) -> None:
        write_images(tmp_path / "photos", *(f"{n}.png" for n in range(12)), height=4, width=4)
        encode(tmp_path, encoder)
        chosen = {}
        for percent in (0.001, 40, 100):
            results = verify(
                tmp_path / "latents",
                source=str(tmp_path / "photos"),
                reencoding=reencode(encoder, percent),
            )
            chosen[percent] = {r.file for r in results if r.delta is not None}
        assert chosen[0.001] == {f"{tmp_path}/latents/0.png.dinac"}
        assert chosen[0.001] < chosen[40] < chosen[100]
        assert len(chosen[100]) == 12

    def test_a_missing_model_fails_the_sample_alone(self, encoded: Path) -> None:
        class NoModels:
            def find(self, header: object) -> ModelHandle:
                raise ModelError("not available")

            def use_device(self, name: str) -> None:
                raise NotImplementedError

        results = verify(
            encoded / "latents",
            source=str(encoded / "photos"),
            reencoding=Reencoding(1, NoModels()),
        )
        assert [(r.reason, r.error) for r in results] == [
            ("not available", "ModelError"), (None, None), (None, None)
        ]  # fmt: skip

    def test_no_model_is_loaded_for_a_record_that_failed_already(self, own: Path) -> None:
        unloadable = make_handle("gone", "encoder")
        (own / "photos/a.png").write_bytes(b"changed")
        [result] = verify(
            own / "latents/a.png.dinac", source=str(own / "photos"), reencoding=reencode(unloadable)
        )
        assert result.source is SourceState.CHANGED
