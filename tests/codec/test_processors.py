"""Processors that a process may use: its affinity, and the quota of its control group."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dinac_cli.codec.machine import count_processors


@pytest.fixture
def quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The control group's file, for a process whose affinity allows eight processors."""
    path = tmp_path / "cpu.max"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    real = open

    def opened(name: str, *args: object, **keywords: object) -> object:
        return real(path if name == "/sys/fs/cgroup/cpu.max" else name, *args, **keywords)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", opened)
    return path


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("50000 100000\n", 1),
        ("10000 100000\n", 1),
        ("9900000 100000\n", 8),
        ("odd\n", 8),
        ("", 8),
    ],
)
def test_quota(quota: Path, text: str, count: int) -> None:
    quota.write_text(text)
    assert count_processors() == count


def test_no_control_group(quota: Path) -> None:
    assert count_processors() == 8


def test_this_machine() -> None:
    assert 1 <= count_processors() <= (os.cpu_count() or 1)
