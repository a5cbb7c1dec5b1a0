"""The line-to-line steps (arcs) that a call takes in the modules under test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Arc = tuple[str, int, int]


class Coverage:
    """Collects the arcs (file, line, next line) taken in files below `folders`."""

    def __init__(self, folders: tuple[str, ...]) -> None:
        self._folders = folders
        self._known: set[Arc] = set()
        self._new: set[Arc] = set()

    @property
    def arcs(self) -> int:
        """The number of known arcs."""
        return len(self._known)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watches the code that runs inside the block."""
        self._new = set()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(None)

    def take_new(self) -> bool:
        """True if the last block took an unknown arc; all its arcs are known afterwards."""
        is_new = bool(self._new)
        self._known |= self._new
        return is_new

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        file, last = frame.f_code.co_filename, 0
        if not file.startswith(self._folders):
            return None

        def step(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            arc = (file, last, frame.f_lineno)
            last = frame.f_lineno
            if arc not in self._known:
                self._new.add(arc)
            return step

        return step
