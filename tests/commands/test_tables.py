"""Tables of plain text, on wide and narrow screens."""

from __future__ import annotations

import pytest

from dinac_cli.commands.screen.tables import Table, fit_table

ROWS: Table = [["name", "size"], ["nano", "10.4 MB"], ["d2", "-"]]
TABLE = ["name    size", "nano 10.4 MB", "d2         -"]
FACTS = ["name  nano", "size  10.4 MB", "", "name  d2", "size  -"]


@pytest.mark.parametrize(("width", "lines"), [(None, TABLE), (12, TABLE), (11, FACTS)])
def test_table_that_is_too_wide_becomes_facts(width: int | None, lines: list[str]) -> None:
    assert list(fit_table(ROWS, width)) == lines
