"""A short run of the harness: one or two kills of encode on small images, of each kind."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ..conftest import save
from ..processes import get_client
from .commands import list_commands
from .harness import Harness

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")


@pytest.mark.parametrize(
    ("label", "kills"), [("encode", 2), ("encode-processes", 2), ("encode-shards", 1)]
)
def test_a_killed_run_damages_nothing_and_the_next_one_finishes(
    label: str, kills: int, tmp_path: Path
) -> None:
    for number in range(8):
        save(tmp_path / f"images/{number % 2}/{number}.png", 64, 48, number)
    commands = list_commands(tmp_path / "images", tmp_path / "encode/reference", steps=4)
    [encode] = (command for command in commands if command.label == label)
    if not encode.has_workers:  # a fork saves the imports, but has no children to be found
        encode = replace(encode, program=get_client())
    harness = Harness(encode, tmp_path / "encode")
    harness.kill_and_finish(kills)
    assert harness.figures.finished == 1
    assert harness.figures.kills.total() + harness.figures.too_late >= 1
