"""A lock excludes other holders. A folder lock removes a folder that stays empty."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinac_cli.errors import OutputError
from dinac_cli.storage.lock import hold_content, hold_folder

fcntl = pytest.importorskip("fcntl")


def test_second_hold_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with hold_folder(str(folder), "busy"):
        (folder / "kept").touch()
        with pytest.raises(OutputError, match=r"^busy$"), hold_folder(str(folder), "busy"):
            pytest.fail("held twice")
    with hold_folder(str(folder), "busy"):
        assert (folder / "kept").exists()


def test_refused_hold_does_not_remove_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with hold_folder(str(folder), "busy"):
        with pytest.raises(OutputError), hold_folder(str(folder), "busy"):
            pytest.fail("held twice")
        assert folder.is_dir()
    assert not folder.exists()


def test_empty_folder_is_removed_only_if_the_hold_created_it(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for folder in (old, tmp_path / "new"):
        with hold_folder(str(folder), "busy"):
            assert folder.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_folder_removed_by_its_previous_holder_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    lock = fcntl.flock
    removals = iter([folder])

    def remove_first(descriptor: int, operation: int) -> None:
        for removed in removals:
            os.rmdir(removed)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with hold_folder(str(folder), "busy"):
        assert folder.is_dir()
        with pytest.raises(OutputError, match="busy"), hold_folder(str(folder), "busy"):
            pytest.fail("held twice")


def test_nothing_is_refused_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        hold_folder(str(tmp_path), "busy") as one,
        hold_folder(str(tmp_path), "busy") as other,
    ):
        assert not one
        assert not other
        assert tmp_path.is_dir()


def test_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file/out"
    with pytest.raises(OutputError) as caught, hold_folder(str(folder), "busy"):
        pytest.fail("the folder cannot exist")
    assert str(caught.value) == f"{folder}: cannot write: Not a directory; choose another place"


def test_content_is_locked_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"old")
    with path.open("rb") as other:
        with hold_content(str(path)) as content:
            assert content == b"old"
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_content_that_was_replaced_during_the_wait_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, new = tmp_path / "a.tar", tmp_path / "new"
    path.write_bytes(b"old")
    new.write_bytes(b"new")
    lock = fcntl.flock

    def replace_first(descriptor: int, operation: int) -> None:
        if new.exists():
            new.replace(path)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replace_first)
    with hold_content(str(path)) as content:
        assert content == b"new"


def test_content_is_read_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / "a.tar").write_bytes(b"content")
    with hold_content(str(tmp_path / "a.tar")) as content:
        assert content == b"content"
