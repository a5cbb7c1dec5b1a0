"""The names and the index of a sharded OUT: a folder or a remote place with tars of records.

The index has the format of the webdataset project (`wids-shard-index-v1`). It may come from another
machine, so this module checks every value in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dinac_cli.container.names import find_name_fault
from dinac_cli.errors import InputError

INDEX_NAME = "index.json"

RECORD_EXTENSION = "dinac"
"""The extension of a record in a shard."""

TEXT_EXTENSIONS = ("txt", "json")
"""The extensions of what may lie beside a record and is read with it."""

INDEX_KIND = "wids-shard-index-v1"
INDEX_VERSION = 1

MAX_INDEX_BYTES = 64 * 2**20
"""The longest index that dinac reads: about 400,000 shards."""

MAX_SHARD_BYTES = 2**44
"""The largest shard that an index may name."""

MIN_RECORD_BYTES = 1024
"""How much of a tar a record takes at least: a block for its header, and a block of content."""

_MAX_DIGITS = 20
_MAX_IMAGES = 2**63

_SHA256 = re.compile("[0-9a-f]{64}")
_FINGERPRINT = re.compile("([0-9a-f]{16})?")


@dataclass(frozen=True)
class IndexEntry:
    """One shard in the index. `url` is the path of its tar, relative to the index.

    `nsamples` is the number of records in the tar, and `filesize` its size in bytes. `missed`
    images of the shard have no record: they failed or were skipped. `fingerprint` identifies the
    source and the settings of a shard that dinac wrote.
    Raises InputError if a value is not valid, or if the path could leave the folder of the index.
    """

    url: str
    nsamples: int
    filesize: int
    sha256: str
    missed: int = 0
    fingerprint: str = ""

    def __post_init__(self) -> None:
        _check_shard_name(self.url)
        _check_number("filesize", self.filesize, MAX_SHARD_BYTES)
        _check_number("nsamples", self.nsamples, self.filesize // MIN_RECORD_BYTES)
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            raise InputError("sha256 is not 64 hex digits")
        _check_number("missed", self.missed, _MAX_IMAGES)
        if not isinstance(self.fingerprint, str) or not _FINGERPRINT.fullmatch(self.fingerprint):
            raise InputError("fingerprint is not 16 hex digits")


@dataclass(frozen=True)
class ShardIndex:
    """The shards of an OUT in their order. Raises InputError if two entries name one shard."""

    shards: tuple[IndexEntry, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for entry in self.shards:
            if entry.url in seen:
                raise InputError(f"{entry.url} occurs twice")
            seen.add(entry.url)

    @property
    def total(self) -> int:
        """The number of records in all shards."""
        return sum(entry.nsamples for entry in self.shards)

    def to_bytes(self) -> bytes:
        """Returns the index as JSON, a line per shard. Equal shards give equal bytes."""
        lines = ",\n".join(json.dumps(asdict(entry), sort_keys=True) for entry in self.shards)
        return (
            f'{{"__kind__": "{INDEX_KIND}", "wids_version": {INDEX_VERSION}, "shardlist": [\n'
            f"{lines}\n]}}\n"
        ).encode()


_REQUIRED = ("url", "nsamples", "filesize", "sha256")
_OPTIONAL = ("missed", "fingerprint")


def parse_index(data: bytes) -> ShardIndex:
    """Parses an index. Ignores unknown keys.

    Raises InputError if it is not an index, or breaks a bound. The message does not name the file.
    """
    if len(data) > MAX_INDEX_BYTES:
        raise InputError(f"the index is larger than {MAX_INDEX_BYTES} bytes")
    content = _parse_json(data)
    if not isinstance(content, dict) or content.get("__kind__") != INDEX_KIND:
        raise InputError(f"not an index of shards: it lacks the kind {INDEX_KIND}")
    shards = content.get("shardlist")
    if not isinstance(shards, list):
        raise InputError("not an index of shards: it lacks the shardlist")
    return ShardIndex(tuple(_parse_entry(number, shard) for number, shard in enumerate(shards, 1)))


def _parse_json(data: bytes) -> Any:
    try:
        return json.loads(data.decode(), object_pairs_hook=_refuse_repeats, parse_int=_parse_int)
    except (ValueError, RecursionError) as exc:
        raise InputError("the index is not valid JSON") from exc


def _refuse_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object. Raises ValueError if a key occurs twice: readers would not agree on it."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key occurs twice")
    return made


def _parse_int(digits: str) -> int:
    """Raises ValueError for a huge number, because the time to parse it is quadratic."""
    if len(digits) > _MAX_DIGITS:
        raise ValueError("a number is too long")
    return int(digits)


def _parse_entry(number: int, shard: object) -> IndexEntry:
    if not isinstance(shard, dict):
        raise InputError(f"shard {number} of the index is not an object")
    values: dict[str, Any] = {name: shard.get(name) for name in _REQUIRED}
    values |= {name: shard[name] for name in _OPTIONAL if name in shard}
    try:
        return IndexEntry(**values)
    except InputError as exc:
        raise InputError(f"shard {number} of the index: {exc}") from exc


def _check_shard_name(name: object) -> None:
    """Raises InputError if `name` is not the relative path of a tar below the index."""
    if not isinstance(name, str) or not name.endswith(".tar"):
        raise InputError("url is not the path of a tar")
    if fault := find_name_fault(name):
        raise InputError(f"url {fault}")


def _check_number(key: str, value: object, most: int) -> None:
    if type(value) is not int or not 0 <= value <= most:
        raise InputError(f"{key} is not a number from 0 to {most}")
