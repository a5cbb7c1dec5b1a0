"""Reads a few images of the shards to do, to predict how large the others are."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, cast

from dinac_cli.errors import DinacError
from dinac_cli.jobs.shards.sample import (
    Leftovers,
    Sample,
    SampleChoice,
    list_samples,
    list_tar,
    open_archive,
)
from dinac_cli.jobs.shards.shard import Shard, ShardKind
from dinac_cli.jobs.shards.shard_states import TODO, PlannedShard
from dinac_cli.jobs.trial import TRIAL_FILES, TrialSample, rank_name
from dinac_cli.storage.parquet import count_rows
from dinac_cli.storage.store import open_store, split_place
from dinac_cli.storage.tars import make_key
from dinac_cli.storage.urls import is_url

PROBED_ARCHIVES = 4
"""The number of archives whose first images are read."""

PROBE_BYTES = 64 * 2**20
"""No further image is read once the images together have this many bytes."""


@dataclass
class Probe:
    """Some of the images to encode. Remote ones, and those of archives, are in memory.

    `images_per_byte` is the number of images in an archive for each byte of it; None if no archive
    was read. `problems` are the reasons why something could not be read.
    """

    entries: Sequence[Sample] = ()
    is_all: bool = False
    images_per_byte: float | None = None
    problems: list[str] = field(default_factory=list)


class ProbeChoice:
    """Chooses the images and the archives to read, while the shards are listed. Reads nothing."""

    def __init__(self) -> None:
        self._loose = TrialSample()
        self._images = 0
        self._archives: list[Shard] = []

    def add(self, planned: PlannedShard) -> None:
        """Considers the images of a shard, if the run would encode it."""
        shard = planned.shard
        if planned.state not in TODO or shard is None:
            return
        if shard.kind is not ShardKind.LOOSE:
            self._archives.append(shard)
        usable = [file for file in shard.files if file.problem is None]
        self._images += len(usable)
        # Of millions of images, only those that may stay in the sample become entries.
        for file in heapq.nsmallest(TRIAL_FILES, usable, key=lambda file: rank_name(file.name)):
            self._loose.add(Sample(file.path, file.name, key=make_key(file.name)))

    def read(self, choice: SampleChoice) -> Probe:
        """Reads the images. What cannot be read is left out, and is a problem of the probe."""
        probe = Probe()
        archives = _spread(self._archives, PROBED_ARCHIVES)
        budget = _Budget()
        entries = list(_fetch(self._loose.entries, probe, budget))
        count = size_bytes = 0.0
        most = TRIAL_FILES // max(1, len(archives))
        for shard in archives:
            try:
                head = read_head(shard, choice, most, budget)
            except DinacError as exc:
                probe.problems.append(f"{shard.label}: {exc}")
                continue
            entries += head.samples
            count, size_bytes = count + head.images, size_bytes + shard.size_bytes
        probe.images_per_byte = count / size_bytes if size_bytes else None
        probe.entries = [entry for entry in entries if entry.problem is None]
        probe.is_all = len(entries) == self._images and not self._archives
        return probe


class _Budget:
    def __init__(self) -> None:
        self._left = PROBE_BYTES

    def take(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Yields samples until the budget is used."""
        for sample in samples:
            self._left -= sample.held_bytes
            yield sample
            if self._left <= 0:
                return


def _spread(shards: Sequence[Shard], most: int) -> list[Shard]:
    """Returns at most so many shards, evenly spread, with the first and the last one."""
    count = min(most, len(shards))
    step = (len(shards) - 1) / max(1, count - 1)
    return [shards[round(number * step)] for number in range(count)]


def _fetch(entries: Iterable[object], probe: Probe, budget: _Budget) -> Iterator[Sample]:
    """Yields loose images; the content of remote ones is in memory, so they are read once."""

    def load() -> Iterator[Sample]:
        for entry in entries:
            assert isinstance(entry, Sample)
            assert entry.path is not None
            if not is_url(entry.path):
                yield entry
                continue
            folder, name = split_place(entry.path)
            try:
                yield replace(entry, data=open_store(folder).read(name))
            except DinacError as exc:
                probe.problems.append(str(exc))

    return budget.take(load())


@dataclass(frozen=True)
class ArchiveHead:
    """The first samples of an archive, and the number of its images; estimated for a long tar."""

    samples: list[Sample]
    images: float


def read_head(shard: Shard, choice: SampleChoice, most: int, budget: _Budget) -> ArchiveHead:
    """Reads at most `most` images. Raises ArchiveError, InputError, StorageError, UsageError."""
    if shard.kind is ShardKind.PARQUET:
        with open_archive(shard) as file:
            rows = count_rows(file)
        first = itertools.islice(list_samples(shard, choice, Leftovers()), most)
        return ArchiveHead(list(budget.take(first)), rows)
    with open_archive(shard) as file:
        counted = _CountedFile(file)
        found = list_tar(cast(BinaryIO, counted), shard, choice, Leftovers())
        samples = list(budget.take(itertools.islice(found, most)))
        following = next(found, None)
        images = float(len(samples))
        if following is not None:  # the reader has passed the first file of one sample more
            images = (images + 2) * shard.size_bytes / counted.bytes_read
        return ArchiveHead(samples, images)


class _CountedFile:
    """A file that counts how much of it was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes_read = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.bytes_read += len(data)
        return data
