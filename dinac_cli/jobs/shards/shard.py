"""What a shard is: an archive, or a part of a long list of loose images."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from dinac_cli.storage.store import split_place
from dinac_cli.storage.urls import hide_secrets

TAR_SUFFIX, PARQUET_SUFFIX = ".tar", ".parquet"
_COMPRESSED_SUFFIXES = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")

MAX_SHARD_SIZE = 1_000_000
"""The most loose images in a shard."""

SOURCE_CHANGED = "its source has changed"
"""Why a shard is encoded again, unless the user asks for that."""

MASKS_CHANGED = "its source or a mask has changed"
"""The same with --masks: the fingerprint of a shard does not tell which of them it was."""

_FOLDER_SHARDS = 1000
_FINGERPRINT_DIGITS = 16
_MOST_DIGITS = 12


class ShardKind(str, Enum):
    """Where the images of a shard are."""

    TAR = "tar"
    PARQUET = "parquet"
    LOOSE = "loose"


class LooseFile(NamedTuple):
    """An image file of a shard. `path` is its path or URL; `name` is relative to the input folder.

    `version` changes with the file; see `storage.store.Stat`. If the file cannot be used, `problem`
    says why. If `skips_decoded` is set, it is no input if dinac decoded it; see `inputs.Search`. If
    `has_caption` is set, a caption lies beside it; only listings of remote folders tell that.
    """

    path: str
    name: str
    size_bytes: int
    version: str
    problem: str | None = None
    skips_decoded: bool = False
    has_caption: bool = False


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Some images that become one tar in OUT: `name` is its path there, without `.tar`.

    `place` is the path or URL of the archive, and `size_bytes` its size; a loose shard has `files`
    instead. `fingerprint` changes with the source and with the settings. `marks` are the
    fingerprints of markers that an earlier state of the shard has in OUT. If the shard cannot be
    read, `problem` says why.
    """

    name: str
    kind: ShardKind
    fingerprint: str
    place: str = ""
    size_bytes: int = 0
    files: tuple[LooseFile, ...] = ()
    marks: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def label(self) -> str:
        """The shard's name in messages."""
        return hide_secrets(self.place) if self.place else f"shard {self.name}"

    @property
    def is_stale(self) -> bool:
        """True if OUT holds the shard, but from an earlier state of its source."""
        return bool(self.marks) and self.fingerprint not in self.marks

    @property
    def held_bytes(self) -> int:
        """The memory that the list of files occupies."""
        return sum(len(file.path) + len(file.name) + 200 for file in self.files)


def find_kind(place: str) -> ShardKind:
    """Returns the kind of an input by its suffix. Compressed tars are tars, which fail as such."""
    name = split_place(place)[1].lower()
    if name.endswith((TAR_SUFFIX, *_COMPRESSED_SUFFIXES)):
        return ShardKind.TAR
    return ShardKind.PARQUET if name.endswith(PARQUET_SUFFIX) else ShardKind.LOOSE


def number_shard(number: int) -> str:
    """Returns the name of a numbered shard, with a folder for each 1,000: `000/000042`."""
    return f"{number // _FOLDER_SHARDS:03}/{number:06}"


def parse_number(name: str) -> int | None:
    """Returns the number in the name of a numbered shard; None for another name."""
    digits = name.rpartition("/")[2]
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS
    return int(digits) if is_number and number_shard(int(digits)) == name else None


def fingerprint(settings: str, *source: object) -> str:
    """Returns a hash of the settings and of what identifies a source, as 16 hex digits."""
    text = json.dumps([settings, *source], sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_FINGERPRINT_DIGITS]
