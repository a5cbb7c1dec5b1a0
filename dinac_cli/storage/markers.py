"""The markers of a sharded OUT. A marker says that a shard is complete, and what is in it.

The name of a marker holds the fingerprint of the shard: a hash of its source and of the settings of
the run. So a listing of the markers alone tells which shards are done, stale or absent. Markers may
come from another machine, so this module checks every value in them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from dinac_cli.errors import InputError
from dinac_cli.storage.shard_layout import IndexEntry

FOLDER = "_dinac"
RUN_NAME = f"{FOLDER}/run.json"
MARKER_FOLDER = f"{FOLDER}/shards"
PLAN_FOLDER = f"{FOLDER}/plan"
NONCE_PREFIX = f"{FOLDER}/nonce-"
"""The start of the names of files that a run writes and removes: a node that sees it sees OUT."""

MAX_MARKER_BYTES = 64 * 2**20
"""The longest marker that dinac reads."""

_NAME = re.compile(rf"{MARKER_FOLDER}/(?P<shard>.+)\.(?P<fingerprint>[0-9a-f]{{16}})\.json")
_COUNTS = ("images", "failed", "skipped", "bytes_in", "pixels")


def holds_shards(folder: str) -> bool:
    """True if a local folder holds the shards of a run."""
    traces = (RUN_NAME, MARKER_FOLDER)
    return any(os.path.lexists(os.path.join(folder, *name.split("/"))) for name in traces)


@dataclass(frozen=True)
class Failure:
    """An image of a shard that failed. `name` is its name in messages."""

    key: str
    name: str
    reason: str
    error: str


@dataclass(frozen=True, kw_only=True)
class Marker:
    """The facts of a complete shard.

    `shard` is the path of its tar without `.tar`. `images` records are in the tar, which has
    `size_bytes` and the SHA-256 `sha256`. `bytes_in` and `pixels` are sums over the encoded images.
    `source` names the archive, or is empty. `compute` is the field of the records. Raises
    InputError if a value is not valid.
    """

    shard: str
    fingerprint: str
    images: int
    failed: int
    skipped: int
    size_bytes: int
    sha256: str
    bytes_in: int
    pixels: int
    source: str = ""
    compute: str = ""
    failures: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        _ = self.entry  # checks the values that the index holds too
        for key in _COUNTS:
            value = getattr(self, key)
            if type(value) is not int or not 0 <= value < 2**63:
                raise InputError(f"{key} is not a count")
        if self.failed != len(self.failures):
            raise InputError("failed is not the number of failures")

    @property
    def entry(self) -> IndexEntry:
        """The shard as the index lists it."""
        return IndexEntry(
            url=f"{self.shard}.tar",
            nsamples=self.images,
            filesize=self.size_bytes,
            sha256=self.sha256,
            missed=self.failed + self.skipped,
            fingerprint=self.fingerprint,
        )

    @property
    def name(self) -> str:
        """The name of the marker in OUT."""
        return name_marker(self.shard, self.fingerprint)

    def to_bytes(self) -> bytes:
        """Returns the marker as JSON. Equal shards give equal bytes."""
        return (json.dumps(asdict(self), sort_keys=True, indent=1) + "\n").encode()


def name_marker(shard: str, fingerprint: str) -> str:
    """Returns the name in OUT of a marker: `_dinac/shards/SHARD.FINGERPRINT.json`."""
    return f"{MARKER_FOLDER}/{shard}.{fingerprint}.json"


def split_marker_name(name: str) -> tuple[str, str] | None:
    """Returns the shard and the fingerprint in the name of a marker; None for another file."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match["shard"], match["fingerprint"])


def parse_marker(data: bytes, shard: str) -> Marker:
    """Parses the marker of a shard. Raises InputError; the message does not name the file."""
    try:
        content = json.loads(data)
        values = {field.name: content[field.name] for field in fields(Marker)}
        values["failures"] = tuple(map(_parse_failure, values["failures"]))
        marker = Marker(**values)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise InputError("not a marker of dinac") from exc
    if marker.shard != shard:
        raise InputError(f"the marker of another shard, {marker.shard!a}")
    return marker


def _parse_failure(content: Mapping[str, Any]) -> Failure:
    values = [content[field.name] for field in fields(Failure)]
    if not all(isinstance(value, str) for value in values):
        raise ValueError("a failure holds texts")
    return Failure(*values)
