"""Thumbnails in a terminal: their number, their names, and the protocol of the terminal."""

from __future__ import annotations

import numpy as np
import pytest
from rich.cells import cell_len

from dinac_cli.commands.screen.thumbnails import count_on_screen, draw_thumbnails
from dinac_cli.jobs.contact_sheet import Thumbnail

THUMBNAILS = [
    Thumbnail(name, np.full((4, 2, 3), 9, np.uint8))
    for name in ("a", "folder/a-long-name.jpg", "長い名前の写真です", "a\nb")
]


@pytest.fixture(autouse=True)
def screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("LINES", "25")


def test_screen_holds_whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_on_screen() == 3 * 2
    monkeypatch.setenv("COLUMNS", "5")
    monkeypatch.setenv("LINES", "3")
    assert count_on_screen() == 1


def test_blocks_stand_in_rows_above_their_names() -> None:
    lines = list(draw_thumbnails(THUMBNAILS, {}))
    assert len(lines) == 2 * 9
    assert [line.count("▀") for line in lines[:8]] == [3 * 16] * 8
    assert cell_len(lines[8]) <= 50
    assert lines[8] == f"{'a':16} …a-long-name.jpg …名前の写真です"
    assert lines[-1] == "a\\nb"


@pytest.mark.parametrize(
    ("environ", "start"),
    [
        ({"TERM": "xterm-kitty"}, "\x1b_Ga=T,f=100,"),
        ({"TERM_PROGRAM": "iTerm.app"}, "\x1b]1337;File=inline=1;"),
        ({"TERM": "foot"}, '\x1bPq"1;1;404;'),
    ],
)
def test_terminal_that_shows_images_gets_one_sheet(environ: dict[str, str], start: str) -> None:
    [text] = draw_thumbnails(THUMBNAILS, environ)
    assert text.startswith(start)
