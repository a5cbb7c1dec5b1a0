"""Pruning as a part of a run: when it begins, when it ends, and how many records it remembers."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.errors import UnwritableDiskError
from dinac_cli.jobs import renames
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.pruning import Pruning
from dinac_cli.jobs.renames import RenamedRecords
from dinac_cli.jobs.request import Selection
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.output import Output

from .hand_made import latents_out, make_record, run_control, select_images


@pytest.fixture
def out(tmp_path: Path, encoder: ModelHandle) -> Output:
    """An OUT with three records; the source of `kept.png` exists."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/kept.png").touch()
    (tmp_path / "out").mkdir()
    for number, name in enumerate(("a.png", "b.png", "kept.png")):
        sha256 = f"{number}" * 64
        record = make_record(encoder, name, source_bytes=7, source_sha256=sha256)
        (tmp_path / "out" / f"{name}.dinac").write_bytes(record)
    return latents_out(tmp_path / "out")


def select(tmp_path: Path) -> Selection:
    """Returns the inputs of a run that has listed them to the end."""
    selection = select_images(tmp_path / "photos")
    assert list(selection)
    return selection


def start(
    tmp_path: Path, out: Output, control: RunControl, *, stops: bool = False
) -> Generator[FileResult, None, None]:
    """Starts a run whose work has one result, and which then prunes."""

    def work(control: RunControl) -> Generator[FileResult, None, None]:
        yield FileResult("kept.png", Status.DONE)
        if stops:
            control.stop.set()

    pruning = Pruning(choice="all", selection=select(tmp_path), output=out)
    return pruning.follow(work)(control)


def test_orphans_are_moved_after_the_work(tmp_path: Path, out: Output) -> None:
    results = list(start(tmp_path, out, run_control()))
    assert [(os.path.basename(result.file), result.status) for result in results] == [
        ("kept.png", Status.DONE),
        ("a.png.dinac", Status.PRUNED),
        ("b.png.dinac", Status.PRUNED),
    ]
    assert all(Path(result.output).exists() for result in results[1:] if result.output)


def test_a_run_that_was_stopped_moves_nothing(tmp_path: Path, out: Output) -> None:
    results = list(start(tmp_path, out, run_control(), stops=True))
    assert [result.status for result in results] == [Status.DONE]


def test_a_stop_ends_the_moves(tmp_path: Path, out: Output) -> None:
    control = run_control()
    results = start(tmp_path, out, control)
    assert [next(results).status for _ in range(2)] == [Status.DONE, Status.PRUNED]
    control.stop.set()
    assert list(results) == []
    assert Path(out.path, "b.png.dinac").exists()


def test_a_read_only_disk_ends_the_run(
    tmp_path: Path, out: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(UnwritableDiskError):
        list(start(tmp_path, out, run_control()))


def test_an_unreachable_source_is_not_gone(
    tmp_path: Path, out: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        if str(path).endswith(os.path.join("photos", "a.png")):
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(os, "lstat", lstat)
    pruning = Pruning(choice="all", selection=select(tmp_path), output=out)
    assert [os.path.basename(path) for path in pruning.list_orphans()] == ["b.png.dinac"]


def test_the_number_of_remembered_orphans_is_bounded(
    tmp_path: Path, out: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renames, "_MOST_ORPHANS", 1)
    found = RenamedRecords(select(tmp_path), out)
    assert found.take(7, lambda: "1" * 64) is None  # the record of b.png is one too many
    assert found.take(8, lambda: "0" * 64) is None
    assert found.take(7, lambda: "0" * 64) == os.path.join(out.path, "a.png.dinac")
    assert found.take(7, lambda: "0" * 64) is None  # each orphan only once
