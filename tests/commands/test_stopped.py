"""What a stopped run says about its file: the stop may come after the file was written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dinac_cli.commands.features import FeaturesSummary
from dinac_cli.commands.report import PageSummary
from dinac_cli.jobs.feature_set import FeatureSet
from dinac_cli.report.page import Page
from dinac_cli.report.report import ReportRequest, ReportRun

WRITTEN = "stopped before the end"


@pytest.mark.parametrize(
    ("size_bytes", "line"), [(0, f"{WRITTEN}; the page was not written"), (9, WRITTEN)]
)
def test_report(size_bytes: int, line: str) -> None:
    request = ReportRequest(originals="A", reconstructions=("B",), out="page.html")
    run = ReportRun(
        request=request, page=Page("title", ["B"], request.origin), size_bytes=size_bytes
    )
    assert PageSummary(run).stopped == line


@pytest.mark.parametrize(
    ("out", "size_bytes", "line"),
    [
        ("a.safetensors", 0, f"{WRITTEN}; a.safetensors was not written"),
        ("a.safetensors", 9, WRITTEN),
        (None, 0, WRITTEN),
    ],
)
def test_features(out: str | None, size_bytes: int, line: str) -> None:
    run: Any = SimpleNamespace(features=FeatureSet(size_bytes=size_bytes))
    assert FeaturesSummary(run, out, 0).stopped == line
