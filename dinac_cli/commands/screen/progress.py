"""The state of a running job, or of other work that takes long, for the progress display."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.signals import STOPPING
from dinac_cli.commands.screen.tables import format_duration, format_sizes
from dinac_cli.jobs.executor.control import StageClock, StopRequest
from dinac_cli.jobs.executor.phase import Phase, Watch
from dinac_cli.jobs.results import FileResult, Status, Tally

DELAY_SECONDS = 0.5
"""Work that takes less time shows no bar for its phases."""

LONG_SECONDS = 30.0
"""A run of this length is told if it left the device idle for more than `MOST_IDLE` of the time."""

MOST_IDLE = 0.4

_FIRST_STAGES = {
    "read": "reading the first files",
    "model": "loading the model and computing the first batch",
}
"""What a run does in each stage before its first result."""


@dataclass
class RunProgress:
    """The tally, the speed and the bottleneck of a running job.

    If the number of inputs is unknown at first, `late_total` returns it once it is known. `workers`
    is the number of threads, or of processes, that read and write; 0 if it is unknown. `devices`
    share the work.
    """

    clock: StageClock
    total: int | None
    stop: StopRequest
    late_total: Callable[[], int | None] = lambda: None
    workers: int = 1
    devices: int = 1
    tally: Tally = field(default_factory=Tally)
    started: float = field(default_factory=time.monotonic)
    first_done: float | None = None
    _before: tuple[float, float] = (0.0, 0.0)
    _settled: int = 0
    _first_worked: int = 0

    @property
    def done(self) -> int:
        """Number of files that have a result, or that were encoded for a shard."""
        return self.tally.finished + self.pending

    @property
    def pending(self) -> int:
        """Number of images that were encoded for shards that are not complete."""
        return max(0, self.clock.images - self._settled)

    @property
    def worked(self) -> int:
        """Number of files that this run worked on."""
        return self.tally.worked + self.pending

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def add(self, result: FileResult) -> None:
        """Counts one result."""
        self.tally.add(result)
        if self.clock.images and result.status is Status.WRITTEN:
            self._settled += result.images
        if self.total is None:
            self.total = self.late_total()
        if self.total is not None and self.done > self.total:
            # A file had several records, so the total is unknown.
            self.total, self.late_total = None, lambda: None
        self._note_first()

    def _note_first(self) -> None:
        """Measures the speed from here on, so the time to load the model does not count."""
        if self.worked and self.first_done is None:
            self.first_done = time.monotonic()
            self._first_worked = self.worked
            self._before = self.clock.host_seconds, self.clock.device_seconds

    def describe_line(self, width: int) -> str:
        """Returns at most `width` characters of text; drops the least important parts first."""
        if self.stop:
            return STOPPING[:width]
        self._note_first()
        tally = self.tally
        parts = [(0, f"{tally.failures} failed")] if tally.failures else []
        speed = self._files_per_second()
        if speed:
            parts.append((1, f"{speed:.1f} images/s"))
            if self.total is not None:
                parts.append((2, f"ETA {format_duration((self.total - self.done) / speed)}"))
            if tally.worked:
                parts.append((5, f"{tally.pixels / tally.worked * speed / 1e6:.1f} MP/s"))
        if tally.bytes_out:
            parts.append((3, format_sizes(tally.bytes_in, tally.bytes_out)))
            parts.append((4, f"bottleneck: {self.clock.limiting}"))
            parts.extend((5, text) for text in self._describe_loads())
        if tally.counts[Status.DONE]:
            parts.append((6, f"{tally.counts[Status.DONE]} already done"))
        if not self.worked and self.clock.current in _FIRST_STAGES:
            parts.append((7, f"{self._describe_start()}, {format_duration(self.elapsed)}"))
        parts = parts or [(0, "starting")]
        return fit_parts(parts, width)

    def describe_idle_device(self) -> str | None:
        """Returns a hint if a long run left a GPU idle for most of the time, else None."""
        loads = self._measure_loads()
        if loads is None or loads[1] == 0.0 or self.elapsed < LONG_SECONDS:
            return None
        idle = 1.0 - loads[1]
        if idle < MOST_IDLE:
            return None
        gpus, were = ("GPU", "was") if self.devices == 1 else ("GPUs", "were")
        return (
            f"the {gpus} {were} idle {idle:.0%} of the time: the computer reads and writes too "
            f"slowly; more processors, more --processes or larger images use the {gpus} better"
        )

    def _describe_loads(self) -> Iterator[str]:
        loads = self._measure_loads()
        if loads is not None and loads[1]:
            yield f"device {loads[1]:.0%} busy"
        if loads is not None:
            yield f"workers {loads[0]:.0%} busy"

    def _measure_loads(self) -> tuple[float, float] | None:
        """Returns which share of the time since the first result the workers and GPUs were busy.

        The share of the GPUs is their mean; it is 0 if it is unknown. Returns None if no time has
        passed.
        """
        if not self.workers or self.first_done is None:
            return None
        elapsed = time.monotonic() - self.first_done
        if elapsed <= 0:
            return None
        host, device = self.clock.host_seconds, self.clock.device_seconds
        workers = (host - self._before[0]) / (elapsed * self.workers)
        busy = (device - self._before[1]) / (elapsed * self.devices)
        return min(1.0, workers), min(1.0, busy)

    def _describe_start(self) -> str:
        """Says what the run does before its first new result."""
        stage = self.clock.current or ""
        if stage == "read" and self.tally.counts[Status.DONE]:
            return "checking finished files"
        return _FIRST_STAGES[stage]

    def _files_per_second(self) -> float | None:
        if self.first_done is None or self.worked < 2:
            return None
        elapsed = time.monotonic() - self.first_done
        return (self.worked - self._first_worked) / elapsed if elapsed > 0 else None


def fit_parts(parts: list[tuple[int, str]], width: int) -> str:
    """Joins parts to at most `width` characters. Drops the parts with the highest rank first.

    A part is (rank, text).
    """
    while len(parts) > 1 and len(_join(parts)) > width:
        parts.remove(max(parts))
    return _join(parts)[:width]


def _join(parts: list[tuple[int, str]]) -> str:
    return "  ".join(text for _, text in parts)


@dataclass
class PhaseProgress:
    """The current phase of work that has phases instead of files.

    Shows nothing in the first `delay_seconds`. If `ticks` is false, the text is rarely redrawn, so
    it does not hold the time of the phase.
    """

    stop: StopRequest | None = None
    delay_seconds: float = 0.0
    ticks: bool = True
    phase: Phase | None = None

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._shown_from = self._began + self.delay_seconds

    def begin(self, phase: Phase) -> None:
        """Shows `phase` from now on. If it has another name, its time starts now."""
        if self.phase is not None and self.phase.name != phase.name:
            self._began = time.monotonic()
        self.phase = phase

    @property
    def done(self) -> int:
        """Number of finished items of the phase."""
        return 0 if self.phase is None else self.phase.done

    @property
    def total(self) -> int | None:
        """Number of all items of the phase; None if unknown."""
        return None if self.phase is None else self.phase.total

    def describe_line(self, width: int) -> str:
        """Returns at most `width` characters of text: the phase, its time and its ETA."""
        if self.stop:
            return STOPPING[:width]
        now = time.monotonic()
        if self.phase is None or now < self._shown_from:
            return ""
        phase, elapsed = self.phase, now - self._began
        text = f"{phase.name}: {phase.detail}" if phase.detail else phase.name
        parts = [(0, text)]
        if self.ticks:
            parts.append((2, format_duration(elapsed)))
        if phase.done and phase.total is not None:
            rest = elapsed / phase.done * max(0, phase.total - phase.done)
            parts.append((1, f"ETA {format_duration(rest)}"))
        return fit_parts(parts, width)


@contextmanager
def show_phases(
    console: Console, title: str, stop: StopRequest | None = None, *, ticks: bool = True
) -> Iterator[Watch]:
    """Shows the phases of slow work, on a terminal only. Yields the function that receives them.

    For `ticks`, see `Console.track_phases`.
    """
    state = PhaseProgress(stop, DELAY_SECONDS if ticks else 0.0, ticks)
    with console.track_phases(title, state, ticks=ticks) as update:

        def watch(phase: Phase) -> None:
            state.begin(phase)
            update()

        yield watch
