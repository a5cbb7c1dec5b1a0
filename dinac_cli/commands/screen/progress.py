"""The state of a running job, for the progress display."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from dinac_cli.commands.screen.signals import STOPPING
from dinac_cli.commands.screen.tables import format_duration, format_sizes
from dinac_cli.jobs.executor.control import StageClock, StopRequest
from dinac_cli.jobs.results import FileResult, Tally


@dataclass
class RunProgress:
    """The tally, the speed and the bottleneck of a running job."""

    clock: StageClock
    total: int | None
    stop: StopRequest
    tally: Tally = field(default_factory=Tally)
    started: float = field(default_factory=time.monotonic)
    first_done: float | None = None

    @property
    def done(self) -> int:
        """Number of files that have a result."""
        return self.tally.finished

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def add(self, result: FileResult) -> None:
        """Counts one result."""
        self.tally.add(result)
        if self.total is not None and self.done > self.total:
            self.total = None  # a file had several records, so the total is unknown
        if self.tally.worked and self.first_done is None:
            # The speed is measured from here, so the time to load the model does not count.
            self.first_done = time.monotonic()

    def describe_line(self, width: int) -> str:
        """Returns at most `width` characters of text; drops the least important parts first."""
        if self.stop:
            return STOPPING[:width]
        tally = self.tally
        # Each part is (rank, text). The part with the highest rank is dropped first.
        parts = [(0, f"{tally.failures} failed")] if tally.failures else []
        speed = self._files_per_second()
        if speed:
            parts.append((1, f"{speed:.1f} images/s"))
            if self.total is not None:
                parts.append((2, f"ETA {format_duration((self.total - self.done) / speed)}"))
            parts.append((5, f"{tally.pixels / tally.worked * speed / 1e6:.1f} MP/s"))
        if tally.bytes_out:
            parts.append((3, format_sizes(tally.bytes_in, tally.bytes_out)))
            parts.append((4, f"bottleneck: {self.clock.limiting}"))
        parts = parts or [(0, "starting")]
        while len(parts) > 1 and len(_join(parts)) > width:
            parts.remove(max(parts))
        return _join(parts)[:width]

    def _files_per_second(self) -> float | None:
        if self.first_done is None or self.tally.worked < 2:
            return None
        elapsed = time.monotonic() - self.first_done
        return (self.tally.worked - 1) / elapsed if elapsed > 0 else None


def _join(parts: list[tuple[int, str]]) -> str:
    return "  ".join(text for _, text in parts)
