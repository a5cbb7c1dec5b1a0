"""`info` and `export` read no more at once than the budget of a run, and end at any moment."""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from dinac_cli.files.inputs import Input
from dinac_cli.pipeline import catalogue, export
from dinac_cli.pipeline.catalogue import Catalogue, catalogue_files
from dinac_cli.pipeline.export import export_files
from dinac_cli.pipeline.job import RunControl
from dinac_cli.results import FileResult

from .hand_made import latents_out, make_handle, make_record

PATIENCE_SECONDS = 20.0
FILES = 12


@pytest.fixture(params=["info", "export"])
def results(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[FileResult, None, None]:
    """A run over records each of which alone is more than the budget."""
    for module in (catalogue, export):
        monkeypatch.setattr(module, "READ_BYTES", 1)
    data = make_record(make_handle("tiny", "encoder"), "a.png")
    inputs = [Input(str(tmp_path / f"{number}.dinac"), str(number)) for number in range(FILES)]
    for entry in inputs:
        Path(entry.path or "").write_bytes(data)
    control = RunControl(workers=4)
    if request.param == "info":
        return catalogue_files(inputs, Catalogue(), control)
    return export_files(inputs, latents_out(tmp_path / "out"), "npz", control)


def test_all_are_read(results: Generator[FileResult, None, None]) -> None:
    assert [result.failed for result in results] == [False] * FILES


def test_a_run_that_ends_early_leaves_no_reader_waiting(
    results: Generator[FileResult, None, None],
) -> None:
    next(results)
    closing = threading.Thread(target=results.close, daemon=True)
    closing.start()
    closing.join(PATIENCE_SECONDS)
    assert not closing.is_alive()
