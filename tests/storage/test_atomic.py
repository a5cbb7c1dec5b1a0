"""Atomic writes leave a complete file or none, whichever step fails."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.errors import OutputError, UnwritableDiskError
from dinac_cli.storage import atomic
from dinac_cli.storage.atomic import (
    TEMPORARY_PREFIX,
    discard_live_temporaries,
    move_atomically,
    remove_dead_temporaries,
    rewrite_file,
    write_atomically,
)

from .leftovers import DEAD_PID, leave_temporary, split_temporary_name


def is_locked(path: Path) -> bool:
    with path.open("rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_record(path: str) -> bool:
    return Path(path).read_bytes().startswith(b"record")


def write(target: Path, data: bytes, *, replace: bool = False, fsync: bool = False) -> None:
    write_atomically(str(target), data, replace=replace, is_ours=is_record, fsync=fsync)


def fail_with(number: int) -> Callable[..., None]:
    def fail(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def no_renameat2(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system that cannot rename a file only if its new name is free."""
    monkeypatch.setattr(atomic, "_find_renameat2", lambda: None)


@pytest.fixture(params=["renameat2", "link"])
def ways_to_publish(request: pytest.FixtureRequest) -> None:
    if request.param == "link":
        request.getfixturevalue("no_renameat2")


@pytest.mark.usefixtures("ways_to_publish")
class TestWriting:
    @pytest.mark.parametrize("fsync", [False, True])
    @pytest.mark.parametrize("replace", [False, True])
    def test_new_file_is_written(self, tmp_path: Path, replace: bool, fsync: bool) -> None:
        write(tmp_path / "a", b"record 1", replace=replace, fsync=fsync)
        assert (tmp_path / "a").read_bytes() == b"record 1"
        assert os.listdir(tmp_path) == ["a"]

    def test_file_has_the_mode_of_other_new_files(self, tmp_path: Path) -> None:
        write(tmp_path / "a", b"record")
        (tmp_path / "b").write_bytes(b"")
        assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
        assert (tmp_path / "a").stat().st_nlink == 1

    def test_own_file_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"record 1")
        write(tmp_path / "a", b"record 2")
        assert (tmp_path / "a").read_bytes() == b"record 2"
        assert os.listdir(tmp_path) == ["a"]

    def test_foreign_file_is_replaced_only_on_request(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"mine")
        with pytest.raises(OutputError, match="exists and was not written by dinac"):
            write(tmp_path / "a", b"record")
        assert (tmp_path / "a").read_bytes() == b"mine"
        assert os.listdir(tmp_path) == ["a"]
        write(tmp_path / "a", b"record", replace=True)
        assert (tmp_path / "a").read_bytes() == b"record"

    def test_foreign_file_that_appears_during_the_write_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = atomic._publish

        def publish(temporary: str, target: str, **options: Any) -> None:
            (tmp_path / "a").write_bytes(b"mine")
            real(temporary, target, **options)

        monkeypatch.setattr(atomic, "_publish", publish)
        with pytest.raises(OutputError, match="exists and was not written by dinac"):
            write(tmp_path / "a", b"record")
        assert (tmp_path / "a").read_bytes() == b"mine"
        assert os.listdir(tmp_path) == ["a"]

    def test_file_system_without_hard_links_is_supported(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(atomic, "_find_renameat2", lambda: lambda *args: -1)
        monkeypatch.setattr(os, "link", fail_with(errno.EPERM))
        write(tmp_path / "a", b"record 1")
        write(tmp_path / "a", b"record 2")
        assert (tmp_path / "a").read_bytes() == b"record 2"
        (tmp_path / "b").write_bytes(b"mine")
        with pytest.raises(OutputError, match="exists and was not written by dinac"):
            write(tmp_path / "b", b"record")
        assert sorted(os.listdir(tmp_path)) == ["a", "b"]

    @pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL])
    def test_file_system_without_locks_is_supported(
        self, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fcntl, "flock", fail_with(number))
        write(tmp_path / "a", b"record")
        assert os.listdir(tmp_path) == ["a"]

    def test_temporary_is_locked_and_hidden_during_the_write(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[str, bool]] = []

        def dup(descriptor: int) -> int:
            (name,) = os.listdir(tmp_path)
            seen.append((name, is_locked(tmp_path / name)))
            assert remove_dead_temporaries(str(tmp_path)) == 0
            return real(descriptor)

        real = os.dup
        monkeypatch.setattr(os, "dup", dup)
        write(tmp_path / "a", b"record")
        ((name, locked),) = seen
        assert locked
        assert name.startswith(TEMPORARY_PREFIX)
        assert name.startswith(".")  # hidden, so skipped when OUT is an input

    def test_temporary_name_identifies_the_process(self, tmp_path: Path) -> None:
        host, boot, namespace, pid, random = split_temporary_name(tmp_path)
        assert host == hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
        assert split_temporary_name(tmp_path)[:4] == [host, boot, namespace, str(os.getpid())]
        assert pid == str(os.getpid())
        assert int(random, 16) < 2**32

    def test_file_is_flushed_to_disk_before_it_is_renamed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []
        for module, name in ((os, "fsync"), (atomic, "_publish")):
            real = getattr(module, name)

            def note(*args: Any, name: str = name, real: Any = real, **options: Any) -> None:
                calls.append(name)
                real(*args, **options)

            monkeypatch.setattr(module, name, note)
        write(tmp_path / "a", b"record", fsync=True)
        assert calls == ["fsync", "_publish", "fsync"]  # the file, its name, the folder
        calls.clear()
        write(tmp_path / "b", b"record")
        assert calls == ["_publish"]


@pytest.mark.usefixtures("no_renameat2")
class TestFailure:
    """Each step fails once; an existing file is kept, and no temporary is left."""

    @pytest.mark.parametrize("step", ["open", "dup", "write", "fsync", "replace"])
    @pytest.mark.parametrize("existing", [None, b"record 1"])
    @pytest.mark.parametrize(
        ("number", "kind"),
        [
            (errno.EIO, OutputError),
            (errno.EACCES, OutputError),
            (errno.EROFS, UnwritableDiskError),
            (errno.ENOSPC, UnwritableDiskError),
            (errno.EDQUOT, UnwritableDiskError),
        ],
    )
    def test_failed_step_leaves_nothing_new(
        self,
        tmp_path: Path,
        step: str,
        existing: bytes | None,
        number: int,
        kind: type[OutputError],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        target = tmp_path / "a"
        if existing is not None:
            target.write_bytes(existing)
        monkeypatch.setattr(os, "link", fail_with(errno.EPERM))  # the rename is the fallback
        monkeypatch.setattr(os, step, fail_with(number))
        with pytest.raises(OutputError) as caught:
            write(target, b"record 2", fsync=True)
        monkeypatch.undo()
        assert type(caught.value) is kind
        assert str(caught.value).startswith(f"{target}: ")
        assert os.strerror(number) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert os.listdir(tmp_path) == ([] if existing is None else ["a"])
        assert existing is None or target.read_bytes() == existing
        assert not atomic._live

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
    def test_disk_that_fills_up_during_the_write(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        descriptors = []
        real_open = os.open

        def opened(path: str, flags: int, mode: int = 0o777) -> int:
            # Creates the file, but returns a device that accepts no byte in its place.
            os.close(real_open(path, flags, mode))
            descriptors.append(real_open("/dev/full", os.O_WRONLY))
            return descriptors[-1]

        monkeypatch.setattr(os, "open", opened)
        with pytest.raises(UnwritableDiskError, match="No space left on device; free some space"):
            write(tmp_path / "a", b"record" * 100_000)
        assert os.listdir(tmp_path) == []

    def test_failed_lock_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fcntl, "flock", fail_with(errno.EIO))
        with pytest.raises(OutputError, match="cannot write"):
            write(tmp_path / "a", b"record")
        assert os.listdir(tmp_path) == []

    def test_missing_folder_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for target in (tmp_path / "file/a", tmp_path / "gone/a"):
            with pytest.raises(OutputError, match="cannot write: "):
                write(target, b"record")

    def test_too_long_name_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(
            OutputError, match="the name is too long for this file system; rename the input"
        ):
            write(tmp_path / ("a" * 300), b"record")
        assert os.listdir(tmp_path) == []

    def test_folder_in_the_place_of_the_output_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        with pytest.raises(OutputError, match="cannot write: "):
            write(tmp_path / "a", b"record", replace=True)
        assert os.listdir(tmp_path) == ["a"]


def test_concurrent_writers_leave_one_complete_file(tmp_path: Path) -> None:
    contents = [b"record" + bytes([48 + number]) * 200_000 for number in range(4)]
    errors: list[Exception] = []

    def run(data: bytes) -> None:
        try:
            for _ in range(20):
                write(tmp_path / "a", data)
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not (tmp_path / "a").exists() or (tmp_path / "a").read_bytes() in contents
    assert not errors
    assert (tmp_path / "a").read_bytes() in contents
    assert os.listdir(tmp_path) == ["a"]


class TestLeftovers:
    def test_leftover_of_a_dead_process_is_removed(self, tmp_path: Path) -> None:
        path = leave_temporary(tmp_path, DEAD_PID)
        assert remove_dead_temporaries(str(tmp_path)) == 1
        assert not path.exists()

    def test_temporary_of_a_live_process_is_kept(self, tmp_path: Path) -> None:
        path = leave_temporary(tmp_path, os.getppid())
        assert remove_dead_temporaries(str(tmp_path)) == 0
        assert path.exists()

    def test_temporary_of_another_users_process_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = leave_temporary(tmp_path, 1)
        monkeypatch.setattr(os, "kill", fail_with(errno.EPERM))
        assert remove_dead_temporaries(str(tmp_path)) == 0
        assert path.exists()

    def test_locked_temporary_is_kept_at_any_age(self, tmp_path: Path) -> None:
        path = leave_temporary(tmp_path, os.getpid(), age_seconds=1e6)
        with path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert remove_dead_temporaries(str(tmp_path)) == 0
        assert path.exists()

    def test_leftover_of_a_reused_pid_is_removed_if_old_and_unlocked(self, tmp_path: Path) -> None:
        path = leave_temporary(tmp_path, os.getpid(), age_seconds=3600)
        assert remove_dead_temporaries(str(tmp_path)) == 1
        assert not path.exists()

    @pytest.mark.parametrize(("boot", "namespace"), [("00000000", None), (None, "1")])
    def test_leftover_of_another_container_or_boot_is_removed_if_old_and_unlocked(
        self, tmp_path: Path, boot: str | None, namespace: str | None
    ) -> None:
        young = leave_temporary(tmp_path, DEAD_PID, boot=boot, namespace=namespace)
        assert remove_dead_temporaries(str(tmp_path)) == 0
        assert young.exists()
        old = leave_temporary(tmp_path, DEAD_PID, boot=boot, namespace=namespace, age_seconds=3600)
        with old.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert remove_dead_temporaries(str(tmp_path)) == 0
        assert remove_dead_temporaries(str(tmp_path)) == 1

    def test_leftover_of_another_host_is_kept(self, tmp_path: Path) -> None:
        path = leave_temporary(tmp_path, DEAD_PID, host="0" * 8, age_seconds=1e6)
        assert remove_dead_temporaries(str(tmp_path)) == 0
        assert path.exists()

    @pytest.mark.parametrize("name", ["", "x", "a-b-c-d", "a-b-c-d-e", "a-b-c-1-e-f"])
    def test_file_with_a_malformed_name_is_kept(self, tmp_path: Path, name: str) -> None:
        (tmp_path / f"{TEMPORARY_PREFIX}{name}").touch()
        (tmp_path / "a").touch()
        assert remove_dead_temporaries(str(tmp_path)) == 0
        assert len(os.listdir(tmp_path)) == 2

    def test_leftover_with_an_impossible_pid_is_removed(self, tmp_path: Path) -> None:
        leave_temporary(tmp_path, 10**30)
        assert remove_dead_temporaries(str(tmp_path)) == 1

    def test_missing_folder_has_no_leftovers(self, tmp_path: Path) -> None:
        assert remove_dead_temporaries(str(tmp_path / "gone")) == 0

    def test_own_temporaries_are_discarded_before_the_process_exits(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def publish(temporary: str, target: str, **options: Any) -> None:
            assert os.listdir(tmp_path) == [os.path.basename(temporary)]
            discard_live_temporaries()
            assert os.listdir(tmp_path) == []
            raise OSError(errno.EIO, "the end")

        monkeypatch.setattr(atomic, "_publish", publish)
        with pytest.raises(OutputError):
            write(tmp_path / "a", b"record")
        assert os.listdir(tmp_path) == []


class TestMoving:
    def test_a_file_gets_another_name(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"1")
        assert move_atomically(str(tmp_path / "a"), str(tmp_path / "b"))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"b": b"1"}

    @pytest.mark.parametrize("has_links", [True, False])
    def test_no_file_is_replaced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
    ) -> None:
        if not has_links:
            monkeypatch.setattr(os, "link", refuse_links)
        (tmp_path / "a").write_bytes(b"1")
        (tmp_path / "b").write_bytes(b"2")
        assert not move_atomically(str(tmp_path / "a"), str(tmp_path / "b"))
        assert (tmp_path / "a").read_bytes() == b"1"
        assert (tmp_path / "b").read_bytes() == b"2"

    def test_a_file_system_without_hard_links_suffices(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "link", refuse_links)
        (tmp_path / "a").write_bytes(b"1")
        assert move_atomically(str(tmp_path / "a"), str(tmp_path / "b"))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"b": b"1"}

    def test_a_move_that_was_killed_is_completed(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"1")
        os.link(tmp_path / "a", tmp_path / "b")
        assert move_atomically(str(tmp_path / "a"), str(tmp_path / "b"))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"b": b"1"}

    def test_failures_are_told_apart(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            move_atomically(str(tmp_path / "a"), str(tmp_path / "b"))
        (tmp_path / "a").write_bytes(b"1")
        with pytest.raises(OutputError, match="the name is too long"):
            move_atomically(str(tmp_path / "a"), str(tmp_path / ("b" * 300)))


def refuse_links(source: str, target: str) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


class TestRewrite:
    def test_file_changes_only_if_it_is_published(self, tmp_path: Path) -> None:
        path, link = tmp_path / "list", tmp_path / "link"
        path.write_text("old")
        link.symlink_to(path)
        with rewrite_file(str(link), "the list") as rewrite:
            rewrite.write(b"new")
        assert path.read_text() == "old"
        with rewrite_file(str(link), "the list") as rewrite:
            rewrite.write(b"new, ")
            rewrite.write(b"and more")
            assert path.read_text() == "old"
            rewrite.publish()
        assert path.read_text() == "new, and more"
        assert link.is_symlink()
        assert sorted(tmp_path.iterdir()) == [link, path]

    def test_errors_leave_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "list"
        path.write_text("old")

        def fail() -> None:
            with rewrite_file(str(path), "the list") as rewrite:
                rewrite.write(b"new")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]
        missing = tmp_path / "none/list"
        with (
            pytest.raises(OutputError, match=r"^the list: cannot write: No such file"),
            rewrite_file(str(missing), "the list"),
        ):
            pytest.fail("the folder does not exist")
