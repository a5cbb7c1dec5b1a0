"""What a job is: how one entry is read, computed and written. Knows nothing of threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from dinac_cli.jobs.results import FileResult
from dinac_cli.storage.output import Output


class Entry(Protocol):
    """One input of a job."""

    @property
    def label(self) -> str:
        """The input's name in messages."""

    @property
    def name(self) -> str:
        """The input's name, relative to its input folder."""


E = TypeVar("E", bound=Entry)
R = TypeVar("R")
C = TypeVar("C", covariant=True)


class Computing(Protocol[C]):
    """A batch that the model is working on, or has finished."""

    @property
    def is_done(self) -> bool:
        """Whether `result` returns at once."""

    def result(self) -> Sequence[C]:
        """Waits for the batch and returns one result an item. Raises DeviceError."""


@dataclass(frozen=True)
class Work:
    """One input that was read and is ready for the model.

    `label` and `name` are those of its entry. A batch holds works of one `group`: model handle,
    padded height, padded width. `held_bytes` is the memory that the work occupies.
    """

    label: str
    name: str
    group: Hashable
    held_bytes: int


W = TypeVar("W", bound=Work)


@dataclass(frozen=True)
class Made:
    """A result and, if the output is a stream, the bytes to write there."""

    result: FileResult
    data: bytes = b""


class Job(ABC, Generic[E, W, R]):
    """The work on each entry. `read` and `finish` run in threads, the caller runs `submit`."""

    @abstractmethod
    def read(self, entry: E, hold: Callable[[int], None]) -> W | FileResult:
        """Reads one input. `hold(size_bytes)` waits until this much memory may be used."""

    def batch_size(self, group: Hashable) -> int:
        """Returns how many works of a group the model takes at once."""
        assert isinstance(group, tuple)
        model, height, width = group
        return int(model.engine.batch_size(height, width))

    @abstractmethod
    def submit(self, batch: list[W]) -> Computing[R]:
        """Hands a batch to the model. Raises ImageError if it cannot be computed."""

    @abstractmethod
    def finish(self, work: W, computed: R) -> Made:
        """Makes and writes one output."""


def deliver(output: Output, name: str, data: bytes, result: FileResult) -> Made:
    """Writes one output below OUT, or passes its bytes on to the stream. Raises OutputError."""
    path = output.deliver(name, data)
    return Made(result, data) if path is None else Made(replace(result, output=path))
