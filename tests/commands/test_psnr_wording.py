"""The output of `dinac psnr`: a table for people, one JSON object for programs."""

from __future__ import annotations

import json
import math
import signal
from typing import Any

import pytest

from dinac_cli.commands.psnr import PsnrTable, format_table
from dinac_cli.commands.run import ScreenOptions
from dinac_cli.errors import Exit
from dinac_cli.images.metrics import PsnrSummary, summarise_psnr
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
