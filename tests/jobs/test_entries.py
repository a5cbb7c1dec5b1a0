"""The records of files, concatenated files and streams, and the names of their outputs."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import pytest

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.frame import PREAMBLE
from dinac_cli.container.stream import read_records
from dinac_cli.container.zstd import compress_content
from dinac_cli.errors import DinacError, UsageError
from dinac_cli.jobs.entries import RecordEntry, list_records, require_single
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.naming import name_image

from .hand_made import make_record, select_latents


def rename(name: str) -> str:
    return name_image(name, (".png",))


def entries(
    inputs: Iterable[Input], stdin: BinaryIO | None = None, *, fold_case: bool = False
) -> list[RecordEntry]:
    """Lists the entries; a refused one has the error that its reader gets."""
    return [settle(entry) for entry in list_records(inputs, stdin, rename, fold_case=fold_case)]


def settle(entry: RecordEntry) -> RecordEntry:
    try:
        with entry.settle_name():
            return entry
    except DinacError as exc:
        return dataclasses.replace(entry, error=exc)


def from_stream(data: bytes, *, fold_case: bool = False) -> list[RecordEntry]:
    return entries(select_latents("-"), io.BytesIO(data), fold_case=fold_case)


def names(found: Iterable[RecordEntry]) -> list[str]:
    return [entry.name for entry in found if entry.error is None]


def errors(found: Iterable[RecordEntry]) -> list[tuple[str, str]]:
    return [(entry.label, str(entry.error)) for entry in found if entry.error is not None]


class TestFile:
    def test_a_file_of_one_record_names_the_output(
        self, tmp_path: Path, encoder: ModelHandle
    ) -> None:
        (tmp_path / "x.dinac").write_bytes(make_record(encoder, "trip/a.jpg"))
        (entry,) = entries(select_latents(tmp_path))
        path = str(tmp_path / "x.dinac")
        assert entry == RecordEntry(path, "x.dinac", path=path)

    def test_a_missing_file_is_an_error(self, tmp_path: Path) -> None:
        path = str(tmp_path / "gone.dinac")
        assert errors(entries(select_latents(path))) == [
            (path, "no such file or folder; check the path")
        ]

    @pytest.mark.parametrize("content", [b"", b"text"])
    def test_a_file_without_a_record_is_left_to_its_reader(
        self, tmp_path: Path, content: bytes
    ) -> None:
        (tmp_path / "x.dinac").write_bytes(content)
        (entry,) = entries(select_latents(tmp_path))
        assert (entry.path, entry.error) == (str(tmp_path / "x.dinac"), None)

    def test_a_file_of_one_damaged_record_is_left_to_its_reader(
        self, tmp_path: Path, encoder: ModelHandle
    ) -> None:
        (tmp_path / "x.dinac").write_bytes(make_record(encoder, "a.jpg")[:-1])
        (entry,) = entries(select_latents(tmp_path))
        assert (entry.path, entry.error) == (str(tmp_path / "x.dinac"), None)

    def test_records_of_one_file_have_names_of_their_own(
        self, tmp_path: Path, encoder: ModelHandle
    ) -> None:
        first, second = make_record(encoder, "a.jpg"), make_record(encoder, "trip/b.jpg", seed=1)
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub/all.dinac").write_bytes(first + second)
        path = str(tmp_path / "sub/all.dinac")
        assert entries(select_latents(tmp_path)) == [
            RecordEntry(f"{path}: sub/a.jpg", "sub/a.jpg", data=first),
            RecordEntry(f"{path}: sub/trip/b.jpg", "sub/trip/b.jpg", data=second),
        ]

    def test_a_damaged_first_record_leaves_the_others(
        self, tmp_path: Path, encoder: ModelHandle
    ) -> None:
        first = bytearray(make_record(encoder, "a.jpg"))
        first[26:34] = b"\xff" * 8  # the header of its zstd frame
        (tmp_path / "all.dinac").write_bytes(bytes(first) + make_record(encoder, "b.jpg"))
        found = entries(select_latents(tmp_path))
        assert names(found) == ["b.jpg"]
        assert [label for label, _ in errors(found)] == [f"{tmp_path / 'all.dinac'} record 1"]

    def test_a_read_error_within_a_file_is_one_failure(
        self, tmp_path: Path, encoder: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("all.dinac", "b.dinac"):
            (tmp_path / name).write_bytes(make_record(encoder, "x") + make_record(encoder, name))

        def fail(stream: BinaryIO) -> object:
            if stream.name.endswith("all.dinac"):
                raise OSError(5, "Input/output error")
            return read_records(stream)

        monkeypatch.setattr("dinac_cli.jobs.entries.read_records", fail)
        found = entries(select_latents(tmp_path))
        path = str(tmp_path / "all.dinac")
        assert errors(found) == [
            (path, "cannot read: Input/output error; check the path and its permissions")
        ]
        assert names(found) == ["x", "b.dinac"]


class TestStream:
    def test_records_are_named_by_their_headers(self, encoder: ModelHandle) -> None:
        data = [make_record(encoder, name) for name in ("b.jpg", "trip/a.jpg")]
        found = from_stream(b"".join(data))
        assert [(entry.label, entry.name, entry.data) for entry in found] == [
            ("stdin: b.jpg", "b.jpg", data[0]),
            ("stdin: trip/a.jpg", "trip/a.jpg", data[1]),
        ]

    def test_a_record_without_a_name_gets_its_number(self, encoder: ModelHandle) -> None:
        data = [make_record(encoder, name) for name in ("", "a.jpg", "")]
        assert names(from_stream(b"".join(data))) == ["000001", "a.jpg", "000003"]

    def test_a_bad_record_counts(self, encoder: ModelHandle) -> None:
        good = make_record(encoder, "")
        bad = bytearray(good)
        bad[14] = 9  # the version
        found = from_stream(good + bytes(bad) + good)
        assert names(found) == ["000001", "000003"]
        assert [label for label, _ in errors(found)] == ["stdin record 2"]

    def test_a_truncated_record_is_an_error(self, encoder: ModelHandle) -> None:
        record = make_record(encoder, "a.jpg")
        found = from_stream(record + make_record(encoder, "b.jpg")[:-5])
        assert names(found) == ["a.jpg"]
        assert len(errors(found)) == 1

    def test_an_unreadable_header_is_an_error(self, encoder: ModelHandle) -> None:
        header = b'{"__metadata__":{}}'
        content = compress_content([len(header).to_bytes(8, "little") + header, b""])
        found = from_stream(PREAMBLE + content + make_record(encoder, "b.jpg"))
        assert names(found) == ["b.jpg"]
        assert [label for label, _ in errors(found)] == ["stdin record 1"]

    def test_an_empty_stream_is_an_error(self) -> None:
        assert errors(from_stream(b"")) == [("stdin", "is empty; pipe records into it")]

    def test_a_repeated_name_is_refused(self, encoder: ModelHandle) -> None:
        data = [make_record(encoder, "a.jpg", seed) for seed in range(2)]
        found = from_stream(b"".join(data) + make_record(encoder, "b.jpg"))
        assert names(found) == ["a.jpg", "b.jpg"]
        assert errors(found) == [
            ("stdin: a.jpg", "another record of this run goes to a.jpg.png; this record is skipped")
        ]


class TestOutputNames:
    """Two records may have different names and still the same output."""

    @pytest.mark.parametrize(
        ("first", "second"), [("a.jpg", "a.jpg.png"), ("a.png", "a.png.dinac"), ("a.png", "a")]
    )
    def test_the_second_record_of_a_stream_is_refused(
        self, encoder: ModelHandle, first: str, second: str
    ) -> None:
        found = from_stream(make_record(encoder, first) + make_record(encoder, second))
        assert names(found) == [first]
        assert len(errors(found)) == 1

    def test_case_matters_unless_the_file_system_ignores_it(self, encoder: ModelHandle) -> None:
        data = make_record(encoder, "a.jpg") + make_record(encoder, "A.jpg")
        assert names(from_stream(data)) == ["a.jpg", "A.jpg"]
        assert names(from_stream(data, fold_case=True)) == ["a.jpg"]

    def test_a_file_and_a_record_of_another_file_claim_one_name(
        self, tmp_path: Path, encoder: ModelHandle
    ) -> None:
        several = make_record(encoder, "a.jpg") + make_record(encoder, "z.jpg")
        (tmp_path / "a.jpg.dinac").write_bytes(make_record(encoder, "x"))
        (tmp_path / "b.dinac").write_bytes(several)
        found = entries(select_latents(tmp_path))
        assert names(found) == ["a.jpg.dinac", "z.jpg"]
        (tmp_path / "a.jpg.dinac").rename(tmp_path / "c.dinac")
        (tmp_path / "c.dinac").rename(tmp_path / "z.jpg.dinac")
        found = entries(select_latents(tmp_path))
        assert names(found) == ["a.jpg", "z.jpg"]
        assert [label for label, _ in errors(found)] == [str(tmp_path / "z.jpg.dinac")]

    def test_folders_keep_equal_names_apart(self, tmp_path: Path, encoder: ModelHandle) -> None:
        several = make_record(encoder, "a.jpg") + make_record(encoder, "b.jpg")
        for name in ("1/all.dinac", "2/all.dinac"):
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_bytes(several)
        found = entries(select_latents(tmp_path))
        assert names(found) == ["1/a.jpg", "1/b.jpg", "2/a.jpg", "2/b.jpg"]


class TestSingle:
    def test_a_single_record_passes(self) -> None:
        entry = RecordEntry("a", "a", path="a")
        assert list(require_single(iter([entry]), "standard output")) == [entry]

    def test_a_second_record_is_refused_before_the_first_is_yielded(self) -> None:
        two = iter([RecordEntry("a", "a", path="a"), RecordEntry("b", "b", path="b")])
        with pytest.raises(UsageError) as caught:
            next(require_single(two, "x.png"))
        assert str(caught.value) == (
            "x.png takes one image, but there is a second record; name an output folder instead"
        )
