"""`encode --resize --crop --flip`, and every command that reads the records."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from safetensors.numpy import load_file

from dinac_cli import LatentFolder
from dinac_cli.container.record import Record, read_record

from .conftest import read_files, save
from .processes import run

GEOMETRY = ("--resize", "32", "--crop", "32x32")
UPSCALED = "dinac: scaled up 1 image; --no-upscale keeps small images at their own size\n"
TEXT = "resize=32;crop=32x32;flip=twin"


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos` of three sizes and their `latents`, for reading only."""
    folder = tmp_path_factory.mktemp("square")
    save(folder / "photos/a.jpg", 50, 37)
    save(folder / "photos/b.png", 64, 48, 1)
    save(folder / "photos/sub/c.png", 20, 90, 2)
    done = run("encode", "photos", "latents", *GEOMETRY, "--flip", cwd=folder)
    assert (done.code, done.err) == (0, UPSCALED)
    assert done.summary == "3 encoded with nano (default on a CPU); SIZES in TIME\n"
    return folder


def read(path: Path) -> Record:
    return read_record(path, with_twin=True)


def read_pixels(path: Path) -> npt.NDArray[np.float64]:
    with Image.open(path) as image:
        return np.asarray(image, np.float64)


def test_records_have_the_geometry_and_are_done_the_next_time(square: Path) -> None:
    before = read_files(square / "latents")
    record = read(square / "latents/a.jpg.dinac")
    assert (record.header.width, record.header.height) == (32, 32)
    assert record.header.image == f"orientation=none;color=srgb;alpha=none;frame=1/1;{TEXT}"
    assert record.flipped is not None
    again = run("encode", "photos", "latents", *GEOMETRY, "--flip", cwd=square)
    assert (again.code, again.out) == (0, "0 encoded with nano, 3 already done\n")
    assert read_files(square / "latents") == before


def test_another_geometry_is_refused_before_any_work(square: Path) -> None:
    done = run("encode", "photos", "latents", "--flip", "--max-side", "8", cwd=square)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "dinac: latents holds latents with --resize 32; you asked for --max-side 8 "
        "(latents/a.jpg.dinac); choose another OUT, or add --overwrite to re-encode everything\n"
    )
    planned = run("plan", "photos", "latents", "--crop", "16", "--no-flip", "--json", cwd=square)
    assert {entry["state"] for entry in planned.objects[:-1]} == {"conflict"}
    assert planned.objects[0]["reason"] == (
        "latents/a.jpg.dinac holds latents with --crop 32x32 --flip; "
        "this run uses --crop 16x16 --no-flip; choose another OUT or add --overwrite"
    )


def test_plan_and_dry_run_accept_the_geometry(square: Path) -> None:
    options = ("photos", "latents", *GEOMETRY, "--flip", "--json")
    planned = run("plan", *options, cwd=square)
    assert planned == run("encode", *options, "--dry-run", cwd=square)
    assert [entry["state"] for entry in planned.objects[:-1]] == ["done"] * 3
    fresh = run("plan", "photos", "out", "--crop", "40x37", "--json", cwd=square)
    assert fresh.code == 3
    assert fresh.err == (
        "dinac: photos/sub/c.png: 20x90 is smaller than the crop of 40x37; "
        "crop less, or scale with --resize first\n"
    )
    assert [entry["state"] for entry in fresh.objects[:-1]] == ["new", "new", "failed"]
    assert fresh.objects[-1]["pixels"] == 2 * 40 * 37


def test_decode_psnr_and_report(square: Path, tmp_path: Path) -> None:
    assert run("decode", "latents", tmp_path / "plain", cwd=square).code == 0
    assert run("decode", "latents", tmp_path / "twins", "--flipped", cwd=square).code == 0
    with (
        Image.open(tmp_path / "plain/b.png") as plain,
        Image.open(tmp_path / "twins/b.png") as twin,
    ):
        assert plain.size == twin.size == (32, 32)
        mirrored = np.asarray(twin.convert("RGB"))[:, ::-1].astype(float)
        difference = np.abs(mirrored - np.asarray(plain.convert("RGB"))).mean()
        assert difference < np.abs(mirrored[:, ::-1] - np.asarray(plain.convert("RGB"))).mean() / 4
    followed = run("decode", "latents", tmp_path / "twins", cwd=square)
    assert (followed.code, followed.out) == (0, "0 decoded, 3 already done\n")
    assert followed.err == f"dinac: following {tmp_path}/twins/a.jpg.png: --flipped\n"
    refused = run("decode", "latents", tmp_path / "twins", "--no-flipped", cwd=square)
    assert refused.code == 2
    assert "holds images decoded with --flipped; you asked for --no-flipped" in refused.err
    differ = run("psnr", "photos", tmp_path / "plain", cwd=square)
    assert differ.code == 3
    assert differ.err.splitlines()[0] == (
        "dinac: photos/a.jpg: sizes differ: 50x37 and 32x32; "
        "use the same --resize, --no-upscale, --max-side, --crop and --buckets as encode did"
    )
    same = run("psnr", "photos", tmp_path / "plain", *GEOMETRY, "--json", cwd=square)
    assert (same.code, same.err, json.loads(same.out)["count"]) == (0, "", 3)
    small = run("psnr", "photos/a.jpg", tmp_path / "plain/a.jpg.png", "--crop", "99", cwd=square)
    assert small.err == (
        "dinac: photos/a.jpg: 50x37 is smaller than the crop of 99x99; "
        "crop less, or scale with --resize first\n"
    )
    twins = run("psnr", "photos", tmp_path / "twins", *GEOMETRY, "--json", cwd=square)
    assert abs(json.loads(twins.out)["mean"] - json.loads(same.out)["mean"]) < 1
    itself = run("psnr", tmp_path / "twins", tmp_path / "twins", "--json", cwd=square)
    assert json.loads(itself.out)["identical"] == 3
    page = tmp_path / "page.html"
    report = run("report", "photos", tmp_path / "plain", page, *GEOMETRY, cwd=square)
    assert (report.code, report.err) == (0, "")


def test_decode_flipped_needs_records_with_a_twin(work: Path, tmp_path: Path) -> None:
    done = run("decode", "latents/a.jpg.dinac", tmp_path / "out", "--flipped", cwd=work)
    assert done.code == 3
    assert done.err == (
        "dinac: latents/a.jpg.dinac: holds no mirrored image; "
        "encode with --flip, or decode without --flipped\n"
    )


def test_info_and_verify(square: Path, tmp_path: Path) -> None:
    one = run("info", "latents/a.jpg.dinac", cwd=square)
    assert "twin           latents of the mirrored image\n" in one.out
    all_of_them = run("info", "latents", "--json", cwd=square)
    assert [entry["flipped"] for entry in all_of_them.objects] == [True, True, True, 3]
    done = run("verify", "latents", "--source", "photos", "--reencode", "100%", cwd=square)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("3 verified; 3 re-encoded, largest |Δ| 0 in ")


@pytest.mark.parametrize("form", ["safetensors", "npz", "webdataset"])
def test_export_holds_both_images(square: Path, tmp_path: Path, form: str) -> None:
    assert run("export", "latents", tmp_path, "--to", form, cwd=square).code == 0
    record = read(square / "latents/a.jpg.dinac")
    assert record.flipped is not None
    if form == "safetensors":
        arrays = load_file(tmp_path / "a.jpg.safetensors")
    elif form == "npz":
        with np.load(tmp_path / "a.jpg.npz") as file:
            arrays = {name: file[name] for name in ("latents", "flipped")}
    else:
        with tarfile.open(tmp_path / "000000.tar") as tar:
            parts = ("npy", "flipped.npy", "json")
            assert tar.getnames() == [f"{i:08}.{part}" for i in range(3) for part in parts]
            arrays = {
                name: np.load(io.BytesIO(tar.extractfile(f"00000000.{part}").read()))  # type: ignore[union-attr]
                for name, part in (("latents", "npy"), ("flipped", "flipped.npy"))
            }
    np.testing.assert_array_equal(arrays["latents"], record.latents)
    np.testing.assert_array_equal(arrays["flipped"], record.flipped.latents)


def test_dataset_holds_both_images(square: Path, work: Path) -> None:
    item = LatentFolder(square / "latents")[0]
    record = read(square / "latents/a.jpg.dinac")
    np.testing.assert_array_equal(item["latents"].numpy(), record.latents)
    assert record.flipped is not None
    np.testing.assert_array_equal(item["flipped"].numpy(), record.flipped.latents)
    assert "flipped" not in LatentFolder(work / "latents")[0]
