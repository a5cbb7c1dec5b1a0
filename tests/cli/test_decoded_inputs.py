"""Images that dinac decoded are inputs only if the user names them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .conftest import list_files, read_files, save
from .processes import Finished, run
from .test_train import QUICK


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder `in` of two originals, their latents and their decoded images."""
    save(tmp_path / "in/a.jpg", seed=1)
    save(tmp_path / "in/z.png", seed=2)
    assert run("encode", "in", "in/latents", cwd=tmp_path).code == 0
    assert run("decode", "in/latents", "in/decoded", cwd=tmp_path).code == 0
    assert list_files(tmp_path / "in/decoded") == ["a.jpg.png", "z.png"]
    return tmp_path


def summarise(done: Finished) -> dict[str, int]:
    return {key: done.objects[-1][key] for key in ("written", "done", "skipped", "decoded")}


def test_decoded_images_among_originals_are_skipped_and_counted(mixed: Path) -> None:
    before = read_files(mixed / "in")
    again = run("encode", "in", "in/latents", cwd=mixed)
    assert (again.code, again.err) == (0, "")
    assert again.out == "0 encoded with nano, 2 already done, 2 decoded images skipped\n"
    assert read_files(mixed / "in") == before
    other = run("encode", "in", "other", "--json", cwd=mixed)
    assert summarise(other) == {"written": 2, "done": 0, "skipped": 2, "decoded": 2}
    assert list_files(mixed / "other") == ["a.jpg.dinac", "z.png.dinac"]
    assert [entry["file"] for entry in other.objects if entry.get("status") == "skipped"] == [
        "in/decoded/a.jpg.png",
        "in/decoded/z.png",
    ]


@pytest.mark.parametrize("form", ["jpg", "webp", "tiff", "avif", "bmp", "ppm"])
def test_every_format_is_recognised(mixed: Path, form: str) -> None:
    assert run("decode", "in/latents", "in/more", "--format", form, cwd=mixed).code == 0
    done = run("encode", "in", "other", "--json", cwd=mixed)
    assert summarise(done) == {"written": 2, "done": 0, "skipped": 4, "decoded": 4}


def test_plan_agrees(mixed: Path) -> None:
    planned = run("plan", "in", "other", "--quick", "--json", cwd=mixed)
    assert (planned.objects[-1]["new"], planned.objects[-1]["skipped"]) == (2, 2)
    shown = run("plan", "in", "other", "--quick", cwd=mixed)
    assert "skipped because dinac decoded them: 2 images" in shown.out.splitlines()


@pytest.mark.parametrize(
    "inputs",
    [
        ("in/decoded",),
        ("in/decoded", "in/a.jpg"),
        ("in/decoded/*.png",),
        ("in/decoded/z.png", "in/decoded/a.jpg.png"),
    ],
)
def test_decoded_images_that_are_named_are_encoded(mixed: Path, inputs: tuple[str, ...]) -> None:
    done = run("encode", *inputs, "second", "--json", cwd=mixed)
    assert (done.code, done.objects[-1]["decoded"]) == (0, 0)
    assert {"a.jpg.png.dinac", "z.png.dinac"} <= set(list_files(mixed / "second"))


def test_decoded_images_in_a_list_are_encoded(mixed: Path) -> None:
    entries = b"in/decoded\nin/a.jpg\n"
    done = run("encode", "--files-from", "-", "second", "--json", stdin=entries, cwd=mixed)
    assert summarise(done) == {"written": 3, "done": 0, "skipped": 0, "decoded": 0}


def test_a_glob_that_also_finds_originals_skips_decoded_images(mixed: Path) -> None:
    done = run("encode", "in/**/a.*g", "second", "--json", cwd=mixed)
    assert summarise(done) == {"written": 1, "done": 0, "skipped": 1, "decoded": 1}


def test_an_edited_image_is_an_original(mixed: Path) -> None:
    save(mixed / "in/decoded/z.png", seed=5)
    done = run("encode", "in", "second", "--json", cwd=mixed)
    assert summarise(done) == {"written": 3, "done": 0, "skipped": 1, "decoded": 1}


def test_images_decoded_into_out_never_replace_their_own_latents(own: Path) -> None:
    for command in ("encode", "decode"):
        done = run(command, "photos", "photos", cwd=own)
        assert done.code == (3 if command == "decode" else 0)  # b.png is an original
    before = read_files(own / "photos")
    assert "a.jpg.png" in before
    again = run("encode", "photos", "photos", cwd=own)
    assert (again.code, again.err) == (0, "")
    assert again.out.startswith("0 encoded with nano, 4 already done, 2 decoded images skipped, ")
    assert read_files(own / "photos") == before
    shutil.copytree(own / "latents", own / "both")
    assert run("decode", "both", "both", cwd=own).code == 0
    before = read_files(own / "both")
    alone = run("encode", "both", "both", "--json", cwd=own)  # decoded images and latents only
    assert summarise(alone) == {"written": 0, "done": 0, "skipped": 4, "decoded": 4}
    assert read_files(own / "both") == before


def test_a_restored_image_keeps_its_latents(mixed: Path) -> None:
    """An image that was decoded in place of a lost original is not encoded a second time."""
    shutil.copy(mixed / "in/decoded/z.png", mixed / "in/z.png")
    before = read_files(mixed / "in/latents")
    done = run("encode", "in", "in/latents", "--json", cwd=mixed)
    assert summarise(done) == {"written": 0, "done": 1, "skipped": 3, "decoded": 3}
    assert read_files(mixed / "in/latents") == before


def test_psnr_and_report_compare_decoded_images(mixed: Path) -> None:
    compared = run("psnr", "in/decoded", "in/decoded", "--json", cwd=mixed)
    assert json.loads(compared.out)["identical"] == 2
    assert run("report", "in/decoded", "in/decoded", "page.html", cwd=mixed).code == 0


def test_train_skips_decoded_images(mixed: Path) -> None:
    trained = run("train", "in", "model", "--steps", "2", *QUICK, cwd=mixed)
    assert trained.code == 0
    assert "dinac: 2 decoded images skipped" in trained.err.splitlines()
    assert trained.out.startswith("2 steps on 1 image; ")
