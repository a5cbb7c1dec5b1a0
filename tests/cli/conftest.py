"""A small folder of images, encoded and decoded once for all tests that only read it."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinac_cli.storage.source_memory import MEMORY_NAME

from .processes import get_python, run

SIZES = {
    "a.jpg": (50, 37),
    "b.png": (64, 48),
    "sub/b.png": (16, 16),
    "sub/deep/c.webp": (33, 90),
}
"""Relative name → (width, height) of the images in `photos`, in the order of a scan."""


def draw(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draws smooth colours that depend on the seed."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 5 + seed * 17, y * 3 + seed, (x + y) * 2)
    return Image.fromarray(np.stack([c % 256 for c in channels], axis=-1).astype(np.uint8))


def save(path: Path, width: int = 32, height: int = 32, seed: int = 0) -> Path:
    """Writes an image to `path`, in the format of its suffix, and returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(width, height, seed).save(path)
    return path


def make_png(width: int = 32, height: int = 32, seed: int = 0) -> bytes:
    """Returns the bytes of a PNG file."""
    file = io.BytesIO()
    draw(width, height, seed).save(file, "PNG")
    return file.getvalue()


def list_files(folder: Path) -> list[str]:
    """Returns the relative names of all files below a folder, hidden ones too, sorted.

    Leaves out the memory of `encode`, a cache whose bytes depend on the machine.
    """
    files = (path for path in folder.rglob("*") if path.name != MEMORY_NAME and not path.is_dir())
    return sorted(str(path.relative_to(folder)) for path in files)


def read_files(folder: Path) -> dict[str, bytes]:
    """Returns relative name → content of all files below a folder."""
    return {name: (folder / name).read_bytes() for name in list_files(folder)}


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos`, `latents`, `decoded` and `empty`, for reading only."""
    folder = tmp_path_factory.mktemp("work")
    for seed, (name, (width, height)) in enumerate(SIZES.items()):
        save(folder / "photos" / name, width, height, seed)
    (folder / "empty").mkdir()
    (folder / "photos/notes.txt").write_text("no image")
    (folder / "photos/.hidden.png").write_text("ignored")
    (folder / "photos/sub/._b.png").write_text("ignored")
    encoded = run("encode", "photos", "latents", cwd=folder)
    assert (encoded.code, encoded.err) == (0, "")
    assert (
        encoded.summary
        == "4 encoded with nano (default on a CPU), 1 other file skipped; SIZES in TIME\n"
    )
    decoded = run("decode", "latents", "decoded", cwd=folder)
    assert (decoded.code, decoded.err) == (0, "")
    assert decoded.summary == "4 decoded; SIZES in TIME\n"
    return folder


@pytest.fixture
def own(work: Path, tmp_path: Path) -> Path:
    """A copy of `work` that a test may change, with the same modification times."""
    folder = tmp_path / "own"
    shutil.copytree(work, folder)
    return folder


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program in this process starts is a fork, which saves the import of torch."""
    monkeypatch.setattr(sys, "executable", get_python())
