"""What was made last is kept, and made once, however many threads ask for it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from dinac_cli.models.dinac.recent import Recent


def test_a_value_is_made_once() -> None:
    kept: Recent[str, list[int]] = Recent(4)
    first = kept.get("a", lambda: [1])
    assert kept.get("a", lambda: pytest.fail("it is there")) is first


def test_those_used_last_stay() -> None:
    kept: Recent[int, int] = Recent(3)
    for key in (1, 2, 3, 1, 4):
        assert kept.get(key, partial(int, 10 * key)) == 10 * key
    assert kept.list_values() == [30, 10, 40]
    assert kept.weight == 3


def test_weight_is_bounded_but_for_the_newest() -> None:
    kept: Recent[str, bytes] = Recent(10, len)
    for key, size in (("a", 4), ("b", 5), ("c", 3)):
        kept.get(key, partial(bytes, size))
    assert [len(value) for value in kept.list_values()] == [5, 3]
    assert kept.get("d", lambda: bytes(99)) == bytes(99)
    assert (len(kept.list_values()), kept.weight) == (1, 99)
    kept.get("e", lambda: bytes(1))
    assert (len(kept.list_values()), kept.weight) == (1, 1)


def test_what_cannot_be_made_leaves_nothing() -> None:
    kept: Recent[str, int] = Recent(4)
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: 1 // 0)
    assert kept.get("a", lambda: 7) == 7
    assert kept.weight == 1


def test_many_threads_make_it_once() -> None:
    kept: Recent[int, object] = Recent(2)
    made: list[int] = []
    start = threading.Barrier(8)

    def ask(number: int) -> object:
        def make() -> object:
            made.append(1)
            time.sleep(0.01)
            return object()

        start.wait(timeout=30)
        return kept.get(number % 2, make)

    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(ask, range(8)))
    assert len(made) == 2
    assert len(set(map(id, values))) == 2
