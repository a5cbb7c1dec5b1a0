"""A job for worker processes, which import this module."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from dinac_cli.errors import FormatError, ImageError, Rejection, UnwritableDiskError
from dinac_cli.jobs.executor.job import Job, Made
from dinac_cli.jobs.results import FileResult, Status

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
class RoomyJob(ActingJob):
    """A job on a GPU with room for more processes."""

    free_bytes: int = 10 * 2**30
    used_bytes: int = 2**30

    def measure_room(self) -> tuple[int, int] | None:
        return self.free_bytes, self.used_bytes
