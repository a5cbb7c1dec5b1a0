"""Who has an output's name: the first whole record, wherever the damaged ones are."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.frame import PREAMBLE
from dinac_cli.container.header import header_to_metadata
from dinac_cli.container.record import hash_record, unpack_record
from dinac_cli.container.zstd import compress_content
from dinac_cli.errors import FormatError, InputError, Rejection
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.images.stamp import read_stamp
from dinac_cli.jobs.decode import DecodeOptions, decode_files
from dinac_cli.jobs.entries import NameClaim, NameClaims
from dinac_cli.jobs.export import export_files, write_npz
from dinac_cli.jobs.feature_set import FeatureSet
from dinac_cli.jobs.features import FeatureOptions, predict_features
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.models.dinac.config import DinacAEInferenceConfig
from dinac_cli.storage.output import Output, OutputKind

from .hand_made import (
    images_out,
    make_handle,
    make_header,
    make_record,
    read_tree,
    run_control,
    select_latents,
)

TAKEN = "another record of this run goes to a.png; this one is left out"
PATIENCE_SECONDS = 10.0
MOMENT_SECONDS = 0.05


def break_checksum(model: ModelHandle) -> bytes:
    record = bytearray(make_record(model, "a.png", 7))
    record[-1] ^= 1
    return bytes(record)


def hold_nan(model: ModelHandle) -> bytes:
    """A record with a right checksum around a value that no record may have."""
    header = make_header(model, "a.png")
    latents = np.full(header.shape, np.nan, np.float32)
    entry = {"dtype": "F32", "shape": [*header.shape], "data_offsets": [0, latents.nbytes]}
    text = json.dumps({"__metadata__": header_to_metadata(header), "latents": entry}).encode()
    head = len(text).to_bytes(8, "little") + text
    return PREAMBLE + compress_content([head, latents.tobytes()])


def cut_short(model: ModelHandle) -> bytes:
    return make_record(model, "a.png", 7)[:-20]


DAMAGES = [break_checksum, hold_nan, cut_short]


def decode(
    out: Path, model: ModelHandle, *sources: Path | str, stdin: bytes = b"", workers: int = 2
) -> list[FileResult]:
    options = DecodeOptions(DinacAEInferenceConfig(seed=0), OUTPUT_FORMATS["png"], lambda _: model)
    control = run_control(workers, 8)
    inputs = select_latents(*sources)
    return list(decode_files(inputs, images_out(out), options, control, stdin=io.BytesIO(stdin)))


def assert_is_of(image: Path, record: bytes) -> None:
    stamp = read_stamp(image)
    assert stamp is not None
    assert hash_record(record) in str(stamp)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("damage", DAMAGES)
class TestDamagedThenGood:
    """The good record is decoded, and the damaged one is one line."""

    def test_in_a_stream(
        self,
        tmp_path: Path,
        decoder: ModelHandle,
        damage: Callable[[ModelHandle], bytes],
        workers: int,
    ) -> None:
        good, last = make_record(decoder, "a.png", 1), make_record(decoder, "z.png", 2)
        stream = damage(decoder) + good + last
        found = decode(tmp_path / "out", decoder, "-", stdin=stream, workers=workers)
        failed, *done = sorted(found, key=lambda result: result.status is not Status.FAILED)
        assert failed.reason is not None
        assert failed.reason != TAKEN
        assert [result.status for result in done] == [Status.WRITTEN] * 2
        assert sorted(read_tree(tmp_path / "out")) == ["a.png", "z.png"]
        assert_is_of(tmp_path / "out/a.png", good)

    def test_in_a_file_of_several(
        self,
        tmp_path: Path,
        decoder: ModelHandle,
        damage: Callable[[ModelHandle], bytes],
        workers: int,
    ) -> None:
        good = make_record(decoder, "a.png", 1)
        (tmp_path / "all.dinac").write_bytes(damage(decoder) + good)
        found = decode(tmp_path / "out", decoder, tmp_path / "all.dinac", workers=workers)
        assert sorted(result.status for result in found) == [Status.FAILED, Status.WRITTEN]
        assert_is_of(tmp_path / "out/a.png", good)

    def test_over_files(
        self,
        tmp_path: Path,
        decoder: ModelHandle,
        damage: Callable[[ModelHandle], bytes],
        workers: int,
    ) -> None:
        good = make_record(decoder, "a.png", 1)
        (tmp_path / "a.png.dinac").write_bytes(damage(decoder))
        (tmp_path / "several.dinac").write_bytes(make_record(decoder, "z.png") + good)
        sources = (tmp_path / "a.png.dinac", tmp_path / "several.dinac")
        found = decode(tmp_path / "out", decoder, *sources, workers=workers)
        (failed,) = [result for result in found if result.failed]
        assert failed.file == str(tmp_path / "a.png.dinac")
        assert sorted(read_tree(tmp_path / "out")) == ["a.png", "z.png"]
        assert_is_of(tmp_path / "out/a.png", good)


@pytest.mark.parametrize("workers", [1, 4])
class TestOthers:
    @pytest.mark.parametrize("damage", [break_checksum, hold_nan])
    def test_good_then_damaged(
        self,
        tmp_path: Path,
        decoder: ModelHandle,
        damage: Callable[[ModelHandle], bytes],
        workers: int,
    ) -> None:
        good = make_record(decoder, "a.png", 1)
        stream = good + damage(decoder)
        found = decode(tmp_path / "out", decoder, "-", stdin=stream, workers=workers)
        assert [result.reason for result in found if result.failed] == [TAKEN]
        assert_is_of(tmp_path / "out/a.png", good)

    def test_good_then_good(self, tmp_path: Path, decoder: ModelHandle, workers: int) -> None:
        records = [make_record(decoder, "a.png", seed) for seed in range(3)]
        found = decode(tmp_path / "out", decoder, "-", stdin=b"".join(records), workers=workers)
        assert [result.reason for result in found if result.failed] == [TAKEN, TAKEN]
        assert_is_of(tmp_path / "out/a.png", records[0])

    def test_damaged_then_damaged(self, tmp_path: Path, decoder: ModelHandle, workers: int) -> None:
        stream = break_checksum(decoder) + hold_nan(decoder)
        found = decode(tmp_path / "out", decoder, "-", stdin=stream, workers=workers)
        assert [(result.file, result.status) for result in found] == [
            ("stdin: a.png", Status.FAILED),
            ("stdin: a.png", Status.FAILED),
        ]
        assert TAKEN not in {result.reason for result in found}
        assert read_tree(tmp_path / "out") == {}

    def test_again_the_good_one_is_done(
        self, tmp_path: Path, decoder: ModelHandle, workers: int
    ) -> None:
        stream = break_checksum(decoder) + make_record(decoder, "a.png", 1)
        decode(tmp_path / "out", decoder, "-", stdin=stream, workers=workers)
        before = read_tree(tmp_path / "out")
        again = decode(tmp_path / "out", decoder, "-", stdin=stream, workers=workers)
        assert sorted(result.status for result in again) == [Status.DONE, Status.FAILED]
        assert read_tree(tmp_path / "out") == before

    def test_many_of_one_name_with_room_for_one(
        self,
        tmp_path: Path,
        decoder: ModelHandle,
        workers: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("dinac_cli.jobs.executor.local.READ_BYTES", 1)
        good = [make_record(decoder, "a.png", seed) for seed in range(9)]
        others = [make_record(decoder, f"{number}.png", number) for number in range(9)]
        records = [break_checksum(decoder)] * 9 + good
        stream = b"".join(part for pair in zip(records, others * 2, strict=True) for part in pair)
        found = decode(tmp_path / "out", decoder, "-", stdin=stream, workers=workers)
        assert len(found) == 36
        assert len(read_tree(tmp_path / "out")) == 10
        assert_is_of(tmp_path / "out/a.png", good[0])


def test_a_record_of_an_unreadable_file_takes_no_name(tmp_path: Path, decoder: ModelHandle) -> None:
    """What cannot be read is as good as damaged."""
    good = make_record(decoder, "a.png", 1)
    (tmp_path / "a.png.dinac").mkdir()
    (tmp_path / "all.dinac").write_bytes(good + make_record(decoder, "z.png"))
    gone = tmp_path / "gone/a.png.dinac"
    found = decode(tmp_path / "out", decoder, gone, tmp_path / "all.dinac")
    assert sorted(result.status for result in found) == [Status.FAILED] + [Status.WRITTEN] * 2
    assert_is_of(tmp_path / "out/a.png", good)


@pytest.mark.parametrize("workers", [1, 3])
def test_exports_too(tmp_path: Path, decoder: ModelHandle, workers: int) -> None:
    good, second = make_record(decoder, "a.png", 1), make_record(decoder, "a.png", 2)
    stdin = io.BytesIO(break_checksum(decoder) + good + second)
    output = Output(str(tmp_path / "out"), OutputKind.FOLDER, lambda _: True)
    control = run_control(workers)
    found = list(export_files(select_latents("-"), output, "npz", control, stdin=stdin))
    assert [result.status for result in found] == [Status.FAILED, Status.WRITTEN, Status.FAILED]
    assert read_tree(tmp_path / "out") == {"a.png.npz": write_npz(unpack_record(good))}


@pytest.mark.parametrize("workers", [1, 3])
def test_features_too(tmp_path: Path, workers: int) -> None:
    model = make_handle("tiny", "class_head")
    good, second = make_record(model, "a.png", 1), make_record(model, "a.png", 2)
    stdin = io.BytesIO(break_checksum(model) + good + second)
    output = Output(str(tmp_path / "x.safetensors"), OutputKind.FILE, lambda _: True)
    features = FeatureSet()
    options = FeatureOptions(lambda _: model)
    results = predict_features(
        select_latents("-"), output, options, features, run_control(workers), stdin=stdin
    )
    assert sorted(result.status for result in results) == [
        Status.FAILED, Status.FAILED, Status.READ,
    ]  # fmt: skip
    assert list(features.rows) == [1]


class TestWaiting:
    """A claim waits for those before it to its name, and for no others."""

    @staticmethod
    def make(claims: NameClaims, name: str) -> NameClaim:
        claim = claims.make(name)
        assert claim is not None
        return claim

    def test_for_an_earlier_one_of_the_name(self) -> None:
        claims = NameClaims(str)
        first, second = self.make(claims, "a"), self.make(claims, "a")
        outcomes: list[str] = []

        def read() -> None:
            with second.settle():
                outcomes.append("read")

        thread = threading.Thread(target=read, daemon=True)

        def find_damage() -> None:
            with first.settle():
                thread.start()
                thread.join(MOMENT_SECONDS)
                assert outcomes == []
                raise FormatError(Rejection.CHECKSUM, "damaged")

        with pytest.raises(FormatError):
            find_damage()
        thread.join(PATIENCE_SECONDS)
        assert outcomes == ["read"]

    def test_not_for_a_later_one_or_another_name(self) -> None:
        claims = NameClaims(str)
        self.make(claims, "b")
        first = self.make(claims, "a")
        later = self.make(claims, "a")
        with first.settle():
            pass
        with pytest.raises(InputError), later.settle():
            pytest.fail("the name is taken")

    def test_names_that_differ_in_case(self) -> None:
        claims = NameClaims(str, fold_case=True)
        first, second = self.make(claims, "a"), self.make(claims, "A")
        with first.settle():
            pass
        with pytest.raises(InputError), second.settle():
            pytest.fail("the name is taken")

    def test_nothing_is_claimed_without_outputs(self) -> None:
        assert NameClaims(None).make("a") is None
