"""Takes items out of an iterator ahead of the thread that needs them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

READ_AHEAD_ITEMS = 256
READ_AHEAD_BYTES = 128 * 2**20
"""How many items are taken ahead, and the memory that they may occupy."""

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Iterates over items in a thread of its own, a limited number of items and bytes ahead."""

    def __init__(self, items: Generator[T, None, None] | Iterator[T]) -> None:
        self._items = items
        self._ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._held_items = self._held_bytes = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="read-ahead", daemon=True)

    def __enter__(self) -> ReadAhead[T]:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while not isinstance(item := self._ready.get(), _End):
            with self._changed:
                self._held_items -= 1
                self._held_bytes -= _measure(item)
                self._changed.notify_all()
            yield item
        if item.error is not None:
            raise item.error

    def _read(self) -> None:
        error = None
        try:
            for item in self._items:
                with self._changed:
                    self._changed.wait_for(self._has_room)
                    if self._is_closed:
                        return
                    self._held_items += 1
                    self._held_bytes += _measure(item)
                self._ready.put(item)
        except BaseException as exc:
            error = exc
        finally:
            with suppress(AttributeError, ValueError):
                self._items.close()  # type: ignore[union-attr]
            self._ready.put(_End(error))

    def _has_room(self) -> bool:
        is_full = self._held_items >= READ_AHEAD_ITEMS or self._held_bytes >= READ_AHEAD_BYTES
        return self._is_closed or not is_full


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def _measure(item: object) -> int:
    return int(getattr(item, "held_bytes", 0))
