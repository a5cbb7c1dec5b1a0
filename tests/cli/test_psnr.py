"""`dinac psnr`: whole output, with figures known beforehand."""

from __future__ import annotations

import json
from math import log10
from pathlib import Path

import pytest
from PIL import Image

from .processes import run, run_noting_imports

# Name → difference of all pixels, in levels, between original and reconstruction.
DIFFERENCES = {"a.jpg": 10, "b.png": 1, "sub/c.png": 0}
NEAR, FAR = (20 * log10(255 / levels) for levels in (1, 10))

TABLE = """\
PSNR   mean    std  median     p5    p95    min    max  images  identical
  dB  38.13  10.00   38.13  29.13  47.13  28.13  48.13       3          1
"""


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder with `one` and `two`, whose images differ by `DIFFERENCES`."""
    for name, levels in DIFFERENCES.items():
        for side, value, suffix in (("one", 100, ""), ("two", 100 + levels, ".png")):
            path = tmp_path / side / (name + (suffix if name.endswith("jpg") else ""))
            path.parent.mkdir(parents=True, exist_ok=True)
            file_format = "PNG"  # exact, as a JPEG would not be; dinac looks at the content
            Image.new("RGB", (24, 16), (value,) * 3).save(path, file_format)
    return tmp_path


def test_the_table(pairs: Path) -> None:
    done = run("psnr", "one", "two", cwd=pairs)
    assert (done.code, done.out, done.err) == (0, TABLE, "")
    verbose = run("psnr", "one", "two", "--verbose", cwd=pairs)
    assert verbose.out == (
        " 28.13 dB  one/a.jpg\n 48.13 dB  one/b.png\nidentical  one/sub/c.png\n" + TABLE
    )


def test_one_json_object(pairs: Path) -> None:
    done = run("psnr", "one", "two", "--json", cwd=pairs)
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    files = report.pop("files")
    assert report == pytest.approx(
        {
            "mean": (NEAR + FAR) / 2,
            "std": (NEAR - FAR) / 2,
            "median": (NEAR + FAR) / 2,
            "p5": FAR + 0.05 * (NEAR - FAR),
            "p95": FAR + 0.95 * (NEAR - FAR),
            "min": FAR,
            "max": NEAR,
            "count": 3,
            "identical": 1,
            "missing": 0,
            "failed": 0,
        }
    )
    names = (("a.jpg", "a.jpg.png"), ("b.png", "b.png"), ("sub/c.png", "sub/c.png"))
    assert files == [
        {
            "file": f"one/{one}",
            "name": one,
            "status": "measured",
            "other": f"two/{two}",
            "psnr": entry["psnr"],
        }
        for (one, two), entry in zip(names, files, strict=True)
    ]
    assert files[2]["psnr"] is None
    assert [files[0]["psnr"], files[1]["psnr"]] == pytest.approx([FAR, NEAR])


def test_identical_images_only(pairs: Path) -> None:
    done = run("psnr", "one", "one", cwd=pairs)
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "PSNR  mean  std  median  p5  p95  min  max  images  identical\n"
        "  dB     -    -       -   -    -    -    -       3          3\n"
    )
    report = json.loads(run("psnr", "one", "one", "--json", cwd=pairs).out)
    assert [report[key] for key in ("mean", "std", "count", "identical")] == [None, None, 3, 3]


def test_missing_and_mismatched_counterparts(pairs: Path) -> None:
    (pairs / "two/b.png").unlink()
    (pairs / "two/extra.png").write_bytes((pairs / "one/b.png").read_bytes())
    Image.new("RGB", (8, 8)).save(pairs / "two/sub/c.png")
    done = run("psnr", "one", "two", "--failures", "failed.jsonl", cwd=pairs)
    assert done.code == 3
    assert done.out == (
        "PSNR   mean   std  median     p5    p95    min    max  images  missing  failed\n"
        "  dB  28.13  0.00   28.13  28.13  28.13  28.13  28.13       1        2       1\n"
    )
    assert done.err == (
        "dinac: one/b.png: has no counterpart in two\n"
        "dinac: one/sub/c.png: sizes differ: 24x16 and 8x8; "
        "use the same --resize, --no-upscale, --max-side and --crop as encode did\n"
        "dinac: two/extra.png: has no counterpart in one\n"
    )
    written = [json.loads(line) for line in (pairs / "failed.jsonl").read_text().splitlines()]
    assert [entry["status"] for entry in written] == ["missing", "failed", "missing"]
    report = json.loads(run("psnr", "one", "two", "--json", cwd=pairs).out)
    assert [report[key] for key in ("count", "missing", "failed")] == [1, 2, 1]


def test_two_files_without_torch(pairs: Path, tmp_path: Path) -> None:
    done, imported = run_noting_imports(
        tmp_path / "imports", ("torch", "huggingface_hub", "rich"), "psnr",
        str(pairs / "one/b.png"), str(pairs / "two/b.png"),
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[1] == (
        "  dB  48.13  0.00   48.13  48.13  48.13  48.13  48.13       1"
    )
    assert "torch" not in imported
