"""A folder of 60,000 images, and the longest names that the file system allows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .conftest import list_files, save
from .processes import run

COUNT = 60_000

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs cheap hard links")


def test_sixty_thousand_images_in_one_folder(tmp_path: Path) -> None:
    """All are listed, counted and checked for collisions before the first one is encoded."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(COUNT):
        if number % 20_000 == 0:  # file systems limit the links of one file
            source = save(tmp_path / f"source{number}.png", 16, 16, number)
        os.link(source, folder / f"{number:05}.png")
    (tmp_path / "out").mkdir()
    done = run("encode", "images", "out", "--limit", "3", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert list_files(tmp_path / "out") == [f"{number:05}.png.dinac" for number in range(3)]


def test_name_too_long_for_the_suffix_fails_alone(tmp_path: Path) -> None:
    longest, fits = "l" * 251 + ".png", "f" * 245 + ".png"
    for number, name in enumerate(("a.png", fits, longest)):
        save(tmp_path / "images" / name, 16, 16, number)
    done = run("encode", "images", "out", cwd=tmp_path)
    assert done.code == 3
    (line,) = done.err.splitlines()
    assert line.endswith("the name is too long for this file system; rename the input")
    assert longest in line
    assert list_files(tmp_path / "out") == ["a.png.dinac", f"{fits}.dinac"]
    assert run("decode", "out", "decoded", cwd=tmp_path).code == 0
    assert list_files(tmp_path / "decoded") == ["a.png", fits]
