"""The result of a check: ok, a note or a fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

Facts = Mapping[str, Any]
"""What a check measured, as values for JSON. The names of facts are not a fixed interface."""


class Level(str, Enum):
    """How serious a finding is.

    A note never changes a result: an optional part is missing, or something is slow. FAIL means
    wrong results, or that `encode` and `decode` do not work.
    """

    OK = "ok"
    NOTE = "note"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    `name` identifies the check. `text` says what dinac uses, and why. `remedy` says what to do; it
    is empty if the level is OK, and only then. `facts` hold the values behind the text.
    """

    name: str
    level: Level
    text: str
    remedy: str = ""
    facts: Facts = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert bool(self.remedy) is (self.level is not Level.OK), self

    def to_json(self) -> dict[str, Any]:
        """Returns the finding as an object for JSON. May hold private paths; see `privacy`."""
        return {
            "check": self.name,
            "level": self.level.value,
            "text": self.text,
            "remedy": self.remedy,
            "facts": dict(self.facts),
        }


def ok(name: str, text: str, facts: Facts) -> Finding:
    """Returns a finding that needs no action."""
    return Finding(name, Level.OK, text, "", facts)


def note(name: str, text: str, remedy: str, facts: Facts) -> Finding:
    """Returns a finding that changes no result."""
    return Finding(name, Level.NOTE, text, remedy, facts)


def fail(name: str, text: str, remedy: str, facts: Facts) -> Finding:
    """Returns a fault: results are wrong, or dinac cannot work."""
    return Finding(name, Level.FAIL, text, remedy, facts)
