"""Memory limits, and the size of image that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinac_cli.doctor import probe, room
from dinac_cli.doctor.finding import Level
from dinac_cli.doctor.room import judge_memory, measure_memory, read_limit

from .canned import CPU

FACTS = CPU[probe.MEMORY]


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"memory.max": "1073741824\n"}, 2**30),
        ({"memory.max": "max\n"}, None),
        ({"memory/memory.limit_in_bytes": "2147483648\n"}, 2**31),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({}, None),
    ],
)
def test_limits_of_both_versions(files: dict[str, str], limit: int | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_limit(tmp_path) == limit


def test_this_machine_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("123456789\n")
    monkeypatch.setattr(room, "_CGROUPS", tmp_path)
    facts = measure_memory("cpu")
    assert facts["limit_bytes"] == 123456789
    assert set(facts["largest"]) == {"nano", "d2"}
    if facts["free_bytes"] is not None:
        assert 0 <= facts["largest"]["d2"] <= facts["largest"]["nano"]


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, Level.OK, "8.0 GiB free; the largest image that fits: 80 megapixels with nano, 30"),
        (
            {"largest": {"nano": 10**9, "d2": 10**8}},
            Level.OK,
            "179 megapixels (the limit of --max-pixels) with nano, 100 megapixels with d2",
        ),
        ({"limit_bytes": 2**34}, Level.OK, "of 16.0 GiB that the control group allows"),
        ({"free_bytes": None, "largest": {"nano": None, "d2": None}}, Level.OK, "is unknown here"),
        ({"largest": {"nano": 4 * 10**6, "d2": 10**6}}, Level.NOTE, "4 megapixels with nano"),
        ({"largest": {"nano": 10**5, "d2": 10**4}}, Level.FAIL, "too little for any work"),
    ],
)
def test_what_fits(changes: dict[str, Any], level: Level, words: str) -> None:
    found = judge_memory({**FACTS, **changes}, "nano")
    assert found.level is level
    assert words in found.text


def test_the_remedy_names_a_side_that_fits() -> None:
    found = judge_memory({**FACTS, "largest": {"nano": 4 * 10**6, "d2": 10**6}}, "nano")
    assert found.remedy.endswith("--max-side 2000")
    assert (
        judge_memory({**FACTS, "largest": {"nano": 10**8, "d2": 10**6}}, "d2").level is Level.NOTE
    )
