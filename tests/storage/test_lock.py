"""A folder that one process at a time holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinac_cli.errors import OutputError
from dinac_cli.storage.lock import hold_folder

fcntl = pytest.importorskip("fcntl")


def test_a_second_hold_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with hold_folder(str(folder), "busy"):
        (folder / "kept").touch()
        with pytest.raises(OutputError, match=r"^busy$"), hold_folder(str(folder), "busy"):
            pytest.fail("it is held")
    with hold_folder(str(folder), "busy"):
        assert (folder / "kept").exists()


def test_a_refused_hold_leaves_the_folder_to_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with hold_folder(str(folder), "busy"):
        with pytest.raises(OutputError), hold_folder(str(folder), "busy"):
            pytest.fail("it is held")
        assert folder.is_dir()
    assert not folder.exists()


def test_a_folder_that_stays_empty_goes_only_if_it_was_made(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for folder in (old, tmp_path / "new"):
        with hold_folder(str(folder), "busy"):
            assert folder.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_folder_that_its_holder_removes_meanwhile_is_made_anew(
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
            pytest.fail("it is held")


def test_without_locks_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold_folder(str(tmp_path), "busy"), hold_folder(str(tmp_path), "busy"):
        assert tmp_path.is_dir()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file/out"
    with pytest.raises(OutputError) as caught, hold_folder(str(folder), "busy"):
        pytest.fail("there is no such folder")
    assert str(caught.value) == f"{folder}: cannot write: Not a directory: name another place"
