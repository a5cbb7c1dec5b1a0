"""A bounded cache of recently used values. Several threads may use it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_this_thread = threading.local()


@contextmanager
def frozen() -> Iterator[None]:
    """In this block, a cache that lacks a value raises RuntimeError in the calling thread.

    For work that is recorded but not run: a value made in this block would never be computed.
    """
    _this_thread.is_frozen = True
    try:
        yield
    finally:
        _this_thread.is_frozen = False


class Recent(Generic[K, V]):
    """A cache of the most recently used values. A value is made when it is first used.

    The total weight of all values is at most `limit`. By default, each value has weight 1. The
    newest value is kept even if its weight exceeds `limit`. While a thread makes a value, other
    threads wait.
    """

    def __init__(self, limit: int, weigh: Callable[[V], int] = lambda _: 1) -> None:
        self._limit = limit
        self._weigh = weigh
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()
        self.weight = 0

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Returns the value of `key`; calls `make` if the value is not cached.

        Raises RuntimeError if the value is not cached, and the caches are `frozen`.
        """
        with self._lock:
            if key not in self._values:
                if getattr(_this_thread, "is_frozen", False):
                    raise RuntimeError(f"the value of {key} is needed, but was not made before")
                self._values[key] = make()
                self.weight += self._weigh(self._values[key])
            self._values.move_to_end(key)
            value = self._values[key]
            while self.weight > self._limit and len(self._values) > 1:
                self.weight -= self._weigh(self._values.popitem(last=False)[1])
            return value

    def clear(self) -> None:
        """Forgets all values."""
        with self._lock:
            self._values.clear()
            self.weight = 0

    def list_values(self) -> list[V]:
        """Returns all cached values, from the least to the most recently used."""
        with self._lock:
            return list(self._values.values())
