"""`--no-upscale`, `--skip-small`, and the words on sizes, orphans and the default model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dinac_cli.container.record import read_latents

from .conftest import list_files, save
from .processes import run

UPSCALED = "dinac: scaled up 2 images; --no-upscale keeps small images at their own size\n"
SMALL = "dinac: smaller than the crop: 2 images; --skip-small skips small images\n"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two small images and a larger one."""
    save(tmp_path / "photos/a.png", 20, 30)
    save(tmp_path / "photos/b.png", 24, 24, 1)
    save(tmp_path / "photos/sub/c.png", 60, 48, 2)
    return tmp_path


def read_size(path: Path) -> tuple[int, int]:
    header = read_latents(path)[1]
    return header.width, header.height


def test_upscaling_is_mentioned(photos: Path) -> None:
    done = run("encode", "photos", "up", "--resize", "32", cwd=photos)
    assert (done.code, done.err) == (0, UPSCALED)
    planned = run("plan", "photos", "other", "--resize", "32", "--quick", cwd=photos)
    assert (
        "2 images would be scaled up; --no-upscale keeps small images at their own size\n"
        in planned.out
    )
    *files, summary = run(
        "encode", "photos", "json", "--resize", "32", "--json", cwd=photos
    ).objects
    assert sorted(file["file"] for file in files if file.get("upscaled")) == [
        "photos/a.png", "photos/b.png",
    ]  # fmt: skip
    assert (summary["upscaled"], summary["skipped"]) == (2, 0)
    again = run("encode", "photos", "up", "--resize", "32", cwd=photos)
    assert (again.code, again.err) == (0, "")
    quiet = run("encode", "photos", "quiet", "--resize", "32", "--quiet", cwd=photos)
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_no_upscale_keeps_small_images_at_their_size(photos: Path) -> None:
    options = ("--resize", "32", "--no-upscale")
    done = run("encode", "photos", "down", *options, cwd=photos)
    assert (done.code, done.err) == (0, "")
    assert read_size(photos / "down/a.png.dinac") == (20, 30)
    assert read_size(photos / "down/sub/c.png.dinac") == (40, 32)
    again = run("encode", "photos", "down", *options, cwd=photos)
    assert (again.code, again.out) == (0, "0 encoded with nano, 3 already done\n")
    planned = run("plan", "photos", "down", *options, "--json", cwd=photos)
    assert (planned.objects[-1]["done"], planned.objects[-1]["upscaled"]) == (3, 0)
    other = run("encode", "photos", "down", "--resize", "32", "--upscale", cwd=photos)
    assert (other.code, other.out) == (2, "")
    assert other.err.startswith("dinac: down holds latents with --resize 32 --no-upscale; you ask")
    followed = run("encode", "photos", "down", "--resize", "32", cwd=photos)
    assert (followed.code, followed.out) == (0, "0 encoded with nano, 3 already done\n")
    assert followed.err.endswith(" --no-upscale\n")


def test_every_command_repeats_no_upscale(photos: Path) -> None:
    options = ("--resize", "32", "--no-upscale")
    assert run("encode", "photos", "down", *options, cwd=photos).code == 0
    assert run("decode", "down", "decoded", cwd=photos).code == 0
    measured = run("psnr", "photos", "decoded", *options, "--json", cwd=photos)
    assert (measured.code, json.loads(measured.out)["count"]) == (0, 3)
    enlarged = run("psnr", "photos", "decoded", "--resize", "32", "--json", cwd=photos)
    assert (enlarged.code, json.loads(enlarged.out)["failed"]) == (3, 2)
    page = run("report", "photos", "decoded", "page.html", *options, cwd=photos)
    assert (page.code, page.err) == (0, "")
    verified = run("verify", "down", "--source", "photos", "--reencode", "100%", cwd=photos)
    assert (verified.code, verified.err) == (0, "")


@pytest.mark.parametrize("command", ["encode", "plan", "psnr"])
def test_no_upscale_needs_resize(photos: Path, command: str) -> None:
    done = run(command, "photos", "out", "--no-upscale", cwd=photos)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "dinac: --no-upscale needs --resize; --max-side and --crop never scale up\n"
    )


def test_small_images_fail_or_are_skipped(photos: Path) -> None:
    failed = run("encode", "photos", "failed", "--crop", "32", cwd=photos)
    assert failed.code == 3
    assert failed.err.endswith(SMALL)
    assert failed.err.count(" is smaller than the crop of 32x32; crop less, or ") == 2

    options = ("--crop", "32", "--skip-small")
    done = run("encode", "photos", "out", *options, cwd=photos)
    assert (done.code, done.err) == (0, "")
    assert done.summary == (
        "1 encoded with nano (default on a CPU), 2 skipped (smaller than the crop); SIZES in TIME\n"
    )
    assert list_files(photos / "out") == ["sub/c.png.dinac"]

    *files, summary = run("encode", "photos", "out", *options, "--json", cwd=photos).objects
    assert (summary["done"], summary["skipped"], summary["failed"]) == (1, 2, 0)
    assert next(file for file in files if file["file"] == "photos/a.png") == {
        "file": "photos/a.png",
        "status": "skipped",
        "name": "a.png",
        "reason": "20x30 is smaller than the crop of 32x32",
    }
    verbose = run("encode", "photos", "out", *options, "-v", cwd=photos)
    assert "dinac: photos/a.png (skipped: 20x30 is smaller than the crop of 32x32)\n" in verbose.err


def test_plan_counts_small_images(photos: Path) -> None:
    failed = run("plan", "photos", "out", "--crop", "32", "--quick", cwd=photos)
    assert failed.code == 3
    assert SMALL.removeprefix("dinac: ") in failed.out
    skipped = run("plan", "photos", "out", "--crop", "32", "--skip-small", "--quick", cwd=photos)
    assert (skipped.code, skipped.err) == (0, "")
    assert re.search(r"^skipped +2 +-$", skipped.out, re.MULTILINE)
    assert "smaller than the crop" not in skipped.out


@pytest.mark.parametrize("command", ["encode", "plan"])
def test_skip_small_needs_a_crop(photos: Path, command: str) -> None:
    done = run(command, "photos", "out", "--skip-small", cwd=photos)
    assert (done.code, done.out) == (2, "")
    assert done.err == "dinac: --skip-small skips images smaller than the crop; add --crop WxH\n"


def test_orphans_are_mentioned(own: Path) -> None:
    save(own / "more/z.png")
    (own / "photos/a.jpg").rename(own / "photos/renamed.jpg")
    (own / "photos/sub/b.png").unlink()
    done = run("encode", "photos", "latents", cwd=own)
    assert (done.code, done.err) == (
        0,
        "dinac: 2 orphaned records in latents, without a source among the inputs; "
        "dinac plan -v names them\n",
    )
    planned = run("plan", "photos", "latents", "--json", cwd=own)
    orphans = [file["file"] for file in planned.objects[:-1] if file["state"] == "orphaned"]
    assert orphans == ["latents/a.jpg.dinac", "latents/sub/b.png.dinac"]
    both = run("encode", "photos", "more", "latents", cwd=own)
    assert both.err == done.err
    (own / "more/a.jpg").write_bytes((own / "photos/renamed.jpg").read_bytes())
    one = run("encode", "photos", "more", "latents", cwd=own)
    assert one.err.startswith("dinac: 1 orphaned record in latents, ")


@pytest.mark.parametrize(
    "inputs",
    [
        ("photos", "--limit", "1"),
        ("photos", "--shard", "0/2"),
        ("photos/b.png",),
        ("--files-from", "list", "--root", "photos"),
    ],
)
def test_part_of_the_inputs_leaves_no_orphans(own: Path, inputs: tuple[str, ...]) -> None:
    (own / "photos/a.jpg").unlink()
    (own / "list").write_text("b.png\n")
    done = run("encode", *inputs, "latents", cwd=own)
    assert (done.code, done.err) == (0, "")


def test_summary_says_why_a_model_was_chosen(photos: Path) -> None:
    default = run("encode", "photos", "out", cwd=photos)
    assert default.out.startswith("3 encoded with nano (default on a CPU); ")
    (photos / "out/a.png.dinac").unlink()
    held = run("encode", "photos", "out", cwd=photos)
    assert held.out.startswith("1 encoded with nano, 2 already done; ")
    named = run("encode", "photos", "named", "--model", "nano", cwd=photos)
    assert named.out.startswith("3 encoded with nano; ")
    afresh = run("encode", "photos", "out", "--overwrite", cwd=photos)
    assert afresh.out.startswith("3 encoded with nano (default on a CPU); ")
