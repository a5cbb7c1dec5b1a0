"""Finds and reads the records in tars, in sharded OUTs and in remote folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import BinaryIO, cast
from urllib.parse import unquote

from dinac_cli.container.names import escape_name
from dinac_cli.container.record import read_header
from dinac_cli.errors import (
    DinacError,
    FormatError,
    InputError,
    StorageError,
    describe_read_error,
)
from dinac_cli.jobs.entries import OutputNames, RecordEntry, RecordSource, drop_label
from dinac_cli.jobs.shards.expansion import expand_place, is_pattern, list_ahead
from dinac_cli.jobs.shards.shard_folder import HashedFile, ShardFolder, TarFacts, TarOrigin
from dinac_cli.storage.exclusion import NO_EXCLUSION, Exclusion
from dinac_cli.storage.inputs import TAR_SUFFIX, Input
from dinac_cli.storage.markers import Marker, holds_shards
from dinac_cli.storage.naming import LATENT_SUFFIX, strip_suffix
from dinac_cli.storage.store import (
    Stat,
    Store,
    is_hidden,
    open_folder,
    open_store,
    read_again,
    split_place,
)
from dinac_cli.storage.tars import Member, read_members
from dinac_cli.storage.urls import is_url, join_url

MOST_LOST_TARS = 10
"""If this many tars in a row cannot be read because a place does not answer, the run ends."""


@dataclass
class RecordFinder:
    """Finds the records of a run that are not loose files of this machine; see `SourceFinder`.

    With `checks`, the shards of a sharded OUT are checked too: what is wrong with them is an input
    with a problem. `exclusion` also applies to the names of the records in tars. A sharded OUT is
    listed once; `folders` has those that were found, by their paths. `first_tar` is a tar in a
    remote folder without such a mark, where only loose records are inputs.
    """

    exclusion: Exclusion = NO_EXCLUSION
    checks: bool = False
    folders: dict[str, ShardFolder] = field(default_factory=dict)
    first_tar: str | None = None
    _others: int = 0
    _listed: dict[str, dict[str, Stat]] = field(default_factory=dict, repr=False)
    _missing: dict[str, bool] = field(default_factory=dict, repr=False)
    _sources: dict[str, TarSource] = field(default_factory=dict, repr=False)

    def find(self, path: str, name: str = "") -> Iterator[Input] | None:
        """See `SourceFinder`. Raises UsageError, InputError, StorageError."""
        if is_url(path):
            return self._find_remote(path, name)
        if os.path.isdir(path):
            folder = self._find_folder(path)
            return None if folder is None else self._list_shards(folder, name)
        if path.lower().endswith(TAR_SUFFIX):
            return self._name_files(expand_place(path, self._listed), name)
        return None

    def take_others(self) -> int:
        """See `SourceFinder`."""
        others, self._others = self._others, 0
        return others

    def _find_folder(self, path: str) -> ShardFolder | None:
        if path not in self.folders:
            if not is_url(path) and not holds_shards(path):
                return None
            folder = ShardFolder.find(open_store(path))
            if folder is None:
                return None
            self.folders[path] = folder
        return self.folders[path]

    def _find_remote(self, url: str, name: str) -> Iterator[Input]:
        base = split_place(url)[1]
        if _names_records(base) or is_pattern(url):
            return self._name_files(expand_place(url, self._listed), name)
        folder = self._find_folder(url)
        if folder is not None:
            return self._list_shards(folder, name)
        return self._list_remote(open_store(url), name)

    def _list_shards(self, folder: ShardFolder, name: str) -> Iterator[Input]:
        """Yields the tars of a sharded OUT, then what is wrong with it."""
        prefix = f"{name}/" if name not in ("", ".") else ""
        source = TarSource(prefix, self.exclusion, folder, self.checks)
        for tar in folder.tars:
            path = join_place(folder.store, tar)
            yield Input(path, tar, source=source, records=folder.count_records(tar))
        findings = [*folder.list_missing(), *(folder.check() if self.checks else ())]
        for finding in findings:
            yield Input(folder.store.locate(finding.name), finding.name, finding.problem)

    def _list_remote(self, store: Store, name: str) -> Iterator[Input]:
        """Yields the loose records of a remote folder."""
        prefix = f"{name}/" if name not in ("", ".") else ""
        for stat in store.list():
            if is_hidden(stat.name) or self.exclusion.excludes_any(stat.name, is_folder=False):
                continue
            if stat.name.lower().endswith(LATENT_SUFFIX):
                path = join_place(store, stat.name)
                yield Input(path, prefix + escape_name(stat.name), source=_REMOTE)
            else:
                self._others += 1
                if self.first_tar is None and stat.name.lower().endswith(TAR_SUFFIX):
                    self.first_tar = store.locate(stat.name)

    def _name_files(self, places: Iterable[str], name: str) -> Iterator[Input]:
        """Yields tars and remote records that are named one by one.

        `name` is the relative name of the file, if a list names it.
        """
        named = list(places)
        list_ahead(named, self._listed)
        for place in named:
            base = split_place(place)[1]
            folder = name.rpartition("/")[0]
            own = f"{folder}/{base}" if folder else base
            if not _names_records(base):
                self._others += 1
            elif self.exclusion.excludes_any(own, is_folder=False):
                continue
            elif self._is_missing(place):
                yield Input(place, own, "no such file; check its name")
            elif base.lower().endswith(TAR_SUFFIX):
                prefix = f"{folder}/" if folder else ""
                yield Input(place, own, source=self._find_source(prefix), records=None)
            else:
                yield Input(place, escape_name(own), source=_REMOTE)

    def _find_source(self, prefix: str) -> TarSource:
        """Returns the source of tars that are named one by one."""
        if prefix not in self._sources:
            self._sources[prefix] = TarSource(prefix, self.exclusion, None, self.checks)
        return self._sources[prefix]

    def _is_missing(self, place: str) -> bool:
        if place not in self._missing:
            folder, base = split_place(place)
            if folder in self._listed:
                return base not in self._listed[folder]
            self._missing[place] = open_folder(folder).stat(base) is None
        return self._missing[place]


@dataclass(frozen=True)
class RemoteSource(RecordSource):
    """Reads remote files that hold one record each."""

    @property
    def is_archive(self) -> bool:
        return False

    def list_records(self, entry: Input, names: OutputNames) -> Iterator[RecordEntry]:
        claim = names.claim(entry.name)
        yield RecordEntry(entry.label, entry.name, url=entry.path, claim=claim)


_REMOTE = RemoteSource()


@dataclass
class TarSource(RecordSource):
    """Reads the records of tars, one at a time.

    `prefix` begins the name of each record. `folder` is the sharded OUT that holds the tars, or
    None. With `checks`, compares them with its markers and its index.
    """

    prefix: str
    exclusion: Exclusion
    folder: ShardFolder | None = None
    checks: bool = False
    _lost: int = field(default=0, init=False)

    @property
    def is_archive(self) -> bool:
        return True

    def list_records(self, entry: Input, names: OutputNames) -> Iterator[RecordEntry]:
        """Yields the records of a tar, then what is wrong with the tar as a whole."""
        try:
            for found in self._list_found(entry, names):
                if isinstance(found, RecordEntry):
                    yield found
                else:
                    yield _fail(entry, found)
            self._lost = 0
        except InputError as exc:
            yield _fail(entry, exc)
        except StorageError as exc:
            self._lost += 1
            if self._lost == MOST_LOST_TARS:
                raise
            yield _fail(entry, exc)

    def _list_found(self, tar: Input, names: OutputNames) -> Iterator[RecordEntry | InputError]:
        """Yields the records of a tar, and findings. Raises InputError, StorageError."""
        assert tar.path is not None, "a tar has a path or a URL"
        reading = _TarReading(tar.path, self.exclusion, hashes=self.checks)
        markers, problem = self._read_markers(tar.name)
        origin = self._find_origin(markers)
        for member in reading.read():
            yield self._make_entry(tar, member, names, origin)
        if problem is not None:
            yield problem
        if self.folder is None and reading.lacks_records:
            yield InputError("holds no records; name a tar that dinac encode wrote")
        if self.folder is not None and reading.facts is not None:
            for difference in self.folder.compare(tar.name, reading.facts, markers):
                yield InputError(f"{difference}; delete it and run dinac encode again")

    def _read_markers(self, tar: str) -> tuple[list[Marker], InputError | None]:
        """Returns the markers of a tar if they are needed, and what is wrong with one of them."""
        if self.folder is None or not self.checks:
            return [], None
        try:
            return self.folder.read_markers(tar), None
        except InputError as exc:
            return [], exc

    def _find_origin(self, markers: list[Marker]) -> TarOrigin | None:
        if not self.checks:
            return None
        return TarOrigin(self.folder, markers[-1].source if markers else None)

    def _make_entry(
        self, tar: Input, member: Member, names: OutputNames, origin: TarOrigin | None
    ) -> RecordEntry:
        """Returns the entry of a file in a tar. Its output is named after the record if it can be.

        A record that was encoded from `a.jpg` has the key `a` in the tar, but knows its name.
        """
        label = f"{tar.label}: {member.name}"
        key = self.prefix + strip_suffix(member.name)
        if member.data is None:
            return RecordEntry(label, key, error=InputError(member.problem or "cannot be read"))
        try:
            own = read_header(member.data).name
        except FormatError as exc:
            return RecordEntry(label, key, error=exc)
        name = self.prefix + own if own else key
        claim = names.claim(name)
        return RecordEntry(label, name, data=member.data, claim=claim, origin=origin)


@dataclass
class _TarReading:
    """Reads the records of one tar; see `MOST_LOST_TARS` and `read_again`.

    After `read`, `facts` describe the tar if it was read to its end and `hashes` is set, and
    `lacks_records` is true if all of its files are something else.
    """

    path: str
    exclusion: Exclusion
    hashes: bool
    facts: TarFacts | None = None
    lacks_records: bool = False

    def read(self) -> Iterator[Member]:
        """Yields the records. Raises ArchiveError, InputError, StorageError."""
        return read_again(self._read_once)

    def _read_once(self) -> Iterator[Member]:
        wanted = _WantedRecords(self.exclusion)
        folder, name = split_place(self.path)
        with closing(open_folder(folder).open(name)) as file:
            hashed = HashedFile(file)
            source = cast(BinaryIO, hashed) if self.hashes else file
            try:
                yield from read_members(source, wanted)
            except OSError as exc:
                raise InputError(describe_read_error(exc)) from exc
            self.facts = hashed.describe(wanted.count) if self.hashes else None
            self.lacks_records = not wanted.count and wanted.others > 0


@dataclass
class _WantedRecords:
    """Accepts the names of records in a tar. Counts all records and the other files."""

    exclusion: Exclusion
    count: int = 0
    others: int = 0

    def __call__(self, name: str) -> bool:
        if not name.lower().endswith(LATENT_SUFFIX) or is_hidden(name):
            self.others += 1
            return False
        self.count += 1
        # The key of a loose image is its name, with its dots escaped.
        return not self.exclusion.excludes_any(unquote(name), is_folder=False)


def _fail(tar: Input, exc: DinacError) -> RecordEntry:
    """Returns the entry of a tar that failed."""
    return RecordEntry(tar.label, tar.name, error=drop_label(exc, tar.label))


def join_place(store: Store, name: str) -> str:
    """Returns the path or URL of a file, with which it can be opened."""
    return join_url(store.place, name) if store.is_remote else store.locate(name)


def _names_records(base: str) -> bool:
    return base.lower().endswith((TAR_SUFFIX, LATENT_SUFFIX))
