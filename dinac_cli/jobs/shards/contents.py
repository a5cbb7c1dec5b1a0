"""What a sharded OUT holds: its markers, its tars and its index, found in one listing."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from dinac_cli.container.frame import RECORD_START
from dinac_cli.errors import ArchiveError, InputError
from dinac_cli.storage.markers import (
    FOLDER,
    MARKER_FOLDER,
    MAX_MARKER_BYTES,
    NONCE_PREFIX,
    PLAN_FOLDER,
    RUN_NAME,
    Marker,
    name_marker,
    parse_marker,
    split_marker_name,
)
from dinac_cli.storage.naming import LATENT_SUFFIX
from dinac_cli.storage.shard_layout import (
    INDEX_NAME,
    MAX_INDEX_BYTES,
    IndexEntry,
    ShardIndex,
    parse_index,
)
from dinac_cli.storage.store import Store
from dinac_cli.storage.tars import read_members

_READERS = 16
_INDEX_TRIES = 5
_TAR = ".tar"
_HEAD_BYTES = 2**16


@dataclass
class OutContents:
    """The shards in OUT. `marks` maps the name of a shard to the fingerprints of its markers.

    `tars` maps the names of tars, without `.tar`, to their sizes in bytes. `index` maps the paths
    of tars to their entries in the index. `first_loose` is the name of a loose record, if any.
    `objects` is the number of all files; `has_settings` tells whether run.json is among them.
    """

    store: Store
    marks: dict[str, set[str]] = field(default_factory=dict)
    tars: dict[str, int] = field(default_factory=dict)
    index: dict[str, IndexEntry] = field(default_factory=dict)
    first_loose: str | None = None
    nonces: list[str] = field(default_factory=list)
    objects: int = 0
    has_settings: bool = False

    @classmethod
    def list(cls, store: Store) -> OutContents:
        """Lists OUT. Raises InputError, StorageError."""
        found = cls(store)
        for stat in store.list():
            found.objects += 1
            found.has_settings |= stat.name == RUN_NAME
            mark = split_marker_name(stat.name)
            if mark is not None:
                found.marks.setdefault(mark[0], set()).add(mark[1])
            elif stat.name.startswith(NONCE_PREFIX):
                found.nonces.append(stat.name)
            elif stat.name.endswith(_TAR):
                found.tars[stat.name.removesuffix(_TAR)] = stat.size_bytes
            elif stat.name.endswith(LATENT_SUFFIX) and found.first_loose is None:
                found.first_loose = stat.name
        found.index = read_index(store)
        return found

    def is_done(self, shard: str, fingerprint: str) -> bool:
        """True if a shard is complete, with this source and these settings.

        Two markers are of two runs that saw different sources, and the tar may be of either.
        """
        if shard not in self.tars or self.marks.get(shard) != {fingerprint}:
            return False
        entry = self.find_entry(shard, fingerprint)
        return entry is None or entry.filesize == self.tars[shard]

    def find_entry(self, shard: str, fingerprint: str) -> IndexEntry | None:
        """Returns what the index knows of a shard with this source and these settings."""
        entry = self.index.get(f"{shard}{_TAR}")
        return entry if entry is not None and entry.fingerprint == fingerprint else None

    def is_foreign(self, shard: str) -> bool:
        """True if there is a tar of this name, and dinac did not write it.

        Looks into a tar without a marker, which a run that was killed leaves, and into a tar of
        another size than the index says.
        """
        if shard not in self.tars:
            return False
        entry = self.index.get(f"{shard}{_TAR}")
        if shard in self.marks and (entry is None or entry.filesize == self.tars[shard]):
            return False
        with self.store.open(f"{shard}{_TAR}") as file:
            return not _holds_records(file.read(_HEAD_BYTES))

    def find_failed(self) -> set[str]:
        """Returns the shards with images that failed. Reads their markers."""
        return {each.shard for each in self.read_markers(self._list_missed()) if each.failed}

    def count_missed(self) -> int:
        """Returns the number of markers that `find_failed` reads."""
        return sum(1 for _ in self._list_missed())

    def _list_missed(self) -> Iterator[tuple[str, str]]:
        """Yields the shards that may have failures, and the fingerprints of their markers."""
        for shard in self.tars:
            for mark in self.marks.get(shard, ()):
                if (entry := self.find_entry(shard, mark)) is None or entry.missed:
                    yield shard, mark

    def read_markers(
        self,
        marks: Iterable[tuple[str, str]],
        refuse: Callable[[str, InputError], None] | None = None,
    ) -> Iterator[Marker]:
        """Yields the markers of shards and fingerprints, in order.

        Calls `refuse` with the shard and the error of a damaged marker; without it, raises
        InputError.
        """
        with ThreadPoolExecutor(_READERS, "marker") as pool:
            for shard, marker in pool.map(self._read_marker, marks):
                if isinstance(marker, Marker):
                    yield marker
                elif refuse is None:
                    raise marker
                else:
                    refuse(shard, marker)

    def _read_marker(self, mark: tuple[str, str]) -> tuple[str, Marker | InputError]:
        shard, name = mark[0], name_marker(*mark)
        data = self.store.read(name, MAX_MARKER_BYTES)
        try:
            return shard, parse_marker(data, shard)
        except InputError as exc:
            where = self.store.locate(name)
            problem = f"{where}: {exc}; delete it, and its shard is encoded again"
            return shard, InputError(problem)

    def sweep(self, written: Collection[str]) -> None:
        """Removes the temporary files of killed runs and workers. `written` are new shards."""
        folders = {shard.rpartition("/")[0] for shard in (*self.tars, *written)}
        for place in ("", MARKER_FOLDER, PLAN_FOLDER):
            for folder in folders | {""}:
                self.store.sweep("/".join(filter(None, (place, folder))))
        self.store.sweep(FOLDER)

    def drop_nonces(self) -> None:
        """Removes the files that killed runs on a cluster left."""
        for name in self.nonces:
            self.store.remove(name)


def _holds_records(head: bytes) -> bool:
    """True if the first file of the tar that begins with `head` is a record, or it is empty."""
    names: list[str] = []

    def note(name: str) -> bool:
        names.append(name)
        return False

    with suppress(ArchiveError):  # the tar is cut at the end of `head`
        list(read_members(io.BytesIO(head), note))
    if not names:
        return not head.strip(b"\0")
    return names[0].endswith(LATENT_SUFFIX) and RECORD_START in head


def write_index(store: Store, rewritten: Collection[str] = ()) -> int:
    """Writes the index of all complete shards. Returns their number.

    `rewritten` are the shards of this run, which the index in OUT does not know. Looks at OUT again
    afterwards: another run may have finished a shard meanwhile. So the index is complete when the
    last of several runs has ended. Raises InputError, OutputError, StorageError.
    """
    paths = {f"{shard}{_TAR}" for shard in rewritten}
    # --retry-failed changes a shard whose fingerprint stays.
    known = {
        url: entry
        for url, entry in read_index(store).items()
        if not entry.missed and url not in paths
    }
    written: object = None
    for _ in range(_INDEX_TRIES):
        contents = OutContents.list(store)
        if (contents.marks, contents.tars) == written:
            break
        entries = list(_list_entries(contents, known))
        known = {entry.url: entry for entry in entries}
        data = ShardIndex(tuple(entries)).to_bytes()
        if _read_bytes(store) != data:
            store.write(INDEX_NAME, data)
        written = contents.marks, contents.tars
    return len(known)


def _list_entries(contents: OutContents, known: dict[str, IndexEntry]) -> Iterator[IndexEntry]:
    """Yields the complete shards, sorted by name. Reads only markers that are not in the index."""
    unknown = []
    found: dict[str, IndexEntry] = {}
    for shard in sorted(contents.marks.keys() & contents.tars.keys()):
        entry = known.get(f"{shard}{_TAR}")
        marks = sorted(contents.marks[shard])
        size = contents.tars[shard]
        if entry is not None and marks == [entry.fingerprint] and entry.filesize == size:
            found[shard] = entry
        else:
            unknown += [(shard, mark) for mark in marks]
    for marker in contents.read_markers(unknown, lambda shard, exc: None):  # the run has named it
        if marker.size_bytes == contents.tars[marker.shard]:
            found[marker.shard] = marker.entry
    return iter([found[shard] for shard in sorted(found)])


def read_index(store: Store) -> dict[str, IndexEntry]:
    """Returns the entries of the index by the paths of their tars; {} if it cannot be read."""
    data = _read_bytes(store)
    with suppress(InputError):
        return {entry.url: entry for entry in parse_index(data).shards} if data else {}
    return {}


def _read_bytes(store: Store) -> bytes:
    if store.stat(INDEX_NAME) is None:
        return b""
    with suppress(InputError):
        return store.read(INDEX_NAME, MAX_INDEX_BYTES)
    return b""
