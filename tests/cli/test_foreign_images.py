"""Images of formats that dinac cannot read are named and counted as failed, in folders too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from .processes import run

FOREIGN = {
    "IMG_1.CR2": (b"II*\x00\x10\x00\x00\x00CR\x02\x00" + bytes(60), "Canon raw is not supported"),
    "IMG_2.CR3": (b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x01crx isom", "Canon raw is not"),
    "layers": (b"8BPS\x00\x01" + bytes(60), "Photoshop is not supported"),
    "movie.raf": (b"FUJIFILMCCD-RAW 0201FF129502", "Fujifilm raw is not supported"),
}
REMEDY = "convert the image to PNG or JPEG"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; `in` holds foreign images and one file that is no image."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name, (content, _) in FOREIGN.items():
        (tmp_path / "in" / name).write_bytes(content)
    (tmp_path / "in/notes.txt").write_text("no image")
    return tmp_path


def add_png(folder: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(folder / "in/ok.png")


def test_each_is_named_and_the_rest_of_the_batch_goes_on(folder: Path) -> None:
    add_png(folder)
    done = run("encode", "in", "out", "--device", "cpu")
    assert done.code == 3
    assert "1 encoded" in done.out
    assert "4 failed, 1 other file skipped" in done.out
    assert (folder / "out/ok.png.dinac").exists()


@pytest.mark.parametrize("name", FOREIGN)
def test_the_line_names_the_file_the_format_and_the_remedy(folder: Path, name: str) -> None:
    done = run("encode", f"in/{name}", "out", "--failures", "failed.txt")
    assert done.code == 3
    [line] = [line for line in done.err.splitlines() if name in line]
    assert FOREIGN[name][1] in line
    assert REMEDY in line
    assert f"in/{name}" in (folder / "failed.txt").read_text()


def test_a_folder_of_nothing_else_fails(folder: Path) -> None:
    done = run("encode", "in", "out", "--json")
    assert done.code == 3
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert sum(line.get("status") == "failed" for line in lines) == len(FOREIGN)
    assert "no images found" not in done.err


def test_plan_agrees_with_encode(folder: Path) -> None:
    add_png(folder)
    done = run("plan", "in", "out")
    assert done.code == 3
    assert all(f"in/{name}" in done.err for name in sorted(FOREIGN)[:3])


def test_an_empty_file_with_such_a_name_fails(folder: Path) -> None:
    (folder / "in/IMG_9.heic").touch()
    done = run("encode", "in/IMG_9.heic", "out")
    assert done.code == 3
    assert "in/IMG_9.heic: empty file (0 bytes); copy or download it again" in done.err


def test_train_names_them_and_refuses_a_folder_of_nothing_else(folder: Path) -> None:
    done = run("train", "in", "model", "--steps", "1", "--crop", "32")
    assert done.code == 2
    assert "no image is readable, 4 failed; the first: in/IMG_1.CR2: Canon raw" in done.err
