"""What a sharded OUT holds: its markers, its tars and its index, found in one listing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from dinac_cli.container.frame import RECORD_START
from dinac_cli.errors import InputError
from dinac_cli.storage.markers import (
    FOLDER,
    MAX_MARKER_BYTES,
    NONCE_PREFIX,
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

_READERS = 16
_INDEX_TRIES = 5
_TAR = ".tar"
_HEAD_BYTES = 1024


@dataclass
class OutContents:
    """The shards in OUT. `marks` maps the name of a shard to the fingerprints of its markers.

    `tars` maps the names of tars, without `.tar`, to their sizes in bytes. `objects` is the number
    of all files; `has_settings` and `has_index` tell whether run.json and the index are among them.
    `first_loose` is the name of a loose record, if there is one. `nonces` are the files that a run
    on a cluster left when it was killed.
    """

    store: Store
    marks: dict[str, set[str]] = field(default_factory=dict)
    tars: dict[str, int] = field(default_factory=dict)
    objects: int = 0
    has_settings: bool = False
    has_index: bool = False
    first_loose: str | None = None
    nonces: list[str] = field(default_factory=list)

    @classmethod
    def list(cls, store: Store) -> OutContents:
        """Lists OUT. Raises InputError, StorageError."""
        found = cls(store)
        for stat in store.list():
            found.objects += 1
            found.has_settings |= stat.name == RUN_NAME
            found.has_index |= stat.name == INDEX_NAME
            mark = split_marker_name(stat.name) if stat.name.startswith(f"{FOLDER}/") else None
            if mark is not None:
                found.marks.setdefault(mark[0], set()).add(mark[1])
            elif stat.name.startswith(NONCE_PREFIX):
                found.nonces.append(stat.name)
            elif stat.name.endswith(_TAR):
                found.tars[stat.name.removesuffix(_TAR)] = stat.size_bytes
            elif stat.name.endswith(LATENT_SUFFIX) and found.first_loose is None:
                found.first_loose = stat.name
        return found

    def is_done(self, shard: str, fingerprint: str) -> bool:
        """True if a shard is complete, with this source and these settings."""
        return shard in self.tars and fingerprint in self.marks.get(shard, ())

    def is_foreign(self, shard: str) -> bool:
        """True if there is a tar of this name, and dinac did not write it.

        A run that was killed leaves a tar without a marker.
        """
        if shard not in self.tars or shard in self.marks:
            return False
        with self.store.open(f"{shard}{_TAR}") as file:
            head = file.read(_HEAD_BYTES)
        name = head[:100].rstrip(b"\0")
        is_record = name.endswith(LATENT_SUFFIX.encode()) and head[512:].startswith(RECORD_START)
        return bool(head.strip(b"\0")) and not is_record

    def find_failed(self) -> set[str]:
        """Returns the shards with images that failed. Reads all markers."""
        marks = [(shard, mark) for shard in self.tars for mark in self.marks.get(shard, ())]
        return {marker.shard for marker in self.read_markers(marks) if marker.failed}

    def read_markers(self, marks: Iterable[tuple[str, str]]) -> Iterator[Marker]:
        """Yields the markers of shards and fingerprints, in order. Raises InputError."""
        with ThreadPoolExecutor(_READERS, "marker") as pool:
            yield from pool.map(self._read_marker, marks)

    def _read_marker(self, mark: tuple[str, str]) -> Marker:
        name = name_marker(*mark)
        data = self.store.read(name, MAX_MARKER_BYTES)
        try:
            return parse_marker(data, mark[0])
        except InputError as exc:
            where = self.store.locate(name)
            raise InputError(f"{where}: {exc}; delete it, and its shard is encoded again") from exc

    def drop_nonces(self) -> None:
        """Removes what runs on a cluster left that were killed before this one."""
        for name in self.nonces:
            self.store.remove(name)

    def drop_stale(self, shard: str, fingerprint: str) -> None:
        """Removes the markers of earlier states of a shard that is complete now."""
        for stale in self.marks.get(shard, set()) - {fingerprint}:
            self.store.remove(name_marker(shard, stale))


def write_index(store: Store) -> int:
    """Writes the index of all complete shards. Returns their number.

    Looks at OUT again afterwards: another run may have finished a shard meanwhile. So the index is
    complete when the last of several runs has ended. Raises InputError, OutputError, StorageError.
    """
    known = read_index(store)
    written: dict[str, set[str]] | None = None
    for _ in range(_INDEX_TRIES):
        contents = OutContents.list(store)
        if contents.marks == written:
            break
        entries = list(_list_entries(contents, known))
        known = {entry.url: entry for entry in entries}
        data = ShardIndex(tuple(entries)).to_bytes()
        if _read_bytes(store) != data:
            store.write(INDEX_NAME, data)
        written = contents.marks
    return len(known)


def _list_entries(contents: OutContents, known: dict[str, IndexEntry]) -> Iterator[IndexEntry]:
    """Yields the complete shards, sorted by name.

    Reads only markers that are not in the index, and those of shards that missed images: a run may
    have tried these again.
    """
    unknown = []
    found: dict[str, IndexEntry] = {}
    for shard in sorted(contents.marks.keys() & contents.tars.keys()):
        entry = known.get(f"{shard}{_TAR}")
        marks = contents.marks[shard]
        if entry is not None and _is_current(entry, marks, contents.tars[shard]):
            found[shard] = entry
        else:
            unknown += [(shard, mark) for mark in marks]
    for marker in contents.read_markers(unknown):
        if marker.size_bytes == contents.tars[marker.shard]:
            found[marker.shard] = marker.entry
    return iter([found[shard] for shard in sorted(found)])


def _is_current(entry: IndexEntry, marks: set[str], size_bytes: int) -> bool:
    return marks == {entry.fingerprint} and not entry.missed and entry.filesize == size_bytes


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
