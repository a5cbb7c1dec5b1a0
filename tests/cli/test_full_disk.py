"""Full and read-only file systems, mounted for real where that is permitted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dinac_cli.cli import run
from dinac_cli.container.record import is_whole, unpack_record

from .conftest import list_files, read_files, save

TINY = Path(__file__).parents[1] / "golden/tiny"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 256 kB of room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if sys.platform != "linux" or _mount("-t", "tmpfs", "-o", "size=256k", "none", disk):
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of which about a dozen records fill the disk."""
    for number in range(30):
        save(tmp_path / f"images/{number:02}.png", 96, 96, number)
    return tmp_path / "images"


def _mount(*arguments: str | Path) -> int:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True).returncode
    except FileNotFoundError:
        return 1


def _fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def _fail(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 1) -> str:
    """Run a command that fails; its only line on stderr."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_encode_and_decode_stop_and_go_on_when_there_is_room(
    images: Path, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_files(images)
    line = _fail(capsys, "encode", images, small_disk / "latents", "--precision", "f32")
    assert line.startswith(f"dinac: {small_disk}/latents/")
    assert line.endswith("No space left on device: free some space and run the same command again")
    written = list_files(small_disk)
    assert 5 < len(written) < 30
    for name in written:
        assert is_whole(small_disk / name)
        unpack_record((small_disk / name).read_bytes())
    assert read_files(images) == before

    assert not _mount("-o", "remount,size=8m", small_disk)
    assert run(["encode", str(images), str(small_disk / "latents"), "--precision", "f32"]) == 0
    assert run(["encode", str(images), str(tmp_path / "alone"), "--precision", "f32"]) == 0
    assert read_files(small_disk / "latents") == read_files(tmp_path / "alone")

    latents = tmp_path / "alone"
    _fill(small_disk / "ballast")
    line = _fail(capsys, "decode", latents, small_disk / "decoded")
    assert "No space left on device: free some space" in line
    assert read_files(latents) == read_files(small_disk / "latents")
    (small_disk / "ballast").unlink()
    assert run(["decode", str(latents), str(small_disk / "decoded")]) == 0
    assert len(list_files(small_disk / "decoded")) == 30


def test_training_is_not_damaged_by_a_full_disk(
    images: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("--init", TINY, "--crop", "32", "--batch-size", "2", "--device", "cpu")
    command = ("train", images, small_disk / "model", "--steps", "2", "--dtype", "f32", *quick)
    assert not _mount("-o", "remount,size=16k", small_disk)
    line = _fail(capsys, *command)
    assert line == (
        f"dinac: {small_disk}/model/training.state: No space left on device: "
        "free some space and run the same command again"
    )
    assert list_files(small_disk) == []
    assert not _mount("-o", "remount,size=32m", small_disk)
    assert run([str(argument) for argument in command]) == 0
    made = list_files(small_disk / "model")
    assert made == ["config.json", "model.safetensors", "training.json"]


def test_a_page_stays_where_its_pictures_have_no_room(
    images: Path, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    command = ["report", str(images), str(images), str(page)]
    assert run(command) == 0
    before = page.read_bytes()
    assert not _mount("-o", "remount,size=16k", small_disk)
    line = _fail(capsys, *command, "--assets", small_disk / "full")
    assert "No space left on device" in line
    assert page.read_bytes() == before


def test_a_failures_file_without_room_is_named(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no full device here")
    (images / "00.png").write_text("not a picture")
    capsys.readouterr()
    assert run(["encode", str(images), str(tmp_path / "out"), "--failures", "/dev/full"]) == 1
    failed, line = capsys.readouterr().err.splitlines()
    assert failed == f"dinac: {images}/00.png: not an image (no known image format)"
    assert line == (
        "dinac: --failures /dev/full: No space left on device: "
        "free some space and run the same command again"
    )
    assert all(is_whole(tmp_path / "out" / name) for name in list_files(tmp_path / "out"))


def test_a_read_only_disk_is_one_line(
    images: Path, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_disk / "old").mkdir()
    assert not _mount("-o", "remount,ro", small_disk)
    reason = "Read-only file system: name another place"
    line = _fail(capsys, "encode", images, small_disk / "new")
    assert line == f"dinac: {small_disk}/new: {reason}"
    assert run(["encode", str(images), str(tmp_path / "latents")]) == 0
    line = _fail(capsys, "decode", tmp_path / "latents", small_disk / "new")
    assert line == f"dinac: {small_disk}/new: {reason}"
    # One that is there already is found out by the first image, and there is no second.
    line = _fail(capsys, "encode", images, small_disk / "old")
    assert line.endswith(f": {reason}")
    quick = ("--init", TINY, "--crop", "32", "--batch-size", "2", "--device", "cpu")
    line = _fail(capsys, "train", images, small_disk / "new", "--steps", "1", *quick)
    assert line.startswith(f"dinac: {small_disk}/new")
    assert "Read-only file system" in line
    assert list_files(small_disk) == []
