"""A folder of 60,000 images, and names as long as a file system takes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dinac_cli.cli import run as run_here

from .conftest import list_files, save
from .processes import run

COUNT = 60_000

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs cheap hard links")


def test_sixty_thousand_images_in_one_folder(tmp_path: Path) -> None:
    """Listed, counted and checked for collisions before the first one is done."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(COUNT):
        if number % 20_000 == 0:  # file systems bound the links of one file
            source = save(tmp_path / f"source{number}.png", 16, 16, number)
        os.link(source, folder / f"{number:05}.png")
    (tmp_path / "out").mkdir()
    done = run("encode", "images", "out", "--limit", "3", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert list_files(tmp_path / "out") == [f"{number:05}.png.dinac" for number in range(3)]


def test_names_as_long_as_the_file_system_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name has no room for the suffix of its output: it fails, and the rest is done."""
    longest, fits = "l" * 251 + ".png", "f" * 245 + ".png"
    for number, name in enumerate(("a.png", fits, longest)):
        save(tmp_path / "images" / name, 16, 16, number)
    assert run_here(["encode", str(tmp_path / "images"), str(tmp_path / "out")]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("the output's name is too long for this file system")
    assert longest in line
    assert list_files(tmp_path / "out") == ["a.png.dinac", f"{fits}.dinac"]
    assert run_here(["decode", str(tmp_path / "out"), str(tmp_path / "decoded")]) == 0
    assert list_files(tmp_path / "decoded") == ["a.png", fits]
