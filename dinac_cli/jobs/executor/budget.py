"""The moving parts that every job shares: ordered read-ahead, a byte budget, a stage clock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

REORDER_BYTES = 256 * 2**20


class ByteBudget:
    """Bounds the bytes that readers hold, without ever blocking the oldest of them.

    Work is numbered in its order. A share is granted while the total stays within `limit`; the
    oldest number still in flight is granted at once whatever its size, so the line always moves
    and the overshoot is at most one share.
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
        """Let everybody through: a run that ends early must not leave a reader waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, number: int, size: int) -> None:
        """Wait until `size` bytes may be held by work `number`, in place of what it holds."""
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
        """Work `number` has left the reading stage; what it held is free again."""
        with self._changed:
            self._total -= self._held.pop(number, 0)
            self._oldest = max(self._oldest, number + 1)
            self._changed.notify_all()


def start_ahead(
    pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], window: int
) -> Generator[Future[R], None, None]:
    """`work` over `items` in order, at most `window` of it under way or waiting.

    Whatever has begun, all before it has begun as well, so that work may wait for earlier work.
    """
    pending: deque[Future[R]] = deque()
    source = iter(items)
    try:
        for item in source:
            pending.append(pool.submit(work, item))
            if len(pending) >= window:
                yield pending[0]
                pending.popleft()
        while pending:
            yield pending[0]
            pending.popleft()
    finally:
        # From the last to the first: what has begun may wait for what is before it in the line,
        # which therefore must not be cancelled alone.
        for future in reversed(pending):
            future.cancel()


def read_ahead(
    pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], window: int
) -> Generator[R, None, None]:
    """The results of `start_ahead`, each waited for."""
    with closing(start_ahead(pool, work, items, window)) as begun:
        for future in begun:
            yield future.result()


def read_within(
    pool: ThreadPoolExecutor,
    work: Callable[[T, Callable[[int], None]], R],
    items: Iterable[T],
    window: int,
    limit: int,
) -> Generator[R, None, None]:
    """`read_ahead`, where `work` says by `hold(size_bytes)` what it is about to take of memory.

    It waits there until that fits within `limit`; what it holds is free once its result is taken.
    """
    with ByteBudget(limit) as budget:

        def read(numbered: tuple[int, T]) -> tuple[int, R]:
            number, item = numbered
            return number, work(item, lambda size: budget.take(number, size))

        with closing(read_ahead(pool, read, enumerate(items), window)) as results:
            for number, result in results:
                budget.give_back(number)
                yield result
