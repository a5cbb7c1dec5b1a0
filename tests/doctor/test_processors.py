"""Threads, affinity and quotas of control groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinac_cli.doctor.finding import Level
from dinac_cli.doctor.processors import judge_threads, measure_threads, read_quota

EIGHT: dict[str, Any] = {
    "processors": 8,
    "affinity": 8,
    "quota": None,
    "OMP_NUM_THREADS": None,
    "threads": 8,
}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n"}, None),
        ({}, None),
    ],
)
def test_quotas_of_both_versions(
    files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_quota(tmp_path) == quota


def test_this_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    facts = measure_threads()
    assert facts["threads"] >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert measure_threads()["threads"] == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert measure_threads()["threads"] is None


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, Level.OK, "8 threads compute, one per processor"),
        (
            {"affinity": 1, "threads": 1},
            Level.OK,
            "1 thread computes, one per processor; this process may use 1 of 8 processors",
        ),
        (
            {"OMP_NUM_THREADS": "8"},
            Level.OK,
            "8 threads compute, as OMP_NUM_THREADS says",
        ),
        (
            {"OMP_NUM_THREADS": "1", "threads": 1},
            Level.NOTE,
            "1 of 8 usable processors compute, as OMP_NUM_THREADS says",
        ),
        (
            {"quota": 2.0},
            Level.NOTE,
            "8 threads compute, but this process may use 2 of 8 processors; ",
        ),
        (
            {"OMP_NUM_THREADS": "16", "threads": 16},
            Level.NOTE,
            "16 threads compute, but there are 8 processors; ",
        ),
        (
            {"OMP_NUM_THREADS": "many", "threads": None},
            Level.NOTE,
            "OMP_NUM_THREADS is 'many', which is not a number of threads",
        ),
    ],
)
def test_threads_are_compared_with_usable_processors(
    changes: dict[str, Any], level: Level, words: str
) -> None:
    found = judge_threads({**EIGHT, **changes})
    assert found.level is level
    assert found.text.startswith(words)
