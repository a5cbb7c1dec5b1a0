"""Timing whole commands: the line through their times, and commands that fail."""

from __future__ import annotations

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

NANO = ["--model", "nano", "--device", "cpu"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((20, 30, 3), 99, np.uint8)).save(path)
    return path


def run_of(files: int, seconds: float, command: str = "encode") -> CommandFigures:
    return CommandFigures(command, files, seconds, 1.0, None)


def test_line_goes_through_the_fastest_runs() -> None:
    line = fit_line(
        "encode",
        [
            run_of(20, 1.4),
            run_of(20, 1.2),
            run_of(200, 3.0),
            run_of(200, 9.0),
            run_of(5, 7, "decode"),
        ],
    )
    assert line.ms_per_file == pytest.approx(10)
    assert line.startup_seconds == pytest.approx(1.0)


def test_line_through_three_numbers() -> None:
    line = fit_line("encode", [run_of(n, 2 + 0.05 * n) for n in (1, 10, 100)])
    assert [line.startup_seconds, line.ms_per_file] == pytest.approx([2, 50])


def test_commands_are_run_and_cleaned_up(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "REPEATS", 2)
    ballast = b"x" * (1500 * 2**20)  # what this process has is not the commands' memory
    figures = list(measure_commands([image], [2, 3], NANO))
    del ballast
    assert [(f.command, f.files) for f in figures] == [
        (command, files) for _ in range(2) for files in (2, 3) for command in ("encode", "decode")
    ]
    for one in figures:
        assert 0 < one.first_file_seconds <= one.seconds
        if sys.platform == "linux":
            assert one.peak_memory_mib is not None
            assert 50 < one.peak_memory_mib < 1500
    assert list(image.parent.iterdir()) == [image]


def test_a_command_that_fails_is_an_error(image: Path, tmp_path: Path) -> None:
    image.write_bytes(b"no image")
    with pytest.raises(DinacError, match=r"the encode to be timed failed: .*not an image"):
        list(measure_commands([image], [2, 3], NANO))
