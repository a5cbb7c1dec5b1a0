"""A folder as a store: permissions, links, full disks, and what killed runs left."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.errors import InputError, OutputError, UnwritableDiskError
from dinac_cli.storage.local import LocalStore
from dinac_cli.storage.lock import hold_folder

from .leftovers import DEAD_PID, leave_temporary

needs_links = pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "out"))


def list_names(store: LocalStore, folder: str = "") -> list[str]:
    return [found.name for found in store.list(folder)]


@pytest.mark.skipif(os.name == "nt", reason="needs permissions of POSIX")
def test_files_have_the_permissions_of_the_umask(store: LocalStore) -> None:
    old = os.umask(0o027)
    try:
        store.write("a/b", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(store.locate("a/b")).st_mode) == 0o640


class TestLinks:
    @needs_links
    @pytest.mark.parametrize(
        "act",
        [
            lambda store: store.write("link/a", b""),
            lambda store: store.spool("link/b").__enter__(),
            lambda store: store.remove("link/a"),
        ],
        ids=["write", "spool", "remove"],
    )
    def test_nothing_changes_outside(
        self, store: LocalStore, tmp_path: Path, act: Callable[[LocalStore], object]
    ) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside/a").write_bytes(b"mine")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/link").symlink_to(tmp_path / "outside")
        with pytest.raises(OutputError, match=r"leads outside .* through a symbolic link"):
            act(store)
        assert [path.read_bytes() for path in (tmp_path / "outside").iterdir()] == [b"mine"]

    @pytest.mark.parametrize("name", ["../a", "b/../../a"])
    def test_names_stay_inside(self, store: LocalStore, tmp_path: Path, name: str) -> None:
        (tmp_path / "a").write_bytes(b"mine")
        with pytest.raises(OutputError, match="leads outside"):
            store.write(name, b"")
        with pytest.raises(OutputError, match="leads outside"):
            store.remove(name)
        assert (tmp_path / "a").read_bytes() == b"mine"

    @needs_links
    def test_a_link_is_replaced_and_not_followed(self, store: LocalStore, tmp_path: Path) -> None:
        (tmp_path / "outside").write_bytes(b"mine")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/a").symlink_to(tmp_path / "outside")
        store.write("a", b"new")
        assert (tmp_path / "outside").read_bytes() == b"mine"
        assert store.read("a") == b"new"

    @needs_links
    def test_folders_in_a_circle_are_listed_once(self, store: LocalStore, tmp_path: Path) -> None:
        store.write("a/b/c", b"")
        (tmp_path / "out/a/b/up").symlink_to(tmp_path / "out")
        (tmp_path / "out/gone").symlink_to(tmp_path / "none")
        (tmp_path / "out/twin").symlink_to(tmp_path / "out/a/b")
        assert list_names(store) == ["a/b/c", "twin/c"]


class TestLeftovers:
    def test_files_that_are_being_written_are_not_listed(self, store: LocalStore) -> None:
        with store.spool("a/b") as spool:
            spool.write(b"part")
            assert len(os.listdir(store.locate("a"))) == 1
            assert list_names(store) == []

    def test_leftovers_of_a_killed_run_are_removed(self, store: LocalStore, tmp_path: Path) -> None:
        (tmp_path / "out/a").mkdir(parents=True)
        left = leave_temporary(tmp_path / "out/a", DEAD_PID)
        assert list_names(store) == []
        assert left.exists()
        store.write("a/b", b"")
        assert not left.exists()


class TestErrors:
    @pytest.mark.parametrize("step", ["open", "write", "dup", "replace"])
    def test_a_full_disk_ends_the_run(
        self, store: LocalStore, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: object, **options: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        store.write("a", b"old")
        with monkeypatch.context() as patched:
            patched.setattr(os, step, fail)
            with pytest.raises(UnwritableDiskError) as caught:
                store.write("a", b"new")
        assert str(caught.value).startswith(f"{store.locate('a')}: ")
        assert os.listdir(store.place) == ["a"]
        assert store.read("a") == b"old"

    @pytest.mark.skipif(os.name == "nt", reason="a folder can be opened on POSIX alone")
    def test_a_folder_is_not_a_file(self, store: LocalStore) -> None:
        store.write("a/b", b"")
        for work in (store.read, store.open):
            with pytest.raises(InputError, match="cannot read: Is a directory; check the path"):
                work("a")

    def test_a_disk_that_fails_while_it_is_read(
        self, store: LocalStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.write("a", b"1")
        with store.open("a") as file:
            os.close(file.fileno())
            with pytest.raises(InputError, match="cannot read: Bad file descriptor; check the pa"):
                file.read(1)
            with pytest.raises(InputError, match="cannot read: Bad file descriptor; check the pa"):
                file.read()
            os.dup2(os.open(os.devnull, os.O_RDONLY), file.fileno())

    def test_a_file_in_the_place_of_a_folder(self, store: LocalStore) -> None:
        store.write("a", b"")
        with pytest.raises(OutputError, match="cannot write: "):
            store.write("a/b", b"")
        assert store.stat("a/b") is None
        assert list_names(store, "a") == []


def test_files_are_flushed_to_the_disk_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = os.fsync

    def note(descriptor: int) -> Any:
        calls.append(descriptor)
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    LocalStore(str(tmp_path)).write("a", b"")
    assert not calls
    LocalStore(str(tmp_path), fsync=True).write("b", b"")
    assert len(calls) == (1 if os.name == "nt" else 2)  # the file and its folder


@pytest.mark.skipif(os.name == "nt", reason="needs locks of folders")
def test_a_locked_folder_is_refused(store: LocalStore) -> None:
    with store.lock("held by another run") as is_locked:
        assert is_locked
        with (
            pytest.raises(OutputError, match="held by another run"),
            hold_folder(store.place, "held by another run"),
        ):
            pytest.fail("two runs hold one folder")


def test_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalStore("")
    store.write("a/b", b"1")
    assert list_names(store) == ["a/b"]
    assert store.read("a/b") == b"1"
