"""An output's name goes to the first undamaged record that claims it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.frame import PREAMBLE
from dinac_cli.container.header import header_to_metadata
from dinac_cli.container.record import OpenRecord, hash_record, open_record
from dinac_cli.container.zstd import compress_content
from dinac_cli.errors import InputError
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.images.stamp import read_stamp
from dinac_cli.jobs.decode import DecodeOptions, decode_inputs
from dinac_cli.jobs.export import export_inputs
from dinac_cli.jobs.export_forms import FORMS
from dinac_cli.jobs.feature_set import FeatureSet
from dinac_cli.jobs.features import FeatureOptions, predict_features
from dinac_cli.jobs.model_choice import FixedModel
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.jobs.verify import VerifyOptions, verify_inputs
from dinac_cli.models.interface import DinacAEInferenceConfig
from dinac_cli.storage.content import Content, read_content
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

TAKEN = "another record of this run goes to a.png; this record is skipped"
PATIENCE_SECONDS = 120.0
MOMENT_SECONDS = 0.05


def break_checksum(model: ModelHandle) -> bytes:
    record = bytearray(make_record(model, "a.png", 7))
    record[-1] ^= 1
    return bytes(record)


def hold_nan(model: ModelHandle) -> bytes:
    """Returns a record with a correct checksum and a value that no record may hold."""
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
    options = DecodeOptions(settings=DinacAEInferenceConfig(seed=0), format=OUTPUT_FORMATS["png"])
    results = decode_inputs(
        select_latents(*sources),
        images_out(out),
        FixedModel(model),
        options,
        run_control(workers, 8, stdin=io.BytesIO(stdin)),
    )
    return list(results)


def assert_is_of(image: Path, record: bytes) -> None:
    stamp = read_stamp(image)
    assert stamp is not None
    assert hash_record(record) in str(stamp)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("damage", DAMAGES)
class TestDamagedThenGood:
    """The good record is decoded, and the damaged one is one failure."""

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

    def test_in_two_files(
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
class TestOtherOrders:
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

    def test_a_second_run_finds_the_good_one_done(
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


@pytest.mark.parametrize("is_missing", [False, True])
def test_an_unreadable_file_takes_no_name(
    tmp_path: Path, decoder: ModelHandle, monkeypatch: pytest.MonkeyPatch, is_missing: bool
) -> None:
    def read(path: str) -> Content:
        if path == str(unreadable):
            raise InputError("cannot read: Input/output error")
        return read_content(path)

    monkeypatch.setattr("dinac_cli.jobs.entries.read_content", read)
    good, unreadable = make_record(decoder, "a.png", 1), tmp_path / "a.png.dinac"
    if not is_missing:
        unreadable.write_bytes(good)
    (tmp_path / "all.dinac").write_bytes(good + make_record(decoder, "z.png"))
    found = decode(tmp_path / "out", decoder, unreadable, tmp_path / "all.dinac")
    assert sorted(result.status for result in found) == [Status.FAILED] + [Status.WRITTEN] * 2
    assert_is_of(tmp_path / "out/a.png", good)


@pytest.mark.parametrize("workers", [1, 3])
def test_exports_follow_the_same_rule(tmp_path: Path, decoder: ModelHandle, workers: int) -> None:
    good, second = make_record(decoder, "a.png", 1), make_record(decoder, "a.png", 2)
    stdin = io.BytesIO(break_checksum(decoder) + good + second)
    output = Output(str(tmp_path / "out"), OutputKind.FOLDER, lambda _: True)
    control = run_control(workers, stdin=stdin)
    found = list(export_inputs(select_latents("-"), output, "npz", control))
    assert [result.status for result in found] == [Status.FAILED, Status.WRITTEN, Status.FAILED]
    assert list(read_tree(tmp_path / "out")) == ["a.png.npz"]
    assert FORMS["npz"].is_current(str(tmp_path / "out/a.png.npz"), hash_record(good))


@pytest.mark.parametrize("workers", [1, 3])
def test_features_follow_the_same_rule(tmp_path: Path, workers: int) -> None:
    model = make_handle("tiny", "class_head")
    good, second = make_record(model, "a.png", 1), make_record(model, "a.png", 2)
    stdin = io.BytesIO(break_checksum(model) + good + second)
    output = Output(str(tmp_path / "x.safetensors"), OutputKind.FILE, lambda _: True)
    features = FeatureSet()
    results = predict_features(
        select_latents("-"),
        output,
        FixedModel(model),
        FeatureOptions(),
        features,
        run_control(workers, stdin=stdin),
    )
    assert sorted(result.status for result in results) == [
        Status.FAILED, Status.FAILED, Status.READ,
    ]  # fmt: skip
    assert list(features.rows) == [1]


class TestWaiting:
    """A record waits for an earlier one that has its output's name, and for no other record."""

    def watch(
        self, monkeypatch: pytest.MonkeyPatch, slow: bytes, pause: Callable[[], object]
    ) -> list[bytes]:
        """Lets the reader of `slow` pause; returns the records that are read, in order."""
        opened: list[bytes] = []

        def read(data: bytes) -> OpenRecord:
            opened.append(data)
            if data == slow:
                pause()
            return open_record(data)

        monkeypatch.setattr("dinac_cli.jobs.decode.open_record", read)
        return opened

    def test_an_undamaged_earlier_record_keeps_the_later_one_unread(
        self, tmp_path: Path, decoder: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow, second = make_record(decoder, "a.png", 1), make_record(decoder, "a.png", 2)
        opened = self.watch(monkeypatch, slow, lambda: time.sleep(MOMENT_SECONDS))
        found = decode(tmp_path / "out", decoder, "-", stdin=slow + second, workers=4)
        assert [result.reason for result in found if result.failed] == [TAKEN]
        assert opened == [slow]
        assert_is_of(tmp_path / "out/a.png", slow)

    def test_a_damaged_earlier_record_lets_the_later_one_be_read(
        self, tmp_path: Path, decoder: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow, second = break_checksum(decoder), make_record(decoder, "a.png", 2)
        opened = self.watch(monkeypatch, slow, lambda: time.sleep(MOMENT_SECONDS))
        found = decode(tmp_path / "out", decoder, "-", stdin=slow + second, workers=4)
        assert sorted(result.status for result in found) == [Status.FAILED, Status.WRITTEN]
        assert opened == [slow, second]
        assert_is_of(tmp_path / "out/a.png", second)

    def test_a_record_of_another_name_is_read_meanwhile(
        self, tmp_path: Path, decoder: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow, other = make_record(decoder, "a.png", 1), make_record(decoder, "b.png", 2)
        deadline = time.monotonic() + PATIENCE_SECONDS

        def wait_for_the_other() -> None:
            while other not in opened and time.monotonic() < deadline:
                time.sleep(0.001)
            assert other in opened

        opened = self.watch(monkeypatch, slow, wait_for_the_other)
        found = decode(tmp_path / "out", decoder, "-", stdin=slow + other, workers=4)
        assert [result.status for result in found] == [Status.WRITTEN] * 2


@pytest.mark.parametrize("ignores_case", [False, True])
def test_names_that_differ_in_case_are_one_if_the_file_system_ignores_case(
    tmp_path: Path, decoder: ModelHandle, monkeypatch: pytest.MonkeyPatch, ignores_case: bool
) -> None:
    monkeypatch.setattr("dinac_cli.storage.output.ignores_case", lambda folder: ignores_case)
    stream = make_record(decoder, "a.png", 1) + make_record(decoder, "A.PNG", 2)
    found = decode(tmp_path / "out", decoder, "-", stdin=stream)
    failed = [result.reason for result in found if result.failed]
    assert failed == ([TAKEN.replace("a.png", "A.PNG")] if ignores_case else [])


def test_a_run_without_outputs_accepts_equal_names(decoder: ModelHandle) -> None:
    stdin = io.BytesIO(make_record(decoder, "a.png", 1) + make_record(decoder, "a.png", 2))
    found = verify_inputs(select_latents("-"), VerifyOptions(), run_control(stdin=stdin))
    assert [result.status for result in found] == [Status.VERIFIED] * 2
