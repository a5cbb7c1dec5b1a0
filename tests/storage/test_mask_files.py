"""Mask files are found by the names of their images."""

from __future__ import annotations

import os
import sys
import tracemalloc
from pathlib import Path

import pytest

from dinac_cli.container.names import escape_name
from dinac_cli.errors import InputError, UsageError
from dinac_cli.storage import mask_files
from dinac_cli.storage.mask_files import MaskFiles, require_mask_folder

needs_any_name = pytest.mark.skipif(sys.platform != "linux", reason="names that others refuse")
needs_links = pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = (
        "a.png",
        "a.txt",
        "a.b.JPG",
        "trip/b.webp",
        "two.png",
        "two.tif",
        "no suffix",
        "a.jpgx",
    )
    for name in names:
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "masks" / name).touch()
    return tmp_path / "masks"


def test_only_image_files_of_the_same_name_are_masks(folder: Path) -> None:
    masks = MaskFiles(str(folder))
    expected = {
        "a.jpg": "a.png",
        "a.png": "a.png",
        "a": "a.png",
        "a.b.png": "a.b.JPG",
        "trip/b.jpg": "trip/b.webp",
    }
    assert {name: masks.find(name) for name in expected} == {
        name: os.path.join(folder, *path.split("/")) for name, path in expected.items()
    }
    for name in ("A.jpg", "b.jpg", "trip/a.jpg", "none/a.jpg", "a.png/x.jpg", "no suffix.jpg"):
        assert masks.find(name) is None


def test_two_files_of_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"several masks of this image: two.png, two.tif; keep one"
    ):
        MaskFiles(str(folder)).find("two.jpg")


def test_a_folder_that_vanishes_is_no_folder_without_masks(folder: Path) -> None:
    masks = MaskFiles(str(folder / "trip"))
    (folder / "trip/b.webp").unlink()
    (folder / "trip").rmdir()
    for name in ("b.jpg", "x/b.jpg"):
        with pytest.raises(InputError, match="the folder is gone"):
            masks.find(name)
    with pytest.raises(UsageError, match="no such folder"):
        require_mask_folder(str(folder / "trip"))


def test_the_text_of_a_folder_changes_with_its_masks(folder: Path) -> None:
    (folder / "trip/loop").symlink_to(folder)
    masks = MaskFiles(str(folder))
    first = masks.describe_all()
    assert masks.describe_all() == first
    (folder / "a.txt").unlink()
    assert masks.describe_all() == first
    os.utime(folder / "trip/b.webp", (1.6e9, 1.6e9))
    second = masks.describe_all()
    assert second != first
    (folder / "trip/b.webp").rename(folder / "trip/c.webp")
    assert masks.describe_all() not in (first, second)


@needs_any_name
def test_escaped_names_find_the_files_that_they_stand_for(tmp_path: Path) -> None:
    """Shards know images by names that are safe on every system."""
    raw = ("a:b\\c.png", "con.png", "d \udcff/e\udcfe.png", "x.png")
    for name in raw:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    masks = MaskFiles(str(tmp_path))
    for name in raw:
        image = name.replace(".png", ".jpg")
        assert masks.find(image) == masks.find(escape_name(image)) == os.path.join(tmp_path, name)


def test_a_file_whose_own_name_looks_escaped_is_itself(tmp_path: Path) -> None:
    for name in ("a%41.png", "100%.png", "aA.png"):
        (tmp_path / name).touch()
    masks = MaskFiles(str(tmp_path))
    for name in ("a%41.png", "100%.png"):
        assert masks.find(name) == os.path.join(tmp_path, name)
    (tmp_path / "a%41.png").unlink()
    assert MaskFiles(str(tmp_path)).find("a%41.png") is None  # `escape_name` never writes %41


def test_escaped_names_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "masks/in").mkdir(parents=True)
    (tmp_path / "x.png").touch()
    masks = MaskFiles(str(tmp_path / "masks"))
    assert escape_name("../x.png") == ".%2E/x.png"
    assert masks.find(".%2E/x.png") is None
    assert masks.find(escape_name(f"{tmp_path}/x.png")) is None


@needs_links
def test_masks_that_belong_to_no_image_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("a.png", "tpyo.png", "trip/b.jpg", "trip/c.webp", "raw.png", "._a.png", "note.txt")
    for name in names:
        path = tmp_path / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    for name in ("one/a.jpg", "two/trip/b.v2.png", "two/trip/b.webp", "two/raw", "one/tpyo.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    masks = MaskFiles(str(tmp_path / "masks"))
    folders = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert masks.find_unused(folders) == (2, os.path.join(tmp_path, "masks", "tpyo.png"))
    (tmp_path / "one/tpyo.png").write_bytes(b"")
    (tmp_path / "one/trip").mkdir()
    (tmp_path / "one/trip/c.gif").write_bytes(b"")
    assert masks.find_unused(folders) is None
    assert masks.find_unused(folders[1:]) is not None
    monkeypatch.setattr(mask_files, "MOST_COMPARED", 5)
    assert masks.find_unused(folders[1:]) is None


def test_the_names_of_images_without_a_mask_are_not_kept(tmp_path: Path) -> None:
    """A folder may hold millions of images, and few masks."""
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "masks/tpyo.png").touch()
    for number in range(2000):
        (tmp_path / "images" / f"{number:0200}.png").touch()
    tracemalloc.start()
    found = MaskFiles(str(tmp_path / "masks")).find_unused([str(tmp_path / "images")])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == (1, os.path.join(tmp_path, "masks", "tpyo.png"))
    assert peak < 2000 * 200 / 2


def test_links_in_loops_and_broken_links(folder: Path) -> None:
    masks = MaskFiles(str(folder))
    first = masks.describe_all()
    for name in ("up", "trip/up"):
        (folder / name).symlink_to(folder, target_is_directory=True)
    assert masks.describe_all() == first
    (folder / "broken.png").symlink_to("nowhere")
    (folder / "self.png").symlink_to("self.png")
    second = masks.describe_all()
    (folder / "nowhere").touch()
    assert masks.describe_all() != second
