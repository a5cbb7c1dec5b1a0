"""`dinac train`: the checkpoint that it writes, and the command lines that it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.images.hand_made import chunk, make_png

from .conftest import draw, list_files, save
from .processes import run

TINY = Path(__file__).parents[1] / "golden/tiny"
QUICK = ("--init", TINY, "--crop", "32", "--batch-size", "2", "--device", "cpu", "--dtype", "f32")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three images, one of them smaller than a crop."""
    for number, side in enumerate((64, 48, 16)):
        save(tmp_path / f"images/{number}.png", side, side, number)
    return tmp_path / "images"


def test_trained_model_encodes_and_decodes(images: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    trained = run("train", images, model, "--steps", "3", *QUICK)
    assert trained.code == 0
    end = rf"\([\d.]+ before\); use it with --model {re.escape(str(model))}"
    assert re.fullmatch(rf"3 steps on 1 image; [\d.]+ dB on 1 held out {end}\n", trained.out)
    assert trained.err.count("\n") == 1
    assert "2.png: 16x16 is smaller than a crop of 32" in trained.err
    assert list_files(model) == ["config.json", "model.safetensors", "training.json"]

    again = run("train", images, "-o", model, "--steps", "3", *QUICK)
    assert (again.code, again.out) == (0, f"{model} is already trained\n")

    other = run("train", images, model, "--steps", "4", *QUICK)
    assert other.code == 2
    assert "a finished training with other settings or images" in other.err.splitlines()[-1]

    encoded = run("encode", images, tmp_path / "latents", "--model", model)
    assert encoded.code == 0
    decoded = run("decode", tmp_path / "latents", tmp_path / "decoded", "--model", model)
    assert (decoded.code, len(list_files(tmp_path / "decoded"))) == (0, 3)


def test_hdr_images_are_skipped_or_converted(images: Path, tmp_path: Path) -> None:
    rows = [row.tobytes() for row in np.asarray(draw(64, 64, 5))]
    pq = make_png((64, 64), 8, 2, rows, chunk(b"cICP", bytes((9, 16, 0, 1))))
    (images / "hdr.png").write_bytes(pq)
    command = ("train", images, tmp_path / "model", "--steps", "1", *QUICK)
    refused = run(*command)
    assert refused.code == 0
    assert refused.out.startswith("1 step on 1 image; ")
    assert "hdr.png: HDR image (PQ curve); convert it to SDR, or add --hdr" in refused.err
    other = run(*command, "--hdr", "clip")
    assert other.code == 2
    assert "a finished training with other settings or images" in other.err
    command = ("train", images, tmp_path / "clipped", "--steps", "1", *QUICK)
    clipped = run(*command, "--hdr", "clip")
    assert (clipped.code, clipped.out.partition(";")[0]) == (0, "1 step on 2 images")
    assert "hdr.png" not in clipped.err


def test_wrong_requests_are_refused_in_one_line(images: Path, tmp_path: Path) -> None:
    model, empty = tmp_path / "model", tmp_path / "empty"
    empty.mkdir()
    cases = {
        "say how long to train": (images, model),
        "either --minutes or --steps": (images, model, "--steps", "3", "--minutes", "1"),
        "no image has at least 128 pixels": (images, model, "--steps", "3", "--crop", "128"),
        "no images found in": (empty, model, "--steps", "3"),
        "stdin: cannot be trained on": ("-", model, "--steps", "3"),
        "holds other files and no training": (images, images, "--steps", "3"),
        "nosuch: no such file or folder; check the path": (images, "nosuch", model, "--steps", "3"),
        "is an empty name": (images, "", "--steps", "3"),
        "multiple of the model's patch": (images, model, "--steps", "3", "--crop", "40"),
    }
    for message, arguments in cases.items():
        refused = run("train", *arguments)
        assert refused.code == 2, message
        assert message in refused.err.splitlines()[-1]
    assert not model.exists()
