"""The time in which a device was busy, as several processes report it."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

Span = tuple[float, float]
"""Start and end in seconds of `time.perf_counter`, which all processes of a machine share."""

_MOST_SPANS = 1024


@dataclass
class BusyTime:
    """The union of spans: time in which several processes share a device counts once.

    Spans may overlap and come in any order. Keeps the last `_MOST_SPANS` separate spans at most; a
    span that comes very late counts only from the end of the spans that are no longer kept.
    """

    _spans: list[Span] = field(default_factory=list)  # in order, without overlap
    _settled_seconds: float = 0.0
    _settled_until: float = -math.inf

    @property
    def seconds(self) -> float:
        """The seconds in all spans together."""
        return self._settled_seconds + sum(end - start for start, end in self._spans)

    def add(self, spans: Iterable[Span]) -> None:
        """Adds spans."""
        for start, end in spans:
            self._add(max(start, self._settled_until), end)

    def merge(self, other: BusyTime) -> None:
        """Adds the spans of another process."""
        self.add(other._spans)
        self._settled_seconds += other._settled_seconds

    def _add(self, start: float, end: float) -> None:
        if end <= start:
            return
        first = bisect_left(self._spans, start, key=lambda span: span[1])
        last = bisect_right(self._spans, end, key=lambda span: span[0])
        touched = self._spans[first:last]
        if touched:
            start, end = min(start, touched[0][0]), max(end, touched[-1][1])
        self._spans[first:last] = [(start, end)]
        if len(self._spans) > _MOST_SPANS:
            self._settle(_MOST_SPANS // 2)

    def _settle(self, count: int) -> None:
        """Keeps only the sum of the first `count` spans."""
        self._settled_seconds += sum(end - start for start, end in self._spans[:count])
        self._settled_until = self._spans[count - 1][1]
        del self._spans[:count]
