"""Numbered entries and works, for jobs that compute with numbers. Worker processes import this."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from dinac_cli.jobs.executor.job import Work


@dataclass(frozen=True)
class Entry:
    """An entry of a job that computes with `number`.

    `action` is what happens to its reader. `group` and `size_bytes` are those of its work.
    """

    number: int
    action: str = ""
    group: Hashable = "one"
    size_bytes: int = 1
    held_bytes: int = 0

    @property
    def label(self) -> str:
        return f"folder/{self.name}"

    @property
    def name(self) -> str:
        return f"entry {self.number}"


@dataclass(frozen=True)
class NumberedWork(Work):
    number: int
