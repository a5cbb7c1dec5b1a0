"""The records of a run that reads them: one a file, or many in a stream or a concatenation."""

from __future__ import annotations

import itertools
import mmap
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import BinaryIO

from dinac_cli.container.frame import RECORD_START
from dinac_cli.container.record import measure_record, read_header
from dinac_cli.container.stream import StreamItem, read_records
from dinac_cli.errors import DinacError, FormatError, InputError, Rejection, UsageError
from dinac_cli.storage.inputs import Input


@dataclass(frozen=True)
class NameClaim:
    """A record's claim to the name `output`, by its place among the claims of the run."""

    claims: NameClaims
    number: int
    output: str

    @contextmanager
    def settle(self) -> Iterator[None]:
        """Around the reading of the record: with its end the name is taken, with an error free.

        Waits for earlier claims to the same name. Raises InputError where one of them took it.
        """
        if self.claims.wait_for_turn(self):
            self.claims.settle(self, is_whole=True)
            raise InputError(
                f"another record of this run goes to {self.output}; this one is left out"
            )
        is_whole = False
        try:
            yield
            is_whole = True
        finally:
            self.claims.settle(self, is_whole=is_whole)


class NameClaims:
    """The claims of a run: made while records are listed, settled while they are read.

    Only the content tells whether a record is whole, and it is unpacked by its reader alone, within
    the budget of the run. So a later claim to a name waits, in the thread of its own reader, until
    each earlier one is settled. That ends: readers start in the order of the claims, so that an
    earlier claim is settled or its reader has a thread; that reader waits for claims before its
    own and for the byte budget, which lets the oldest one through. The oldest reader therefore
    never waits, and each becomes the oldest. Claims that nobody reads are none to wait for: they
    are the last ones of a run that was stopped.
    """

    def __init__(self, rename: Callable[[str], str] | None, *, fold_case: bool = False) -> None:
        self._rename = rename
        self._fold_case = fold_case
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        # Hashes, not names, so that a long run takes little memory.
        self._taken: set[int] = set()
        self._open: dict[int, deque[int]] = {}

    def make(self, name: str) -> NameClaim | None:
        """Claim the output's name of record `name`; None in a run without outputs."""
        if self._rename is None:
            return None
        claim = NameClaim(self, next(self._numbers), self._rename(name))
        with self._changed:
            self._open.setdefault(self._key(claim), deque()).append(claim.number)
        return claim

    def wait_for_turn(self, claim: NameClaim) -> bool:
        """Wait until no earlier claim to the name is open; whether one of them took it."""
        key = self._key(claim)
        with self._changed:
            self._changed.wait_for(lambda: self._open[key][0] == claim.number)
            return key in self._taken

    def settle(self, claim: NameClaim, *, is_whole: bool) -> None:
        """Close the claim whose turn it is; that of a whole record takes the name."""
        key = self._key(claim)
        with self._changed:
            numbers = self._open[key]
            assert numbers[0] == claim.number, "claims are settled in their order"
            numbers.popleft()
            if not numbers:
                del self._open[key]
            if is_whole:
                self._taken.add(key)
            self._changed.notify_all()

    def _key(self, claim: NameClaim) -> int:
        return hash(claim.output.casefold() if self._fold_case else claim.output)


@dataclass(frozen=True)
class RecordEntry:
    """One record to read: a file of its own (`path`), or bytes that are here already (`data`).

    `name` is the relative name that the output's name is made of, `claim` the record's claim to
    that; `error` is set where there is no record to read.
    """

    label: str
    name: str
    path: str | None = None
    data: bytes | None = None
    error: DinacError | None = None
    claim: NameClaim | None = field(default=None, compare=False)

    def settle_name(self) -> AbstractContextManager[None]:
        """Around the reading of the record, in the order of the entries: the name is its own.

        Whoever makes outputs reads each record within; see `NameClaim.settle`.
        """
        return nullcontext() if self.claim is None else self.claim.settle()


def list_records(
    inputs: Iterable[Input],
    stdin: BinaryIO | None,
    rename: Callable[[str], str] | None = None,
    *,
    fold_case: bool = False,
) -> Iterator[RecordEntry]:
    """The records of files and streams, in order; a stream is read as it arrives.

    A file of one record gives its own name to the output, in a file of several (as in a stream)
    each record's own name counts, below the folder of the file. `rename` makes an output's name of
    it; a record whose output's name an earlier whole record has is refused once it is read (None:
    there are no outputs).
    """
    names = RecordNames(rename, fold_case=fold_case)
    for entry in inputs:
        if entry.problem:
            yield RecordEntry(entry.label, entry.name, error=InputError(entry.problem))
        elif entry.path is None:
            assert stdin is not None, "a run that reads standard input is given it"
            yield from _split_stream(stdin, entry.label, "", names)
        elif _holds_several(entry.path):
            yield from _split_file(entry.path, entry.name.rpartition("/")[0], names)
        else:
            claim = names.claim(entry.name)
            yield RecordEntry(entry.label, entry.name, path=entry.path, claim=claim)


class RecordNames:
    """Names of records: of those in a stream their own, or counted where that is missing.

    Only the records themselves tell the names in a stream, so what can be refused before any work
    for files is found out one record at a time.
    """

    def __init__(self, rename: Callable[[str], str] | None, *, fold_case: bool) -> None:
        self._claims = NameClaims(rename, fold_case=fold_case)
        self._count = itertools.count(1)

    def count(self) -> str:
        """The next record's number in the run's streams, as a name."""
        return f"{next(self._count):06d}"

    def claim(self, name: str) -> NameClaim | None:
        """Claim the output's name of record `name`; None in a run without outputs."""
        return self._claims.make(name)


def require_single(entries: Iterator[RecordEntry], place: str) -> Iterator[RecordEntry]:
    """The only record of a run whose OUT, called `place`, takes one image. Raises UsageError."""
    first = list(itertools.islice(entries, 2))
    if len(first) > 1:
        raise UsageError(
            f"{place} takes one image and there is a second record: name an output folder instead"
        )
    yield from first


def _split_file(path: str, folder: str, names: RecordNames) -> Iterator[RecordEntry]:
    try:
        with open(path, "rb") as file:
            yield from _split_stream(file, path, folder, names)
    except OSError as exc:
        yield RecordEntry(path, path, error=InputError(f"cannot read: {exc.strerror or exc}"))


def _split_stream(
    stream: BinaryIO, label: str, folder: str, names: RecordNames
) -> Iterator[RecordEntry]:
    found = False
    for number, item in enumerate(read_records(stream), start=1):
        found = True
        yield _name_record(item, _title(item, label, number), label, folder, names)
    if not found:
        yield RecordEntry(label, label, error=InputError("is empty; pipe records into it"))


def _title(item: StreamItem, label: str, number: int) -> str:
    """What messages call the item of a stream while it has no name."""
    error = item.record
    is_rest = isinstance(error, FormatError) and error.rejection is Rejection.NOT_A_RECORD
    if is_rest and number > 1:
        return f"{label} after record {number - 1}"
    return f"{label} record {number}"


def _name_record(
    item: StreamItem, title: str, label: str, folder: str, names: RecordNames
) -> RecordEntry:
    """The entry of one record of a stream; `title` says which one while it has no name."""
    counted = names.count()
    if isinstance(item.record, FormatError):
        return RecordEntry(title, title, error=item.record)
    try:
        own = read_header(item.record).name or counted
    except FormatError as exc:
        return RecordEntry(title, title, error=exc)
    name = f"{folder}/{own}" if folder else own
    return RecordEntry(f"{label}: {name}", name, data=item.record, claim=names.claim(name))


def _holds_several(path: str) -> bool:
    """True for a file that goes on after its first record; told by block headers alone.

    A damaged record tells nothing of its length: then it counts whether another one starts. A pipe
    that has a name may hold any number, and can be read but once.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return True
        with open(path, "rb") as file:
            try:
                return measure_record(file) < os.fstat(file.fileno()).st_size
            except FormatError:
                return _has_later_start(file)
    except (OSError, ValueError):
        return False  # reading it will say what is wrong


def _has_later_start(file: BinaryIO) -> bool:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(RECORD_START, 1) >= 0
