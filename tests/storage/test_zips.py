"""Zip archives, read by Python's zipfile."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import pytest

from dinac_cli.storage import zips
from dinac_cli.storage.zips import ZipWriter, read_last_member

MEMBERS = {"a/1.npy": b"first" * 40, "a/2.npy": b"", "dataset.json": b"{}"}


def write(members: Mapping[str, bytes], comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    writer = ZipWriter(file.write)
    for name, data in members.items():
        writer.add(name, data)
    writer.finish(lambda: comment)
    return file.getvalue()


def read(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} <= {zipfile.ZIP_STORED}
        return {name: archive.read(name) for name in archive.namelist()}


def test_members_and_comment_are_read_back() -> None:
    data = write(MEMBERS, b"a comment")
    assert read(data) == MEMBERS
    assert write(MEMBERS, b"a comment") == data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.comment == b"a comment"
        info = archive.getinfo("a/1.npy")
    assert (info.date_time, info.external_attr >> 16) == ((1980, 1, 1, 0, 0, 0), 0o100644)


def read_last(data: bytes, name: str = "dataset.json") -> bytes:
    return read_last_member(io.BytesIO(data), data.rindex(b"PK\5\6"), name)


def test_the_last_member_is_found_without_the_others() -> None:
    assert read_last(write(MEMBERS, b"a comment")) == b"{}"
    only = {"dataset.json": b"names itself: dataset.json" * 20}
    assert read_last(write(only)) == only["dataset.json"]
    with pytest.raises(ValueError, match="not found"):
        read_last(write(MEMBERS), "absent")


def test_empty_archive_is_valid() -> None:
    assert read(write({})) == {}


@pytest.mark.parametrize("most", [0, 1, 199, 300])
def test_zip64_has_sizes_and_offsets(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    plain = write(MEMBERS)
    monkeypatch.setattr(zips, "_MOST_32", most)
    large = write(MEMBERS)
    assert b"PK\6\6" in large
    assert b"PK\6\6" not in plain
    assert read(large) == MEMBERS
    assert read_last(large) == b"{}"


def test_zip64_has_many_members() -> None:
    members = {f"{number:06}": b"" for number in range(65_537)}
    data = write(members, b"a comment")
    assert list(read(data)) == list(members)
    for archive, count in ((data, 65_537), (write(MEMBERS, b"a comment"), 3)):
        end = len(archive) - len(b"a comment") - zips.END.size
        assert zips.count_members(io.BytesIO(archive), end) == count
