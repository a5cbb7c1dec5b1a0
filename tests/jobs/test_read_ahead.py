"""Items are taken ahead in order, a limited number of them, and an error keeps its place."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from dinac_cli.jobs.executor import read_ahead
from dinac_cli.jobs.executor.read_ahead import ReadAhead


def test_items_come_in_order_and_not_too_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "READ_AHEAD_ITEMS", 3)
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    with ReadAhead(items()) as ahead:
        taken = []
        for number in ahead:
            taken.append(number)
            assert len(made) - len(taken) <= 4  # three ready, and one in the thread's hand
    assert taken == list(range(20))


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("damaged")

    with ReadAhead(items()) as ahead:
        iterator = iter(ahead)
        assert next(iterator) == 1
        with pytest.raises(ValueError, match="damaged"):
            next(iterator)


def test_leaving_closes_the_items() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    with ReadAhead(items()) as ahead:
        assert next(iter(ahead)) == 1
    assert closed.is_set()
