"""A sharded OUT as an input: its tars, and whether they are what the markers and the index say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO

from dinac_cli.errors import DinacError, InputError, UsageError
from dinac_cli.jobs.shards.contents import OutContents
from dinac_cli.shard_reading import read_index
from dinac_cli.storage.inputs import TAR_SUFFIX
from dinac_cli.storage.markers import FOLDER, RUN_NAME, Failure, Marker, name_marker
from dinac_cli.storage.shard_layout import INDEX_NAME, IndexEntry
from dinac_cli.storage.store import Store, is_hidden

if TYPE_CHECKING:
    from dinac_cli.jobs.shards.run_settings import RunSettings

_ADVICE = "run dinac encode again"


@dataclass(frozen=True)
class Finding:
    """What is wrong with a file of the folder. `name` is relative to the folder."""

    name: str
    problem: str


@dataclass
class ShardFolder:
    """The shards below a place, as one listing found them."""

    store: Store
    contents: OutContents

    @classmethod
    def find(cls, store: Store) -> ShardFolder | None:
        """Lists the shards; returns None if no run of encode wrote shards there.

        Raises InputError, StorageError.
        """
        if store.stat(RUN_NAME) is None:
            return None
        return cls(store, OutContents.list(store))

    @property
    def index(self) -> dict[str, IndexEntry]:
        """The entries of the index by the paths of their tars; {} if it cannot be read."""
        return self.contents.index

    @cached_property
    def _index_problem(self) -> str | None:
        """What is wrong with the index as a whole."""
        try:
            read_index(self.store)
        except UsageError:
            return "no such index of shards; run dinac encode to its end"
        except InputError as exc:
            return self._drop_path(exc, INDEX_NAME)
        return None

    def _drop_path(self, exc: DinacError, name: str) -> str:
        """Returns a message without the name of its file."""
        return str(exc).removeprefix(f"{self.store.locate(name)}: ")

    @cached_property
    def tars(self) -> list[str]:
        """The names of the tars, sorted."""
        names = (f"{name}{TAR_SUFFIX}" for name in sorted(self.contents.tars))
        return [name for name in names if not (is_hidden(name) or name.startswith(f"{FOLDER}/"))]

    @property
    def size_bytes(self) -> int:
        """The size of all tars."""
        return sum(self.contents.tars[name.removesuffix(TAR_SUFFIX)] for name in self.tars)

    @property
    def settings(self) -> RunSettings | None:
        """The settings in run.json; None if it is damaged."""
        return self._read_settings[0]

    @cached_property
    def _read_settings(self) -> tuple[RunSettings | None, str | None]:
        """The settings, or else what is wrong with run.json."""
        # imported late: the settings need the requests, and the requests need this module
        from dinac_cli.jobs.shards.run_settings import read_settings

        try:
            return read_settings(self.store), None
        except UsageError as exc:
            return None, self._drop_path(exc, RUN_NAME)

    def count_records(self, tar: str) -> int | None:
        """Returns how many records a tar holds by the index; None if the index does not say."""
        entry = self.index.get(tar)
        size = self.contents.tars[tar.removesuffix(TAR_SUFFIX)]
        return entry.nsamples if entry is not None and entry.filesize == size else None

    def list_missing(self) -> Iterator[Finding]:
        """Yields the tars that were complete once, and do not exist."""
        marked = {f"{shard}{TAR_SUFFIX}" for shard in self.contents.marks}
        for name in sorted((marked | self.index.keys()) - set(self.tars)):
            place = "its marker" if name in marked else INDEX_NAME
            yield Finding(name, f"no such tar, but {place} lists it; restore it, or {_ADVICE}")

    def check(self) -> Iterator[Finding]:
        """Yields what a listing shows to be wrong, apart from missing tars."""
        if self._read_settings[1] is not None:
            yield Finding(RUN_NAME, self._read_settings[1])
        if self._index_problem is not None:
            yield Finding(INDEX_NAME, self._index_problem)
        for name in self.tars:
            if name.removesuffix(TAR_SUFFIX) not in self.contents.marks:
                yield Finding(name, f"has no marker, so it may be incomplete; {_ADVICE}")
            elif self._index_problem is None and name not in self.index:
                yield Finding(name, f"is not in {INDEX_NAME}; {_ADVICE}")

    def read_markers(self, tar: str) -> list[Marker]:
        """Reads the markers of a tar. Raises InputError, StorageError."""
        shard = tar.removesuffix(TAR_SUFFIX)
        marks = sorted(self.contents.marks.get(shard, ()))
        return list(self.contents.read_markers((shard, mark) for mark in marks))

    def list_failures(self) -> Iterator[Failure]:
        """Yields the images that failed, as the markers say. Raises InputError, StorageError.

        Reads only the markers of shards that may lack images, by the index.
        """
        marks = []
        for tar in self.tars:
            entry, shard = self.index.get(tar), tar.removesuffix(TAR_SUFFIX)
            known = sorted(self.contents.marks.get(shard, ()))
            if entry is None or entry.missed:
                marks += [(shard, mark) for mark in known[-1:]]
        for marker in self.contents.read_markers(marks):
            yield from marker.failures

    def compare(self, tar: str, read: TarFacts, markers: Iterable[Marker]) -> Iterator[str]:
        """Yields how a tar differs from its markers and from the index.

        If there are several markers, one of them must describe the tar: a run that was killed may
        have left the marker of an earlier state.
        """
        described = {
            name_marker(tar.removesuffix(TAR_SUFFIX), marker.fingerprint): marker.entry
            for marker in markers
        }
        is_known = any(map(read.agrees_with, described.values()))
        for where, entry in () if is_known else [*described.items()][-1:]:
            yield read.describe_difference(entry, where)
        listed = self.index.get(tar)
        is_told = listed is None or listed in described.values()
        if listed is not None and not is_told and not read.agrees_with(listed):
            yield read.describe_difference(listed, INDEX_NAME)


@dataclass(frozen=True)
class TarFacts:
    """What a tar holds: its records, its size in bytes, and its SHA-256."""

    records: int
    size_bytes: int
    sha256: str

    def agrees_with(self, entry: IndexEntry) -> bool:
        """True if the tar is what an entry describes."""
        described = (entry.nsamples, entry.filesize, entry.sha256)
        return (self.records, self.size_bytes, self.sha256) == described

    def describe_difference(self, entry: IndexEntry, where: str) -> str:
        """Returns the first difference in words."""
        if self.size_bytes != entry.filesize:
            return f"has {self.size_bytes} bytes, but {where} says {entry.filesize}"
        if self.sha256 != entry.sha256:
            return f"its bytes have changed: their SHA-256 is not the one in {where}"
        return f"holds {self.records} records, but {where} says {entry.nsamples}"


class HashedFile:
    """Reads a file from its start to its end, and hashes what is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    def read(self, size: int) -> bytes:
        """Reads up to `size` bytes."""
        data = self._file.read(size)
        self._hash.update(data)
        self._size_bytes += len(data)
        return data

    def describe(self, records: int) -> TarFacts:
        """Returns the facts of a tar that was read to its end."""
        return TarFacts(records, self._size_bytes, self._hash.hexdigest())


@dataclass(frozen=True)
class TarOrigin:
    """Where a record of a tar comes from.

    `folder` is the sharded OUT, or None if the tar was named itself. `source` is the archive that
    the shard was encoded from, "" if the images were loose files, or None if that is unknown.
    """

    folder: ShardFolder | None = None
    source: str | None = None
