"""Timing whole commands: the fitted line, turns, memory, clean-up, and commands that fail."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinac_cli.bench import processes
from dinac_cli.bench.processes import (
    CommandFigures,
    fit_line,
    measure_commands,
)
from dinac_cli.errors import DinacError
from dinac_cli.jobs.executor.phase import Phase

from .fake_python import replace_python

NANO = ["--model", "nano", "--device", "cpu"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((20, 30, 3), 99, np.uint8)).save(path)
    return path


def make_figures(files: int, seconds: float, command: str = "encode") -> CommandFigures:
    return CommandFigures(command, files, seconds, 1.0, None)


def test_line_goes_through_the_fastest_runs() -> None:
    line = fit_line(
        "encode",
        [
            make_figures(20, 1.4),
            make_figures(20, 1.2),
            make_figures(200, 3.0),
            make_figures(200, 9.0),
            make_figures(5, 7, "decode"),
        ],
    )
    assert line.ms_per_file == pytest.approx(10)
    assert line.startup_seconds == pytest.approx(1.0)


def test_line_goes_through_three_numbers() -> None:
    line = fit_line("encode", [make_figures(n, 2 + 0.05 * n) for n in (1, 10, 100)])
    assert [line.startup_seconds, line.ms_per_file] == pytest.approx([2, 50])


@pytest.mark.skipif(os.name != "posix", reason="needs scripts with an interpreter line")
def test_commands_take_turns_and_leave_nothing(
    image: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_python(tmp_path_factory.mktemp("bin"), monkeypatch)
    monkeypatch.setattr(processes, "REPEATS", 2)
    ballast = b"x" * (500 * 2**20)  # this process's memory must not count
    phases: list[Phase] = []
    figures = list(measure_commands([image], [2, 3], NANO, phases.append))
    del ballast
    assert [(phase.done, phase.total) for phase in phases] == [(n, 8) for n in range(8)]
    assert [phase.detail for phase in phases[:3]] == [
        "dinac encode, 2 files",
        "dinac decode, 2 files",
        "dinac encode, 3 files",
    ]
    assert [(f.command, f.files) for f in figures] == [
        (command, files) for _ in range(2) for files in (2, 3) for command in ("encode", "decode")
    ]
    for row in figures:
        assert 0 < row.first_file_seconds <= row.seconds
        if sys.platform == "linux":
            assert row.peak_memory_mib is not None
            assert 50 < row.peak_memory_mib < 500
    assert list(image.parent.iterdir()) == [image]


def test_failing_command_is_an_error(image: Path) -> None:
    image.write_bytes(b"no image")
    with pytest.raises(DinacError, match=r"the timed encode failed: .*not an image"):
        list(measure_commands([image], [2, 3], NANO))
