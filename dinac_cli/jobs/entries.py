"""Lists the records that a run reads. A file, or standard input, holds one or several records."""

from __future__ import annotations

import itertools
import mmap
import os
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO

from dinac_cli.container.frame import RECORD_START
from dinac_cli.container.names import escape_name
from dinac_cli.container.record import measure_record, read_header
from dinac_cli.container.stream import StreamItem, read_records
from dinac_cli.errors import (
    DinacError,
    FormatError,
    InputError,
    Rejection,
    UsageError,
    describe_read_error,
)
from dinac_cli.jobs.executor.control import StopRequest
from dinac_cli.storage.content import read_content
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.naming import NameSet, strip_suffix
from dinac_cli.storage.store import read_place

if TYPE_CHECKING:
    from dinac_cli.jobs.shards.shard_folder import TarOrigin

_POLL_SECONDS = 0.2


class NameClaim:
    """A record's claim to an output name. Claims are made in the order of the records."""

    def __init__(self, names: OutputNames, output: str, earlier: NameClaim | None) -> None:
        self.output = output
        self._names = names
        self._earlier = earlier
        self._settled = threading.Event()

    @contextmanager
    def settle(self) -> Iterator[None]:
        """The caller reads the record inside this context.

        First waits until the earlier claim to the same name is settled. Raises InputError if the
        name is taken. If reading succeeds, the record takes the name. If reading fails, the next
        claim may take the name.
        """
        is_undamaged = False
        try:
            self.require_free()
            yield
            is_undamaged = True
        finally:
            self.close(takes_name=is_undamaged)

    def require_free(self, stop: StopRequest | None = None) -> None:
        """Waits until the earlier claim to the same name is settled, or until a stop is requested.

        Raises InputError if the name is taken.
        """
        if self._earlier is not None:
            while not self._earlier._settled.wait(_POLL_SECONDS) and not stop:
                pass
            self._earlier = None
        if self._names.is_taken(self.output):
            raise InputError(
                f"another record of this run goes to {self.output}; this record is skipped"
            )

    def close(self, *, takes_name: bool) -> None:
        """Settles the claim. If `takes_name` is set, later claims to the name fail."""
        self._names.close(self, takes_name=takes_name)
        self._settled.set()


class OutputNames:
    """The output names of a run. The first undamaged record that claims a name takes the name.

    A record claims its name when it is listed. The claim is settled when a reader knows whether the
    record is damaged. Until then, the reader of a later record with the same name waits. Readers
    start in the order of the claims, so the earlier claim is settled or its reader is running. The
    byte budget never blocks the oldest reader. Therefore the wait always ends.
    """

    def __init__(self, rename: Callable[[str], str] | None, *, fold_case: bool = False) -> None:
        self._rename = rename
        self._fold_case = fold_case
        self._lock = threading.Lock()
        self._open: dict[int, NameClaim] = {}
        self._taken = NameSet(fold_case=fold_case)
        self._numbers = itertools.count(1)

    def claim(self, name: str) -> NameClaim | None:
        """Claims the output name of the record called `name`.

        Returns None if the run has no outputs.
        """
        if self._rename is None:
            return None
        output = self._rename(name)
        with self._lock:
            claim = NameClaim(self, output, self._open.get(self._key(output)))
            self._open[self._key(output)] = claim
        return claim

    def draw_number(self) -> str:
        """Returns the number of the next record of the run's streams, as a name for the record."""
        return f"{next(self._numbers):06d}"

    def is_taken(self, output: str) -> bool:
        """Whether an undamaged record has taken the name."""
        with self._lock:
            return output in self._taken

    def close(self, claim: NameClaim, *, takes_name: bool) -> None:
        """Removes a settled claim. If `takes_name` is set, later claims to the name fail."""
        key = self._key(claim.output)
        with self._lock:
            if takes_name:
                self._taken.add(claim.output)
            if self._open.get(key) is claim:
                del self._open[key]

    def _key(self, output: str) -> int:
        return hash(output.casefold() if self._fold_case else output)


@dataclass(frozen=True)
class RecordEntry:
    """One record to read: a file (`path` or `url`), or bytes that are already in memory (`data`).

    `name` is a relative path; the output's name is made from `name`. `claim` is the claim to the
    output's name. `error` is set if there is no record to read. `origin` says what is known about
    a record of a tar; it is None for any other record.
    """

    label: str
    name: str
    path: str | None = None
    data: bytes | None = None
    error: DinacError | None = None
    claim: NameClaim | None = field(default=None, compare=False)
    url: str | None = None
    origin: TarOrigin | None = field(default=None, compare=False)

    def __getstate__(self) -> dict[str, object]:
        """A pickled entry has no claim: the process that lists the records settles it."""
        return {**vars(self), "claim": None, "origin": None}

    @property
    def held_bytes(self) -> int:
        """The memory that the record occupies: none if it is read later."""
        return 0 if self.data is None else len(self.data)

    def read(self) -> bytes:
        """Returns the bytes of the record without checking them.

        Raises `error`, InputError, StorageError.
        """
        if self.error is not None:
            raise self.error
        if self.url is not None:
            try:
                return read_place(self.url)
            except DinacError as exc:
                raise drop_label(exc, self.label) from exc
        return self.data or b"" if self.path is None else read_content(self.path).data

    def settle_name(self) -> AbstractContextManager[None]:
        """The caller reads the record inside this context; see `NameClaim.settle`."""
        return nullcontext() if self.claim is None else self.claim.settle()


class RecordSource(ABC):
    """Lists the records of inputs that are not files of this machine. See `InputSource`."""

    @property
    @abstractmethod
    def is_archive(self) -> bool:
        """True if an input holds any number of records."""

    @abstractmethod
    def list_records(self, entry: Input, names: OutputNames) -> Iterator[RecordEntry]:
        """Yields the records of an input, and an entry with an error for each thing that fails.

        Raises StorageError if the place has not answered for long.
        """


def list_records(
    inputs: Iterable[Input],
    stdin: BinaryIO | None,
    rename: Callable[[str], str] | None = None,
    *,
    fold_case: bool = False,
) -> Iterator[RecordEntry]:
    """Yields the records of files and streams, in order. A stream is read while its data arrives.

    If a file holds one record, the output is named after the file. If a file, a stream or a tar
    holds several records, each output is named after its record, below the folder of the file.
    `rename` turns the name of a record into the name of its output. If `rename` is None, the run
    has no outputs. If two undamaged records have the same output name, reading the later record
    fails.
    """
    names = OutputNames(rename, fold_case=fold_case)
    for entry in inputs:
        if entry.problem:
            yield RecordEntry(entry.label, entry.name, error=InputError(entry.problem))
        elif isinstance(entry.source, RecordSource):
            yield from entry.source.list_records(entry, names)
        elif entry.path is None:
            assert stdin is not None, "the caller passes standard input if the run reads it"
            yield from _split_stream(stdin, entry.label, "", names)
        elif _holds_several(entry.path):
            yield from _split_file(entry.path, entry.name.rpartition("/")[0], names)
        else:
            claim = names.claim(entry.name)
            yield RecordEntry(entry.label, entry.name, path=entry.path, claim=claim)


def drop_label(exc: DinacError, label: str) -> DinacError:
    """Returns an error whose message does not begin with the name of its file."""
    return type(exc)(str(exc).removeprefix(f"{label}: "), exc.details)


def name_sample(name: str) -> str:
    """Returns a record's name without `.dinac`. What is unsafe on some system is escaped."""
    return escape_name(strip_suffix(name))


def settle_names(
    entries: Iterable[RecordEntry], stop: StopRequest | None = None
) -> Iterator[RecordEntry]:
    """Yields the entries for readers in other processes, which cannot settle claims.

    An entry whose name is taken gets an error. If the name is claimed, waits until the caller
    closes the earlier claim. Call `close_claim` when an entry has been read.
    """
    for entry in entries:
        try:
            if entry.claim is not None:
                entry.claim.require_free(stop)
        except InputError as exc:
            close_claim(entry, takes_name=False)
            entry = replace(entry, path=None, data=None, error=exc, claim=None)
        yield entry


def close_claim(entry: RecordEntry, *, takes_name: bool) -> None:
    """Settles the claim of an entry, if it has one."""
    if entry.claim is not None:
        entry.claim.close(takes_name=takes_name)


def require_single(entries: Iterator[RecordEntry], place: str) -> Iterator[RecordEntry]:
    """Yields the only record of a run.

    If there is a second record, raises UsageError; its message names `place`.
    """
    first = list(itertools.islice(entries, 2))
    if len(first) > 1:
        raise UsageError(
            f"{place} takes one image, but there is a second record; name an output folder instead"
        )
    yield from first


def _split_file(path: str, folder: str, names: OutputNames) -> Iterator[RecordEntry]:
    try:
        with open(path, "rb") as file:
            yield from _split_stream(file, path, folder, names)
    except OSError as exc:
        yield RecordEntry(path, path, error=InputError(describe_read_error(exc)))


def _split_stream(
    stream: BinaryIO, label: str, folder: str, names: OutputNames
) -> Iterator[RecordEntry]:
    number = 0
    for number, item in enumerate(read_records(stream), start=1):
        yield _name_record(item, _title(item, label, number), label, folder, names)
    if not number:
        yield RecordEntry(label, label, error=InputError("is empty; pipe records into it"))


def _title(item: StreamItem, label: str, number: int) -> str:
    """Returns the label that a stream's item gets if the name of the item cannot be read."""
    error = item.record
    is_rest = isinstance(error, FormatError) and error.rejection is Rejection.NOT_A_RECORD
    if is_rest and number > 1:
        return f"{label} after record {number - 1}"
    return f"{label} record {number}"


def _name_record(
    item: StreamItem, title: str, label: str, folder: str, names: OutputNames
) -> RecordEntry:
    """Returns the entry of a stream's record. If the name is unreadable, `title` is the label."""
    counted = names.draw_number()
    if isinstance(item.record, FormatError):
        return RecordEntry(title, title, error=item.record)
    try:
        own = read_header(item.record).name or counted
    except FormatError as exc:
        return RecordEntry(title, title, error=exc)
    name = f"{folder}/{own}" if folder else own
    return RecordEntry(f"{label}: {name}", name, data=item.record, claim=names.claim(name))


def _holds_several(path: str) -> bool:
    """True for a file with data after its first record. Reads block headers only.

    The length of a damaged record is unknown, so the file is searched for the start of another
    record. Also returns True for a named pipe: a pipe may hold several records, and can be read
    only once.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return True
        with open(path, "rb") as file:
            try:
                return measure_record(file) < os.fstat(file.fileno()).st_size
            except FormatError:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    return content.find(RECORD_START, 1) >= 0
    except (OSError, ValueError):
        return False  # the run reports the error when it reads the file
