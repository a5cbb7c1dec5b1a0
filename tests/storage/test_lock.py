"""A folder lock excludes other holders and removes a folder that stays empty."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinac_cli.errors import OutputError
from dinac_cli.storage.lock import hold_folder

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
