"""Runs a job in several processes of this machine. Each worker process has its own model.

The parent lists the entries, hands out parts, and yields the results in one thread. A worker runs
the loop of `local.py` on its parts and sends back results, never pixels. If a worker dies, its
entries are tried again one by one, so an entry that kills workers is one failure.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, BinaryIO, Generic

from dinac_cli.codec.machine import divide_processors
from dinac_cli.errors import DeviceError, InputError
from dinac_cli.jobs.executor.control import RunControl, until_stopped
from dinac_cli.jobs.executor.job import E, Job, Made, R, W
from dinac_cli.jobs.executor.messages import Assignment, Order, Part, Report
from dinac_cli.jobs.executor.program import start_program
from dinac_cli.jobs.executor.supply import Supply
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.atomic import remove_dead_temporaries

PART_SECONDS = 0.5
"""A part holds about as many entries as a worker finishes in this time."""

LEAST_PART, FIRST_PART, MOST_PART = 4, 64, 256
"""The smallest part, the largest part for a worker of unknown speed, and the largest part."""

ORDER_WINDOW, ORDER_BYTES = 4096, 256 * 2**20
"""How far the entries of a stream may be ahead of the output: in entries, and in bytes of output
that wait for their turn."""

MEMORY_MARGIN = 1.25
"""A process on a GPU needs this much more than it has used so far: later images may be larger."""

MOST_CRASHES = 5
"""If this many new processes in a row die after their first entry went to the model, the run ends:
the model or the device probably fails, and not the entries."""

_WORKER = "dinac_cli.worker"
_POLL_SECONDS = 0.2  # a signal handler cannot wake the parent, so it looks for a stop regularly
_END_SECONDS = 2.0
_FREE_SECONDS = 20.0  # CUDA may take long to free its memory
_RATE_SECONDS = 0.25
_SHORTEST_SECONDS = 1e-3

OpenJob = Callable[[], AbstractContextManager[Job[E, W, R]]]
"""Opens a job. It is pickled, and called in each worker process."""


def hold_job(job: Job[E, W, R]) -> OpenJob[E, W, R]:
    """Returns the function that opens a job which needs no opening."""
    return partial(_hold, job)


@contextmanager
def _hold(job: Job[E, W, R]) -> Iterator[Job[E, W, R]]:
    yield job


def ignore_result(entry: object, result: FileResult) -> None:
    """A `note` of `run_in_processes` that does nothing."""


def run_in_processes(
    open_job: OpenJob[E, W, R],
    entries: Iterable[E],
    control: RunControl,
    stream: BinaryIO | None = None,
    note: Callable[[E, FileResult], None] = ignore_result,
) -> Generator[FileResult, None, None]:
    """Runs a job on every entry in `control.processes` processes; see `local.run_job`.

    Yields results and raises errors as `run_job` does. The outputs have the same bytes. An entry
    that kills a worker process twice, the second time alone, is a failure. `note` learns the result
    of every entry at once, even if the result must wait for its turn.
    """
    # A run on several devices has more memory.
    limits = replace(control.detach(), sharers=_divide(control)[0].most)
    assignment = Assignment(pickle.dumps(open_job), limits)
    with (
        Supply(until_stopped(entries, control.stop)) as listing,
        _Pool(assignment, listing, control, note, ordered=stream is not None) as pool,
    ):
        for made in pool.run():
            if stream is not None and made.data:
                with control.clock.measure("write"):
                    stream.write(made.data)
                    stream.flush()
            yield made.result


@dataclass
class _Device:
    """A device of the run, and how many processes compute on it: `count`, later at most `most`.

    If `must_fit` is set, `count` is 1 until the first process has measured the memory. `name` is ""
    if the job chooses its device. `crashes` counts the processes in a row that died in the model.
    """

    name: str
    most: int
    must_fit: bool
    count: int
    crashes: int = 0


def _divide(control: RunControl) -> list[_Device]:
    """Returns the devices of a run, with an even share of its processes."""
    names = control.devices or ("",)
    least, more = divmod(control.processes, len(names))
    devices = []
    for number, name in enumerate(names):
        most = least + (number < more)
        must_fit = control.fits_device and most > 1
        devices.append(_Device(name, most, must_fit, 1 if must_fit else most))
    return devices


class _Process(Generic[E]):
    """A worker process on `device`, and the entries that it holds, by number."""

    def __init__(self, assignment: Assignment, device: _Device) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            self.process = _start_process(theirs)
        self.device = device
        self.held: dict[int, E] = {}
        self.is_ready = False
        self.uses_model = False
        self.is_suspect = False  # it holds one entry of a worker that died
        self.is_stopping = self.has_stopped = False
        self.has_computed = False
        self.start_seconds = 0.0
        """The time until it had computed something, such as to load the model."""
        self._finished = self._finished_at_start = 0
        self._rate = 0.0
        self._began = time.monotonic()
        self._mark: tuple[float, int] | None = None
        names = (device.name,) if device.name else ()
        self.send(replace(assignment, control=replace(assignment.control, devices=names)))

    def send(self, message: object) -> None:
        """Sends a message. If the process is dead, its connection reports that later."""
        with suppress(OSError):
            self.connection.send(message)

    def give(self, part: Part) -> None:
        """Hands out a part."""
        self.held.update(part)
        self.send(part)

    @property
    def is_beginner(self) -> bool:
        """True if it has not finished any entry."""
        return not self._finished

    def choose_size(self, listed: int, processes: int) -> int:
        """Returns the size of the next part: about `PART_SECONDS` of work."""
        if not self._rate:
            return max(LEAST_PART, min(FIRST_PART, listed // (2 * processes)))
        return max(LEAST_PART, min(MOST_PART, int(self._rate * PART_SECONDS)))

    def note_computed(self) -> None:
        """Ends the time of the start, if it has not ended yet. The device works."""
        if not self.has_computed:
            self.has_computed = True
            self.start_seconds = time.monotonic() - self._began
            self._finished_at_start = self._finished

    def bound_rate(self) -> float:
        """Returns the most entries per second that it may finish: all that it holds, at once.

        Close to the true rate soon after the start, whose time does not count. Falls while the
        process works on its first long entry, such as a shard. 0 if nothing was computed yet.
        """
        if not self.has_computed:
            return 0.0
        seconds = time.monotonic() - self._began - self.start_seconds
        done = self._finished - self._finished_at_start + len(self.held)
        return done / max(seconds, _SHORTEST_SECONDS)

    def count_finished(self, count: int) -> None:
        """Counts finished entries, to measure the speed of the worker."""
        now = time.monotonic()
        self._finished += count
        if self._mark is None:
            self._mark = (now, self._finished)
        elif now - self._mark[0] >= _RATE_SECONDS:
            self._rate = (self._finished - self._mark[1]) / (now - self._mark[0])
            self._mark = (now, self._finished)

    def bury(self, patience_seconds: float = 2.0) -> str:
        """Waits for a process that ends. Returns how it ended: a signal or an exit code."""
        self.connection.close()
        try:
            code = self.process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        with suppress(ValueError):
            if code < 0:
                return signal.Signals(-code).name
        return f"exit code {code}"


class _Pool(Generic[E]):
    """The worker processes of one run."""

    def __init__(
        self,
        assignment: Assignment,
        listing: Supply[E],
        control: RunControl,
        note: Callable[[E, FileResult], None],
        *,
        ordered: bool,
    ) -> None:
        self._assignment = assignment
        self._devices = _divide(control)
        self._chooses_count = control.fits_device
        self._say = control.say
        self._warn = control.warn
        self._tick = control.tick
        self._remarks: set[str] = set()
        self._listing = listing
        self._stop = control.stop
        self._clock = control.clock
        self._note = note
        self._turns = _Turns() if ordered else None
        self._processes: list[_Process[E]] = []
        self._suspects: deque[tuple[int, E]] = deque()
        self._next = 0

    def __enter__(self) -> _Pool[E]:
        self._processes.append(_Process(self._assignment, self._devices[0]))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for process in self._processes:
            if kind is None:
                process.send(Order.END)
        for process in self._processes:
            process.bury(_FREE_SECONDS if kind is None else _END_SECONDS)

    def run(self) -> Iterator[Made]:
        """Yields every output. Raises the error that ends a worker's run."""
        while not self._is_over():
            for process in self._processes:
                self._supply(process)
            self._grow()
            yield from self._listen()

    def _is_over(self) -> bool:
        if self._stop:
            return all(p.has_stopped or not p.held for p in self._processes)
        is_busy = any(process.held for process in self._processes)
        return not is_busy and not self._suspects and self._listing.has_ended

    def _grow(self) -> None:
        """Starts more processes while entries wait and every process has work."""
        while not self._stop and (device := self._choose_device()) is not None:
            is_idle = any(not process.held for process in self._processes)
            if is_idle or not (self._suspects or len(self._listing)) or not self._pays(device):
                return
            try:
                process: _Process[E] = _Process(self._assignment, device)
            except DeviceError as exc:
                device.count = self._count_on(device)
                self._warn(f"{exc}; the run goes on with {len(self._processes)}")
                continue
            self._processes.append(process)
            self._supply(process)

    def _pays(self, device: _Device) -> bool:
        """True if one more process on a device helps: it starts before the others are done.

        If the user named the number of processes, or more entries may come, it always helps.
        """
        running = [process for process in self._processes if process.device is device]
        if not (self._chooses_count and running and self._listing.is_complete):
            return True
        starts = [process.start_seconds for process in running if process.has_computed]
        rate = sum(process.bound_rate() for process in self._processes)
        return bool(starts) and len(self._listing) > rate * max(starts)

    def _choose_device(self) -> _Device | None:
        """Returns the device with the fewest processes; None if no device may have one more."""
        open_devices = [d for d in self._devices if self._count_on(d) < d.count]
        return min(open_devices, key=self._count_on, default=None)

    def _count_on(self, device: _Device) -> int:
        return sum(process.device is device for process in self._processes)

    @property
    def _count(self) -> int:
        """The number of processes that the run may have now."""
        return sum(device.count for device in self._devices)

    def _fit(self, device: _Device, free_bytes: int, used_bytes: int) -> None:
        """Allows as many processes as the memory of the device has room for."""
        device.must_fit = False
        fitting = 1 + int(free_bytes / (MEMORY_MARGIN * used_bytes))
        device.count = min(device.most, fitting)
        control = self._assignment.control
        if control.threads is None:  # the first process had all processors: it may be on a CPU
            control = replace(control, threads=divide_processors(self._count))
            self._assignment = replace(self._assignment, control=control)
        place = f" on {device.name}" if device.name else ""
        self._say(
            f"processes{place}: {device.count} (at most {device.most} for the processors; "
            f"{free_bytes / 2**30:.1f} GiB are free on the device, and one takes "
            f"{used_bytes / 2**30:.1f} GiB)"
        )

    def _supply(self, process: _Process[E]) -> None:
        if self._stop:
            if not process.is_stopping:
                process.is_stopping = True
                process.send(Order.STOP)
            return
        if process.is_suspect and process.held:
            return
        process.is_suspect = bool(self._suspects) and not process.held
        if process.is_suspect:
            process.give([self._suspects.popleft()])
            return
        size = process.choose_size(len(self._listing), self._count)
        size = min(size, self._assignment.control.part_size or size)
        must_wait = self._turns is not None and self._turns.is_full(self._next)
        if must_wait or len(process.held) > size:
            return
        entries = self._listing.take(size)
        if entries:
            process.give(list(enumerate(entries, start=self._next)))
            self._next += len(entries)

    def _listen(self) -> Iterator[Made]:
        listening = [process for process in self._processes if not process.has_stopped]
        connections = [process.connection for process in listening]
        ready = wait([*connections, self._listing.wake], _POLL_SECONDS)
        if self._listing.wake in ready:
            self._listing.clear_wake()
        for process in listening:
            if process.connection in ready:
                yield from self._receive(process)

    def _receive(self, process: _Process[E]) -> Iterator[Made]:
        try:
            report = process.connection.recv()
        except (EOFError, OSError):
            yield from self._replace(process)
        else:
            yield from self._accept(process, report)

    def _accept(self, process: _Process[E], report: Report) -> Iterator[Made]:
        if report.error is not None:
            if not self._is_spare(process, report.error):
                raise report.error
            self._remark(f"one process less computes: {report.error}")
            process.device.count = self._count_on(process.device) - 1
            process.is_suspect = False  # its entries are not to blame
            yield from self._replace(process)
            return
        process.is_ready = True
        process.uses_model = process.uses_model or report.uses_model
        if report.clock is not None:
            self._clock.add(report.clock)
            self._tick()
        for remark in report.remarks:
            self._remark(remark)
        if report.room is not None and process.device.must_fit:
            self._fit(process.device, *report.room)
        if any(made.result.status is Status.WRITTEN for _, made in report.made):
            process.device.crashes = 0
        process.count_finished(len(report.made))
        if report.made or report.room is not None:
            process.note_computed()
        for number, made in report.made:
            if process.is_suspect and made.result.output:  # the dead worker may have written it
                remove_dead_temporaries(os.path.dirname(made.result.output) or ".")
            self._note(process.held.pop(number), made.result)
            yield from self._deliver(number, made)
        if report.has_stopped:
            process.held.clear()
            process.has_stopped = True

    def _remark(self, remark: str) -> None:
        """Tells the user a remark once, because each process has its own."""
        if remark not in self._remarks:
            self._remarks.add(remark)
            self._warn(remark)

    def _is_spare(self, process: _Process[E], error: BaseException) -> bool:
        """True if the run chose to start this process, and its device works in another process.

        The memory that seemed free may be taken by now, or the device may allow one process only.
        """
        return (
            self._chooses_count
            and isinstance(error, DeviceError)
            and process.is_beginner
            and any(p.device is process.device and not p.is_beginner for p in self._processes)
        )

    def _deliver(self, number: int, made: Made) -> Iterator[Made]:
        if self._turns is None:
            yield made
        else:
            yield from self._turns.add(number, made)

    def _replace(self, dead: _Process[E]) -> Iterator[Made]:
        """A process died: has its entries tried one by one. `_grow` starts another process."""
        end = dead.bury()
        self._processes.remove(dead)
        if not dead.is_ready:
            if not self._processes:
                place = "" if len(self._devices) == 1 else " and one --device"
                raise DeviceError(
                    f"a worker process could not start ({end}); use --processes 1{place}"
                )
            # Probably, there is no memory for one more.
            dead.device.count = self._count_on(dead.device)
            if dead.device.name and not dead.device.count:
                self._warn(
                    f"no worker process could start on {dead.device.name} ({end}); the other "
                    "devices do its work"
                )
        held = sorted(dead.held.items())
        if dead.is_suspect and held:
            [(number, entry)] = held
            failure = _blame(entry, end)
            self._note(entry, failure)
            yield from self._deliver(number, Made(failure))
            if dead.is_beginner and dead.uses_model:
                _count_crash(dead.device, end)
        else:
            self._suspects.extend(held)


class _Turns:
    """Outputs of a stream that wait until all earlier outputs have left."""

    def __init__(self) -> None:
        self._waiting: dict[int, Made] = {}
        self._bytes = 0
        self._next = 0

    def add(self, number: int, made: Made) -> Iterator[Made]:
        """Adds an output, and yields those whose turn has come."""
        self._waiting[number] = made
        self._bytes += len(made.data)
        while self._next in self._waiting:
            leaving = self._waiting.pop(self._next)
            self._bytes -= len(leaving.data)
            self._next += 1
            yield leaving

    def is_full(self, next_number: int) -> bool:
        """True if no further entry may start before the next output leaves."""
        return next_number - self._next >= ORDER_WINDOW or self._bytes >= ORDER_BYTES


def _count_crash(device: _Device, end: str) -> None:
    """Raises DeviceError if `MOST_CRASHES` processes in a row died in the model on a device.

    Processes on other devices may work well.
    """
    device.crashes += 1
    if device.crashes == MOST_CRASHES:
        place = f" on {device.name}" if device.name else ""
        raise DeviceError(
            f"{MOST_CRASHES} worker processes in a row died in the model{place} ({end}); "
            "choose another --device, or another --model"
        )


def _blame(entry: Any, end: str) -> FileResult:
    """Returns the failure of an entry that killed a worker process, which held no other entry."""
    advice = "use fewer --processes, or scale it down" if end == "SIGKILL" else "leave it out"
    reason = f"killed the worker process ({end}); {advice}"
    return replace(FileResult.fail(entry.label, InputError(reason)), name=entry.name)


def _start_process(theirs: Connection[Any, Any]) -> subprocess.Popen[bytes]:
    """Starts a worker that holds its end of a connection. Raises DeviceError."""
    try:
        return start_program(_WORKER, theirs)
    except OSError as exc:
        raise DeviceError(f"cannot start a worker process: {exc}; use --processes 1") from exc
