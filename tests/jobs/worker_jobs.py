"""A job for worker processes, which import this module."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dinac_cli.errors import DeviceError, FormatError, ImageError, Rejection, UnwritableDiskError
from dinac_cli.jobs.executor.busy import Span
from dinac_cli.jobs.executor.job import Job, Made
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.atomic import _name_temporary, write_atomically

from .numbered import Entry, NumberedWork


@dataclass(frozen=True)
class Doubled:
    numbers: list[int]
    is_done: bool = True

    def result(self) -> list[int]:
        return self.numbers


@dataclass
class ActingJob(Job[Entry, NumberedWork, int]):
    """Doubles numbers, in batches of `capacity`. Every record of a stream has `record_bytes`."""

    capacity: int = 3
    record_bytes: int = 0
    seen: list[int] = field(default_factory=list)

    def read(self, entry: Entry, hold: Callable[[int], None]) -> NumberedWork | FileResult:
        self._act(entry)
        hold(1000)
        return NumberedWork(entry.label, entry.name, "one", 1000, entry.number)

    def batch_size(self, group: Hashable) -> int:
        return self.capacity

    def submit(self, batch: list[NumberedWork]) -> Doubled:
        return Doubled([2 * work.number for work in batch])

    def finish(self, work: NumberedWork, computed: int) -> Made:
        result = FileResult(work.label, Status.WRITTEN, bytes_in=os.getpid(), bytes_out=computed)
        return Made(result, f"{computed}\n".encode().ljust(self.record_bytes))

    def _act(self, entry: Entry) -> None:
        match entry.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(7)
            case "fail":
                raise ImageError("not an image", ["a detail"])
            case "reject":
                raise FormatError(Rejection.VERSION, "newer")
            case "fill":
                raise UnwritableDiskError("the disk is full")
            case "bug":
                raise ZeroDivisionError("a bug")
            case "end":
                raise EOFError("a bug")
            case "wait":
                time.sleep(0.2)
            case "pause":
                time.sleep(0.03)


@dataclass
class RemarkingJob(ActingJob):
    """A job whose device computes in a slower way, and tells so once."""

    has_told: bool = False

    def take_remarks(self) -> list[str]:
        remarks = [] if self.has_told else ["the device is slow"]
        self.has_told = True
        return remarks


@dataclass
class DevicesJob(ActingJob):
    """A job on several devices. Its results have outputs named after their device.

    Each device is busy in `spans`, which its first batch in a process reports.
    """

    device: str = ""
    spans: dict[str, tuple[Span, ...]] = field(default_factory=dict)

    def use_device(self, name: str) -> None:
        self.device = name

    def take_busy_spans(self) -> tuple[Span, ...]:
        return self.spans.pop(self.device, ())

    def finish(self, work: NumberedWork, computed: int) -> Made:
        made = super().finish(work, computed)
        return replace(made, result=replace(made.result, output=self.device))


@dataclass
class BrokenDeviceJob(DevicesJob):
    """A job whose model kills the process on the device gpu:1."""

    def submit(self, batch: list[NumberedWork]) -> Doubled:
        if self.device == "gpu:1":
            os._exit(7)
        return super().submit(batch)


@dataclass
class AbsentDeviceJob(DevicesJob):
    """A job that kills the process if it is to use the device gpu:1."""

    def use_device(self, name: str) -> None:
        super().use_device(name)
        if name == "gpu:1":
            os._exit(7)


@dataclass
class RoomyJob(DevicesJob):
    """A job on GPUs with room for more processes: `rooms` maps a device to free and used bytes."""

    rooms: dict[str, tuple[int, int]] = field(default_factory=dict)

    def measure_room(self) -> tuple[int, int] | None:
        return self.rooms[self.device]


@dataclass
class ExclusiveJob(RoomyJob):
    """A job on a GPU that allows one process only: the one that makes a file in `folder` first."""

    folder: str = ""
    is_first: bool | None = None

    def submit(self, batch: list[NumberedWork]) -> Doubled:
        if self.is_first is None:
            try:
                open(os.path.join(self.folder, "taken"), "x").close()
                self.is_first = True
            except FileExistsError:
                raise DeviceError("the device is busy") from None
        return super().submit(batch)


@dataclass
class CpuJob(ActingJob):
    """A job that turns out to compute on the CPU. Its outputs are named after their readers."""

    has_computed: bool = False
    readers: dict[str, str] = field(default_factory=dict)

    @property
    def is_on_cpu(self) -> bool:
        return self.has_computed

    def read(self, entry: Entry, hold: Callable[[int], None]) -> NumberedWork | FileResult:
        self.readers[entry.name] = threading.current_thread().name
        return super().read(entry, hold)

    def submit(self, batch: list[NumberedWork]) -> Doubled:
        self.has_computed = True
        return super().submit(batch)

    def finish(self, work: NumberedWork, computed: int) -> Made:
        made = super().finish(work, computed)
        return replace(made, result=replace(made.result, output=self.readers[work.name]))


@dataclass
class CrashingJob(ActingJob):
    """A job whose model kills the process, unless the entry is among `healthy`."""

    healthy: frozenset[int] = frozenset()

    def submit(self, batch: list[NumberedWork]) -> Doubled:
        if not all(work.number in self.healthy for work in batch):
            os._exit(7)
        return super().submit(batch)


@contextmanager
def kill_at_start() -> Iterator[ActingJob]:
    """Kills the process that opens the job."""
    os.kill(os.getpid(), signal.SIGKILL)
    yield ActingJob()


@contextmanager
def open_slowly(pid_file: str) -> Iterator[Job[Entry, NumberedWork, int]]:
    """Opens a job in an hour, as if its model were large. Writes down its process first."""
    Path(pid_file).write_text(f"{os.getpid()}\n")
    time.sleep(3600)
    yield ActingJob()


@dataclass
class DyingWriter(ActingJob):
    """A job that writes to `folder`. The first worker dies during a write."""

    folder: str = ""

    def finish(self, work: NumberedWork, computed: int) -> Made:
        target = os.path.join(self.folder, work.name)
        write_atomically(target, b"", replace=True, is_ours=lambda path: True)
        made = super().finish(work, computed)
        return replace(made, result=replace(made.result, output=target))

    def _act(self, entry: Entry) -> None:
        temporary = os.path.join(self.folder, _name_temporary())
        if entry.action == "die" and not os.listdir(self.folder):
            open(temporary, "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
