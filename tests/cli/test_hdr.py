"""`--hdr`: encode, plan, psnr, report and verify agree on HDR images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinac_cli.container.record import read_header
from tests.images.hand_made import chunk, make_pixels, make_png

from .processes import run

REFUSED = "HDR image (PQ curve); convert it to SDR, or add --hdr tonemap or --hdr clip"


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos`, of an HDR and an SDR image, and their `latents`."""
    folder = tmp_path_factory.mktemp("hdr")
    (folder / "photos").mkdir()
    rows = [row.tobytes() for row in make_pixels()]
    pq = make_png((40, 24), 8, 2, rows, chunk(b"cICP", bytes((9, 16, 0, 1))))
    (folder / "photos/a.png").write_bytes(pq)
    Image.fromarray(np.flipud(make_pixels())).save(folder / "photos/b.png")
    done = run("encode", "photos", "latents", "--hdr", "tonemap", "-q", cwd=folder)
    assert (done.code, done.err) == (0, "")
    return folder


@pytest.fixture
def own(encoded: Path, tmp_path: Path) -> Path:
    """A copy of `encoded` that a test may change."""
    return Path(shutil.copytree(encoded, tmp_path / "own"))


def read_image_field(path: Path) -> str:
    with path.open("rb") as file:
        return read_header(file).image


def test_encode_refuses_hdr_and_goes_on(own: Path) -> None:
    done = run("encode", "photos", "new", "-q", cwd=own)
    assert (done.code, done.err) == (3, f"dinac: photos/a.png: {REFUSED}\n")
    assert [path.name for path in sorted((own / "new").iterdir())] == ["b.png.dinac"]


def test_plan_refuses_it_too(own: Path) -> None:
    done = run("plan", "photos", "new", "--quick", "--json", cwd=own)
    files = [json.loads(line) for line in done.out.splitlines()]
    assert [(file.get("state"), file.get("reason")) for file in files[:2]] == [
        ("failed", REFUSED),
        ("new", None),
    ]
    planned = run("plan", "photos", "new", "--quick", "--hdr", "clip", "--json", cwd=own)
    assert '"failed"' not in planned.out.splitlines()[0]


def test_the_record_says_what_was_done(encoded: Path) -> None:
    field = read_image_field(encoded / "latents/a.png.dinac")
    assert "color=converted-bt2020-pq-tonemap" in field
    assert "color=srgb" in read_image_field(encoded / "latents/b.png.dinac")


def test_a_later_run_follows_out(own: Path) -> None:
    (own / "latents/b.png.dinac").unlink()
    done = run("encode", "photos", "latents", cwd=own)
    assert done.code == 0
    assert "following latents/a.png.dinac: --hdr tonemap" in done.err


@pytest.mark.parametrize("value", ["clip", "refuse"])
def test_another_value_conflicts_only_for_hdr_images(own: Path, value: str) -> None:
    shutil.copy(own / "photos/b.png", own / "photos/0.png")
    assert run("encode", "photos", "latents", "-q", cwd=own).code == 0
    done = run("encode", "photos", "latents", "--hdr", value, "-q", cwd=own)
    assert done.code == 3
    assert done.err == (
        "dinac: photos/a.png: latents/a.png.dinac holds latents with --hdr tonemap; "
        f"this run uses --hdr {value}; choose another OUT or add --overwrite\n"
    )


def test_verify_reads_the_value_from_the_record(own: Path) -> None:
    done = run("verify", "latents", "--source", "photos", "--reencode", "100%", cwd=own)
    assert done.code == 0, done.err
    assert "2 re-encoded, largest |Δ| 0" in done.out + done.err


def test_psnr_and_report_need_the_option(own: Path) -> None:
    assert run("decode", "latents", "decoded", "-q", cwd=own).code == 0
    done = run("psnr", "photos", "decoded", "--json", cwd=own)
    assert done.code == 3
    assert json.loads(done.out)["failed"] == 1
    done = run("psnr", "photos", "decoded", "--hdr", "tonemap", "--json", cwd=own)
    assert (done.code, json.loads(done.out)["count"]) == (0, 2)
    page = ("report", "photos", "decoded", "page.html")
    assert run(*page, "-q", cwd=own).code == 3
    assert run(*page, "--hdr", "tonemap", "--overwrite", "-q", cwd=own).code == 0


def test_an_unknown_value_is_refused(own: Path) -> None:
    done = run("encode", "photos", "new", "--hdr", "bright", cwd=own)
    assert done.code == 2
    assert "--hdr bright: choose one of refuse, clip, tonemap" in done.err
