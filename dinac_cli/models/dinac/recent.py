"""What was made last, kept: for threads that compute side by side."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def _weigh_alike(value: object) -> int:
    return 1


class Recent(Generic[K, V]):
    """Values under keys, each made when it is first asked for; those used last are kept.

    Together they weigh at most `limit`, by default their number; the newest stays whatever its
    weight. Safe in many threads: while one makes a value, others wait.
    """

    def __init__(self, limit: int, weigh: Callable[[V], int] = _weigh_alike) -> None:
        self._limit = limit
        self._weigh = weigh
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()
        self.weight = 0

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`, which `make` makes where there is none."""
        with self._lock:
            if key not in self._values:
                self._values[key] = make()
                self.weight += self._weigh(self._values[key])
            self._values.move_to_end(key)
            value = self._values[key]
            while self.weight > self._limit and len(self._values) > 1:
                self.weight -= self._weigh(self._values.popitem(last=False)[1])
            return value

    def list_values(self) -> list[V]:
        """All that are kept, the one used last at the end."""
        with self._lock:
            return list(self._values.values())
