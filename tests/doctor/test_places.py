"""Folders: permissions, space, speed, and no file that is left."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from dinac_cli.doctor import places
from dinac_cli.doctor.finding import Level
from dinac_cli.doctor.places import (
    check_cache,
    check_disk,
    check_hub,
    check_temporary,
    find_models,
    inspect_place,
    judge_disk,
    measure_disk,
)

GB = 10**9
DOWNLOAD_BYTES = 617_000_000
FAST = {
    "folder": "/x",
    "write_bytes_per_second": 5e8,
    "read_bytes_per_second": 9e8,
    "free_bytes": 80 * GB,
}


def refuse(number: int) -> Callable[..., IO[bytes]]:
    """Returns a function that opens no file, but fails with an error of the system."""

    def fail(folder: Path) -> IO[bytes]:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_writable_folder_and_one_that_does_not_exist_yet(tmp_path: Path) -> None:
    here = inspect_place(tmp_path)
    assert here.exists
    assert here.problem is None
    assert here.describe().startswith(f"{tmp_path}: writable, ")
    later = inspect_place(tmp_path / "a/b")
    assert not later.exists
    assert later.problem is None
    assert later.describe().startswith(f"{tmp_path}/a/b: created when it is needed, ")
    assert os.listdir(tmp_path) == []


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    place = inspect_place(tmp_path / "file/cache")
    assert place.problem is not None
    found = check_cache(place)
    assert found.level is Level.NOTE
    assert found.facts["writable"] is False


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert isinstance(inspect_place(tmp_path).problem, PermissionError)


def test_a_read_only_cache_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_cache(inspect_place(tmp_path)).level is Level.OK
    monkeypatch.setattr(places, "open_trial", refuse(errno.EROFS))
    found = check_cache(inspect_place(tmp_path))
    assert found.level is Level.NOTE
    assert "not writable (Read-only file system)" in found.text
    assert "DINAC_CACHE" in found.remedy


def check_the_hub(place: places.Place, **changes: bool) -> Any:
    options = {"has_d2": False, "is_default": False, **changes}
    return check_hub(place, download_bytes=DOWNLOAD_BYTES, **options)


def test_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = inspect_place(tmp_path)
    assert check_the_hub(place).level is Level.OK
    assert check_the_hub(place, has_d2=True, is_default=True).level is Level.OK
    needed = check_the_hub(place, is_default=True)
    assert (needed.level, needed.remedy) == (Level.NOTE, "dinac models pull d2")
    full = places.Place(tmp_path, True, None, 10**8)
    assert check_the_hub(full).level is Level.NOTE
    monkeypatch.setattr(places, "open_trial", refuse(errno.EACCES))
    shut = inspect_place(tmp_path)
    assert check_the_hub(shut).level is Level.NOTE
    assert check_the_hub(shut, has_d2=True).level is Level.OK  # reading it is enough


def test_models_are_looked_for_offline() -> None:
    found = find_models()
    assert found["cache"] == os.environ["DINAC_CACHE"]
    assert found["hub"].startswith(os.environ["HF_HOME"])
    assert found["d2"] is False


def test_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = places.Place(tmp_path, True, None, 50 * GB)
    monkeypatch.setattr(places, "inspect_place", lambda folder: place)
    assert check_temporary().level is Level.OK
    place = places.Place(tmp_path, True, None, 10**6)
    assert check_temporary().level is Level.NOTE
    place = places.Place(tmp_path, True, OSError(errno.EROFS, "Read-only file system"), 50 * GB)
    assert check_temporary().level is Level.NOTE

    def refuse_all() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", refuse_all)
    assert check_temporary().level is Level.NOTE


def test_the_disk_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    facts = measure_disk(tmp_path)
    assert facts["write_bytes_per_second"] > 0
    assert facts["read_bytes_per_second"] > 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.EIO, "Input/output error")])
def test_nothing_is_left_after_an_interruption(
    error: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there when the error comes: it already holds all bytes."""

    def interrupt(descriptor: int) -> None:
        assert os.fstat(descriptor).st_size == places.TRIAL_BYTES
        raise error

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        measure_disk(tmp_path)
    assert caught.type in (KeyboardInterrupt, OSError)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("is_named", [True, False])
def test_a_full_disk_is_a_fault(
    is_named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "open_trial", refuse(errno.ENOSPC))
    found = check_disk(tmp_path, is_named=is_named)
    assert (found.level, found.remedy) == (Level.FAIL, "free some space")
    assert "No space left on device" in found.text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_fills_while_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "r+b", buffering=0) as full:
        monkeypatch.setattr(places, "open_trial", lambda folder: full)
        assert check_disk(tmp_path, is_named=True).level is Level.FAIL


@pytest.mark.parametrize(("is_named", "level"), [(True, Level.FAIL), (False, Level.NOTE)])
def test_a_folder_that_is_not_writable_is_a_fault_if_the_user_named_it(
    is_named: bool, level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "open_trial", refuse(errno.EROFS))
    found = check_disk(tmp_path, is_named=is_named)
    assert (found.level, found.remedy) == (level, "name another folder as OUT")


@pytest.mark.parametrize(
    ("changes", "level", "end"),
    [
        ({}, Level.OK, "80.0 GB free"),
        ({"write_bytes_per_second": 3e6}, Level.NOTE, "slow"),
        ({"read_bytes_per_second": 3e6}, Level.NOTE, "slow"),
        ({"free_bytes": 10**8}, Level.NOTE, "nearly full"),
    ],
)
def test_disks_are_judged(changes: dict[str, Any], level: Level, end: str) -> None:
    found = judge_disk({**FAST, **changes})
    assert found.level is level
    assert found.text.endswith(end)
