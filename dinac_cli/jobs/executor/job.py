"""TODO"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from dinac_cli.errors import DinacError
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.output import Output, OutputKind


@dataclass(frozen=True)
class Made:
    """A result and, where the output is a stream, the bytes to write there."""

    result: FileResult
    data: bytes = b""


def deliver(output: Output, name: str, data: bytes, result: FileResult) -> Made:
    """Write one output below OUT, or hand its bytes on to the stream. Raises OutputError."""
    if output.kind is OutputKind.STREAM:
        return Made(result, data)
    target = output.locate(name)
    output.write(target, data)
    return Made(replace(result, output=target))


class Entry(Protocol):
    """One input, as messages name it."""

    @property
    def label(self) -> str:
        """What messages call it."""


E = TypeVar("E", bound=Entry)


R = TypeVar("R")


C = TypeVar("C", covariant=True)


class Computing(Protocol[C]):
    """A batch that the model is at work on, or is done with."""

    @property
    def is_done(self) -> bool:
        """Whether `result` returns at once."""

    def result(self) -> Sequence[C]:
        """What came of each item, waited for. Raises DeviceError."""


@dataclass(frozen=True)
class Work:
    """One input, read and ready for the model.

    `label` is what messages call it, `group` what a batch must have in common (model and padded
    size), `held_bytes` what it keeps in memory.
    """

    label: str
    group: Hashable
    held_bytes: int


W = TypeVar("W", bound=Work)


class Job(ABC, Generic[E, W, R]):
    """What is done with each input. `read` and `finish` run in pools, `submit` in the caller."""

    @abstractmethod
    def read(self, entry: E, hold: Callable[[int], None]) -> W | FileResult:
        """Read one input; `hold(size_bytes)` waits until that much may be kept in memory."""

    @abstractmethod
    def batch_size(self, group: Hashable) -> int:
        """How many inputs of a group the model takes at once."""

    @abstractmethod
    def submit(self, batch: list[W]) -> Computing[R]:
        """Give a batch to the model. Raises ImageError where it cannot be computed."""

    @abstractmethod
    def finish(self, work: W, computed: R) -> Made:
        """Make and write one output."""


def fail(label: str, exc: DinacError) -> FileResult:
    """The result of an input that cannot be done."""
    return FileResult(label, Status.FAILED, reason=str(exc))
