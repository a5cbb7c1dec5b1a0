"""Lists of `--files-from`: absolute paths, other encodings, and lists that name nothing."""

from __future__ import annotations

from pathlib import Path

from .conftest import list_files
from .processes import run


def test_list_of_absolute_paths_keeps_whole_paths(work: Path, tmp_path: Path) -> None:
    listed = f"{work}/photos/a.jpg\n".encode("utf-16")
    done = run("encode", "--files-from", "-", tmp_path / "out", stdin=listed)
    note = (
        "dinac: the list holds absolute paths: records and the names in OUT hold whole paths; "
        "--root DIR makes them relative to DIR\n"
    )
    assert (done.code, done.err) == (0, note)
    assert list_files(tmp_path / "out") == [f"{work}/photos/a.jpg.dinac".lstrip("/")]
    planned = run("plan", "--files-from", "-", tmp_path / "out", "--quick", stdin=listed)
    assert (planned.code, planned.err) == (0, note)
    read = run("info", tmp_path / "out", "--json")
    assert read.objects[0]["name"] == f"{work}/photos/a.jpg".lstrip("/")
    listed = f"{tmp_path}/out\n".encode()
    assert run("verify", "--files-from", "-", stdin=listed).err == ""
    again = run("encode", "--files-from", "-", tmp_path / "out", "--root", work, stdin=listed)
    assert again.err.startswith(f"dinac: {tmp_path}/out: is outside --root")


def test_list_that_names_nothing_says_so_once(work: Path, tmp_path: Path) -> None:
    alone = run("encode", "--files-from", "-", tmp_path / "out", stdin=b"\n")
    assert (alone.code, alone.err) == (
        2,
        "dinac: the list of --files-from names nothing; check the command that made it\n",
    )
    beside = run("encode", work / "photos", "--files-from", "-", tmp_path / "out", stdin=b"")
    assert (beside.code, beside.err) == (0, "dinac: the list of --files-from names nothing\n")
