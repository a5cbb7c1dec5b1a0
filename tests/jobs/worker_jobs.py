"""A job for worker processes, which import this module."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dinac_cli.errors import FormatError, ImageError, Rejection, UnwritableDiskError
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
class RoomyJob(ActingJob):
    """A job on a GPU with room for more processes."""

    free_bytes: int = 10 * 2**30
    used_bytes: int = 2**30

    def measure_room(self) -> tuple[int, int] | None:
        return self.free_bytes, self.used_bytes


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
