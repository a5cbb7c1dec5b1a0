"""The original of a record below a folder: where it is, and whether it is still the same file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from dinac_cli.container.header import RecordHeader
from dinac_cli.files.content import InputError, hash_file
from dinac_cli.files.naming import LATENT_SUFFIX
from dinac_cli.pipeline.records import RecordEntry
from dinac_cli.results import SourceState


@dataclass(frozen=True)
class SourceCheck:
    """What became of a record's source; `path` is None where there is no such file.

    `finding` is one line where it is missing, changed, or cannot be read.
    """

    state: SourceState
    path: str | None = None
    finding: str | None = None


def check_source(folder: str, entry: RecordEntry, header: RecordHeader) -> SourceCheck:
    """Compare the source of a record below `folder` with the size and hash that the record holds.

    It is looked for under the name of the record's file without `.dinac` and, where nothing is
    there (the file was named by itself, or renamed), under the record's own name.
    """
    places = [os.path.join(folder, *name.split("/")) for name in _list_names(entry, header)]
    if not places:
        return SourceCheck(SourceState.UNKNOWN)
    path = next((place for place in places if os.path.isfile(place)), None)
    if path is None:
        finding = f"its source {places[0]} is not there"
        return SourceCheck(SourceState.MISSING, finding=finding)
    try:
        difference = _describe_change(path, header)
    except InputError as exc:
        return SourceCheck(SourceState.MISSING, finding=f"its source {path}: {exc}")
    if difference is not None:
        finding = f"its source {path} has changed ({difference}): encode it again"
        return SourceCheck(SourceState.CHANGED, path, finding)
    is_known = header.source_sha256 is not None
    return SourceCheck(SourceState.UNCHANGED if is_known else SourceState.UNKNOWN, path)


def _list_names(entry: RecordEntry, header: RecordHeader) -> Iterator[str]:
    """Relative names that the source may have; none for an anonymous record in a stream."""
    if entry.path is not None and entry.name.lower().endswith(LATENT_SUFFIX):
        yield entry.name[: -len(LATENT_SUFFIX)]
    elif header.name:
        yield entry.name
    if header.name:
        yield header.name


def _describe_change(path: str, header: RecordHeader) -> str | None:
    try:
        size = os.path.getsize(path)
    except OSError as exc:
        raise InputError(f"cannot read: {exc.strerror or exc}") from exc
    if header.source_bytes is not None and size != header.source_bytes:
        return f"{size} bytes, not {header.source_bytes}"
    if header.source_sha256 is not None and hash_file(path) != header.source_sha256:
        return "same size, other bytes"
    return None
