"""Reads the index of a sharded OUT, and the samples of its shards, as the index says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dinac_cli.errors import (
    ArchiveError,
    DinacError,
    InputError,
    UsageError,
    describe_read_error,
)
from dinac_cli.shard_order import Span
from dinac_cli.storage.shard_layout import (
    INDEX_NAME,
    MAX_INDEX_BYTES,
    RECORD_EXTENSION,
    TEXT_EXTENSIONS,
    ShardIndex,
    parse_index,
)
from dinac_cli.storage.store import Store, read_again
from dinac_cli.storage.tars import Sample, group_samples, read_members, split_key

_EXPORTED_NAMES = ("000000.tar", "wids-meta.json")

MAX_TEXT_BYTES = 2**20
"""The size limit of a text or a JSON file beside a record."""


def read_index(store: Store) -> ShardIndex:
    """Reads the index of a place. Raises UsageError if there is none, InputError if it is bad."""
    path = store.locate(INDEX_NAME)
    if store.stat(INDEX_NAME) is None:
        if any(store.stat(name) is not None for name in _EXPORTED_NAMES):
            raise UsageError(
                f"{store.locate('')} holds tars of dinac export; read them with webdataset"
            )
        problem = "no such index of shards; run dinac encode to its end, or use LatentFolder"
        raise UsageError(f"{path}: {problem} for loose records")
    data = store.read(INDEX_NAME, MAX_INDEX_BYTES)
    try:
        return parse_index(data)
    except InputError as exc:
        raise InputError(f"{path}: {exc}; run dinac encode again", exc.details) from exc


def read_span(store: Store, span: Span) -> Iterator[Sample]:
    """Yields the samples of a span. If the place does not answer, opens the shard again.

    Raises ArchiveError if the shard is damaged, or does not hold as many records as the index says;
    InputError if it cannot be read; StorageError if the place does not answer for long.
    """
    return read_again(lambda: _read_shard(store, span))


def _read_shard(store: Store, span: Span) -> Iterator[Sample]:
    """Yields the samples of a span, and checks how many the shard holds, as far as it is read."""
    url, nsamples = span.entry.url, span.entry.nsamples
    path, count = store.locate(url), 0
    with store.open(url) as file:
        try:
            for sample in group_samples(read_members(file, _is_wanted)):
                if sample.problem is not None:
                    raise ArchiveError(sample.problem)
                if RECORD_EXTENSION not in sample.files:
                    continue
                count += 1
                if span.start < count <= span.stop:
                    yield sample
                if count > nsamples or count == span.stop < nsamples:
                    break
        except ArchiveError as exc:
            raise ArchiveError(f"{path}: {exc}", exc.details) from exc
        except OSError as exc:
            raise InputError(f"{path}: {describe_read_error(exc)}") from exc
    if count > nsamples or count < span.stop:
        amount = f"more than {nsamples}" if count > nsamples else str(count)
        raise ArchiveError(
            f"{path}: holds {amount} records, but the index says {nsamples}; run dinac encode again"
        )


def _is_wanted(name: str) -> bool:
    parts = split_key(name)
    return parts is not None and parts[1] in (RECORD_EXTENSION, *TEXT_EXTENSIONS)


def parse_texts(path: str, sample: Sample) -> Iterator[tuple[str, Any]]:
    """Yields the text and the JSON beside a record. Raises DinacError.

    The text has no white space around it, as from `caption_files`.
    """
    for extension in TEXT_EXTENSIONS:
        data = sample.files.get(extension)
        if data is None:
            continue
        label = f"{path}: {sample.key}.{extension}"
        if len(data) > MAX_TEXT_BYTES:
            raise DinacError(f"{label}: larger than {MAX_TEXT_BYTES} bytes; make it shorter")
        try:
            text = data.decode("utf-8-sig").strip()
            yield extension, json.loads(text) if extension == "json" else text
        except (ValueError, RecursionError) as exc:
            kind = "JSON" if extension == "json" else "UTF-8 text"
            raise DinacError(f"{label}: not valid {kind}; correct the input, encode again") from exc
