"""`encode --buckets`: one OUT of many sizes, and every command that reads the records."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from dinac_cli import encode_files
from dinac_cli.container.record import read_record

from .conftest import read_files, save
from .processes import run

BUCKETS = ("--buckets", "64x64:16")
TEXT = "resize=buckets-64x64-16-32-128"
SMALL = (
    "photos/small.png: 40x30 is smaller than its bucket of 64x64; add --upscale, add --skip-small, "
    "or choose a smaller area for --buckets"
)


@pytest.fixture(scope="module")
def bucketed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos` of several aspect ratios and their `latents`, for reading only."""
    folder = tmp_path_factory.mktemp("bucketed")
    save(folder / "photos/square.png", 100, 100)
    save(folder / "photos/exact.png", 96, 32, 1)
    save(folder / "photos/tall.jpg", 70, 200, 2)
    save(folder / "photos/trip/wide.jpg", 150, 90, 3)
    done = run("encode", "photos", "latents", *BUCKETS, cwd=folder)
    assert (done.code, done.err) == (0, "")
    return folder


def read_sizes(folder: Path) -> dict[str, tuple[int, int]]:
    headers = {path.name: read_record(path).header for path in folder.rglob("*.dinac")}
    assert {header.image.partition("frame=1/1;")[2] for header in headers.values()} == {TEXT}
    return {name: (header.width, header.height) for name, header in headers.items()}


def test_each_image_has_its_bucket_and_is_done_the_next_time(bucketed: Path) -> None:
    assert read_sizes(bucketed / "latents") == {
        "square.png.dinac": (64, 64),
        "exact.png.dinac": (96, 32),
        "tall.jpg.dinac": (32, 96),
        "wide.jpg.dinac": (80, 48),
    }
    before = read_files(bucketed / "latents")
    again = run("encode", "photos", "latents", *BUCKETS, cwd=bucketed)
    assert (again.code, again.out) == (0, "0 encoded with nano, 4 already done\n")
    followed = run("encode", "photos", "latents", cwd=bucketed)
    assert (followed.code, followed.out) == (0, "0 encoded with nano, 4 already done\n")
    assert followed.err == "dinac: following latents/exact.png.dinac: --buckets 64x64:16\n"
    assert read_files(bucketed / "latents") == before


def test_other_buckets_are_refused_before_any_work(bucketed: Path) -> None:
    for asked in ("--buckets 64x64:32", "--buckets 64x64:16 --bucket-max 96", "--resize 64",
                  "--buckets none", "--upscale"):  # fmt: skip
        done = run("encode", "photos", "latents", *asked.split(), cwd=bucketed)
        assert (done.code, done.out) == (2, "")
        held = "--no-upscale" if asked == "--upscale" else "--buckets 64x64:16"
        assert f"latents holds latents with {held}; you asked for {asked} (" in done.err


def test_small_images_fail_are_skipped_or_enlarged(tmp_path: Path) -> None:
    save(tmp_path / "photos/big.png", 80, 80)
    save(tmp_path / "photos/small.png", 40, 30, 1)
    failed = run("encode", "photos", "out", *BUCKETS, cwd=tmp_path)
    assert failed.code == 3
    assert failed.err == (
        f"dinac: {SMALL}\n"
        "dinac: smaller than their bucket: 1 image; --upscale enlarges small images, "
        "--skip-small skips them\n"
    )
    skipped = run("encode", "photos", "out", "--skip-small", cwd=tmp_path)
    assert (skipped.code, skipped.out) == (
        0,
        "0 encoded with nano, 1 already done, 1 skipped (smaller than their bucket)\n",
    )
    enlarged = run("encode", "photos", "up", *BUCKETS, "--upscale", cwd=tmp_path)
    assert enlarged.code == 0
    assert enlarged.err == (
        "dinac: scaled up 1 image; --no-upscale --skip-small would skip small images\n"
    )
    header = read_record(tmp_path / "up/small.png.dinac").header
    assert header.image.endswith(f"{TEXT}-up")
    useless = run("encode", "photos", "up", "--skip-small", cwd=tmp_path)
    assert useless.err == (
        "dinac: --skip-small skips images that would be scaled up; add --no-upscale\n"
    )


def test_plan_and_info_count_the_images_of_each_bucket(bucketed: Path) -> None:
    planned = run("plan", "photos", "new", *BUCKETS, "--quick", cwd=bucketed)
    assert "bucket images\n 32x96      1\n 64x64      1\n" in planned.out
    buckets = [
        {"width": 32, "height": 96, "images": 1},
        {"width": 64, "height": 64, "images": 1},
        {"width": 80, "height": 48, "images": 1},
        {"width": 96, "height": 32, "images": 1},
    ]
    assert run("plan", "photos", "new", *BUCKETS, "--quick", "--json", cwd=bucketed).objects[-1][
        "buckets"
    ] == buckets  # fmt: skip
    assert "bucket images\n 32x96      1\n" in run("info", "latents", cwd=bucketed).out
    assert run("info", "latents", "--json", cwd=bucketed).objects[-1]["buckets"] == buckets


def test_plan_of_shards_counts_the_images_to_encode(bucketed: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "shards"
    shutil.copytree(bucketed / "photos", photos)
    save(photos / "small.png", 40, 30, 4)
    (photos / "broken.png").write_bytes(b"not an image")
    write = (photos, out, *BUCKETS, "--shard-size", "3")
    planned = run("plan", *write, "--quick", cwd=tmp_path)
    assert (
        "smaller than their bucket: 1 image; --upscale enlarges small images, --skip-small skips "
        "them\nbucket images\n 32x96      1\n 64x64      1\n 80x48      1\n 96x32      1\n"
        f"of unknown bucket: 1 image, such as {photos / 'broken.png'}: "
    ) in planned.out
    (photos / "broken.png").unlink()
    (photos / "small.png").unlink()
    summary = run("plan", *write, "--quick", "--json", cwd=tmp_path).objects[-1]
    assert {(each["width"], each["height"]) for each in summary["buckets"]} == {
        (32, 96), (64, 64), (80, 48), (96, 32),
    }  # fmt: skip
    assert (summary["buckets_complete"], summary["too_small"], summary["upscaled"]) == (True, 0, 0)
    assert run("encode", *write, cwd=tmp_path).code == 0
    save(photos / "small.png", 40, 30, 4)
    again = run("plan", photos, out, "--upscale", "--quick", cwd=tmp_path)
    assert again.code == 2  # the shards in OUT were made without it
    again = run("plan", photos, out, "--skip-small", "--quick", cwd=tmp_path)
    assert "skipped because they are smaller than their bucket: 1 image\n" in again.out
    assert "bucket images" not in again.out


def test_decode_psnr_report_and_verify(bucketed: Path, tmp_path: Path) -> None:
    assert run("decode", "latents", tmp_path / "decoded", cwd=bucketed).code == 0
    pair = ("photos", tmp_path / "decoded")
    same = run("psnr", *pair, *BUCKETS, "--json", cwd=bucketed)
    assert (same.code, same.err, json.loads(same.out)["count"]) == (0, "", 4)
    report = run("report", *pair, tmp_path / "page.html", *BUCKETS, cwd=bucketed)
    assert (report.code, report.err) == (0, "")
    done = run("verify", "latents", "--source", "photos", "--reencode", "100%", cwd=bucketed)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("4 verified; 4 re-encoded, largest |Δ| 0 in ")


def test_shards_hold_and_follow_the_buckets(bucketed: Path, tmp_path: Path) -> None:
    options = (*BUCKETS, "--shard-size", "3")
    assert run("encode", "photos", tmp_path / "out", *options, cwd=bucketed).code == 0
    assert json.loads((tmp_path / "out/_dinac/run.json").read_text())["geometry"] == TEXT
    again = run("encode", "photos", tmp_path / "out", cwd=bucketed)
    assert again.code == 0
    assert "--buckets 64x64:16" in again.err
    refused = run("encode", "photos", tmp_path / "out", "--buckets", "64:32", cwd=bucketed)
    assert refused.code == 2
    assert "shards with --buckets 64x64:16; you asked for --buckets 64x64:32" in refused.err
    assert run("info", tmp_path / "out", "--json", cwd=bucketed).objects[-1]["buckets"][0] == {
        "width": 32, "height": 96, "images": 1,
    }  # fmt: skip


def test_wrong_options_are_refused(bucketed: Path) -> None:
    for option in ("--resize", "--max-side", "--crop"):
        done = run("encode", "photos", "new", *BUCKETS, option, "64", cwd=bucketed)
        assert (done.code, done.err) == (
            2,
            "dinac: --buckets scales and crops by itself and cannot be used with "
            f"{option}; leave one out\n",
        )
    step = run("plan", "photos", "new", "--buckets", "64:24", cwd=bucketed)
    assert (step.code, step.err) == (
        2,
        "dinac: --buckets with a step of 24: this model needs a multiple of its patch of 16 "
        "pixels; choose AREA:16\n",
    )


def test_the_function_takes_the_same_options(bucketed: Path, tmp_path: Path) -> None:
    results = list(
        encode_files(bucketed / "photos", tmp_path, buckets="64:16", bucket_max=64, workers=1)
    )
    sizes = Counter((result.width, result.height) for result in results)
    assert sizes == {(64, 64): 1, (64, 32): 1, (32, 64): 1, (64, 48): 1}
