"""PSNR matches its definition; the summary leaves out identical pairs."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinac_cli.errors import ImageError
from dinac_cli.images.metrics import PsnrSummary, measure_psnr, psnr_as_json, summarise_psnr


def test_psnr_matches_its_definition() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, 31, 17, 3), dtype=np.uint8)
    mse = np.mean((first.astype(float) - second) ** 2)
    assert measure_psnr(first, second) == pytest.approx(20 * math.log10(255) - 10 * math.log10(mse))


@pytest.mark.parametrize(
    ("error", "psnr"), [(1, 48.1308036), (5, 34.1514036), (255, 0.0)], ids=["1", "5", "255"]
)
def test_psnr_of_a_constant_error(error: int, psnr: float) -> None:
    black = np.zeros((8, 8, 3), dtype=np.uint8)
    assert measure_psnr(black, black + np.uint8(error)) == pytest.approx(psnr, abs=1e-7)


def test_psnr_is_symmetric_and_does_not_wrap() -> None:
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert measure_psnr(black, white) == measure_psnr(white, black) == 0.0


def test_largest_error_of_a_large_image_does_not_overflow() -> None:
    black = np.broadcast_to(np.uint8(0), (3000, 4000, 3))
    white = np.broadcast_to(np.uint8(255), (3000, 4000, 3))
    assert measure_psnr(black, white) == 0.0


def test_every_block_is_counted() -> None:
    first = np.zeros((700, 700, 3), dtype=np.uint8)
    second = first.copy()
    second[-1, -1, -1] = 1
    assert measure_psnr(first, second) == pytest.approx(10 * math.log10(255**2 * 700 * 700 * 3))


def test_identical_images_have_infinite_psnr() -> None:
    image = np.full((2, 2, 3), 9, dtype=np.uint8)
    assert measure_psnr(image, image.copy()) == math.inf


def test_images_need_not_be_contiguous() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert measure_psnr(image[:, ::-1], image[:, ::-1].copy()) == math.inf


def test_error_names_both_sizes() -> None:
    with pytest.raises(ImageError, match=r"^sizes differ: 640x427 and 320x213$"):
        measure_psnr(np.zeros((427, 640, 3), np.uint8), np.zeros((213, 320, 3), np.uint8))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.integers(0, 3))
def test_summary_matches_statistics(values: list[float], identical: int) -> None:
    summary = summarise_psnr([math.inf] * identical + values)
    assert summary.mean == pytest.approx(statistics.fmean(values))
    assert summary.std == pytest.approx(statistics.pstdev(values), abs=1e-6)
    assert summary.median == pytest.approx(statistics.median(values))
    assert (summary.min, summary.max) == (min(values), max(values))
    assert (summary.count, summary.identical) == (len(values) + identical, identical)


def test_percentiles_are_linear() -> None:
    summary = summarise_psnr(iter([10.0, 20.0, 30.0]))
    assert [summary.p5, summary.p95] == pytest.approx([11.0, 29.0])


@pytest.mark.parametrize("values", [[], [math.inf, math.inf]], ids=["none", "all identical"])
def test_summary_without_finite_values(values: list[float]) -> None:
    expected = PsnrSummary(None, None, None, None, None, None, None, len(values), len(values))
    assert summarise_psnr(values) == expected


def test_psnr_and_summary_are_valid_json() -> None:
    assert (psnr_as_json(math.inf), psnr_as_json(31.5)) == (None, 31.5)
    text = json.dumps(asdict(summarise_psnr([math.inf, 30.0])), allow_nan=False)
    assert json.loads(text) == {
        "mean": 30.0,
        "std": 0.0,
        "median": 30.0,
        "p5": 30.0,
        "p95": 30.0,
        "min": 30.0,
        "max": 30.0,
        "count": 2,
        "identical": 1,
    }
