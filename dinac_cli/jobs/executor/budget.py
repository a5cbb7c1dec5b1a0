"""Reads inputs ahead, in threads and in order, and limits the memory that the inputs occupy."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

from dinac_cli.jobs.executor.control import RunControl, until_stopped

T = TypeVar("T")
R = TypeVar("R")

READ_BYTES = 512 * 2**20
"""The memory, in bytes, that all readers of a run together may occupy."""


class ByteBudget:
    """Limits the memory that all readers together occupy. Never blocks the oldest reader.

    The inputs are numbered in order. A reader waits until its data fits into `limit` bytes. The
    reader of the oldest input in flight never waits, so reading always goes on. The total exceeds
    `limit` by at most the bytes of one input.
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
        """Lets all waiting readers go on. So no reader waits after a run that ends early."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, number: int, size: int) -> None:
        """Waits until input `number` may occupy `size` bytes in total."""
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
        """Frees the memory of input `number` after the input was read."""
        with self._changed:
            self._total -= self._held.pop(number, 0)
            self._oldest = max(self._oldest, number + 1)
            self._changed.notify_all()


def start_ahead(
    pool: Executor, work: Callable[[T], R], items: Iterable[T], window: int
) -> Generator[Future[R], None, None]:
    """Starts `work` on `items` in order and yields the futures.

    At most `window` futures are pending. An item starts only after all earlier items have started,
    so `work` on an item may wait for earlier items.
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
        # Cancels the last item first, because a started item may wait for earlier items.
        for future in reversed(pending):
            future.cancel()


def map_bounded(
    entries: Iterable[T], work: Callable[[T, Callable[[int], None]], R], control: RunControl
) -> Generator[R, None, None]:
    """Runs `work(entry, hold)` in `control.workers` threads and yields the results in order.

    `hold(size_bytes)` waits until all readers together occupy at most `READ_BYTES`. The memory of
    an entry is freed when its result is yielded. Ends early if a stop is requested.
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
