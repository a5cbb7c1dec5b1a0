"""Runs without a model read ahead within the budget of memory, and can end at any moment."""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from dinac_cli.jobs.executor import budget
from dinac_cli.jobs.export import export_inputs
from dinac_cli.jobs.info import Catalogue, catalogue_inputs
from dinac_cli.jobs.psnr import MeasureOptions, measure_pairs
from dinac_cli.jobs.results import FileResult
from dinac_cli.report.gather import gather_images
from dinac_cli.report.page import Page
from dinac_cli.report.report import ReportRequest
from dinac_cli.storage.inputs import Input

from .hand_made import latents_out, make_handle, make_record, run_control, write_images

PATIENCE_SECONDS = 120.0
FILES = 12


@pytest.fixture(params=["info", "export", "psnr", "report"])
def results(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[FileResult, None, None]:
    """Returns a run over records or pairs of images, each larger than the whole budget."""
    monkeypatch.setattr(budget, "READ_BYTES", 1)
    control = run_control(workers=4)
    if request.param in ("psnr", "report"):
        folders = [str(tmp_path / name) for name in ("photos", "decoded")]
        for folder in folders:
            write_images(Path(folder), *(f"{number}.png" for number in range(FILES)))
        return compare(request.param, folders)
    data = make_record(make_handle("tiny", "encoder"), "a.png")
    inputs = [Input(str(tmp_path / f"{number}.dinac"), str(number)) for number in range(FILES)]
    for entry in inputs:
        Path(entry.path or "").write_bytes(data)
    if request.param == "info":
        return catalogue_inputs(inputs, Catalogue(), control)
    return export_inputs(inputs, latents_out(tmp_path / "out"), "npz", control)


def test_every_entry_is_read(results: Generator[FileResult, None, None]) -> None:
    assert [result.failed for result in results] == [False] * FILES


def test_a_run_that_ends_early_leaves_no_reader_waiting(
    results: Generator[FileResult, None, None],
) -> None:
    next(results)
    closing = threading.Thread(target=results.close, daemon=True)
    closing.start()
    closing.join(PATIENCE_SECONDS)
    assert not closing.is_alive()


@pytest.mark.parametrize("command", ["psnr", "report"])
def test_a_pair_reserves_the_memory_of_both_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    reserved: list[int] = []
    monkeypatch.setattr(budget.ByteBudget, "take", lambda budget, n, size: reserved.append(size))
    folders = [str(tmp_path / name) for name in ("photos", "decoded")]
    for folder in folders:
        write_images(Path(folder), "a.png", height=200, width=300)
    assert [result.failed for result in compare(command, folders)] == [False]
    pixels = 3 * 200 * 300
    assert min(reserved) >= pixels
    assert max(reserved) > (2 if command == "psnr" else 4) * pixels


def compare(command: str, folders: list[str]) -> Generator[FileResult, None, None]:
    control = run_control(workers=4)
    if command == "psnr":
        return measure_pairs(folders[0], folders[1], MeasureOptions(), control)
    request = ReportRequest(originals=folders[0], reconstructions=(folders[1],), out="page.html")
    return gather_images(request, Page("title", ["decoded"], request.origin), control)
