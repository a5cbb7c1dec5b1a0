"""A finding says what to do if, and only if, there is something to do."""

from __future__ import annotations

import json

import pytest

from dinac_cli.doctor.finding import Finding, Level, fail, note, ok


def test_levels_are_words() -> None:
    found = [ok("a", "b", {}), note("a", "b", "c", {}), fail("a", "b", "c", {"x": 1})]
    assert [one.level.value for one in found] == ["ok", "note", "FAIL"]
    assert json.loads(json.dumps(found[2].to_json())) == {
        "check": "a",
        "level": "FAIL",
        "text": "b",
        "remedy": "c",
        "facts": {"x": 1},
    }


@pytest.mark.parametrize(("level", "remedy"), [(Level.OK, "c"), (Level.NOTE, ""), (Level.FAIL, "")])
def test_remedy_must_match_the_level(level: Level, remedy: str) -> None:
    with pytest.raises(AssertionError):
        Finding("a", level, "b", remedy)
