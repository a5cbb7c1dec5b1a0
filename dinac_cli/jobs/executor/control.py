"""The limits of a running job, its stop request and its clock. The caller owns these objects."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import BinaryIO, TypeVar

from dinac_cli.jobs.executor.busy import BusyTime, Span

T = TypeVar("T")


class StopRequest:
    """Asks a running job to take no new input and to finish the work in flight."""

    def __init__(self) -> None:
        self._requested = False

    def set(self) -> None:
        """Requests the stop. Takes no lock, so a signal handler may call it."""
        self._requested = True

    def __bool__(self) -> bool:
        return self._requested


def until_stopped(items: Iterable[T], stop: StopRequest) -> Iterator[T]:
    """Returns an iterator of `items` that ends when a stop is requested."""
    return itertools.takewhile(lambda _: not stop, items)


_STAGES = ("read", "model", "write")


@dataclass
class StageClock:
    """The seconds that the calling threads spent in each stage.

    The stage that takes the most time limits the speed of the run. `current` is the stage that the
    thread entered last. `host_seconds` is the time that all threads worked on reading and writing.
    `busy` says when each GPU computed, by name; if a run has one device, its name is "". `images`
    counts the images of shards, which have results of their own only when a shard is complete.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STAGES, 0.0))
    current: str | None = None
    host_seconds: float = 0.0
    busy: dict[str, BusyTime] = field(default_factory=dict)
    images: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __getstate__(self) -> dict[str, object]:
        """A lock cannot be pickled; another process makes its own."""
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def add_host(self, since: float) -> None:
        """Adds the work of a thread that reads or writes, since a time of `time.perf_counter`."""
        with self._lock:
            self.host_seconds += time.perf_counter() - since

    def add_images(self, count: int) -> None:
        """Counts images that were encoded, before their shard is complete.

        A negative number takes back those of a shard that failed.
        """
        with self._lock:
            self.images += count

    def add_busy(self, device: str, spans: Iterable[Span]) -> None:
        """Adds spans in which a GPU computed."""
        with self._lock:
            self.busy.setdefault(device, BusyTime()).add(spans)

    @property
    def device_seconds(self) -> float:
        """The time that all GPUs together computed; 0 if it is unknown."""
        with self._lock:
            return sum(busy.seconds for busy in self.busy.values())

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Measures the time of the `with` block and adds this time to `stage`."""
        self.current = stage
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start

    def wait_for(self, stage: str, items: Iterator[T]) -> Iterator[T]:
        """Yields `items`, and adds the time spent waiting for each item to `stage`."""
        # Without `measure`, because this runs several times for each entry.
        while True:
            self.current, start = stage, time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds[stage] += time.perf_counter() - start
            yield item

    def take(self) -> StageClock:
        """Returns the seconds so far, and starts again from zero."""
        with self._lock:
            taken = replace(self, _lock=threading.Lock())
            self.seconds = dict.fromkeys(_STAGES, 0.0)
            self.host_seconds, self.busy, self.images = 0.0, {}, 0
        return taken

    def add(self, other: StageClock) -> None:
        """Adds the seconds of another process, and takes over its current stage."""
        with self._lock:
            self.current = other.current
            for stage in _STAGES:
                self.seconds[stage] += other.seconds[stage]
            self.host_seconds += other.host_seconds
            self.images += other.images
            for device, busy in other.busy.items():
                self.busy.setdefault(device, BusyTime()).merge(busy)

    @property
    def limiting(self) -> str:
        """The stage that takes most of the time: read, model or write."""
        return max(self.seconds, key=lambda stage: self.seconds[stage])


def _keep_quiet(line: str) -> None:
    pass


def _do_nothing() -> None:
    pass


@dataclass(kw_only=True)
class RunControl:
    """The caller's side of a running job: its limits, stop request, clock and streams.

    `workers` threads read, and `workers` other threads write. If `workers` is 0, the caller's
    thread reads and writes. At most `in_flight` inputs are read ahead. `processes` processes do the
    work, each with its own model and its own threads; if it is 1, only this process. The processes
    are spread evenly over `devices`; if there are none, the job chooses its device. If
    `fits_device` is set, `processes` is the most: one process per device starts, and the others
    follow if the memory of the device has room for them. `say` receives a line about that, and
    `warn` each remark of the job, once. If a CPU computes after all, `cpu_limits` replaces
    `workers` and `in_flight`. `threads` is the number of threads that compute in each process
    (None: as the environment says, or one per processor). `sharers` processes share the memory that
    one run may occupy. Worker processes limit the memory of torch's caches if `bounds_memory` is
    set; otherwise, they keep freed memory. `note_model` is called before an input goes to the
    model. If entries take long, such as shards, `tick` is called now and then, by the thread that
    computes, and `part_size` is the most entries that a worker process gets at a time. The job
    reads `stdin` if standard input is one of its inputs, and writes to `stdout` if its output is a
    stream.
    """

    workers: int = 2
    in_flight: int = 8
    processes: int = 1
    devices: tuple[str, ...] = ()
    fits_device: bool = False
    cpu_limits: tuple[int, int] | None = None
    say: Callable[[str], None] = _keep_quiet
    warn: Callable[[str], None] = _keep_quiet
    threads: int | None = None
    sharers: int = 1
    bounds_memory: bool = False
    stop: StopRequest = field(default_factory=StopRequest)
    clock: StageClock = field(default_factory=StageClock)
    note_model: Callable[[], None] = _do_nothing
    tick: Callable[[], None] = _do_nothing
    part_size: int | None = None
    stdin: BinaryIO | None = None
    stdout: BinaryIO | None = None

    def detach(self) -> RunControl:
        """Returns the limits alone, for another process: without the caller's side of the run."""
        return replace(
            self,
            stop=StopRequest(),
            clock=StageClock(),
            say=_keep_quiet,
            warn=_keep_quiet,
            tick=_do_nothing,
            stdin=None,
            stdout=None,
        )

    @property
    def device(self) -> str:
        """The device of a process that has only one; "" if the job chooses it."""
        return self.devices[0] if len(self.devices) == 1 else ""
