"""What reads ahead holds no more at once than the budget of a run, and ends at any moment."""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from dinac_cli.jobs import export, info, psnr
from dinac_cli.jobs.executor import budget
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.export import export_files
from dinac_cli.jobs.info import Catalogue, catalogue_files
from dinac_cli.jobs.psnr import MeasureOptions, measure_pairs
from dinac_cli.jobs.results import FileResult
from dinac_cli.report import report
from dinac_cli.report.page import Page
from dinac_cli.report.report import ReportRequest, gather_images
from dinac_cli.storage.inputs import Input

from .hand_made import IMAGES, latents_out, make_handle, make_record, write_images

PATIENCE_SECONDS = 20.0
FILES = 12


@pytest.fixture(params=["info", "export", "psnr", "report"])
def results(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[FileResult, None, None]:
    """A run over records, or pairs of images, each of which alone is more than the budget."""
    for module in (info, export, psnr, report):
        monkeypatch.setattr(module, "READ_BYTES", 1)
    control = RunControl(workers=4)
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


@pytest.mark.parametrize("command", ["psnr", "report"])
def test_a_pair_takes_both_images_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(budget.ByteBudget, "take", lambda budget, n, size: taken.append(size))
    folders = [str(tmp_path / name) for name in ("photos", "decoded")]
    for folder in folders:
        write_images(Path(folder), "a.png", height=200, width=300)
    assert [result.failed for result in compare(command, folders)] == [False]
    pixels = 3 * 200 * 300
    assert min(taken) >= pixels
    assert max(taken) > (2 if command == "psnr" else 4) * pixels


def compare(command: str, folders: list[str]) -> Generator[FileResult, None, None]:
    control = RunControl(workers=4)
    if command == "psnr":
        return measure_pairs(folders[0], folders[1], IMAGES, MeasureOptions(), control)
    asked = ReportRequest(folders[0], (folders[1],), (), None, "", MeasureOptions())
    return gather_images(asked, IMAGES, Page("title", ["decoded"]), control)
