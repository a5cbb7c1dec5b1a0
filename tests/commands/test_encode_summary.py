"""What the summary of `encode` says does not depend on the order in which processes finish."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dinac_cli.commands.encode import EncodeSummary
from dinac_cli.images.geometry import NO_GEOMETRY
from dinac_cli.jobs.results import FileResult, Status


@pytest.mark.parametrize("files", [("a.png", "b.png"), ("b.png", "a.png")])
def test_the_example_of_a_missing_file_is_the_first_name(files: tuple[str, str]) -> None:
    run: Any = SimpleNamespace(
        model=SimpleNamespace(label="nano"),
        why_model=None,
        geometry=NO_GEOMETRY,
        pruning=None,
        masks=None,
        count_unmasked=lambda *counts: counts,
        describe_orphans=lambda: None,
    )
    summary = EncodeSummary(run)
    for file in files:
        summary.add(FileResult(file, Status.WRITTEN, lacking=("txt",)))
    [remark] = summary.remarks()
    assert remark.startswith("without txt: 2 images, such as a.png")
