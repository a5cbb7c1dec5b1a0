"""The output of `dinac psnr`: a table for people, one JSON object for programs."""

from __future__ import annotations

import json
import math
import signal
from typing import Any

import pytest

from dinac_cli.commands.metric_table import format_rfid
from dinac_cli.commands.psnr import PsnrTable, format_table
from dinac_cli.commands.run import ScreenOptions
from dinac_cli.errors import Exit
from dinac_cli.images.metric_kinds import MS_SSIM, PSNR, Metric
from dinac_cli.images.metrics import PsnrSummary, summarise_psnr
from dinac_cli.images.pixels import Pixels
from dinac_cli.jobs.measures import Measure, Measures
from dinac_cli.jobs.results import FileResult, Status

from .given import GivenRun, run_given


def measured(name: str, psnr_db: float) -> FileResult:
    return FileResult(f"A/{name}", Status.MEASURED, output=f"B/{name}", metrics={"psnr": psnr_db})


PAIRS = (measured("a.png", 30.0), measured("b.png", 40.0), measured("c.png", math.inf))
MISSING = FileResult("A/d.png", Status.MISSING, reason="has no counterpart in B")
FAILED = FileResult("A/e.png", Status.FAILED, output="B/e.png", reason="sizes differ")


def report(*results: FileResult, signal_number: int | None = None, **options: Any) -> int:
    screen = ScreenOptions(**options)
    return run_given(GivenRun(*results, signal_number=signal_number), PsnrTable(screen), screen)


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(*PAIRS) == 0
    assert capsys.readouterr() == (
        "PSNR   mean   std  median     p5    p95    min    max  images  identical\n"
        "  dB  35.00  5.00   35.00  30.50  39.50  30.00  40.00       3          1\n",
        "",
    )


def test_missing_and_failed_pairs_are_named_counted_and_set_the_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert report(*PAIRS, MISSING, FAILED) == Exit.FAILURES
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split()[-4:] == ["images", "identical", "missing", "failed"]
    assert out.splitlines()[1].split()[-4:] == ["3", "1", "1", "1"]
    assert err == "dinac: A/d.png: has no counterpart in B\ndinac: A/e.png: sizes differ\n"


def test_verbose_names_every_pair(capsys: pytest.CaptureFixture[str]) -> None:
    odd = FileResult("A/\x1b[1m.png", Status.MEASURED, output="B/x", metrics={"psnr": 31.256})
    report(*PAIRS, odd, MISSING, verbose=True)
    assert capsys.readouterr().out.splitlines()[:4] == [
        " 30.00 dB  A/a.png",
        " 40.00 dB  A/b.png",
        "identical  A/c.png",
        " 31.26 dB  A/\\x1b[1m.png",
    ]


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(*PAIRS, MISSING, FAILED, json=True) == Exit.FAILURES
    assert json.loads(capsys.readouterr().out) == {
        "mean": 35.0,
        "std": 5.0,
        "median": 35.0,
        "p5": 30.5,
        "p95": 39.5,
        "min": 30.0,
        "max": 40.0,
        "count": 3,
        "identical": 1,
        "missing": 1,
        "failed": 1,
        "files": [
            {"file": "A/a.png", "status": "measured", "other": "B/a.png", "psnr": 30.0},
            {"file": "A/b.png", "status": "measured", "other": "B/b.png", "psnr": 40.0},
            {"file": "A/c.png", "status": "measured", "other": "B/c.png", "psnr": None},
            {"file": "A/d.png", "status": "missing", "reason": "has no counterpart in B"},
            {"file": "A/e.png", "status": "failed", "reason": "sizes differ"},
        ],
    }


def test_all_identical(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(PAIRS[2], json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["mean"], printed["count"], printed["identical"]) == (None, 1, 1)
    assert report(PAIRS[2]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["dB", "-", "-", "-"]


def test_nothing_measured_is_a_failure() -> None:
    assert report(MISSING) == Exit.FAILURES


def test_signal(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(*PAIRS, signal_number=signal.SIGTERM) == 143
    assert capsys.readouterr().err == (
        "dinac: stopped before the end; these are the figures of the pairs measured so far\n"
    )


@pytest.mark.parametrize(
    ("missing", "failed", "identical"), [(0, 0, 0), (3, 0, 0), (12, 3, 0), (9999, 999, 99999)]
)
def test_table_fits_80_columns(missing: int, failed: int, identical: int) -> None:
    figures = summarise_psnr([34.5, 61.25])
    summary = PsnrSummary(**{**vars(figures), "count": 100_000, "identical": identical})
    names, values = format_table(summary, missing, failed)
    assert len(names) == len(values) <= 80
    assert names.split()[-1] == ("failed" if failed else "missing" if missing else "images")


def test_table_that_is_too_wide_becomes_one_line_a_figure() -> None:
    summary = summarise_psnr([30.0, 40.0])
    assert format_table(summary, 0, 0, 80) == format_table(summary, 0, 0)
    assert format_table(summary, 1, 0, 40) == [
        "PSNR     dB",
        "mean     35.00",
        "std      5.00",
        "median   35.00",
        "p5       30.50",
        "p95      39.50",
        "min      30.00",
        "max      40.00",
        "images   2",
        "missing  1",
    ]


def never_measure(first: Pixels, second: Pixels) -> float:
    raise AssertionError("the results of this test are made by hand")


SHARPNESS = Metric("sharpness", "Sharpness", digits=3, largest=1_500_000)
OTHERS = Measures(tuple(Measure(metric, never_measure) for metric in (PSNR, MS_SSIM, SHARPNESS)))


def measured_all(
    name: str, size: tuple[int, int], psnr: float, ms_ssim: float | None, sharpness: float | None
) -> FileResult:
    return FileResult(
        f"A/{name}",
        Status.MEASURED,
        output=f"B/{name}",
        width=size[0],
        height=size[1],
        metrics={"psnr": psnr, "ms-ssim": ms_ssim, "sharpness": sharpness},
    )


SEVERAL = (
    measured_all("a.png", (200, 300), 30.0, 0.91, 12.25),
    measured_all("b.png", (2000, 1000), 40.0, 0.97, None),
    measured_all("c.png", (160, 300), math.inf, None, 13.75),
)


def report_several(*results: FileResult, width: int | None = None, **options: Any) -> int:
    screen = ScreenOptions(**options)
    return run_given(GivenRun(*results), PsnrTable(screen, width, OTHERS), screen)


def test_several_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_several(*SEVERAL, MISSING, verbose=True) == Exit.FAILURES
    out, err = capsys.readouterr()
    assert out == (
        "PSNR  30.00 dB  MS-SSIM 0.9100  Sharpness 12.250  A/a.png\n"
        "PSNR  40.00 dB  MS-SSIM 0.9700  Sharpness     -  A/b.png\n"
        "PSNR identical  MS-SSIM      -  Sharpness 13.750  A/c.png\n"
        "metric      mean    std median     p5    p95    min    max images\n"
        "PSNR (dB)  35.00   5.00  35.00  30.50  39.50  30.00  40.00      3\n"
        "MS-SSIM   0.9400 0.0300 0.9400 0.9130 0.9670 0.9100 0.9700      2\n"
        "Sharpness 13.000  0.750 13.000 12.325 13.675 12.250 13.750      2\n"
        "1 image too small for MS-SSIM (below 161 pixels)\n"
        "1 image too large for Sharpness (above 1.5 megapixels)\n"
        "1 identical, 1 missing\n"
    )
    assert err == "dinac: A/d.png: has no counterpart in B\n"


def test_several_metrics_on_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_several(*SEVERAL, width=40) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["metric  PSNR (dB)", "mean    35.00", "std     5.00"]
    assert max(map(len, lines[:-3])) <= 40


def test_several_metrics_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_several(*SEVERAL, json=True) == Exit.DONE
    printed = json.loads(capsys.readouterr().out)
    assert printed["mean"] == printed["metrics"]["psnr"]["mean"] == 35.0
    assert printed["metrics"]["sharpness"] == {
        "mean": 13.0,
        "std": 0.75,
        "median": 13.0,
        "p5": 12.325,
        "p95": 13.675,
        "min": 12.25,
        "max": 13.75,
        "count": 2,
        "too_small": 0,
        "too_large": 1,
    }
    assert printed["files"][2] == {
        "file": "A/c.png",
        "status": "measured",
        "other": "B/c.png",
        "psnr": None,
        "ms-ssim": None,
        "sharpness": 13.75,
    }


def test_line_of_rfid() -> None:
    assert format_rfid(2050, 1.2345) == "rFID 1.23 (2050 images)"
    assert format_rfid(12, None) == "rFID not computed: 12 images measured, too few"
