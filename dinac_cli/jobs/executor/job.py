"""Defines a job: how one entry is read, computed and written. Starts no threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from dinac_cli.codec.handle import BatchGroup
from dinac_cli.jobs.executor.busy import Span
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.results import FileResult


class Entry(Protocol):
    """One input of a job."""

    @property
    def label(self) -> str:
        """The input's name in messages."""

    @property
    def name(self) -> str:
        """The input's name, relative to its input folder."""

    @property
    def held_bytes(self) -> int:
        """The memory that the input occupies before it is read, such as a record of a stream."""


E = TypeVar("E", bound=Entry)
R = TypeVar("R")
C = TypeVar("C", covariant=True)


class Computing(Protocol[C]):
    """A batch that the model is computing or has computed."""

    @property
    def is_done(self) -> bool:
        """True if `result` returns without waiting."""

    def result(self) -> Sequence[C]:
        """Waits for the batch and returns one result per item. Raises DeviceError."""


@dataclass(frozen=True)
class Work:
    """One input that was read and is ready for the model.

    `label` and `name` are copied from the entry. All items of a batch have the same `group`,
    usually a `BatchGroup`. `held_bytes` is the memory that the item occupies.
    """

    label: str
    name: str
    group: Hashable
    held_bytes: int


W = TypeVar("W", bound=Work)


@dataclass(frozen=True)
class Made:
    """The result of one input. If the output is a stream, `data` holds the bytes to write."""

    result: FileResult
    data: bytes = b""

    @classmethod
    def from_output(cls, result: FileResult, data: bytes) -> Made:
        """Keeps the bytes of an output only if they are not in the file of the result."""
        return cls(result, data if result.output is None else b"")


class Job(ABC, Generic[E, W, R]):
    """Reads, computes and writes each entry.

    The caller's thread runs `submit`; other threads run `read` and `finish`.
    """

    def run(
        self, entries: Iterable[E], control: RunControl
    ) -> Generator[tuple[int, Made], None, None] | None:
        """Runs entries that are no single inputs, such as shards, in a way of the job's own.

        Yields each output with the number of its entry. Returns None if the executor runs them.
        """
        return None

    @property
    def glances(self) -> bool:
        """True if `glance` may find finished outputs in this run."""
        return False

    def glance(self, entry: E) -> FileResult | None:
        """Returns the result of an entry whose output is known to be finished, else None.

        Takes far less time than `read`: opens neither the input nor the output.
        """
        return None

    @abstractmethod
    def read(self, entry: E, hold: Callable[[int], None]) -> W | FileResult:
        """Reads one input. `hold(size_bytes)` waits until this much memory may be used."""

    def batch_size(self, group: Hashable) -> int:
        """Returns how many items of `group` one batch may hold."""
        assert isinstance(group, BatchGroup)
        return group.model.engine.batch_size(group.height, group.width)

    def use_device(self, name: str) -> None:
        """Computes on this device. Called before the first entry, if a run has several devices."""
        raise NotImplementedError

    @property
    def is_on_cpu(self) -> bool:
        """True once it is known that the CPU computes."""
        return False

    def take_busy_spans(self) -> Sequence[Span]:
        """Returns when a GPU has computed since the last call, if that is known."""
        return ()

    def measure_room(self) -> tuple[int, int] | None:
        """Returns the free memory of the device, and the memory of this process there, in bytes.

        Returns None if further processes would gain nothing, or if nothing was computed yet.
        """
        return None

    def take_remarks(self) -> list[str]:
        """Returns new remarks about the device, for the user."""
        return []

    @abstractmethod
    def submit(self, batch: list[W]) -> Computing[R]:
        """Starts the model on a batch. Raises ImageError if the batch cannot be computed."""

    @abstractmethod
    def finish(self, work: W, computed: R) -> Made:
        """Makes and writes one output."""
