"""Groups inputs into the micro-batches that the device computes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

G = TypeVar("G", bound=Hashable)
T = TypeVar("T")

MAX_OPEN_BUCKETS = 16


@dataclass
class Bucket(Generic[T]):
    """Items of one group that wait until they fill a micro-batch."""

    items: list[T] = field(default_factory=list)
    size_bytes: int = 0


class Batcher(Generic[G, T]):
    """Collects items by group (a model and a padded size) and releases full batches.

    `capacity(group)` depends only on the group, so an image's result never depends on the other
    images of a run. If more than `MAX_OPEN_BUCKETS` buckets are open, or if the buckets hold more
    than `limit_bytes`, the oldest bucket is released.
    """

    def __init__(self, capacity: Callable[[G], int], limit_bytes: int) -> None:
        self._capacity = capacity
        self._limit_bytes = limit_bytes
        self._buckets: dict[G, Bucket[T]] = {}

    def add(self, item: T, group: G, size_bytes: int) -> Iterator[list[T]]:
        """Adds `item` to its group's bucket and yields the batches to compute now."""
        bucket = self._buckets.setdefault(group, Bucket())
        bucket.items.append(item)
        bucket.size_bytes += size_bytes
        if len(bucket.items) >= self._capacity(group):
            yield self._buckets.pop(group).items
        while len(self._buckets) > MAX_OPEN_BUCKETS or self._held_bytes > self._limit_bytes:
            yield self._pop_oldest()

    def flush(self) -> Iterator[list[T]]:
        """Yields the remaining items as batches, the oldest batch first."""
        while self._buckets:
            yield self._pop_oldest()

    def _pop_oldest(self) -> list[T]:
        return self._buckets.pop(next(iter(self._buckets))).items

    @property
    def _held_bytes(self) -> int:
        return sum(bucket.size_bytes for bucket in self._buckets.values())
