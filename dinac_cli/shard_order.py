"""Which items of a set of shards a process reads in an epoch, and in which order.

All processes compute the same order from the index, the seed and the epoch, so they need not
communicate. An item is a position in the sequence of all records of the ordered shards.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from dinac_cli.storage.shard_layout import IndexEntry

Ends = Literal["pad", "drop"]


class Span(NamedTuple):
    """The records `start` to `stop` (exclusive) of one shard."""

    entry: IndexEntry
    start: int
    stop: int


def seed_generator(*parts: int) -> random.Random:
    """Returns a generator that differs if any of the numbers differ. It is the same everywhere."""
    return random.Random("/".join(map(str, parts)))


def order_shards(shards: Sequence[IndexEntry], seed: int, epoch: int) -> list[IndexEntry]:
    """Returns the shards in the shuffled order of an epoch."""
    ordered = list(shards)
    seed_generator(seed, epoch).shuffle(ordered)
    return ordered


def share_among_ranks(total: int, rank: int, world_size: int, ends: Ends) -> range:
    """Returns the items of one rank. All ranks get the same number of items.

    "pad" rounds the number up: neighbours overlap by at most one item, and every item occurs. If
    there are more ranks than items, some ranks get the same item. "drop" rounds the number down: no
    item occurs twice, and fewer than `world_size` items are left out.
    """
    start = rank * total // world_size
    count = -(-total // world_size) if ends == "pad" else total // world_size
    return range(start, start + count)


def share_among_workers(items: range, worker: int, workers: int, batch_size: int) -> range:
    """Returns the items of one worker of a rank: whole batches, but for the last worker's end."""
    batches = -(-len(items) // batch_size)
    start, stop = (batch_size * (part * batches // workers) for part in (worker, worker + 1))
    return items[start:stop]


def find_spans(shards: Sequence[IndexEntry], items: range) -> Iterator[Span]:
    """Yields the parts of the ordered shards that hold these items."""
    first = 0
    for entry in shards:
        start, stop = (
            min(max(end - first, 0), entry.nsamples) for end in (items.start, items.stop)
        )
        if start < stop:
            yield Span(entry, start, stop)
        first += entry.nsamples


def shuffle_in_buffer(count: int, size: int, generator: random.Random) -> Iterator[int]:
    """Yields 0 to `count` - 1 in the order in which they leave a shuffle buffer of `size` items.

    A number is yielded only after the buffer has taken in all smaller ones. So a reader that reads
    its items in order holds at most `size` of them. A buffer of 0 or 1 items keeps the order.
    """
    if size < 2:
        yield from range(count)
        return
    buffer = list(range(min(size, count)))
    for following in range(len(buffer), count):
        slot = generator.randrange(size)
        yield buffer[slot]
        buffer[slot] = following
    generator.shuffle(buffer)
    yield from buffer
