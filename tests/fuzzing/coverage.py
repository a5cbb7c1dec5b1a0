"""Which steps from line to line a call takes, in the modules under test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Arc = tuple[str, int, int]


class Coverage:
    """Remembers the arcs (file, line, next line) that were ever taken in files below `folders`."""

    def __init__(self, folders: tuple[str, ...]) -> None:
        self._folders = folders
        self._known: set[Arc] = set()
        self._new: set[Arc] = set()
        self._last: dict[int, int] = {}

    @property
    def arcs(self) -> int:
        """How many arcs are known."""
        return len(self._known)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch the code that runs inside the block."""
        self._new = set()
        self._last.clear()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(None)

    def take_new(self) -> bool:
        """Whether the last block took an arc that none had taken before; they are known now."""
        is_new = bool(self._new)
        self._known |= self._new
        return is_new

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._step if frame.f_code.co_filename.startswith(self._folders) else None

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        arc = (frame.f_code.co_filename, self._last.get(id(frame), 0), frame.f_lineno)
        self._last[id(frame)] = frame.f_lineno
        if arc not in self._known:
            self._new.add(arc)
        return self._step
