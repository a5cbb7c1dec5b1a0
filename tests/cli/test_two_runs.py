"""Two runs into one OUT at the same time: both finish, and every file is whole."""

from __future__ import annotations

from pathlib import Path

from .conftest import read_files, save
from .processes import run, run_together


def test_both_encode_and_both_decode(tmp_path: Path) -> None:
    for number in range(30):
        save(tmp_path / f"images/{number:02}.png", 48, 48, number)
    for command in (("encode", "images", "latents"), ("decode", "latents", "decoded")):
        both = run_together(command, command, cwd=tmp_path)
        assert [(done.code, done.err) for done in both] == [(0, ""), (0, "")]
        alone = run(*command[:2], f"{command[2]}-alone", cwd=tmp_path)
        assert alone.code == 0
        made = read_files(tmp_path / command[2])
        assert len(made) == 30
        assert made == read_files(tmp_path / f"{command[2]}-alone")
