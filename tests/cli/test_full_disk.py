"""Full and read-only file systems, really mounted if the system permits it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dinac_cli.container.record import unpack_record

from .conftest import list_files, read_files, save
from .processes import run

TINY = Path(__file__).parents[1] / "golden/tiny"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if sys.platform != "linux" or _mount("-t", "tmpfs", "-o", "size=256k", "none", disk):
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of which a dozen records fill the disk."""
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


def _fail(*arguments: str | Path) -> str:
    """Runs a command that fails; returns its only line on stderr."""
    done = run(*arguments)
    assert done.code == 1
    (line,) = done.err.splitlines()
    return line


def _succeed(*arguments: str | Path) -> None:
    assert run(*arguments).code == 0


def test_encode_and_decode_stop_and_continue_when_there_is_room(
    images: Path, small_disk: Path, tmp_path: Path
) -> None:
    before = read_files(images)
    line = _fail("encode", images, small_disk / "latents", "--precision", "f32")
    assert line.startswith(f"dinac: {small_disk}/latents/")
    assert line.endswith("No space left on device; free some space and run the same command again")
    written = list_files(small_disk)
    assert 5 < len(written) < 30
    for name in written:
        unpack_record((small_disk / name).read_bytes())
    assert read_files(images) == before

    assert not _mount("-o", "remount,size=8m", small_disk)
    _succeed("encode", images, small_disk / "latents", "--precision", "f32")
    _succeed("encode", images, tmp_path / "alone", "--precision", "f32")
    assert read_files(small_disk / "latents") == read_files(tmp_path / "alone")

    latents = tmp_path / "alone"
    _fill(small_disk / "ballast")
    line = _fail("decode", latents, small_disk / "decoded")
    assert "No space left on device; free some space" in line
    assert read_files(latents) == read_files(small_disk / "latents")
    (small_disk / "ballast").unlink()
    _succeed("decode", latents, small_disk / "decoded")
    assert len(list_files(small_disk / "decoded")) == 30


def test_shards_stop_and_continue_when_there_is_room(
    images: Path, small_disk: Path, tmp_path: Path
) -> None:
    command = ("--precision", "f32", "--shard-size", "3")
    line = _fail("encode", images, small_disk / "shards", *command)
    assert line.startswith(f"dinac: {small_disk}/shards/")
    assert line.endswith("No space left on device; free some space and run the same command again")
    _succeed("encode", images, tmp_path / "alone", *command)
    expected, left = read_files(tmp_path / "alone"), read_files(small_disk / "shards")
    assert 1 < len([name for name in left if name.endswith(".tar")]) < 10
    assert left == {name: expected[name] for name in left}
    assert not _mount("-o", "remount,size=8m", small_disk)
    _succeed("encode", images, small_disk / "shards", *command)
    assert read_files(small_disk / "shards") == expected


def test_full_disk_does_not_damage_a_training(images: Path, small_disk: Path) -> None:
    quick = ("--init", TINY, "--crop", "32", "--batch-size", "2", "--device", "cpu")
    command = ("train", images, small_disk / "model", "--steps", "2", "--dtype", "f32", *quick)
    assert not _mount("-o", "remount,size=16k", small_disk)
    line = _fail(*command)
    assert line == (
        f"dinac: {small_disk}/model/training.state: No space left on device; "
        "free some space and run the same command again"
    )
    assert list_files(small_disk) == []
    assert not _mount("-o", "remount,size=32m", small_disk)
    _succeed(*command)
    made = list_files(small_disk / "model")
    assert made == ["config.json", "model.safetensors", "training.json"]


def test_old_page_is_kept_if_its_images_do_not_fit(
    images: Path, small_disk: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    command = ("report", images, images, page)
    _succeed(*command)
    before = page.read_bytes()
    assert not _mount("-o", "remount,size=16k", small_disk)
    line = _fail(*command, "--assets", small_disk / "full")
    assert "No space left on device" in line
    assert page.read_bytes() == before


def test_full_disk_of_the_failures_file_is_named(images: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no full device here")
    (images / "00.png").write_text("not a picture")
    done = run("encode", images, tmp_path / "out", "--failures", "/dev/full")
    assert done.code == 1
    failed, line = done.err.splitlines()
    assert (
        failed
        == f"dinac: {images}/00.png: not an image (no known image format); see 'dinac man images'"
    )
    assert line == (
        "dinac: --failures /dev/full: No space left on device; "
        "free some space and run the same command again"
    )
    for name in list_files(tmp_path / "out"):
        unpack_record((tmp_path / "out" / name).read_bytes())


def test_read_only_disk_is_one_line(images: Path, small_disk: Path, tmp_path: Path) -> None:
    (small_disk / "old").mkdir()
    assert not _mount("-o", "remount,ro", small_disk)
    reason = "Read-only file system; choose another place"
    line = _fail("encode", images, small_disk / "new")
    assert line == f"dinac: {small_disk}/new: {reason}"
    _succeed("encode", images, tmp_path / "latents")
    line = _fail("decode", tmp_path / "latents", small_disk / "new")
    assert line == f"dinac: {small_disk}/new: {reason}"
    # If the folder exists, the first image fails and ends the run.
    line = _fail("encode", images, small_disk / "old")
    assert line.endswith(f": {reason}")
    quick = ("--init", TINY, "--crop", "32", "--batch-size", "2", "--device", "cpu")
    line = _fail("train", images, small_disk / "new", "--steps", "1", *quick)
    assert line.startswith(f"dinac: {small_disk}/new")
    assert "Read-only file system" in line
    assert list_files(small_disk) == []
