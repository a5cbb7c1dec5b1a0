"""How many steps fit into a time."""

from __future__ import annotations


class Pace:
    """Fits the length of a run to its end, again and again: the first steps are the slowest.

    Those read images that later ones find in memory, and compile what later ones only call. Times
    are in seconds, of one clock that only goes forward.
    """

    def __init__(self, number: int, now: float, seconds: float, spent: float = 0.0) -> None:
        self._start = now - spent
        self._deadline = self._start + seconds
        self.mark(number, now)

    def count_spent(self, now: float) -> float:
        """Seconds spent so far, `spent` before this start included."""
        return now - self._start

    def mark(self, number: int, now: float) -> None:
        """Count the pace from here: `number` steps are done."""
        self._number, self._time = number, now

    def fit(self, number: int, now: float) -> int:
        """Steps of the whole run, if all others take as long as those since the last mark."""
        step_seconds = max(1e-9, now - self._time) / max(1, number - self._number)
        self.mark(number, now)
        return number + max(0, round((self._deadline - now) / step_seconds))
