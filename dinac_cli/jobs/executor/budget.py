"""Reads ahead in threads, in order, within a budget of memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

from dinac_cli.jobs.executor.control import RunControl, until_stopped

T = TypeVar("T")
R = TypeVar("R")

READ_BYTES = 512 * 2**20
"""Memory that the readers of a run may occupy together."""


class ByteBudget:
    """Bounds the bytes that readers occupy, without ever blocking the oldest reader.

    Work is numbered in order. A share is granted if the total stays within `limit`. The oldest
    work in flight gets any size at once, so reading never stops for ever, and the total exceeds
    the limit by one share at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[int, int] = {}
        self._total = 0
        self._oldest = 0
        self._closed = False
        self._changed = threading.Condition()

    def __enter__(self) -> ByteBudget:
        return self

    def __exit__(self, *exc: object) -> None:
        """Grants everything: a run that ends early must not leave a reader waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, number: int, size: int) -> None:
        """Waits until work `number` may occupy `size` bytes in total."""
        with self._changed:
            more = size - self._held.get(number, 0)
            self._changed.wait_for(
                lambda: (
                    more <= 0
                    or self._closed
                    or number <= self._oldest
                    or self._total + more <= self._limit
                )
            )
            self._held[number] = size
            self._total += more
            self._changed.notify_all()

    def give_back(self, number: int) -> None:
        """Frees the share of work `number`, which has been read."""
        with self._changed:
            self._total -= self._held.pop(number, 0)
            self._oldest = max(self._oldest, number + 1)
            self._changed.notify_all()


def start_ahead(
    pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], window: int
) -> Generator[Future[R], None, None]:
    """Starts `work` on `items` in order and yields its futures, at most `window` at a time.

    An item starts only after all items before it have started, so work may wait for earlier work.
    """
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= window:
                yield pending[0]
                pending.popleft()
        while pending:
            yield pending[0]
            pending.popleft()
    finally:
        # Cancelled last to first, because started work may wait for earlier work.
        for future in reversed(pending):
            future.cancel()


def map_bounded(
    entries: Iterable[T], work: Callable[[T, Callable[[int], None]], R], control: RunControl
) -> Generator[R, None, None]:
    """Yields `work(entry, hold)` for each entry, in order, computed in `control.workers` threads.

    `hold(size_bytes)` waits until the readers together stay within READ_BYTES. A share is freed
    when its result is taken. Ends early if a stop is requested.
    """
    with ThreadPoolExecutor(control.workers, "read") as pool, ByteBudget(READ_BYTES) as budget:

        def read(numbered: tuple[int, T]) -> tuple[int, R]:
            number, entry = numbered
            return number, work(entry, lambda size: budget.take(number, size))

        numbered = enumerate(until_stopped(entries, control.stop))
        with closing(start_ahead(pool, read, numbered, 2 * control.workers)) as reads:
            for future in reads:
                number, result = future.result()
                budget.give_back(number)
                yield result
