"""`dinac psnr`: whole output, with figures known beforehand."""

from __future__ import annotations

import json
from math import log10
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dinac_cli.commands.metric_table import STATISTICS
from dinac_cli.images.structural_similarity import measure_ms_ssim, measure_ssim
from dinac_cli.models.perceptual.backbones import ALEX
from dinac_cli.models.perceptual.inception import list_shapes
from dinac_cli.models.perceptual.lpips import load_lpips

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
        "use the same --resize, --no-upscale, --max-side, --crop and --buckets as encode did\n"
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


def write_noisy_pairs(folder: Path, sizes: dict[str, tuple[int, int]]) -> None:
    """Writes `one` and `two`: noise of each size, and the noise with other noise."""
    rng = np.random.default_rng(0)
    for side in ("one", "two"):
        (folder / side).mkdir()
    for name, (width, height) in sizes.items():
        first = rng.integers(0, 200, (height, width, 3), dtype=np.uint8)
        second = first + rng.integers(0, 50, first.shape, dtype=np.uint8)
        Image.fromarray(first).save(folder / "one" / name)
        Image.fromarray(second).save(folder / "two" / name)


def read_pair(folder: Path, name: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(folder / side / name)) for side in ("one", "two")]


def test_three_metrics(tmp_path: Path) -> None:
    write_noisy_pairs(tmp_path, {"a.png": (161, 170), "b.png": (40, 30), "c.png": (12, 10)})
    arguments = ("psnr", "one", "two", "--metrics", "psnr,ssim,ms_ssim")
    done = run(*arguments, "-v", cwd=tmp_path)
    ssim = [measure_ssim(*read_pair(tmp_path, name)) for name in ("a.png", "b.png")]
    ms_ssim = measure_ms_ssim(*read_pair(tmp_path, "a.png"))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split()[2:] for line in lines[:3]] == [
        ["dB", "SSIM", f"{ssim[0]:.4f}", "MS-SSIM", f"{ms_ssim:.4f}", "one/a.png"],
        ["dB", "SSIM", f"{ssim[1]:.4f}", "MS-SSIM", "-", "one/b.png"],
        ["dB", "SSIM", "-", "MS-SSIM", "-", "one/c.png"],
    ]
    assert lines[3].split() == ["metric", *STATISTICS, "images"]
    assert lines[4].startswith("PSNR (dB)")
    assert lines[6].split() == ["MS-SSIM", f"{ms_ssim:.4f}", "0.0000", *5 * [f"{ms_ssim:.4f}"], "1"]
    assert lines[7:] == [
        "1 image too small for SSIM (below 11 pixels)",
        "2 images too small for MS-SSIM (below 161 pixels)",
    ]
    report = json.loads(run(*arguments, "--json", cwd=tmp_path).out)
    assert report["metrics"]["ssim"]["mean"] == pytest.approx(np.mean(np.array(ssim, float)))
    assert report["metrics"]["psnr"]["mean"] == report["mean"]
    assert [report["metrics"]["ms-ssim"][key] for key in ("count", "too_small")] == [1, 2]
    assert [(f["ssim"], f["ms-ssim"]) for f in report["files"]] == [
        (ssim[0], ms_ssim),
        (ssim[1], None),
        (None, None),
    ]


def test_metric_without_psnr(pairs: Path) -> None:
    (pairs / "two/b.png").unlink()
    done = run("psnr", "one", "two", "--metrics", "ssim", cwd=pairs)
    assert done.code == 3
    assert [line.split()[-1] for line in done.out.splitlines()] == ["images", "2", "missing"]
    report = json.loads(run("psnr", "one", "two", "--metrics", "ssim", "--json", cwd=pairs).out)
    assert list(report) == ["metrics", "missing", "failed", "files"]
    assert report["files"][2]["ssim"] == 1.0
    too_small = run("psnr", "one", "two", "--metrics", "ms-ssim", "--exclude", "b.png", cwd=pairs)
    assert (too_small.code, too_small.err) == (0, "")
    assert too_small.out.splitlines()[1].split() == ["MS-SSIM", *7 * ["-"], "0"]


def test_metrics_in_pixels_need_no_torch(pairs: Path, tmp_path: Path) -> None:
    done, imported = run_noting_imports(
        tmp_path / "imports", ("torch", "scipy", "rich"), "psnr",
        str(pairs / "one/b.png"), str(pairs / "two/b.png"), "--metrics", "psnr,ssim,ms-ssim",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert "torch" not in imported
    assert "scipy" not in imported


def test_lpips_with_weights_from_a_file(tmp_path: Path) -> None:
    write_noisy_pairs(tmp_path, {"a.png": (70, 50), "b.png": (31, 30)})
    torch.manual_seed(0)
    weights = {name: torch.randn(shape) * 0.05 for name, shape in ALEX.list_shapes()}
    weights |= {
        f"lin{n}.model.1.weight": torch.rand(1, c, 1, 1) for n, c in enumerate(ALEX.channels)
    }
    path = tmp_path / "alex.safetensors"
    save_file(weights, path)
    arguments = ("psnr", "one", "two", "--metrics", "lpips", "--lpips-weights", path.name)
    done = run(*arguments, "--json", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    value = load_lpips(path).measure(*read_pair(tmp_path, "a.png"))
    assert [entry["lpips-alex"] for entry in report["files"]] == [pytest.approx(value), None]
    assert value > 0.001
    table = run(*arguments, cwd=tmp_path).out.splitlines()
    assert table[1].split() == ["LPIPS-alex", f"{value:.4f}", "0.0000", *5 * [f"{value:.4f}"], "1"]
    assert table[2] == "1 image too small for LPIPS-alex (below 31 pixels)"


def test_rfid_refuses_few_images(pairs: Path) -> None:
    shapes = list_shapes()
    save_file({n: torch.ones(s, dtype=torch.bfloat16) for n, s in shapes.items()}, pairs / "net")
    done = run("psnr", "one", "two", "--metrics", "rfid", "--inception-weights", "net", cwd=pairs)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "dinac: rFID needs at least 2048 pairs of images, and there are 3; "
        "leave out rfid, or add images\n"
    )


@pytest.mark.parametrize("option", ["--lpips-weights", "--inception-weights"])
def test_wrong_weights_are_one_line(pairs: Path, option: str) -> None:
    metric = {"--lpips-weights": "lpips", "--inception-weights": "rfid"}[option]
    arguments = ("psnr", "one", "two", "--metrics", metric, option)
    (pairs / "pickle.pth").write_bytes(b"\x80\x04K\x01." * 9)
    for name, words in (
        ("none", "cannot be read: No such file or directory"),
        (
            "pickle.pth",
            "is not a complete safetensors file: it has no header of a plausible length",
        ),
    ):
        done = run(*arguments, name, cwd=pairs)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(f"dinac: {name} {words}")
        assert done.err.count("\n") == 1
