"""Files that are written again only from the first byte that differs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinac_cli.errors import OutputError
from dinac_cli.storage.renewal import renew_file


def accept() -> None:
    """Every old file may be replaced."""


def refuse() -> None:
    raise OutputError("not ours")


def renew(path: Path, *pieces: bytes, overwrite: bool = False) -> tuple[bool, list[bool]]:
    """Returns whether the file was replaced, and which pieces equalled the old file."""
    equal = []
    with renew_file(str(path), require_ours=accept, overwrite=overwrite) as renewal:
        for piece in pieces:
            renewal.write(piece)
            equal.append(renewal.is_equal)
        return renewal.publish(), equal


def test_equal_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert renew(path, b"one", b"two") == (True, [False, False])
    number = path.stat().st_ino
    assert renew(path, b"on", b"etwo") == (False, [True, True])
    assert path.stat().st_ino == number
    assert renew(path, b"onetwo", overwrite=True) == (True, [False])


@pytest.mark.parametrize("pieces", [(b"one", b"TWO"), (b"one",), (b"one", b"two", b"3"), (b"O",)])
def test_other_content_replaces_the_file(tmp_path: Path, pieces: tuple[bytes, ...]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"onetwo")
    assert renew(path, *pieces)[0]
    assert path.read_bytes() == b"".join(pieces)
    assert os.listdir(tmp_path) == ["file"]


def test_unpublished_content_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"onetwo")
    with renew_file(str(path), require_ours=accept) as renewal:
        renewal.write(b"other")
        assert len(os.listdir(tmp_path)) == 2
    assert path.read_bytes() == b"onetwo"
    assert os.listdir(tmp_path) == ["file"]


def test_foreign_files_are_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with renew_file(str(path), require_ours=refuse) as renewal:
        renewal.write(b"ol")
        with pytest.raises(OutputError, match="not ours"):
            renewal.write(b"x")
    with renew_file(str(path), require_ours=accept) as renewal:
        renewal.write(b"new")
        path.unlink()
        path.write_bytes(b"somebody's")
        with pytest.raises(OutputError, match="exists and was not written by dinac"):
            renewal.publish()
    assert path.read_bytes() == b"somebody's"
