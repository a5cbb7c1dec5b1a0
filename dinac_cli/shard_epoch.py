"""The samples that one worker reads in one epoch, and batches of them whose latents have one size.

A sample is paired with the path of its shard, which messages name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat

from dinac_cli.container.record import read_header
from dinac_cli.errors import DinacError, FormatError
from dinac_cli.shard_order import find_spans, seed_generator, shuffle_in_buffer
from dinac_cli.shard_reading import read_span
from dinac_cli.storage.shard_layout import RECORD_EXTENSION, IndexEntry
from dinac_cli.storage.store import Store
from dinac_cli.storage.tars import Sample

LocatedSample = tuple[str, Sample]


@dataclass(frozen=True)
class ShardEpoch:
    """What a worker reads in an epoch: `items` of the sequence of all records of the `shards`.

    The shards have the order of the epoch. `shuffle` is the size of the shuffle buffer, and `seeds`
    are the numbers that its order depends on.
    """

    store: Store
    shards: Sequence[IndexEntry]
    items: range
    shuffle: int
    seeds: tuple[int, ...]

    def read_samples(self, skipped: int = 0) -> Iterator[LocatedSample]:
        """Yields the samples in the order of the epoch, without the first `skipped`.

        Does not read the shards that hold only skipped samples at the start of the sequence.
        Raises DinacError; see `read_span`.
        """
        order = shuffle_in_buffer(len(self.items), self.shuffle, seed_generator(*self.seeds))
        yielded = bytearray(len(self.items))
        for number in islice(order, skipped):
            yielded[number] = True
        first = yielded.find(0)
        if first < 0:
            return
        samples = enumerate(self._read_items(self.items[first:]), first)
        buffer: dict[int, LocatedSample] = {}
        for number in order:
            while number not in buffer:
                position, sample = next(samples)
                if not yielded[position]:
                    buffer[position] = sample
            yield buffer.pop(number)
        next(samples, None)  # reads the last shard to its end, and checks its count

    def _read_items(self, items: range) -> Iterator[LocatedSample]:
        """Yields the samples of items, in the order of the shards."""
        for span in find_spans(self.shards, items):
            path = self.store.locate(span.entry.url)
            yield from ((path, sample) for sample in read_span(self.store, span))

    def read_batches(self, batch_size: int, *, drop_last: bool) -> Iterator[list[LocatedSample]]:
        """Yields batches of samples whose latents have one size. Raises DinacError.

        With `drop_last`, yields `len(items) // batch_size` whole batches, whatever the sizes are:
        if the samples make fewer, continues with the first samples of the epoch again. Otherwise,
        yields each sample once; the last batch of each size can be short.
        """
        buckets = Buckets(batch_size)
        if drop_last:
            again = chain.from_iterable(epoch.read_samples() for epoch in repeat(self))
            yield from islice(buckets.fill(again), len(self.items) // batch_size)
        else:
            yield from buckets.fill(self.read_samples())
            yield from buckets.take_rest()


@dataclass
class Buckets:
    """Samples that wait for a batch of their size; fewer than `batch_size` of each size."""

    batch_size: int
    _waiting: dict[tuple[int, ...], list[LocatedSample]] = field(
        default_factory=lambda: defaultdict(list), init=False
    )

    def fill(self, samples: Iterable[LocatedSample]) -> Iterator[list[LocatedSample]]:
        """Takes samples, and yields each batch as soon as it is whole. Raises DinacError."""
        for path, sample in samples:
            shape = _read_shape(path, sample)
            self._waiting[shape].append((path, sample))
            if len(self._waiting[shape]) == self.batch_size:
                yield self._waiting.pop(shape)

    def take_rest(self) -> Iterator[list[LocatedSample]]:
        """Yields the samples that still wait, a short batch of each size; small sizes first."""
        for shape in sorted(self._waiting):
            yield self._waiting.pop(shape)


def _read_shape(path: str, sample: Sample) -> tuple[int, ...]:
    """Returns the shape of the latents, (C, h, w), from the header of the record."""
    try:
        return read_header(sample.files[RECORD_EXTENSION]).shape
    except FormatError as exc:
        raise DinacError(f"{path}: {sample.key}: {exc}") from exc
